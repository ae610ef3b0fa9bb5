"""What a command answers, and the one place that prints it: tables and JSON to stdout, a line to stderr."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from weibotag.cli.faults import tell
from weibotag.core.terminal import escape_json, make_visible

if TYPE_CHECKING:
    from rich.table import Table

# Columns of tables where stdout is no terminal.
FILE_WIDTH = 200


@dataclass(frozen=True)
class Answer:
    """What a command found: `found` for JSON, `shown` (text, or what rich draws) for stdout, `line` for stderr.

    `fault` is an error in one line, printed in any case; `code` what the shell sees.
    """

    found: Any = None
    line: str = ""
    shown: Any = None
    fault: str | None = None
    code: int = 0


def show(answer: Answer, as_json: bool, quiet: bool) -> None:
    """Print an answer as JSON, or as what it shows and its line unless quiet; raises Exit for a code that is not 0."""
    if as_json:
        typer.echo(escape_json(json.dumps(answer.found, ensure_ascii=False, indent=1, default=str)))
    else:
        draw(answer.shown)
        say(answer.line, quiet)
    if answer.fault is not None:
        tell(f"error: {answer.fault}")
    if answer.code:
        raise typer.Exit(answer.code)


def draw(shown: Any) -> None:
    """Print text as it is, what rich draws unbroken, and a list of tables and texts as wide as the terminal."""
    if isinstance(shown, str):
        typer.echo(make_visible(shown))
    elif shown is not None:
        from rich.console import Console

        console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
        for one in shown if isinstance(shown, list) else [shown]:
            console.print(_Visible(one), soft_wrap=not isinstance(shown, list))


@dataclass(frozen=True)
class _Visible:
    """Draws what rich draws, with every text in it visible."""

    drawn: Any

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        for segment in console.render(self.drawn, options):
            yield segment if segment.control else segment._replace(text=make_visible(segment.text))


def say(line: str, quiet: bool) -> None:
    """Write a line to stderr unless quiet, or there is none."""
    if line and not quiet:
        typer.echo(make_visible(line), err=True)


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
