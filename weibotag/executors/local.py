"""Parts run by child processes of this one; a child that dies costs one part, which is tried twice."""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import weibotag
from weibotag.executors.worker import perform

LIVES = 2
EXIT_SECONDS = 10.0
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run_parts(
    function: str, jobs: Iterable[dict[str, Any]], workers: int, recycle: int = 200, time_limit: float | None = None
) -> Generator[dict[str, Any], None, None]:
    """Call `function` ("module:name") with each job and yield the receipts as they come.

    A job and what the function returns are dicts that JSON can hold; `job["part"]` names the job. A receipt is what the
    function returned with `part`, `status` ok and `seconds`, or it is `part`, `status` failed (the function raised) or
    set_aside (its worker died, or took more than `time_limit` seconds, twice) and `error`. A worker is replaced after
    `recycle` jobs; with no workers the jobs run in this process. `jobs` is read as workers become free, from other
    threads. Closing the generator, or an error in it, kills the workers.
    """
    if not workers:
        for job in jobs:
            yield json.loads(perform(function, job))
        return
    crew = _Crew(function, jobs, recycle, time_limit)
    try:
        yield from crew.work(workers)
    finally:
        crew.close()


class _Child:
    """One child process; `last_words` are the last lines it wrote to stderr."""

    def __init__(self, function: str) -> None:
        self.asked = 0
        self.overdue = False
        self.last_words: deque[str] = deque(maxlen=5)
        # -P: a json.py in the user's folder must not take the place of Python's own.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "weibotag.executors.worker", function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            encoding="utf-8",
            errors="replace",
        )
        self._echo = threading.Thread(target=self._pass_on, daemon=True)
        self._echo.start()

    def ask(self, line: str, time_limit: float | None) -> str | None:
        """Return the receipt of a job, or None when the child died over it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asked += 1
        timer = threading.Timer(time_limit, self._expire) if time_limit else None
        if timer:
            timer.start()
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        finally:
            if timer:
                timer.cancel()
        return answer if answer.endswith("\n") else None

    def end(self, seconds: float = EXIT_SECONDS) -> None:
        """Close the child's stdin and wait for its exit; kill it when that takes longer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.close()
        except OSError:
            # It is gone already, with a job still in the pipe.
            self.process.kill()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._echo.join(1)
        self.process.stdout.close()

    def describe_death(self, time_limit: float | None) -> str:
        """Return how the child ended."""
        if self.overdue:
            return f"took more than {time_limit:g} s"
        code = self.process.returncode
        return f"killed by signal {-code}" if code < 0 else f"exited with {code}"

    def _expire(self) -> None:
        self.overdue = True
        self.process.kill()

    def _pass_on(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.last_words.append(line.strip())
            # Through sys.stderr, so that a progress bar can make room for it.
            sys.stderr.write(line)


class _Crew:
    """Threads that feed one child each from the same jobs."""

    def __init__(self, function: str, jobs: Iterable[dict[str, Any]], recycle: int, time_limit: float | None) -> None:
        self._function = function
        self._jobs = iter(jobs)
        self._recycle = recycle
        self._time_limit = time_limit
        self._taking = threading.Lock()
        self._hiring = threading.Lock()
        self._children: set[_Child] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._results: SimpleQueue[dict[str, Any] | BaseException | None] = SimpleQueue()

    def work(self, workers: int) -> Iterator[dict[str, Any]]:
        """Yield the receipts as they come; raises what reading the jobs or starting a child raised."""
        self._threads = [threading.Thread(target=self._feed, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()
        while workers:
            result = self._results.get()
            if result is None:
                workers -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result

    def close(self) -> None:
        """Kill the children that are left and wait for the threads."""
        with self._hiring:
            self._closed = True
            for child in self._children:
                child.process.kill()
        for thread in self._threads:
            # A thread may hang in the jobs of the caller, who can't wait for it.
            thread.join(1)

    def _feed(self) -> None:
        try:
            self._work_through()
        except BaseException as error:  # noqa: BLE001 - raised again where the receipts are read
            self._results.put(error)
        finally:
            self._results.put(None)

    def _work_through(self) -> None:
        """Hand job after job to one child, and to a fresh one where it died or has done its share."""
        child: _Child | None = None
        deaths: list[str] = []
        job = self._take()
        while job is not None:
            child = child or self._hire()
            if child is None:
                return
            answer = child.ask(json.dumps(job), self._time_limit)
            used, fresh = child, answer is not None and not child.overdue and child.asked < self._recycle
            if not fresh:
                self._dismiss(child)
                child = None
            if answer is None:
                deaths.append(used.describe_death(self._time_limit))
                if len(deaths) < LIVES:
                    continue
            self._results.put(_set_aside(job, deaths, used.last_words) if answer is None else json.loads(answer))
            deaths = []
            job = self._take()
        if child:
            self._dismiss(child)

    def _take(self) -> dict[str, Any] | None:
        with self._taking:
            return None if self._closed else next(self._jobs, None)

    def _hire(self) -> _Child | None:
        with self._hiring:
            if self._closed:
                return None
            child = _Child(self._function)
            self._children.add(child)
            return child

    def _dismiss(self, child: _Child) -> None:
        child.end()
        with self._hiring:
            self._children.discard(child)


def _set_aside(job: dict[str, Any], deaths: list[str], last_words: Iterable[str]) -> dict[str, Any]:
    said = [word for word in last_words if word]
    how = f"{deaths[0]} twice" if len(set(deaths)) == 1 else ", then ".join(deaths)
    error = f"worker {how}" + (f"; it last said: {said[-1]}" if said else "")
    return {"part": job["part"], "status": "set_aside", "error": error}


def _environment() -> dict[str, str]:
    """Return this process's environment, in which a child finds the same weibotag and keeps to one thread."""
    paths = [str(Path(weibotag.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **THREADS, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
