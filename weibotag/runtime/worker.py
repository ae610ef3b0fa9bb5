"""A child process: one JSON job per line in, one JSON receipt per line out, signs of life between them."""

import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Literal, NotRequired, TextIO

from typing_extensions import TypedDict

from weibotag.core.errors import WeibotagError
from weibotag.runtime.machine import limit_memory

ERROR_LENGTH = 500
PARENT_SECONDS = 0.2
# Begins the lines on stderr that are for people: those of weibotag's own log. Native code and other libraries chatter there.
FOR_PEOPLE = "\x1e"
# Signs of life: the second tells that all is loaded, and that the work of the job begins.
ALIVE, WORKING = "\n", "working\n"

# What JSON holds of a job; its `part` names it.
Job = Mapping[str, object]

log = logging.getLogger(__name__)
# Where the receipts go; None outside a child process.
_receipts: TextIO | None = None
# Bytes that this process may take; 0: as many as there are.
_memory = 0
# Whether the work of the present job has begun.
_working = False


class Receipt(TypedDict):
    """What came of a part, beside what the function that did it returned.

    `status` is ok, failed (the function raised) or set_aside (its workers died over it); `error` says why in one line.
    """

    part: str
    status: NotRequired[Literal["ok", "failed", "set_aside"]]
    seconds: NotRequired[float]
    error: NotRequired[str]
    # Of one that was set aside: whether that came of the job itself.
    blamed: NotRequired[bool]


def alive(sign: str = ALIVE) -> None:
    """Tell the parent that the work goes on (`ALIVE`), or begins now (`WORKING`)."""
    global _working
    _working |= sign == WORKING
    if _receipts is not None:
        _receipts.write(sign)
        _receipts.flush()


def took_too_much(memory: int) -> str:
    """Return what is said of a worker that would take more bytes than it may."""
    return f"took more than {memory / 2**20:,.0f} MB of memory" if memory else "took more memory than there is"


def perform(function: str, job: Job) -> str:
    """Call MODULE:FUNCTION with a job and return its receipt as one line of JSON; an error becomes a failed receipt."""
    global _working
    started, _working = time.perf_counter(), False
    try:
        module, _, name = function.partition(":")
        work = getattr(importlib.import_module(module), name)
        alive()
        found = work(job)
        seconds = round(time.perf_counter() - started, 3)
        return json.dumps({**found, "part": job["part"], "status": "ok", "seconds": seconds})
    except WeibotagError as error:
        return _fail(job, error)
    except MemoryError:
        line = f"worker {took_too_much(_memory)}"
        return json.dumps(
            {"part": job["part"], "status": "set_aside", "error": line} | ({"blamed": True} if _working else {})
        )
    except Exception as error:
        # One part's failure is that part's receipt; where it happened goes to the log.
        log.exception("part %s failed", job["part"])
        return _fail(job, error)


def _fail(job: Job, error: Exception) -> str:
    line = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_LENGTH]
    return json.dumps({"part": job["part"], "status": "failed", "error": line})


class _ForPeople(logging.Formatter):
    """A line that is for people; where an error happened follows, and is not."""

    def format(self, record: logging.LogRecord) -> str:
        return FOR_PEOPLE + super().format(record)


def main(function: str, memory: int = 0) -> None:
    """Work through the jobs on stdin until it ends, within `memory` bytes (0: as many as there are)."""
    # The parent hears Ctrl-C too and decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    global _receipts, _memory
    jobs, receipts = _take_streams()
    _receipts, _memory = receipts, memory
    handler = logging.StreamHandler()
    handler.setFormatter(_ForPeople())
    logging.getLogger("weibotag").addHandler(handler)
    if memory:
        limit_memory(memory)
    for line in jobs:
        receipts.write(perform(function, json.loads(line)) + "\n")
        receipts.flush()


def _take_streams() -> tuple[TextIO, TextIO]:
    """Return stdin and stdout; libraries that chatter are left with an empty stdin, and with stderr as stdout."""
    jobs = os.fdopen(os.dup(0), encoding="utf-8")
    receipts = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return jobs, receipts


def _follow(parent: int) -> None:
    # In the middle of a job nobody reads stdin, and a job that outlives its run could write into the next one's folder.
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    # The module that functions import to give signs of life, not this one, which bears another name.
    from weibotag.runtime.worker import main as work

    work(sys.argv[1], *map(int, sys.argv[2:]))
