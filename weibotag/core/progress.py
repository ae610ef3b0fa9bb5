"""How far the work is: a bar on a terminal, a line every 30 s elsewhere; and what it will take, before it begins."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

from weibotag.core.terminal import Stderr, make_visible, one_line

LINE_SECONDS = 30.0


class Bar(Protocol):
    """What counts the work that is done."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more as done."""


@contextmanager
def bar(total: int | None, label: str, quiet: bool = False) -> Iterator[Bar]:
    """Show on stderr how many of `total` (None: not known) are done, from the start to the end of the block."""
    if sys.stderr.isatty() and not quiet:
        with _draw(total, label) as drawn:
            yield drawn
        return
    lines = _Lines(total, label, quiet)
    try:
        yield lines
    finally:
        lines.write()


class _Lines:
    def __init__(self, total: int | None, label: str, quiet: bool) -> None:
        self._total, self._label, self._quiet = total, label, quiet
        self._done = 0
        self._started = self._written = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self._done += n
        if time.monotonic() - self._written >= LINE_SECONDS:
            self.write()

    def write(self) -> None:
        if self._quiet:
            return
        self._written = time.monotonic()
        seconds = self._written - self._started
        whole = "" if self._total is None else f" of {self._total:,}"
        rate = f"{self._done / seconds:,.1f}/s, " if seconds else ""
        sys.stderr.write(one_line(f"{self._label}: {self._done:,}{whole}, {rate}{format_seconds(seconds)}") + "\n")
        sys.stderr.flush()


def format_seconds(seconds: float) -> str:
    """Return a span of time in words, to its first one or two units: 45 s, 6 min, 2 h 5 min."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def describe_cost(what: str, size: float, seconds: float, memory: float, disk: float = 0) -> str:
    """Return in one line what work on an input of `size` takes: about so many seconds, at most so many bytes.

    A size of 0 is one that is not known: that of stdin.
    """
    if not size:
        return f"{what}: how long it takes, and how much memory, depends on how much comes"
    room = f", {disk / 1e6:,.0f} MB in {tempfile.gettempdir()}" if disk else ""
    return f"{what}: some {format_seconds(seconds)}, up to {memory / 1e9:.1f} GB of memory{room}"


@contextmanager
def _draw(total: int | None, label: str) -> Iterator[Bar]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    own = sys.stderr if isinstance(sys.stderr, Stderr) else None
    console = Console(file=own.rich_proxied_file) if own else Console(stderr=True)

    def show(text: str) -> None:
        if text.strip():
            console.print(text.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)

    # Only stderr is redirected around the bar: stdout may be the data.
    drawn = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=own is None)
    with drawn as progress, own.above(show) if own else nullcontext():
        task = progress.add_task(escape(make_visible(label)), total=total)

        class Drawn:
            def advance(self, n: int = 1) -> None:
                progress.advance(task, n)

        yield Drawn()
