"""`weibotag compare`: several taggers on the same rows, in one table."""

import json
from pathlib import Path
from typing import Annotated

import typer

from weibotag.cli.options import Columns, Json, Quiet, Store, Where, parse_columns


def compare_command(
    posts: Annotated[str, typer.Argument(help="Labelled posts: file, folder, quoted glob, or -.")],
    taxonomy: Annotated[Path, typer.Option("--taxonomy", "-t", help="The tag tree: CSV, JSON or YAML.")],
    taggers: Annotated[
        str,
        typer.Option("--taggers", help="Names joined by commas: rules, fast, linear, text, networks (concat, hma …)."),
    ] = "rules,fast,text",
    valid: Annotated[
        str | None,
        typer.Option("--valid", metavar="EXPR", help="Rows that thresholds are chosen on.", show_default="a tenth"),
    ] = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="EXPR", help="Rows that taggers are scored on.", show_default="a fifth")
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option("--pipeline", "-p", help="lite, full, gpu, or a TOML file that says how pictures are looked at."),
    ] = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Training time of each tagger.", show_default="as it needs")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of the networks.")] = 0,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the table (Markdown, CSV) and its plot (PNG, SVG).")
    ] = None,
    store: Path | None = Store,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Train taggers on the same rows, score and time them on others: what each brings, and what it costs.

    Example: weibotag compare posts.csv -t taxonomy.csv --taggers fast,concat,hma --test "split = 'test'" -o figures
    """
    from weibotag.extraction.settings import read_pipeline
    from weibotag.posts.source import PostsSource
    from weibotag.taxonomy.tree import load
    from weibotag.workflows.compare import compare, write_markdown

    report = compare(
        PostsSource(posts, parse_columns(column), where),
        load(taxonomy),
        list(dict.fromkeys(filter(None, map(str.strip, taggers.split(","))))),
        read_pipeline(pipeline),
        valid=valid,
        test=test,
        minutes=minutes,
        seed=seed,
        store=store,
        folder=folder,
        quiet=quiet,
    )
    typer.echo(json.dumps(report, ensure_ascii=False, indent=1) if as_json else write_markdown(report), nl=as_json)
