"""The order of things: read the posts, look at their pictures, tag them, write the answer."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core.errors import PartialError, RequestError, WeibotagError
from weibotag.core.progress import bar
from weibotag.core.schema import arrow_schema
from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.ingest import ingest, open_run
from weibotag.extraction.pipeline_files import choose_pipeline
from weibotag.extraction.post_table import gather_part
from weibotag.extraction.requests import TagRequest
from weibotag.extraction.schedule import link, look, read_links
from weibotag.posts.writer import write_tables
from weibotag.runtime.ahead import work_ahead
from weibotag.runtime.run_folder import Run, reject_parts
from weibotag.taggers.answering import LATE, open_cascade, tag_posts
from weibotag.taggers.tagger_ref import TaggerRef
from weibotag.workflows.choose_tagger import choose_tagger
from weibotag.workflows.picture_words import coder_of
from weibotag.workflows.spend_budget import TimeBudget, escalate

log = logging.getLogger(__name__)
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


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


def tag(request: TagRequest) -> dict[str, Any]:
    """Tag posts as asked and write them; return the run's summary.

    Raises PartialError, after all else is written, when something was not done.
    """
    source, out, quiet = request.source, request.out, request.quiet
    tagger, pipeline = choose_tagger(request.model, request.taxonomy, request.route, choose_pipeline(request), request.plan)
    context = open_context(pipeline, quiet=quiet)
    context.sparing = tagger.route in ("cascade", "text")
    clock = _Clock()
    started = perf_counter()
    context.deadline = None if request.deadline is None else started + request.deadline
    with open_run("tag", source, out, context, request.run, tagger.request()) as run:
        parts = ingest(run, source, request.max_rejects, quiet)
        clock.lap("read")
        link(run, parts, context.limits, quiet)
        clock.lap("find")
        answering = replace(tagger, stages=tuple(context.fingerprints))
        escalated: dict[str, Any] = {}
        faults: list[str] = []
        if tagger.route == "cascade":
            faults, escalated = _escalate(run, parts, context, answering, started)
            answering = replace(answering, plan=replace(answering.plan, rate=escalated["rate"]))
        elif tagger.route != "text":
            faults = look(run, parts, context)
        if context.late:
            log.warning("time is up: pictures that were not looked at by now are left out, and routes say %s", LATE)
            answering = replace(answering, late=True)
        clock.lap("look")
        failed = _tag_parts(run, parts, context, answering)
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
            "route": tagger.route,
            "routes": dict(sum((Counter(receipt.get("routes", {})) for receipt in receipts), Counter())),
            **({"cascade": escalated} if escalated else {}),
            **context.summary(),
            "seconds": clock.laps,
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


def _escalate(
    run: Run, parts: list[str], context: ExtractionContext, tagger: TaggerRef, started: float
) -> tuple[list[str], dict[str, Any]]:
    """Look where it pays, as the plan of `tagger` says; what it came to has the rate at which posts are then answered."""
    if context.pipeline.reuse == "near":
        raise RequestError("--reuse near does not go with route cascade, which looks at pictures bit by bit: use exact")
    cascade = open_cascade(tagger)
    context.loading |= dict(tagger.plan.loading)
    purse = TimeBudget(started, tagger.plan.budget, tagger.plan.floor)
    return escalate(run, parts, context, cascade, coder_of(tagger, context), purse)


def _tag_parts(run: Run, parts: list[str], context: ExtractionContext, tagger: TaggerRef) -> dict[str, str]:
    """Tag the parts that are not done yet; return the parts that failed, with reasons."""

    failed: dict[str, str] = {}
    # A part whose pictures could not all be looked at is tagged again, because by now they may have been.
    settled = {kept["part"] for kept in run.receipts("tags") if kept["status"] == "ok" and not kept.get("unseen")}
    open_parts = [part for part in parts if part not in settled or not run.done("tags", part)]
    rows = {part: pq.read_metadata(run.path("posts", part)).num_rows for part in parts}
    coder = coder_of(tagger, context)
    with_vectors = tagger.route in ("fused", "cascade") or context.late
    # Reading the next part and writing the last one go on beside the tagger.
    gathered = work_ahead(
        _try(lambda part: list(gather_part(run, part, context, coder, with_vectors)), part) for part in open_parts
    )
    with bar(sum(rows.values()), "tagging posts", context.quiet) as progress, ThreadPoolExecutor(1) as writer:
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
            unseen = _count_unseen(run, part, context)
            done = {**receipt, "status": "ok", "seconds": perf_counter() - start, "unseen": unseen}
            if written is not None:
                written.result()
            written = writer.submit(_keep_part, run, part, tagged, done)
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


def _count_unseen(run: Run, part: str, context: ExtractionContext) -> int:
    """Return how many pictures of a part could not be looked at."""
    files = read_links(run, part)["file_id"]
    return int(pc.sum(pc.is_in(files, pa.array(sorted(context.unseen), pa.string()))).as_py() or 0)


def _keep_part(run: Run, part: str, tagged: pa.Table, receipt: dict[str, Any]) -> None:
    run.write("tags", part, tagged)
    run.receipt("tags", part, receipt)


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self._last = perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now
