"""Errors as one line on stderr and an exit code; those that nobody expected leave their traceback in a file."""

import errno
import io
import logging
import os
import platform
import shlex
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from typing import Any

import typer

from weibotag.core import __version__
from weibotag.core.errors import INTERRUPTED, PIPE_CLOSED, UNEXPECTED, RequestError, WeibotagError
from weibotag.core.terminal import Stderr, one_line

# Errors of usage; typer brings click along under names that differ between versions.
UsageError: Any = typer.BadParameter.__mro__[2]


class OneLine(logging.Formatter):
    """Writes a record as one visible line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message alone, without a traceback."""
        return one_line(record.getMessage())


def prepare_streams() -> None:
    """Make stderr visible and stdout UTF-8, and put something in the place of streams that are closed.

    Else the first file that is opened would get the number of a closed one, and what a library says would end in it.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # What is written to a stdout that can only be read is an error, as it should be.
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.stderr = Stderr(sys.stderr)
    logging.raiseExceptions = False
    threading.excepthook = sys.unraisablehook = _tell_unseen


def tell(line: str) -> None:
    """Write one line to stderr."""
    typer.echo(one_line(line), err=True)


def report(error: BaseException) -> int:
    """Write an error as one line to stderr; return the exit code."""
    if isinstance(error, WeibotagError):
        tell(f"error: {error}")
        return error.exit_code
    if isinstance(error, UsageError):
        return _report_usage(error)
    if isinstance(error, KeyboardInterrupt) or _follows_interruption(error):
        tell("interrupted: the same command goes on")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        return PIPE_CLOSED
    if isinstance(error, OSError):
        # A full disk, lost rights: nothing of the request, but nothing that trying again at once would mend either.
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        closed = not where and error.errno == errno.EBADF
        tell(f"error: {'stdout is closed' if closed else f'{where}{error.strerror or error}'}")
        _drop_stdout()
        return RequestError.exit_code
    return _tell_unexpected(error)


def _follows_interruption(error: BaseException) -> bool:
    """Tell whether an error came of an interruption: libraries make others of it."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__cause__ or seen.__context__
    return seen is not None


def _report_usage(error: Any) -> int:
    """Write what is wrong with the words of the command line, or the help where there were none."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        help_of = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        tell(f"error: {error.format_message().rstrip('.')}{help_of}")
    return int(error.exit_code)


def _tell_unseen(fault: Any) -> None:
    """Tell of an error that no caller can see: that of a thread, or of an object that goes."""
    if fault.exc_value is not None:
        _tell_unexpected(fault.exc_value)


def _tell_unexpected(error: BaseException) -> int:
    """Write the traceback to a file of its own, and one line that names it; return the exit code."""
    about = f"weibotag {__version__}, Python {platform.python_version()}, {platform.platform()}\n{shlex.join(sys.argv)}\n\n"
    try:
        descriptor, log = tempfile.mkstemp(prefix="weibotag-", suffix=".log")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(about)
            file.writelines(traceback.format_exception(error))
        place = f"the traceback is in {log}; please report it"
    except OSError as fault:
        place = f"no file could be written for the traceback ({fault.strerror})"
    said = f": {error}" if str(error) else ""
    name = "not enough memory" if isinstance(error, MemoryError) else f"unexpected {type(error).__name__}"
    tell(f"error: {name}{said}; {place}")
    return UNEXPECTED


def _drop_stdout() -> None:
    """Let nothing more be written to stdout: Python flushes it once more at its end."""
    # A stdout that is no file needs none of it.
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
