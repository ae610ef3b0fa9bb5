"""What a command will take, in one line before it begins."""

import tempfile

from weibotag.core.progress import format_seconds


def describe_cost(what: str, size: float, seconds: float, memory: float, disk: float = 0) -> str:
    """Return in one line what work on an input of `size` takes: about so many seconds, at most so many bytes.

    A size of 0 is one that is not known: that of stdin.
    """
    if not size:
        return f"{what}: how long it takes, and how much memory, depends on how much comes"
    room = f", {disk / 1e6:,.0f} MB in {tempfile.gettempdir()}" if disk else ""
    return f"{what}: some {format_seconds(seconds)}, up to {memory / 1e9:.1f} GB of memory{room}"
