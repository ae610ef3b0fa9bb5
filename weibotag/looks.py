"""Looking at pictures: which files posts name, which of them the store does not know, and the workers that look at those."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.executors.local import Limits, run_parts
from weibotag.executors.machine import plan_workers, worker_memory
from weibotag.looked import ask_store
from weibotag.media import MediaLimits
from weibotag.parts import link_files, media_fingerprint
from weibotag.progress import bar
from weibotag.reposts import check_reposts, find_reposts, give_findings
from weibotag.runs import Run
from weibotag.settings import Pipeline
from weibotag.stages.stage import Stage, hash_weights
from weibotag.store import Store, default_root

CHANGED = "it changed or vanished after it was found"
# What the start of a process goes by, where models go by their stages.
WORKER = "worker"
# Setbacks that the summary tells; the receipts have them all.
SETBACKS_SHOWN = 5

log = logging.getLogger(__name__)


@dataclass
class Looking:
    """How pictures are looked at, and what it took: `seconds` and `frames` by stage, and counts of files.

    `loading` has the most seconds that a process took to load the model of a stage, and to start (`WORKER`).
    `unseen` says, by id, which files could not be looked at, and why; `setbacks` what befell workers, in one line each.
    `deadline` is when looking ends, whatever is left (perf_counter; None: never), and `late` whether it came to that. Of a
    run that is `sparing`, or late, pictures that nothing has looked at are no fault of their posts.
    """

    store: Store
    limits: MediaLimits
    stages: dict[str, Stage]
    workers: int
    threads: int
    pipeline: Pipeline
    quiet: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    files: int = 0
    reused: int = 0
    failed: int = 0
    near: dict[str, int] | None = None
    unseen: dict[str, str] = field(default_factory=dict)
    deadline: float | None = None
    late: bool = False
    sparing: bool = False
    setbacks: list[str] = field(default_factory=list)

    @property
    def media(self) -> str:
        """Return the fingerprint of the media rows."""
        return media_fingerprint(self.limits)

    def is_late(self) -> bool:
        """Tell whether the time for looking is up; remembered in `late`."""
        self.late = self.late or (self.deadline is not None and perf_counter() > self.deadline)
        return self.late

    def request(self) -> dict[str, Any]:
        """Return all that what is found depends on besides the pictures: a run of another request is another run."""
        gallery = self.pipeline.gallery
        return {
            "fingerprints": self.fingerprints,
            "media": self.media,
            "reuse": self.pipeline.reuse,
            "words": dict(self.pipeline.words),
            "gallery": None if gallery is None else hash_weights(gallery),
        }

    def summary(self) -> dict[str, Any]:
        """Return what looking took, for receipts: `pictures`, `frames_per_stage`, `seconds_per_stage`."""
        pictures = {"files": self.files, "reused": self.reused, "failed": self.failed}
        if self.near is not None:
            pictures |= self.near
        return {
            "pictures": pictures | {"setbacks": len(self.setbacks), "first_setbacks": self.setbacks[:SETBACKS_SHOWN]},
            "frames_per_stage": self.frames,
            "seconds_per_stage": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def make_looking(pipeline: Pipeline, store: Path | None = None, workers: int | None = None, quiet: bool = False) -> Looking:
    """Return how the pipeline looks at pictures; nothing is loaded yet."""
    stages = {name: pipeline.make_stage(name) for name in pipeline.stages}
    count, threads = plan_workers(pipeline.workers.count if workers is None else workers)
    looking = Looking(
        Store(store or pipeline.store or default_root()),
        MediaLimits(**pipeline.media.model_dump()),
        stages,
        count,
        threads,
        pipeline,
        quiet,
    )
    looking.fingerprints = {name: stage.fingerprint() for name, stage in stages.items()}
    faces: Any = stages.get("faces")
    if pipeline.gallery is not None and faces is not None:
        from weibotag.gallery import open_gallery

        open_gallery(pipeline.gallery).check_model(faces.face_model())
    return looking


def link(run: Run, parts: Iterable[str], limits: MediaLimits, quiet: bool) -> None:
    """Find the files that posts name: a part of "links" for each part of posts that names any."""
    known: dict[str, tuple[str | None, str | None]] = {}
    with bar(None, "finding pictures", quiet) as progress:
        for part in parts:
            if run.done("links", part):
                continue
            posts = pq.read_table(run.path("posts", part), columns=["post_id", "images", "videos", "folder"])
            links = link_files(posts, limits, known)
            progress.advance(len(links))
            run.write("links", part, links)


def read_links(run: Run, part: str) -> pa.Table:
    """Return the links of a part; where reposts are sought, they bear the id of the file whose findings they are given."""
    return give_findings(pq.read_table(run.path("links", part)), run)


def look(run: Run, parts: Iterable[str], looking: Looking) -> list[str]:
    """Look at every file that the store does not know; return one line for each file that could not be looked at."""
    for kind in ("looks", "second-looks"):
        run.forget(kind)
    needed = _find_needed(run, parts, looking)
    if not needed:
        return []
    looking.store.prepare()
    if looking.pipeline.reuse == "near":
        needed = find_reposts(run, needed, looking)
    faults: dict[str, str] = {}
    for names in group_stages(looking.stages):
        files = [{**file, "stages": [name for name in file["stages"] if name in names]} for file in needed]
        files = [file for file in files if file["stages"] or not file["known"]]
        faults |= _look_with(run, files, names, looking)
        needed = [{**file, "known": file["known"] or file["file_id"] not in faults} for file in needed]
    looking.store.compact("media", looking.media)
    for name, fingerprint in looking.fingerprints.items():
        looking.store.compact(name, fingerprint)
    looking.failed = len(faults)
    looking.near = check_reposts(run, looking)
    return list(faults.values())


def group_stages(stages: dict[str, Stage]) -> list[list[str]]:
    """Return the stages that share a process, and each one whose library must be alone in its own."""
    alone = [[name] for name, stage in stages.items() if getattr(stage, "alone", False)]
    together = [name for name in stages if [name] not in alone]
    return [together, *alone] if together or not alone else alone


def _look_with(run: Run, files: list[dict[str, Any]], names: list[str], looking: Looking) -> dict[str, str]:
    """Look at files with some of the stages; return why, by id, for those that could not be looked at."""
    faults: dict[str, str] = {}
    if not files:
        return faults
    retry: list[dict[str, Any]] = []
    # A few files are shared out too: one core would take longer than all cores with their models to load.
    size = min(looking.pipeline.workers.part_files, ceil(len(files) / max(1, looking.workers)))
    groups = [files[start : start + size] for start in range(0, len(files), size)]
    with bar(len(files), f"looking at pictures: {', '.join(names) or 'no stage'}", looking.quiet) as progress:
        for receipt, some in _run_looks(run, groups, names, looking, "looks"):
            if receipt["status"] == "ok":
                progress.advance(len(some))
                continue
            retry += some
            looking.setbacks.append(f"{len(some)} pictures from {some[0]['path']}: {receipt['error']}")
        # The pictures of a part that failed are looked at one by one, so that a bad one costs only itself.
        for receipt, some in _run_looks(run, [[file] for file in retry], names, looking, "second-looks"):
            progress.advance(len(some))
            if receipt["status"] != "ok":
                looking.unseen[some[0]["file_id"]] = receipt["error"]
                faults[some[0]["file_id"]] = f"{some[0]['path']}: {receipt['error']}"
    return faults


def _find_needed(run: Run, parts: Iterable[str], looking: Looking) -> list[dict[str, Any]]:
    """Return the files to look at, each once, with the stages that have not seen all its frames."""
    needed: list[dict[str, Any]] = []
    seen: set[str] = set()
    for part in parts:
        links = read_links(run, part).select(["path", "file_id"])
        links = links.filter(pc.is_valid(links["file_id"]))
        paths = {
            file_id: path
            for path, file_id in zip(links["path"].to_pylist(), links["file_id"].to_pylist(), strict=True)
            if file_id not in seen
        }
        if not paths:
            continue
        seen.update(paths)
        looked = ask_store(pa.array(paths), looking)
        for (file_id, path), bits, known in zip(paths.items(), looked.bits.tolist(), looked.decoded.tolist(), strict=True):
            stages = [name for place, name in enumerate(looking.stages) if not bits >> place & 1]
            if not known or stages:
                needed.append({"path": path, "file_id": file_id, "stages": stages, "known": known})
    looking.files = len(seen)
    looking.reused = len(seen) - len(needed)
    return needed


def _run_looks(
    run: Run, groups: list[list[dict[str, Any]]], names: list[str], looking: Looking, kind: str
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Look at groups of files, a part each, and give each receipt with its files; none is begun when time is up."""
    # A stage that is alone numbers its parts apart.
    mark = "" if len(names) != 1 or len(looking.stages) == 1 else f"{names[0]}-"
    by_part = {f"{mark}{number:06d}": files for number, files in enumerate(groups)}
    ask = job_maker(names, looking)
    jobs = (ask(part, files) for part, files in by_part.items() if not looking.is_late())
    workers = min(looking.workers, len(groups))
    for receipt in run_parts("weibotag.parts:look_at_files", jobs, workers, worker_limits(looking, workers)):
        files = by_part[receipt["part"]]
        keep_receipt(run, kind, receipt, files, looking)
        yield receipt, files


def job_maker(names: list[str], looking: Looking) -> Callable[[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return what makes the job (see `parts.look_at_files`) of a part and its files for some of the stages."""
    settings = {
        "store": str(looking.store.root),
        "limits": asdict(looking.limits),
        "stages": [
            {
                "name": name,
                "config": json.dumps(looking.stages[name].config.model_dump(mode="json"), sort_keys=True),
                "fingerprint": looking.fingerprints[name],
            }
            for name in names
        ],
        "threads": looking.threads,
    }
    return lambda part, files: {"part": part, "files": files, **settings}


def worker_limits(looking: Looking, workers: int) -> Limits:
    """Return what a worker that looks at pictures may."""
    given = looking.pipeline.workers
    memory = worker_memory(workers) if given.memory_mb is None else given.memory_mb * 2**20
    # One life: what fails here is looked at again by itself.
    return Limits(given.recycle, given.picture_seconds, memory, lives=1, threads=looking.threads)


def keep_receipt(run: Run, kind: str, receipt: dict[str, Any], files: list[dict[str, Any]], looking: Looking) -> None:
    """Write a receipt down, and add up what it tells."""
    for stage, seconds in receipt.get("seconds_per_stage", {}).items():
        looking.seconds[stage] = looking.seconds.get(stage, 0.0) + seconds
    for stage, frames in receipt.get("counts", {}).items():
        looking.frames[stage] = looking.frames.get(stage, 0) + frames
    for stage, seconds in receipt.get("loading", {}).items():
        looking.loading[stage] = max(seconds, looking.loading.get(stage, 0.0))
    run.receipt(kind, receipt["part"], receipt)
    changed = set(receipt.get("changed", ()))
    looking.unseen |= {file["file_id"]: CHANGED for file in files if file["path"] in changed}
