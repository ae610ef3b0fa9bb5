"""`weibotag models`: which weights there are, fetch them, check them."""

import json
import sys
from typing import Annotated

import typer

from weibotag.cli.options import Json

app = typer.Typer(help="Weights: what there is, fetch it, check it.", no_args_is_help=True)

NAME_HELP = "A name of the table, a pattern, a path, hf:owner/name or hf:owner/name@revision; may end in #sha256=HEX."


@app.command("list", epilog="Example: weibotag models list")
def list_command(as_json: bool = Json) -> None:
    """List the models that weibotag knows, and where each is on this machine, or comes from."""
    from dataclasses import asdict

    from weibotag.vision.weights.catalogue import at_hand
    from weibotag.vision.weights.table import TABLE

    paths = [at_hand(model.name) for model in TABLE]
    rows = [{**asdict(model), "path": str(path) if path else None} for model, path in zip(TABLE, paths, strict=True)]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    from rich.console import Console

    from weibotag.cli.doctor import FILE_WIDTH, make_table, yes_no

    headings = ("name", "stage", "size", "sha256", "licence", "extra", "here", "where it is, or comes from")
    cells = [
        (
            row["name"],
            row["stage"],
            f"{row['size'] / 1e6:,.1f} MB" if row["size"] else "?",
            row["sha256"][:12] if row["sha256"] else "?",
            row["licence"],
            row["extra"],
            yes_no(bool(row["path"])),
            row["path"] or row["source"],
        )
        for row in rows
    ]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(make_table("Models", headings, cells))


@app.command("pull", epilog="Example: weibotag models pull face_detection_yunet_2026may.onnx")
def pull_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help=NAME_HELP)],
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Take .pt files and the like, whose hash must be known.")
    ] = False,
) -> None:
    """Download models that are not here yet, check them, and print where they are."""
    from weibotag.vision.weights.check import pull

    for name in names:
        typer.echo(pull(name, allow_pickle))


@app.command("check", epilog="Example: weibotag models check")
def check_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help=NAME_HELP)] = None,
) -> None:
    """Measure the models that are here; exit 2 when one is damaged, or one that was asked for is absent."""
    from weibotag.vision.weights.catalogue import at_hand
    from weibotag.vision.weights.check import examine
    from weibotag.vision.weights.table import TABLE

    asked = names or [model.name for model in TABLE if at_hand(model.name)]
    faults = 0
    for name in asked:
        state = examine(name)
        faults += state.fault is not None
        digest = f", sha256 {state.sha256}" if state.sha256 else ""
        typer.echo(f"{name}: {state.fault or f'ok, {state.path}{digest}'}")
    if not names:
        typer.echo(f"{len(asked)} of {len(TABLE)} models are here", err=True)
    if faults:
        raise typer.Exit(2)
