"""Workers that stay while the pictures for them are chosen."""

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from queue import SimpleQueue
from time import perf_counter
from typing import Any

from weibotag.core.progress import bar
from weibotag.extraction.context import WORKER, ExtractionContext
from weibotag.extraction.schedule import group_stages, job_maker, keep_receipt, worker_limits
from weibotag.runtime.pool import run_parts
from weibotag.runtime.run_folder import Run

Files = list[dict[str, Any]]
# A part takes at most this share of the time that is left; none is begun for less than these seconds.
PART_SHARE, LEAST_SECONDS = 0.25, 0.05


class PictureQueue:
    """The workers of a run; stages that must be alone have workers of their own. They start with their first picture.

    `begun` says how many files of the last call were looked at, or should have been.
    """

    def __init__(self, run: Run, context: ExtractionContext) -> None:
        self._context = context
        self._crews = [_Crew(names, run, context) for names in group_stages(context.stages)]
        self.begun = 0

    def look(self, files: Files, size: int, left: Callable[[], float], at_once: Collection[str] = ()) -> list[str]:
        """Look at files (path, file_id, stages, known, seconds), in their order, `size` at a time at most.

        `left` gives the seconds that are left, infinite where time is no matter; `seconds` of a file are what it is expected
        to take of them. What would not be done in time is not begun. Each worker loads the models of the stages `at_once`
        before its first file, the others when a file needs them. Returns one line for each file that could not be looked at.
        """
        faults: list[str] = []
        self.begun = len(files)
        with bar(len(files), "looking at pictures", self._context.quiet) as progress:
            for crew in self._crews:
                own = [{**file, "stages": [name for name in file["stages"] if name in crew.names]} for file in files]
                own = [file for file in own if file["stages"]]
                failed: Files = []
                for receipt, some in crew.work(own, size, left, "looks", at_once):
                    progress.advance(len(some))
                    if receipt["status"] != "ok":
                        failed += some
                        self._context.setbacks.append(f"{len(some)} pictures from {some[0]['path']}: {receipt['error']}")
                self.begun = min(self.begun, len(files) - crew.left)
                for receipt, some in crew.work(failed, 1, left, "second-looks", at_once):
                    if receipt["status"] != "ok":
                        self._context.unseen[some[0]["file_id"]] = receipt["error"]
                        faults.append(f"{some[0]['path']}: {receipt['error']}")
        return faults

    def __enter__(self) -> "PictureQueue":
        return self

    def __exit__(self, *_: object) -> None:
        for crew in self._crews:
            crew.close()


class _Crew:
    """The workers of stages that share processes; `left` says how many files of the last call were not begun."""

    def __init__(self, names: list[str], run: Run, context: ExtractionContext) -> None:
        self.names = names
        self.left = 0
        self._run, self._context = run, context
        # After those of a run that was stopped.
        self._parts = len(run.receipts("looks")) + len(run.receipts("second-looks"))
        self._ask = job_maker(names, context)
        self._begun: float | None = None
        # Seconds of workers, as expected and as they were; the first of each is a guess.
        self._expected = self._taken = 1.0
        self._jobs: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        jobs: Iterator[Any] = iter(self._jobs.get, None)
        limits = worker_limits(context, context.workers)
        self._receipts: Generator[dict[str, Any], None, None] = run_parts(
            "weibotag.extraction.jobs:look_at_files", jobs, context.workers, limits
        )

    def work(
        self, files: Files, size: int, left: Callable[[], float], kind: str, at_once: Collection[str]
    ) -> Iterator[tuple[dict[str, Any], Files]]:
        """Give the receipts with their files, as they come."""
        waiting: dict[str, Files] = {}
        models = {"open": [name for name in self.names if name in at_once]}
        queue = deque(files)
        while queue or waiting:
            # One more than there are workers, so that none waits for this process.
            while len(waiting) <= self._context.workers and (some := self._take(queue, size, left(), waiting)):
                self._parts += 1
                part = f"{'-'.join(self.names)}-{self._parts:06d}"
                waiting[part] = some
                self._begun = self._begun or perf_counter()
                self._jobs.put(self._ask(part, some) | models)
            if not waiting:
                break
            receipt = next(self._receipts)
            some = waiting.pop(receipt["part"])
            if WORKER not in self._context.loading and self._begun is not None:
                self._context.loading[WORKER] = perf_counter() - self._begun - receipt.get("seconds", 0.0)
            keep_receipt(self._run, kind, receipt, some, self._context)
            if receipt["status"] == "ok":
                self._taken += receipt["seconds"] - sum(receipt["loading"].values())
                self._expected += self._context.workers * _sum_seconds(some)
            yield receipt, some
        self.left = len(queue)

    def _take(self, queue: deque[dict[str, Any]], size: int, left: float, waiting: dict[str, Files]) -> Files:
        """Take the files of the next part: fewer the less time is left, none where they would not be done in time."""
        pace = self._taken / self._expected
        spare = left - pace * sum(map(_sum_seconds, waiting.values()))
        some: Files = []
        seconds = 0.0
        while queue and len(some) < size:
            seconds += pace * queue[0].get("seconds", 0.0)
            if spare <= LEAST_SECONDS or seconds > spare * (PART_SHARE if some else 1.0):
                break
            some.append(queue.popleft())
        return some

    def close(self) -> None:
        """End the workers; nothing is in their hands."""
        self._jobs.put(None)
        self._receipts.close()


def _sum_seconds(files: Files) -> float:
    return sum(file.get("seconds", 0.0) for file in files)
