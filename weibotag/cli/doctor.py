"""`weibotag doctor`: what is installed, and what is missing."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from weibotag.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table

# Columns of the tables where stdout is no terminal.
FILE_WIDTH = 200


def doctor_command(as_json: bool = Json) -> None:
    """Say what is installed and what is missing; exit 2 when the pipeline lite can't run.

    Example: weibotag doctor
    """
    from weibotag.workflows.doctor import examine

    state = examine()
    if as_json:
        typer.echo(json.dumps(state, ensure_ascii=False, indent=1))
    else:
        from rich.console import Console

        console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
        for table in draw(state):
            console.print(table)
        console.print(f"{state['cores']} cores, Python {state['python']}, weibotag {state['weibotag']}")
    fault = state["lite"]["fault"]
    if fault is not None:
        typer.echo(f"error: the pipeline lite can't run: {fault}", err=True)
        raise typer.Exit(2)
    if not as_json:
        typer.echo(f"the pipeline lite runs: it looked at a picture in {state['lite']['seconds']:.1f} s, loading included")


def draw(state: dict[str, Any]) -> list["Table"]:
    """Return the tables that show what `examine` found."""
    libraries = [(row["name"], row["wants"], row["found"] or "missing", row["fix"]) for row in state["libraries"]]
    stages = [(row["name"], ", ".join(row["kinds"]), f"{row['nominal_ms']:g} ms") for row in state["stages"]]
    backends = [
        (row["stage"], row["name"], row["licence"], yes_no(not row["fault"]), row["fault"]) for row in state["backends"]
    ]
    weights = [(row["backend"], row["path"], yes_no(row["ready"])) for row in state["weights"]]
    extras = [(row["name"], ", ".join(row["libraries"]), yes_no(not row["missing"]), row["fix"]) for row in state["extras"]]
    folders = [
        (f"{row['stage']}-{row['fingerprint']}", f"{row['rows']:,}", f"{row['parts']:,}", f"{row['bytes'] / 1e6:,.1f} MB")
        for row in state["store"]["folders"]
    ]
    size = sum(row["bytes"] for row in state["store"]["folders"])
    held = state["store"]["fault"] or f"{size / 1e6:,.1f} MB"
    return [
        make_table("Libraries", ("library", "wants", "found", "what to do"), libraries),
        make_table("Stages", ("stage", "kinds of wordings", "a picture"), stages),
        make_table("Backends", ("stage", "backend", "licence", "ready", "what to do"), backends),
        make_table("Weights", ("backend", "file", "there"), weights),
        make_table("Extras", ("extra", "libraries", "installed", "what to do"), extras),
        make_table(f"Store {state['store']['folder']}: {held}", ("stage", "rows", "parts", "size"), folders),
    ]


def make_table(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str | None, ...]]) -> "Table":
    """Return a table of texts, which nothing cuts off."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell or "") for cell in row))
    return table


def yes_no(ready: bool) -> str:
    """Return yes or no."""
    return "yes" if ready else "no"
