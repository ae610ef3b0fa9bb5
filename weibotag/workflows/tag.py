"""The order of things: read the posts, look at their pictures, tag them, write the answer."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.errors import PartialError, RequestError, WeibotagError
from weibotag.core.progress import bar
from weibotag.core.schema import arrow_schema
from weibotag.extraction.context import ExtractionContext, ExtractionStats, LookSummary, open_context
from weibotag.extraction.ingest import ingest, link, open_run, read_links
from weibotag.extraction.pipeline_files import choose_pipeline
from weibotag.extraction.post_table import open_vector_words, read_part
from weibotag.extraction.requests import TagRequest
from weibotag.extraction.schedule import look
from weibotag.posts.passing import free_name
from weibotag.posts.writer import write_tables
from weibotag.runtime.ahead import work_ahead
from weibotag.runtime.run_folder import KeptReceipt, Run, reject_parts
from weibotag.taggers.answering import LATE, TaggerRef, open_cascade, open_codebook, open_taxonomy, reads_vectors, tag_posts
from weibotag.workflows.choose_tagger import choose_tagger
from weibotag.workflows.spend_budget import BudgetSummary, TimeBudget, look_within_budget

log = logging.getLogger(__name__)


class TagReceipt(KeptReceipt, total=False):
    """What a part came to: see `TaggedPart`; `unseen` counts its pictures that could not be looked at."""

    tagged: int
    tags: int
    with_errors: int
    routes: dict[str, int]
    unseen: int


class TagSummary(LookSummary, total=False):
    """What a run came to: posts, rows rejected, posts with tags, tags, posts with errors, posts by route.

    `cascade` is what was spent within a budget, `seconds` are those of the run's steps; `out` and `run` say where the output
    and the run folder are.
    """

    posts: int
    rejects: int
    tagged: int
    tags: int
    with_errors: int
    route: str
    routes: dict[str, int]
    cascade: BudgetSummary
    seconds: dict[str, float]
    out: str
    run: str


Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def write_output(run: Run, parts: Iterable[str], out: str, quiet: bool) -> int:
    """Join the parts that there are to the output, in order; return the number of posts."""
    done = [part for part in parts if run.done("tags", part)]
    schema = run.schema("tags", done[0]) if done else arrow_schema("tags")
    with bar(None, f"writing {out}", quiet) as progress:

        def tables() -> Iterator[pa.Table]:
            for table in work_ahead(run.read("tags", part) for part in done):
                yield table
                progress.advance(len(table))

        return write_tables(tables(), out, schema.remove_metadata())


def tag(request: TagRequest) -> TagSummary:
    """Tag posts as asked and write them; return the run's summary.

    Raises PartialError, after all else is written, when something was not done.
    """
    source, out, quiet = request.source, request.out, request.quiet
    pipeline = choose_pipeline(request)
    asked = request.model, request.taxonomy, request.route
    tagger, pipeline = choose_tagger(*asked, pipeline, request.plan, not request.words_only)
    clock = _Clock()
    deadline = None if request.deadline is None else clock.started + request.deadline
    context = open_context(pipeline, quiet=quiet, deadline=deadline, partial=tagger.route in ("cascade", "text"))
    kept = {"keep": list(request.keep)} if request.keep else {}
    with open_run("tag", source, out, context, request.run, {**tagger.request(), **kept}) as run:
        parts = ingest(run, source, request.max_rejects, quiet)
        clock.lap("read")
        link(run, parts, context)
        clock.lap("find")
        spent = _look(run, parts, context, tagger, clock.started)
        stats = context.stats
        if stats.late:
            log.warning("time is up: pictures that were not looked at by now are left out, and routes say %s", LATE)
        clock.lap("look")
        plan = tagger.plan if spent is None else replace(tagger.plan, rate=spent["rate"])
        answering = replace(
            tagger, stages=tuple(context.fingerprints), plan=plan, late=stats.late, store=str(context.store.root)
        )
        failed = _tag_parts(run, parts, context, answering, request.keep)
        clock.lap("tag")
        posts = write_output(run, parts, out, quiet)
        rejects = run.rejects + (reject_parts(run, failed) if failed or run.resumed else 0)
        clock.lap("write")
        summary = _sum_up(run, stats, spent)
        summary |= {"posts": posts, "rejects": rejects, "route": tagger.route, "seconds": clock.laps, "out": out}
        if failed or stats.faults:
            first = next(iter([*stats.faults.values(), *failed.values()]))
            raise PartialError(
                f"{len(stats.faults)} pictures and {len(failed)} parts could not be done, all else is in {out}; "
                f"the same command tries them again; the first: {first}"
            )
        run.finish(summary)
    return summary


def _look(run: Run, parts: list[str], context: ExtractionContext, tagger: TaggerRef, started: float) -> BudgetSummary | None:
    """Look at the pictures that the route needs; return what a cascade spent."""
    if tagger.route == "text":
        return None
    if tagger.route != "cascade":
        look(run, parts, context)
        return None
    if context.pipeline.reuse == "near":
        raise RequestError("--reuse near does not go with route cascade, which looks at pictures bit by bit: use exact")
    context.stats.loading.update(tagger.plan.loading)
    budget = TimeBudget(started, tagger.plan.budget, tagger.plan.floor)
    words = open_vector_words(open_taxonomy(tagger), open_codebook(tagger), context)
    return look_within_budget(run, parts, context, open_cascade(tagger), words, budget)


def _sum_up(run: Run, stats: ExtractionStats, spent: BudgetSummary | None) -> TagSummary:
    """Return what looking came to, and the counts of all parts."""
    receipts, looked = run.receipts(TagReceipt, "tags"), stats.summary()
    summary: TagSummary = {
        "tagged": sum(receipt.get("tagged", 0) for receipt in receipts),
        "tags": sum(receipt.get("tags", 0) for receipt in receipts),
        "with_errors": sum(receipt.get("with_errors", 0) for receipt in receipts),
        "routes": dict(sum((Counter(receipt.get("routes", {})) for receipt in receipts), Counter[str]())),
        "pictures": looked["pictures"],
        "frames_per_stage": looked["frames_per_stage"],
        "seconds_per_stage": looked["seconds_per_stage"],
        "run": str(run.folder),
    }
    if spent is not None:
        summary["cascade"] = spent
    return summary


def _tag_parts(
    run: Run, parts: list[str], context: ExtractionContext, tagger: TaggerRef, keep: Sequence[str]
) -> dict[str, str]:
    """Tag the parts that are not done yet; return the parts that failed, with reasons."""
    failed: dict[str, str] = {}
    # A part whose pictures could not all be looked at is tagged again, because by now they may have been.
    receipts = run.receipts(TagReceipt, "tags")
    settled = {kept["part"] for kept in receipts if kept["status"] == "ok" and not kept.get("unseen")}
    open_parts = [part for part in parts if part not in settled or not run.done("tags", part)]
    rows = {part: run.count_rows("posts", part) for part in parts}
    words = open_vector_words(open_taxonomy(tagger), open_codebook(tagger), context)
    with_vectors = reads_vectors(tagger) or context.stats.late
    # Reading the next part and writing the last one go on beside the tagger.
    read = work_ahead(
        _try(lambda part: list(read_part(run, part, context, words, with_vectors)), part) for part in open_parts
    )
    with bar(sum(rows.values()), "tagging posts", context.quiet) as progress, ThreadPoolExecutor(1) as writer:
        progress.advance(sum(rows[part] for part in parts if part not in open_parts))
        written: Future[None] | None = None
        for part, tables in zip(open_parts, read, strict=True):
            start = perf_counter()
            answer = tables if isinstance(tables, Exception) else _try(lambda some: tag_posts(some, tagger), tables)
            if isinstance(answer, Exception):
                lines = str(answer).splitlines()
                failed[part] = f"{type(answer).__name__}: {lines[0] if lines else 'no message'}"
                run.receipt("tags", part, {"status": "failed", "error": failed[part], "rows": rows[part]})
                continue
            tagged, receipt = answer
            unseen = _count_unseen(run, part, context.stats)
            done = {**receipt, "status": "ok", "seconds": perf_counter() - start, "unseen": unseen}
            if written is not None:
                written.result()
            written = writer.submit(_keep_part, run, part, tagged, done, keep)
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


def _count_unseen(run: Run, part: str, stats: ExtractionStats) -> int:
    """Return how many pictures of a part could not be looked at, or fetched."""
    links = read_links(run, part)
    files = pc.coalesce(links["file_id"], links["path"])
    return int(pc.sum(pc.is_in(files, pa.array(sorted(stats.unseen), pa.string()))).as_py() or 0)


def _keep_part(run: Run, part: str, tagged: pa.Table, receipt: Mapping[str, object], keep: Sequence[str]) -> None:
    """Write the tags of a part, and behind them the columns of its posts that are kept, as they were read."""
    if keep:
        posts = run.read("posts", part, keep)
        for name in keep:
            tagged = tagged.append_column(free_name(name, tagged.column_names, keep), posts[name])
    run.write("tags", part, tagged)
    run.receipt("tags", part, receipt)


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.started = self._last = perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now
