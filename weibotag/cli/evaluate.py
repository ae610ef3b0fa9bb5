"""`weibotag evaluate`: compare predicted tags and keywords with gold ones."""

import json
from pathlib import Path
from typing import Annotated

import typer

from weibotag.cli.options import Columns, Json, Where, parse_columns


def evaluate_command(
    out: Annotated[Path, typer.Argument(help="Predicted tags: what `weibotag tag` wrote.")],
    posts: Annotated[str, typer.Argument(help="Posts with gold tags or keywords: file, folder, quoted glob, or -.")],
    taxonomy: Annotated[Path, typer.Option("--taxonomy", "-t", help="The taxonomy that OUT was tagged with.")],
    where: str | None = Where,
    column: list[str] | None = Columns,
    per_tag: Annotated[int, typer.Option("--per-tag", min=0, help="Tags in the table, lowest f1 first.")] = 20,
    as_json: bool = Json,
) -> None:
    """Measure predicted tags and keywords against gold ones, over all levels and per level, tag, route and what posts have.

    Example: weibotag evaluate out.parquet posts.csv -t taxonomy.csv --where "split = 'test'"
    """
    from weibotag.evaluate import evaluate, render
    from weibotag.export import read_table
    from weibotag.posts import PostsSource, Rejects, read_posts
    from weibotag.taxonomy.tree import load

    rejects = Rejects(None)
    gold = read_posts(PostsSource(path=posts, where=where, columns=parse_columns(column)), rejects)
    report = evaluate(read_table(out), gold, load(taxonomy))
    if rejects.count:
        typer.echo(f"rows of {posts} that could not be used, left out: {rejects.count}", err=True)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False, indent=1))
        return
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(render(report, per_tag))
