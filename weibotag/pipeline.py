"""The order of things: read the posts, look at their pictures, tag them, write the answer."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag import __version__
from weibotag.errors import PartialError, RequestError, TooManyRejectsError, WeibotagError
from weibotag.executors.ahead import work_ahead
from weibotag.executors.local import run_parts
from weibotag.export import find_format, write_tables
from weibotag.media import MediaLimits
from weibotag.parts import link_files, media_fingerprint
from weibotag.posts import PostsSource, Rejects, describe_input, read_posts, refuse_outputs
from weibotag.progress import bar
from weibotag.runs import Run, reject_parts
from weibotag.schema import arrow_schema
from weibotag.settings import Pipeline
from weibotag.stages.stage import FINGERPRINT_LENGTH, Stage
from weibotag.stages.wordings import collect_wordings
from weibotag.store import Store, default_root

PART_ROWS = 20_000
CHANGED = "it changed or vanished after it was found"
# Posts whose pictures' findings are in memory at once.
GATHER_ROWS = 5_000

log = logging.getLogger(__name__)
Coder = Callable[[pa.Table], dict[str, list[str]]]
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass
class Looking:
    """How pictures are looked at, and what it took: `seconds` and `frames` by stage, and counts of files.

    `unseen` says, by id, which files could not be looked at, and why.
    """

    store: Store
    limits: MediaLimits
    stages: dict[str, Stage]
    workers: int
    pipeline: Pipeline
    quiet: bool = False
    fingerprints: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    files: int = 0
    reused: int = 0
    failed: int = 0
    unseen: dict[str, str] = field(default_factory=dict)

    @property
    def media(self) -> str:
        """Return the fingerprint of the media rows."""
        return media_fingerprint(self.limits)


def make_looking(pipeline: Pipeline, store: Path | None = None, workers: int | None = None, quiet: bool = False) -> Looking:
    """Return how the pipeline looks at pictures; nothing is loaded yet."""
    stages = {name: pipeline.make_stage(name) for name in pipeline.stages}
    looking = Looking(
        Store(store or pipeline.store or default_root()),
        MediaLimits(**pipeline.media.model_dump()),
        stages,
        pipeline.worker_count() if workers is None else workers,
        pipeline,
        quiet,
    )
    looking.fingerprints = {name: stage.fingerprint() for name, stage in stages.items()}
    return looking


def open_run(
    command: str, source: PostsSource, out: str, looking: Looking, folder: Path | None, tagger: dict[str, Any] | None
) -> Run:
    """Take the run folder for a request that is all that the output depends on: `OUT.run` unless given; for stdout one
    in the store.

    The folder of the output is made. Raises RequestError, before any work, when the output can't be written.
    """
    find_format(Path(out))
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{out}: its folder can't be made ({error.strerror}): choose another --out") from error
    request = {
        "command": command,
        "version": __version__,
        "input": describe_input(source),
        "tagger": tagger,
        "fingerprints": looking.fingerprints,
        "media": looking.media,
        "out": out,
    }
    if folder is None and out == "-":
        # Beside no output: in the store, by what is asked for, so that two pipes don't meet and the same one goes on.
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        folder = looking.store.root / "runs" / digest[:FINGERPRINT_LENGTH]
    folder = folder or Path(f"{out}.run")
    refuse_outputs(source, folder, *(() if out == "-" else (Path(out),)))
    run = Run.open(folder, request)
    if run.resumed and not looking.quiet:
        log.warning("%s: going on where the last run stopped", run.folder)
    return run


def ingest(run: Run, source: PostsSource, max_rejects: int | None, quiet: bool, kind: str = "tags") -> list[str]:
    """Read the posts into parts of the run, once; return the names of the parts, which are those of `kind` too.

    Raises TooManyRejectsError when more rows than `max_rejects` can't be used.
    """
    if run.plan is not None:
        _refuse_rejects(run, run.plan["rejects"], max_rejects)
        return list(run.plan["parts"][kind])
    names: list[str] = []
    with Rejects(run.rejects_path) as rejects, bar(None, "reading posts", quiet) as progress:
        for table in work_ahead(read_posts(source, rejects, PART_ROWS)):
            names.append(f"{len(names):05d}")
            run.write("posts", names[-1], table)
            progress.advance(len(table))
    _refuse_rejects(run, rejects.count, max_rejects)
    run.begin({"parts": {kind: names}, "rejects": rejects.count})
    return names


def _refuse_rejects(run: Run, count: int, most: int | None) -> None:
    if most is not None and count > most:
        raise TooManyRejectsError(f"{count:,} rows can't be used, --max-rejects allows {most:,}; see {run.rejects_path}")


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


def look(run: Run, parts: Iterable[str], looking: Looking) -> list[str]:
    """Look at every file that the store does not know; return one line for each file that could not be looked at."""
    needed = _find_needed(run, parts, looking)
    for kind in ("looks", "second-looks"):
        run.forget(kind)
    faults: list[str] = []
    if needed:
        looking.store.prepare()
        retry: list[dict[str, Any]] = []
        with bar(len(needed), "looking at pictures", looking.quiet) as progress:
            size = looking.pipeline.workers.part_files
            groups = [needed[start : start + size] for start in range(0, len(needed), size)]
            for receipt, files in _run_looks(run, groups, looking, "looks"):
                if receipt["status"] == "ok":
                    progress.advance(len(files))
                else:
                    retry += files
            # A part that failed is looked at again file by file, so that one bad file costs only itself.
            for receipt, files in _run_looks(run, [[file] for file in retry], looking, "second-looks"):
                progress.advance(len(files))
                if receipt["status"] != "ok":
                    faults.append(f"{files[0]['path']}: {receipt['error']}")
                    looking.unseen[files[0]["file_id"]] = receipt["error"]
        looking.store.compact("media", looking.media)
        for name, fingerprint in looking.fingerprints.items():
            looking.store.compact(name, fingerprint)
    looking.failed = len(faults)
    return faults


def _find_needed(run: Run, parts: Iterable[str], looking: Looking) -> list[dict[str, Any]]:
    """Return the files to look at, each once, with the stages that have not seen all its frames."""
    needed: list[dict[str, Any]] = []
    seen: set[str] = set()
    for part in parts:
        links = pq.read_table(run.path("links", part), columns=["path", "file_id"])
        links = links.filter(pc.is_valid(links["file_id"]))
        paths = {
            file_id: path
            for path, file_id in zip(links["path"].to_pylist(), links["file_id"].to_pylist(), strict=True)
            if file_id not in seen
        }
        if not paths:
            continue
        seen.update(paths)
        media = looking.store.read("media", looking.media, pa.array(paths))
        known = set(media["file_id"].to_pylist())
        stages_of = {file_id: set() if file_id in known else set(looking.stages) for file_id in paths}
        frames = media.filter(pc.is_null(media["media_error"]))
        file_of = dict(zip(frames["media_id"].to_pylist(), frames["file_id"].to_pylist(), strict=True))
        for name, fingerprint in looking.fingerprints.items():
            for media_id in looking.store.missing(name, fingerprint, frames["media_id"]).to_pylist():
                stages_of[file_of[media_id]].add(name)
        for file_id, path in paths.items():
            if file_id not in known or stages_of[file_id]:
                stages = [name for name in looking.stages if name in stages_of[file_id]]
                needed.append({"path": path, "file_id": file_id, "stages": stages, "known": file_id in known})
    looking.files = len(seen)
    looking.reused = len(seen) - len(needed)
    return needed


def _run_looks(
    run: Run, groups: list[list[dict[str, Any]]], looking: Looking, kind: str
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Look at groups of files, a part each, and give each receipt with its files."""
    settings = {
        "store": str(looking.store.root),
        "limits": asdict(looking.limits),
        "stages": [
            {
                "name": name,
                "config": json.dumps(stage.config.model_dump(mode="json"), sort_keys=True),  # type: ignore[attr-defined]
                "fingerprint": looking.fingerprints[name],
            }
            for name, stage in looking.stages.items()
        ],
    }
    by_part = {f"{number:06d}": files for number, files in enumerate(groups)}
    jobs = ({"part": part, "files": files, **settings} for part, files in by_part.items())
    workers = min(looking.workers, len(groups))
    limits = looking.pipeline.workers
    for receipt in run_parts("weibotag.parts:look_at_files", jobs, workers, limits.recycle, limits.part_seconds):
        for stage, seconds in receipt.get("seconds_per_stage", {}).items():
            looking.seconds[stage] = looking.seconds.get(stage, 0.0) + seconds
        for stage, frames in receipt.get("counts", {}).items():
            looking.frames[stage] = looking.frames.get(stage, 0) + frames
        run.receipt(kind, receipt["part"], receipt)
        files = by_part[receipt["part"]]
        changed = set(receipt.get("changed", ()))
        looking.unseen |= {file["file_id"]: CHANGED for file in files if file["path"] in changed}
        yield receipt, files


def gather(posts: pa.Table, links: pa.Table, looking: Looking, code: Coder | None) -> pa.Table:
    """Return a posts table with the columns `wordings` and `wordings_error` added.

    `code` gives the visual codes by media_id for a table of schema "embed".
    """
    files = links["file_id"].drop_null()
    media = looking.store.read("media", looking.media, files)
    frames = media.filter(pc.is_null(media["media_error"]))["media_id"]
    findings = {
        name: looking.store.read(name, fingerprint, frames)
        for name, fingerprint in looking.fingerprints.items()
        if name != "embed"
    }
    codes: dict[str, list[str]] = {}
    if code is not None and "embed" in looking.fingerprints:
        codes = code(looking.store.read("embed", looking.fingerprints["embed"], frames))
    wordings = collect_wordings(posts["post_id"].to_pylist(), links, media, findings, codes, looking.unseen)
    for name in ("wordings", "wordings_error"):
        posts = posts.append_column(wordings.schema.field(name), wordings[name])
    return posts


def gather_part(run: Run, part: str, looking: Looking, code: Coder | None) -> Iterator[pa.Table]:
    """Give the posts of a part with their wordings, some at a time; one table without those columns where none has any."""
    posts = pq.read_table(run.path("posts", part))
    links = pq.read_table(run.path("links", part))
    for start in range(0, len(posts), GATHER_ROWS):
        some = posts.slice(start, GATHER_ROWS)
        if not len(links):
            yield some
            continue
        own = links.filter(pc.is_in(links["post_id"], some["post_id"].combine_chunks()))
        yield gather(some, own, looking, code)


def write_output(run: Run, parts: Iterable[str], out: str, quiet: bool) -> int:
    """Join the parts that there are to the output, in order; return the number of posts."""
    done = [part for part in parts if run.done("tags", part)]
    schema = pq.read_schema(run.path("tags", done[0])) if done else arrow_schema("tags")
    with bar(None, f"writing {out}", quiet) as progress:

        def tables() -> Iterator[pa.Table]:
            for table in work_ahead(pq.read_table(run.path("tags", part)) for part in done):
                yield table
                progress.advance(len(table))

        return write_tables(tables(), out, schema.remove_metadata())


def tag(
    source: PostsSource,
    out: str,
    tagger: dict[str, Any],
    pipeline: Pipeline,
    *,
    run_folder: Path | None = None,
    store: Path | None = None,
    max_rejects: int | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Tag posts and write them to `out`; return the run's summary.

    `tagger` says what `parts.tag_posts` asks with: route, and model or taxonomy with its digest. The run folder is
    `OUT.run` unless given. Raises PartialError, after all else is written, when something could not be done.
    """
    looking = make_looking(pipeline, store, workers, quiet)
    clock = _Clock()
    with open_run("tag", source, out, looking, run_folder, tagger) as run:
        parts = ingest(run, source, max_rejects, quiet)
        clock.lap("read")
        link(run, parts, looking.limits, quiet)
        clock.lap("find")
        faults = look(run, parts, looking)
        clock.lap("look")
        failed = _tag_parts(run, parts, looking, tagger)
        clock.lap("tag")
        posts = write_output(run, parts, out, quiet)
        set_aside = reject_parts(run, failed) if failed or run.resumed else 0
        clock.lap("write")
        receipts = run.receipts("tags")
        summary = {
            "posts": posts,
            "rejects": (run.plan or {}).get("rejects", 0) + set_aside,
            "tagged": sum(receipt.get("tagged", 0) for receipt in receipts),
            "tags": sum(receipt.get("tags", 0) for receipt in receipts),
            "with_errors": sum(receipt.get("with_errors", 0) for receipt in receipts),
            "route": tagger["route"],
            "pictures": {"files": looking.files, "reused": looking.reused, "failed": looking.failed},
            "frames_per_stage": looking.frames,
            "seconds": clock.laps,
            "seconds_per_stage": {name: round(value, 3) for name, value in looking.seconds.items()},
            "out": out,
            "run": str(run.folder),
        }
        if failed or faults:
            first = next(iter([*faults, *failed.values()]))
            raise PartialError(
                f"{len(faults)} pictures and {len(failed)} parts could not be done, all else is in {out}; "
                f"the same command tries them again; the first: {first}"
            )
        run.finish(summary)
    return summary


def _tag_parts(run: Run, parts: list[str], looking: Looking, tagger: dict[str, Any]) -> dict[str, str]:
    """Tag the parts that are not done yet; return the parts that failed, with reasons."""
    from weibotag.parts import tag_posts

    failed: dict[str, str] = {}
    # A part whose pictures could not all be looked at is tagged again, because by now they may have been.
    settled = {kept["part"] for kept in run.receipts("tags") if kept["status"] == "ok" and not kept.get("unseen")}
    open_parts = [part for part in parts if part not in settled or not run.done("tags", part)]
    rows = {part: pq.read_metadata(run.path("posts", part)).num_rows for part in parts}
    coder = coder_of(tagger)
    # Reading the next part and writing the last one go on beside the tagger.
    gathered = work_ahead(_try(lambda part: list(gather_part(run, part, looking, coder)), part) for part in open_parts)
    with bar(sum(rows.values()), "tagging posts", looking.quiet) as progress, ThreadPoolExecutor(1) as writer:
        progress.advance(sum(rows[part] for part in parts if part not in open_parts))
        written: Future[None] | None = None
        for part, tables in zip(open_parts, gathered, strict=True):
            start = perf_counter()
            answer = tables if isinstance(tables, Exception) else _try(lambda some: tag_posts(some, tagger), tables)
            if isinstance(answer, Exception):
                said = str(answer).splitlines()
                failed[part] = f"{type(answer).__name__}: {said[0] if said else 'no message'}"
                run.receipt("tags", part, {"status": "failed", "error": failed[part], "rows": rows[part]})
                continue
            tagged, receipt = answer
            unseen = _count_unseen(run, part, looking)
            receipt |= {"status": "ok", "seconds": perf_counter() - start, "unseen": unseen}
            if written is not None:
                written.result()
            written = writer.submit(_keep_part, run, part, tagged, receipt)
            progress.advance(rows[part])
        if written is not None:
            written.result()
    return failed


def _try(work: Callable[[Asked], Answer], asked: Asked) -> Answer | Exception:
    """Return the answer, or the error: one part must not take the others down, whatever its rows hold."""
    try:
        return work(asked)
    except (WeibotagError, OSError):
        raise
    except Exception as error:
        log.warning("a part failed", exc_info=error)
        return error


def _count_unseen(run: Run, part: str, looking: Looking) -> int:
    """Return how many pictures of a part could not be looked at."""
    files = pq.read_table(run.path("links", part), columns=["file_id"])["file_id"]
    return int(pc.sum(pc.is_in(files, pa.array(sorted(looking.unseen), pa.string()))).as_py() or 0)


def _keep_part(run: Run, part: str, tagged: pa.Table, receipt: dict[str, Any]) -> None:
    run.write("tags", part, tagged)
    run.receipt("tags", part, receipt)


def coder_of(tagger: dict[str, Any]) -> Coder | None:
    """Return the codes of the model's codebook, or None for a tagger without one."""
    if tagger["route"] == "rules":
        return None
    from weibotag.parts import open_model

    codebook = open_model(tagger["place"], tagger["digest"]).codebook
    return None if codebook is None else codebook.code_table


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self._last = perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now
