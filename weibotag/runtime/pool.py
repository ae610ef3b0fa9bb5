"""Parts run by child processes, as many as this machine feeds; one that dies, hangs or takes much memory costs one part."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import psutil

from weibotag.runtime.worker import ALIVE, FOR_PEOPLE, WORKING, Job, Receipt, perform, took_too_much

EXIT_SECONDS = 10.0
# What a process may take to start, at least: on a busy machine that is long.
START_SECONDS = 60.0
WATCH_SECONDS = 0.25
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Signals by which a process ends itself. What others send says nothing of the job.
OWN_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})


@dataclass(frozen=True)
class Limits:
    """What a worker may: `recycle` jobs, `silence` seconds without a sign of life, `memory` bytes, `lives` for one job.

    `threads` is what the numeric libraries of one worker may use.
    """

    recycle: int = 200
    silence: float | None = None
    memory: int | None = None
    lives: int = 2
    threads: int = 1


def run_parts(function: str, jobs: Iterable[Job], workers: int, limits: Limits = Limits()) -> Generator[Receipt, None, None]:
    """Call `function` ("module:name") with each job and yield the receipts as they come.

    A job and what the function returns are objects that JSON can hold; `job["part"]` names the job. A receipt is what the
    function returned with `part`, `status` ok and `seconds`, or it is `part`, `status` failed (the function raised) or
    set_aside (its worker died, was silent or took memory beyond the limits, as often as a job has lives) and `error`, and
    `blamed` where that came of the job itself. Functions give signs of life by `worker.alive`. With no workers the jobs run
    in this process, without limits. `jobs` is read as workers become free, from other threads. Closing the generator, or an
    error in it, kills the workers.
    """
    if not workers:
        for job in jobs:
            yield json.loads(perform(function, job))
        return
    crew = _Crew(function, jobs, limits)
    try:
        yield from crew.work(workers)
    finally:
        crew.close()


class _Child:
    """One child process; `last_words` are the last lines it wrote to stderr."""

    def __init__(self, function: str, limits: Limits) -> None:
        self.asked = 0
        self.last_words: deque[str] = deque(maxlen=5)
        # Why it was killed by this process; None: it was not.
        self.killed: str | None = None
        self._limits = limits
        self._heard: float | None = None
        # Whether it has given its first sign of life: it is up, and has the function.
        self._up = False
        # Whether it was at the work of its job, all that the work needs loaded.
        self.working = False
        # -P: a json.py in the user's folder must not take the place of Python's own.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "weibotag.runtime.worker", function, str(limits.memory or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(limits.threads),
            encoding="utf-8",
            errors="replace",
        )
        self._echo = threading.Thread(target=self._pass_on, daemon=True)
        self._echo.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def ask(self, line: str) -> str | None:
        """Return the receipt of a job, or None when the child died over it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.asked += 1
        self.working = False
        self._heard = time.monotonic()
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            while (answer := self.process.stdout.readline()) in (ALIVE, WORKING):
                self._heard, self._up = time.monotonic(), True
                self.working |= answer == WORKING
        except OSError:
            answer = ""
        finally:
            self._heard = None
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

    def describe_death(self) -> str:
        """Return how the child ended."""
        code = self.process.returncode
        return self.killed or (f"killed by signal {-code}" if code < 0 else f"exited with {code}")

    def blames_job(self) -> bool:
        """Tell whether the child ended over the work of its job, and not by what others did or while it started."""
        return self.working and (self.killed is not None or -self.process.returncode in OWN_SIGNALS)

    def _watch(self) -> None:
        """Kill the child when it goes beyond its limits."""
        try:
            seen = psutil.Process(self.process.pid)
            while self.process.poll() is None:
                self.killed = self._fault(seen)
                if self.killed:
                    self.process.kill()
                    return
                # A short silence is found out, however seldom one would look at a long one.
                time.sleep(min(WATCH_SECONDS, self._limits.silence or WATCH_SECONDS))
        except psutil.Error:
            # It ended between two looks.
            return

    def _fault(self, seen: psutil.Process) -> str | None:
        limits, heard = self._limits, self._heard
        silence = limits.silence and (limits.silence if self._up else max(limits.silence, START_SECONDS))
        if silence and heard is not None and time.monotonic() - heard > silence:
            return f"gave no sign of life for {silence:g} s"
        if limits.memory and seen.memory_info().rss > limits.memory:
            return took_too_much(limits.memory)
        return None

    def _pass_on(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.last_words.append(line.strip().removeprefix(FOR_PEOPLE))
            if line.startswith(FOR_PEOPLE):
                # Through sys.stderr, so that a progress bar can make room for it.
                sys.stderr.write(line.removeprefix(FOR_PEOPLE))


class _Crew:
    """Threads that feed one child each from the same jobs."""

    def __init__(self, function: str, jobs: Iterable[Job], limits: Limits) -> None:
        self._function = function
        self._jobs = iter(jobs)
        self._limits = limits
        self._taking = threading.Lock()
        self._hiring = threading.Lock()
        self._children: set[_Child] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._results: SimpleQueue[Receipt | BaseException | None] = SimpleQueue()

    def work(self, workers: int) -> Iterator[Receipt]:
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
            answer = child.ask(json.dumps(job))
            receipt: Receipt | None = None if answer is None else json.loads(answer)
            # What ran out of memory may have left some of it taken.
            sound = receipt is not None and receipt["status"] != "set_aside" and not child.killed
            used, fresh = child, sound and child.asked < self._limits.recycle
            if not fresh:
                self._dismiss(child)
                child = None
            if receipt is None:
                deaths.append(used.describe_death())
                if len(deaths) < self._limits.lives:
                    continue
            self._results.put(_set_aside(job, deaths, used) if receipt is None else receipt)
            deaths = []
            job = self._take()
        if child:
            self._dismiss(child)

    def _take(self) -> Job | None:
        with self._taking:
            return None if self._closed else next(self._jobs, None)

    def _hire(self) -> _Child | None:
        with self._hiring:
            if self._closed:
                return None
            child = _Child(self._function, self._limits)
            self._children.add(child)
            return child

    def _dismiss(self, child: _Child) -> None:
        child.end()
        with self._hiring:
            self._children.discard(child)


def _set_aside(job: Job, deaths: list[str], child: _Child) -> Receipt:
    lines = [word for word in child.last_words if word]
    same = len(deaths) > 1 and len(set(deaths)) == 1
    how = f"{deaths[0]}, {len(deaths)} times" if same else ", then ".join(deaths)
    error = f"worker {how}" + (f"; it last said: {lines[-1]}" if lines else "")
    receipt: Receipt = {"part": str(job["part"]), "status": "set_aside", "error": error}
    if child.blames_job():
        receipt["blamed"] = True
    return receipt


def _environment(threads: int) -> dict[str, str]:
    """Return this process's environment, in which a child finds the same weibotag and keeps to so many threads."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    limits = dict.fromkeys(THREADS, str(threads))
    return {**os.environ, **limits, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
