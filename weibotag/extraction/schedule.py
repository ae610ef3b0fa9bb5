"""Looking at the pictures that posts name: which of them the store does not know, and the workers that stay for those."""

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import chain
from math import ceil, inf
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Self, cast

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.progress import bar
from weibotag.extraction.context import NOT_AGAIN, WORKER, ExtractionContext
from weibotag.extraction.ingest import link
from weibotag.extraction.jobs import PictureJob, PictureReceipt, PictureTask, StageJob
from weibotag.extraction.reposts import check_reposts, find_reposts
from weibotag.runtime.pool import Limits, run_parts
from weibotag.runtime.run_folder import KeptReceipt, Run
from weibotag.runtime.worker import Job, Receipt
from weibotag.vision.stage import PictureStage

# A part takes at most this share of the time that is left; none is begun for less than these seconds.
PART_SHARE, LEAST_SECONDS = 0.25, 0.05
FIRST_LOOKS, SECOND_LOOKS = "looks", "second-looks"
# Gives the seconds that are left for looking.
TimeLeft = Callable[[], float]

log = logging.getLogger(__name__)


def group_stages(stages: Mapping[str, PictureStage[Any]]) -> list[list[str]]:
    """Return the stages that share a process, and each one whose library must be alone in its own."""
    alone = [[name] for name, stage in stages.items() if stage.alone]
    together = [name for name in stages if [name] not in alone]
    return [together, *alone] if together or not alone else alone


def share_out(count: int, context: ExtractionContext) -> int:
    """Return how many of so many files a part has: so few that all workers have some of them."""
    return max(1, min(context.pipeline.workers.part_files, ceil(count / max(1, context.workers))))


class PictureQueue:
    """The workers of stages that share processes; they start with their first picture and stay until the end."""

    def __init__(self, names: Sequence[str], run: Run, context: ExtractionContext) -> None:
        self._names, self._run, self._context, self._stats = names, run, context, context.stats
        configs = {name: context.stages[name].config.model_dump_json() for name in names}
        self._stages = [StageJob(name, config, context.fingerprints[name]) for name, config in configs.items()]
        # After those of a run that was stopped.
        self._parts = sum(len(run.receipts(KeptReceipt, kind)) for kind in (FIRST_LOOKS, SECOND_LOOKS))
        self._begun: float | None = None
        # Seconds of workers, as expected and as they were; the first of each is a guess.
        self._expected = self._taken = 1.0
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        given = context.pipeline.workers
        # One life: what fails here is looked at again by itself.
        limits = Limits(given.recycle, given.picture_seconds, context.worker_memory, lives=1, threads=context.threads)
        jobs = cast(Iterator[Job], iter(self._jobs.get, None))
        self._receipts: Generator[Receipt, None, None] = run_parts(
            "weibotag.extraction.jobs:look_at_files", jobs, context.workers, limits
        )

    def look(
        self, tasks: Sequence[PictureTask], size: int, left: TimeLeft = lambda: inf, preload: Collection[str] = ()
    ) -> int:
        """Look at files, in their order, `size` at a time at most; return how many of them were begun.

        What would not be done in the seconds that are `left` is not begun. Each worker loads the models of the stages
        `preload` before its first file, the others when a file needs them. The pictures of a part that failed are looked at
        one by one, so that a bad one costs only itself.
        """
        own = [replace(task, stages=[name for name in task.stages if name in self._names]) for task in tasks]
        waiting = deque(self._context.leave_setbacks([task for task in own if task.stages or not self._names]))
        failed: deque[PictureTask] = deque()
        models = [name for name in self._names if name in preload]
        if not waiting:
            return len(tasks)
        what = f"looking at pictures: {', '.join(self._names) or 'no stage'}"
        with bar(len(waiting), what, self._context.quiet) as progress:
            for receipt, some in self._work(waiting, size, left, FIRST_LOOKS, models):
                progress.advance(len(some))
                if receipt["status"] != "ok":
                    failed += some
                    self._stats.setbacks.append(f"{len(some)} pictures from {some[0].path}: {receipt['error']}")
            # All models are loaded first, so that it is the picture's fault if anything happens then.
            for receipt, (task,) in self._work(failed, 1, left, SECOND_LOOKS, self._names):
                if receipt.get("blamed"):
                    self._context.remember_setback(task, receipt["error"])
                    log.warning("%s: not looked at: %s; %s", task.path, receipt["error"], NOT_AGAIN)
                elif receipt["status"] != "ok":
                    self._stats.fail(task, receipt["error"])
        return len(tasks) - len(waiting)

    def _work(
        self, queue: deque[PictureTask], size: int, left: TimeLeft, kind: str, models: Sequence[str]
    ) -> Iterator[tuple[PictureReceipt, list[PictureTask]]]:
        """Give the receipts with their files, as they come; what is left in `queue` was not begun."""
        waiting: dict[str, list[PictureTask]] = {}
        while queue or waiting:
            # One more than there are workers, so that none waits for this process.
            while queue and len(waiting) <= self._context.workers:
                some = self._take(queue, size, left(), chain.from_iterable(waiting.values()))
                if not some:
                    break
                waiting[self._ask(some, models)] = some
            if not waiting:
                return
            receipt = cast(PictureReceipt, next(self._receipts))
            some = waiting.pop(receipt["part"])
            self._run.receipt(kind, receipt["part"], receipt)
            self._add_up(receipt, some)
            yield receipt, some

    def _take(self, queue: deque[PictureTask], size: int, left: float, waiting: Iterable[PictureTask]) -> list[PictureTask]:
        """Take the files of the next part: fewer the less time is left, none where they would not be done in time."""
        pace = self._taken / self._expected
        spare = left - pace * sum(task.seconds for task in waiting)
        some: list[PictureTask] = []
        seconds = 0.0
        while queue and len(some) < size:
            seconds += pace * queue[0].seconds
            if spare <= LEAST_SECONDS or seconds > spare * (PART_SHARE if some else 1.0):
                break
            some.append(queue.popleft())
        return some

    def _ask(self, some: Sequence[PictureTask], models: Sequence[str]) -> str:
        """Hand files to the workers; return the name of their part."""
        self._parts += 1
        part = f"{'-'.join(self._names) or 'media'}-{self._parts:06d}"
        context = self._context
        job = PictureJob(part, str(context.store.root), context.limits, some, self._stages, context.threads, models)
        self._begun = self._begun or perf_counter()
        self._jobs.put(asdict(job))
        return part

    def _add_up(self, receipt: PictureReceipt, some: Sequence[PictureTask]) -> None:
        seconds = receipt.get("seconds", 0.0)
        if WORKER not in self._stats.loading and self._begun is not None:
            self._stats.loading[WORKER] = perf_counter() - self._begun - seconds
        self._stats.add(receipt, some)
        if receipt["status"] == "ok":
            self._taken += seconds - sum(receipt["loading"].values())
            self._expected += self._context.workers * sum(task.seconds for task in some)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers; nothing is in their hands."""
        self._jobs.put(None)
        self._receipts.close()


@contextmanager
def open_queues(run: Run, context: ExtractionContext) -> Iterator[list[PictureQueue]]:
    """Give a queue for each group of stages that share processes, and end the workers of all afterwards."""
    with ExitStack() as stack:
        groups = group_stages(context.stages)
        yield [stack.enter_context(PictureQueue(names, run, context)) for names in groups]


def look(run: Run, parts: Iterable[str], context: ExtractionContext) -> None:
    """Look at every file that posts of these parts name and the store does not know; the context's stats add it up."""
    for kind in (FIRST_LOOKS, SECOND_LOOKS):
        run.forget(kind)
    needed = _find_needed(run, parts, context)
    if not needed:
        return
    near = {"near": context.media} if context.pipeline.reuse == "near" else {}
    context.store.prepare(context.tables | near)
    if near:
        needed = find_reposts(run, context.leave_setbacks(needed), context)
    look_at(run, needed, context)
    compact(context)
    context.stats.reposts = check_reposts(run, context)


def look_at(run: Run, tasks: Sequence[PictureTask], context: ExtractionContext) -> None:
    """Look at files; the context's stats add it up."""
    # One group of stages after the other, so that their models are not in memory at once.
    for names in group_stages(context.stages):
        with PictureQueue(names, run, context) as queue:
            queue.look(tasks, share_out(len(tasks), context), lambda: 0.0 if context.is_late() else inf)


def link_and_look(run: Run, parts: Iterable[str], context: ExtractionContext) -> None:
    """Find the pictures of posts to learn from and look at them; warn of each that could not be looked at."""
    link(run, parts, context)
    look(run, parts, context)
    for fault in context.stats.faults.values():
        log.warning("not looked at: %s", fault)


def compact(context: ExtractionContext) -> None:
    """Merge the small parts that looking has left in the store."""
    for name, fingerprint in (context.tables | {"setbacks": context.limited}).items():
        context.store.compact(name, fingerprint)


def _find_needed(run: Run, parts: Iterable[str], context: ExtractionContext) -> list[PictureTask]:
    """Return the files to look at, each once, with the stages that have not seen all its frames."""
    needed: list[PictureTask] = []
    seen: set[str] = set()
    for part in parts:
        # Those of the files themselves, also where another's findings are given to them.
        links = run.read("links", part)
        links = links.filter(pc.is_valid(links["file_id"]))
        named = zip(links["file_id"].to_pylist(), links["path"].to_pylist(), strict=True)
        paths = {file_id: path for file_id, path in named if file_id not in seen}
        if not paths:
            continue
        seen.update(paths)
        coverage = context.ask_store(pa.array(paths))
        for (file_id, path), bits, known in zip(
            paths.items(), coverage.bits.tolist(), coverage.decoded.tolist(), strict=True
        ):
            stages = [name for place, name in enumerate(context.stages) if not bits >> place & 1]
            if not known or stages:
                needed.append(PictureTask(path, file_id, stages, known))
    context.stats.files = len(seen)
    context.stats.reused = len(seen) - len(needed)
    return needed
