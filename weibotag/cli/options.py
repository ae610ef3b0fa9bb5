"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from weibotag.errors import RequestError


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
    parsed = []
    for pair in pairs or []:
        ours, equals, theirs = pair.partition("=")
        if not (ours.strip() and equals and theirs.strip()):
            raise RequestError(f"--column {pair!r}: expected NAME=THEIRS, as in --column text=content")
        parsed.append((ours.strip(), theirs.strip()))
    return tuple(parsed)


def check_stdout(out: str, as_json: bool) -> None:
    """Raise RequestError when rows and the summary both want stdout."""
    if as_json and out == "-":
        raise RequestError("--out - and --json both write to stdout: give --out a file, or leave --json out")
