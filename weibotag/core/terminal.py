"""What people see: text without anything that a terminal would obey, and a stderr whose loss stops no work."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TextIO

# Control characters but tab and line break (C0, DEL, C1), marks that turn the direction of text, line and paragraph
# separators, the mark of byte order, and halves of characters, which no encoding knows.
OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
# A byte that is not UTF-8 comes as one of these from the shell and from file names.
BYTES = range(0xDC80, 0xDD00)
# Characters of a line at most; what is cut stands in its middle, because the advice stands at the end.
LONGEST = 1_500


def make_visible(text: str) -> str:
    r"""Return text with what a terminal would obey spelled out, as in \x1b and \u202e; tabs and line breaks stay."""
    return OBEYED.sub(lambda found: _spell(ord(found[0])), text)


def escape_json(text: str) -> str:
    """Return JSON that says the same with what a terminal would obey as escapes."""
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """Return text as one visible line of at most `LONGEST` characters and a count of those left out."""
    line = make_visible(text.strip()).replace("\n", "\\n")
    if len(line) <= LONGEST:
        return line
    head, tail = LONGEST * 2 // 3, LONGEST // 3
    return f"{line[:head]} […{len(line) - head - tail:,} characters…] {line[-tail:]}"


def _spell(code: int) -> str:
    if code in BYTES:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Stderr(io.TextIOBase):
    """Writes visible text to a stream (None: there is none); what can't be written is lost, and nothing stops for it."""

    def __init__(self, stream: TextIO | None) -> None:
        self.raw = stream
        self._above: Callable[[str], None] | None = None

    @property
    def rich_proxied_file(self) -> IO[str]:
        """What rich writes to: it makes escapes of its own, which must stay."""
        return self.raw or io.StringIO()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return self.raw.encoding if self.raw else "utf-8"

    def isatty(self) -> bool:
        """Tell whether a terminal shows the stream."""
        with suppress(OSError, ValueError):
            return self.raw is not None and self.raw.isatty()
        return False

    def fileno(self) -> int:
        """Return the stream's descriptor; raises OSError where there is none."""
        return super().fileno() if self.raw is None else self.raw.fileno()

    def writable(self) -> bool:
        """Tell that text may be written."""
        return True

    def write(self, text: str) -> int:
        """Write text, made visible; above a progress bar while there is one."""
        with suppress(OSError, ValueError):
            if self._above is not None:
                self._above(make_visible(text))
            elif self.raw is not None:
                self.raw.write(make_visible(text))
        return len(text)

    def flush(self) -> None:
        """Hand over what was written."""
        with suppress(OSError, ValueError):
            if self.raw is not None:
                self.raw.flush()

    @contextmanager
    def above(self, show: Callable[[str], None]) -> Iterator[None]:
        """Give what is written in the block to `show`, which makes room for it above a progress bar."""
        self._above = show
        try:
            yield
        finally:
            self._above = None
