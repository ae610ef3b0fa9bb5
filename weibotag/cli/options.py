"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from weibotag.core.errors import RequestError


class Same(StrEnum):
    """Which pictures are the same."""

    exact = "exact"
    near = "near"


Gallery = Annotated[
    Path | None, typer.Option("--gallery", help="Names for faces: a file that `weibotag faces gallery build` made.")
]
Reuse = Annotated[
    Same | None,
    typer.Option("--reuse", help="near: reposts that were resized or saved anew are not looked at.", show_default="exact"),
]
Where = typer.Option(None, "--where", metavar="EXPR", help="A DuckDB expression that picks rows: \"split = 'train'\".")
Columns = typer.Option(None, "--column", metavar="NAME=THEIRS", help="Map a column: --column text=content. Repeatable.")
Words = typer.Option(
    None,
    "--words",
    metavar="KIND=COLUMN",
    help="Words that the posts have for their pictures: --words ocr=ocr_text; kinds: ocr, object, face, clip. Repeatable.",
)
Limit = typer.Option(None, "--limit", min=1, help="Stop after so many posts.")
Quiet = typer.Option(False, "--quiet", "-q", help="Say nothing but errors.")
Json = typer.Option(False, "--json", help="Print JSON to stdout.")
Store = typer.Option(
    None,
    "--store",
    help="Folder that keeps what pictures say.",
    show_default="$WEIBOTAG_STORE, or in the user's cache",
)


def parse_columns(pairs: list[str] | None) -> tuple[tuple[str, str], ...]:
    """Return `--column` pairs as (our name, name in the file); raises RequestError for one without `=`."""
    return tuple(parse_pairs(pairs, "--column").items())


def parse_pairs(pairs: list[str] | None, option: str) -> dict[str, str]:
    """Return pairs NAME=COLUMN of an option; raises RequestError for one without `=`."""
    parsed = {}
    for pair in pairs or []:
        name, equals, column = pair.partition("=")
        if not (name.strip() and equals and column.strip()):
            raise RequestError(f"{option} {pair!r}: expected NAME=COLUMN, as in --column text=content")
        parsed[name.strip()] = column.strip()
    return parsed


def parse_seconds(time: str, option: str) -> float:
    """Return a time (90s, 30m, 2h, or seconds) in seconds; raises RequestError for anything else."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (time[:-1], time[-1]) if time[-1:] in units else (time, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise RequestError(f"{option} {time!r}: expected a time, as in 90s, 30m or 2h")
    return seconds


def parse_bytes(size: str, option: str) -> float:
    """Return a size (500MB, 4GB, or bytes) in bytes; raises RequestError for anything else."""
    units = {"KB": 1e3, "MB": 1e6, "GB": 1e9}
    number, unit = (size[:-2], size[-2:].upper()) if size[-2:].upper() in units else (size, "")
    try:
        found = float(number) * units.get(unit, 1.0)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise RequestError(f"{option} {size!r}: expected a size, as in 500MB or 4GB")
    return found


def check_stdout(out: str, as_json: bool) -> None:
    """Raise RequestError when rows and the summary both want stdout."""
    if as_json and out == "-":
        raise RequestError("--out - and --json both write to stdout: give --out a file, or leave --json out")
