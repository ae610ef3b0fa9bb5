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
    train: Annotated[
        str | None,
        typer.Option("--train", metavar="POSTS", help="Posts that count how frequent tags are.", show_default="POSTS"),
    ] = None,
    train_where: Annotated[
        str | None, typer.Option("--train-where", metavar="EXPR", help="A DuckDB expression that picks rows of --train.")
    ] = None,
    column: list[str] | None = Columns,
    per_tag: Annotated[int, typer.Option("--per-tag", min=0, help="Tags in the table, lowest f1 first.")] = 20,
    as_json: bool = Json,
) -> None:
    """Measure predicted tags and keywords against gold ones, over all levels and per level, tag, route and what posts have.

    How well rare tags are found (head, torso, tail; PSP@k) depends on how frequent tags were in training: name those posts
    with --train. The names in --json are explained in docs/evaluate.md.

    Example: weibotag evaluate out.parquet posts.csv -t taxonomy.csv --where "split = 'test'"

    Example: weibotag evaluate out.parquet posts.csv -t taxonomy.csv --where "split = 'test'" --train posts.csv
    --train-where "split = 'train'"
    """
    from weibotag.core.errors import RequestError
    from weibotag.posts.reader import read_posts
    from weibotag.posts.rejects import Rejects
    from weibotag.posts.source import PostsSource
    from weibotag.posts.tags_file import read_table
    from weibotag.scoring.report import evaluate, render
    from weibotag.taxonomy.tree import load

    if train is None and train_where is not None:
        raise RequestError("--train-where picks rows of --train, which is not given; name the training posts with it")
    rejects = Rejects(None)
    columns = parse_columns(column)
    gold = read_posts(PostsSource(path=posts, where=where, columns=columns), rejects)
    trained = train and read_posts(PostsSource(path=train, where=train_where, columns=columns), Rejects(None))
    report = evaluate(read_table(out), gold, load(taxonomy), trained or None)
    if rejects.count:
        typer.echo(f"rows of {posts} that could not be used, left out: {rejects.count}", err=True)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False, indent=1))
        return
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(render(report, per_tag))
