"""Looking at pictures: which files posts name, which of them the store does not know, and the workers that look at those."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from math import ceil
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core.progress import bar
from weibotag.extraction.context import CHANGED, ExtractionContext
from weibotag.extraction.coverage import ask_store
from weibotag.extraction.jobs import link_files
from weibotag.extraction.reposts import check_reposts, find_reposts, give_findings
from weibotag.runtime.machine import worker_memory
from weibotag.runtime.pool import Limits, run_parts
from weibotag.runtime.run_folder import Run
from weibotag.vision.media.pictures import MediaLimits
from weibotag.vision.stage import Stage

log = logging.getLogger(__name__)


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


def look(run: Run, parts: Iterable[str], context: ExtractionContext) -> list[str]:
    """Look at every file that the store does not know; return one line for each file that could not be looked at."""
    for kind in ("looks", "second-looks"):
        run.forget(kind)
    needed = _find_needed(run, parts, context)
    if not needed:
        return []
    context.store.prepare()
    if context.pipeline.reuse == "near":
        needed = find_reposts(run, needed, context)
    faults: dict[str, str] = {}
    for names in group_stages(context.stages):
        files = [{**file, "stages": [name for name in file["stages"] if name in names]} for file in needed]
        files = [file for file in files if file["stages"] or not file["known"]]
        faults |= _look_with(run, files, names, context)
        needed = [{**file, "known": file["known"] or file["file_id"] not in faults} for file in needed]
    context.store.compact("media", context.media)
    for name, fingerprint in context.fingerprints.items():
        context.store.compact(name, fingerprint)
    context.failed = len(faults)
    context.near = check_reposts(run, context)
    return list(faults.values())


def group_stages(stages: dict[str, Stage]) -> list[list[str]]:
    """Return the stages that share a process, and each one whose library must be alone in its own."""
    alone = [[name] for name, stage in stages.items() if getattr(stage, "alone", False)]
    together = [name for name in stages if [name] not in alone]
    return [together, *alone] if together or not alone else alone


def _look_with(run: Run, files: list[dict[str, Any]], names: list[str], context: ExtractionContext) -> dict[str, str]:
    """Look at files with some of the stages; return why, by id, for those that could not be looked at."""
    faults: dict[str, str] = {}
    if not files:
        return faults
    retry: list[dict[str, Any]] = []
    # A few files are shared out too: one core would take longer than all cores with their models to load.
    size = min(context.pipeline.workers.part_files, ceil(len(files) / max(1, context.workers)))
    groups = [files[start : start + size] for start in range(0, len(files), size)]
    with bar(len(files), f"looking at pictures: {', '.join(names) or 'no stage'}", context.quiet) as progress:
        for receipt, some in _run_looks(run, groups, names, context, "looks"):
            if receipt["status"] == "ok":
                progress.advance(len(some))
                continue
            retry += some
            context.setbacks.append(f"{len(some)} pictures from {some[0]['path']}: {receipt['error']}")
        # The pictures of a part that failed are looked at one by one, so that a bad one costs only itself.
        for receipt, some in _run_looks(run, [[file] for file in retry], names, context, "second-looks"):
            progress.advance(len(some))
            if receipt["status"] != "ok":
                context.unseen[some[0]["file_id"]] = receipt["error"]
                faults[some[0]["file_id"]] = f"{some[0]['path']}: {receipt['error']}"
    return faults


def _find_needed(run: Run, parts: Iterable[str], context: ExtractionContext) -> list[dict[str, Any]]:
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
        looked = ask_store(pa.array(paths), context)
        for (file_id, path), bits, known in zip(paths.items(), looked.bits.tolist(), looked.decoded.tolist(), strict=True):
            stages = [name for place, name in enumerate(context.stages) if not bits >> place & 1]
            if not known or stages:
                needed.append({"path": path, "file_id": file_id, "stages": stages, "known": known})
    context.files = len(seen)
    context.reused = len(seen) - len(needed)
    return needed


def _run_looks(
    run: Run, groups: list[list[dict[str, Any]]], names: list[str], context: ExtractionContext, kind: str
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Look at groups of files, a part each, and give each receipt with its files; none is begun when time is up."""
    # A stage that is alone numbers its parts apart.
    mark = "" if len(names) != 1 or len(context.stages) == 1 else f"{names[0]}-"
    by_part = {f"{mark}{number:06d}": files for number, files in enumerate(groups)}
    ask = job_maker(names, context)
    jobs = (ask(part, files) for part, files in by_part.items() if not context.is_late())
    workers = min(context.workers, len(groups))
    for receipt in run_parts("weibotag.extraction.jobs:look_at_files", jobs, workers, worker_limits(context, workers)):
        files = by_part[receipt["part"]]
        keep_receipt(run, kind, receipt, files, context)
        yield receipt, files


def job_maker(names: list[str], context: ExtractionContext) -> Callable[[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return what makes the job (see `parts.look_at_files`) of a part and its files for some of the stages."""
    settings = {
        "store": str(context.store.root),
        "limits": asdict(context.limits),
        "stages": [
            {
                "name": name,
                "config": json.dumps(context.stages[name].config.model_dump(mode="json"), sort_keys=True),
                "fingerprint": context.fingerprints[name],
            }
            for name in names
        ],
        "threads": context.threads,
    }
    return lambda part, files: {"part": part, "files": files, **settings}


def worker_limits(context: ExtractionContext, workers: int) -> Limits:
    """Return what a worker that looks at pictures may."""
    given = context.pipeline.workers
    memory = worker_memory(workers) if given.memory_mb is None else given.memory_mb * 2**20
    # One life: what fails here is looked at again by itself.
    return Limits(given.recycle, given.picture_seconds, memory, lives=1, threads=context.threads)


def keep_receipt(
    run: Run, kind: str, receipt: dict[str, Any], files: list[dict[str, Any]], context: ExtractionContext
) -> None:
    """Write a receipt down, and add up what it tells."""
    for stage, seconds in receipt.get("seconds_per_stage", {}).items():
        context.seconds[stage] = context.seconds.get(stage, 0.0) + seconds
    for stage, frames in receipt.get("counts", {}).items():
        context.frames[stage] = context.frames.get(stage, 0) + frames
    for stage, seconds in receipt.get("loading", {}).items():
        context.loading[stage] = max(seconds, context.loading.get(stage, 0.0))
    run.receipt(kind, receipt["part"], receipt)
    changed = set(receipt.get("changed", ()))
    context.unseen |= {file["file_id"]: CHANGED for file in files if file["path"] in changed}
