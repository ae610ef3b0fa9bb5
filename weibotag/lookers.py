"""Workers that stay while the pictures for them are chosen."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any

from weibotag.executors.local import run_parts
from weibotag.looks import Looking, group_stages, job_maker, keep_receipt, worker_limits
from weibotag.progress import bar
from weibotag.runs import Run

Files = list[dict[str, Any]]


class Lookers:
    """The workers of a run; stages that must be alone have workers of their own. They start with their first picture.

    `begun` says how many files of the last call were looked at, or should have been.
    """

    def __init__(self, run: Run, looking: Looking) -> None:
        self._looking = looking
        self._crews = [_Crew(names, run, looking) for names in group_stages(looking.stages)]
        self.begun = 0

    def look(self, files: Files, size: int, go_on: Callable[[], bool]) -> list[str]:
        """Look at files (path, file_id, stages, known), in their order, `size` at a time, while `go_on`.

        Returns one line for each that could not be looked at.
        """
        faults: list[str] = []
        self.begun = len(files)
        with bar(len(files), "looking at pictures", self._looking.quiet) as progress:
            for crew in self._crews:
                own = [{**file, "stages": [name for name in file["stages"] if name in crew.names]} for file in files]
                own = [file for file in own if file["stages"]]
                failed: Files = []
                for receipt, some in crew.work(own, size, go_on, "looks"):
                    progress.advance(len(some))
                    if receipt["status"] != "ok":
                        failed += some
                        self._looking.setbacks.append(f"{len(some)} pictures from {some[0]['path']}: {receipt['error']}")
                self.begun = min(self.begun, len(files) - crew.left)
                for receipt, some in crew.work(failed, 1, go_on, "second-looks"):
                    if receipt["status"] != "ok":
                        self._looking.unseen[some[0]["file_id"]] = receipt["error"]
                        faults.append(f"{some[0]['path']}: {receipt['error']}")
        return faults

    def __enter__(self) -> "Lookers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for crew in self._crews:
            crew.close(kind is not None)


class _Crew:
    """The workers of stages that share processes; `left` says how many files of the last call were not begun."""

    def __init__(self, names: list[str], run: Run, looking: Looking) -> None:
        self.names = names
        self.left = 0
        self._run, self._looking = run, looking
        # After those of a run that was stopped.
        self._parts = len(run.receipts("looks")) + len(run.receipts("second-looks"))
        self._ask = job_maker(names, looking)
        self._jobs: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        jobs: Iterator[Any] = iter(self._jobs.get, None)
        limits = worker_limits(looking, looking.workers)
        self._receipts: Generator[dict[str, Any], None, None] = run_parts(
            "weibotag.parts:look_at_files", jobs, looking.workers, limits
        )

    def work(self, files: Files, size: int, go_on: Callable[[], bool], kind: str) -> Iterator[tuple[dict[str, Any], Files]]:
        """Give the receipts with their files, as they come."""
        waiting: dict[str, Files] = {}
        groups = deque(files[start : start + size] for start in range(0, len(files), size))
        while groups or waiting:
            # One more than there are workers, so that none waits for this process.
            while groups and len(waiting) <= self._looking.workers and go_on():
                self._parts += 1
                part = f"{'-'.join(self.names)}-{self._parts:06d}"
                waiting[part] = groups.popleft()
                self._jobs.put(self._ask(part, waiting[part]))
            if not waiting:
                break
            receipt = next(self._receipts)
            some = waiting.pop(receipt["part"])
            keep_receipt(self._run, kind, receipt, some, self._looking)
            yield receipt, some
        self.left = sum(map(len, groups))

    def close(self, at_once: bool) -> None:
        """Send the workers home."""
        self._jobs.put(None)
        if at_once:
            self._receipts.close()
        deque(self._receipts, maxlen=0)
