"""`weibotag export`: a tags file in another format."""

from pathlib import Path
from typing import Annotated

import typer

from weibotag.cli.options import Quiet


def export_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Tags: what `weibotag tag` wrote (.parquet, .csv, .jsonl).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="OUT.parquet, OUT.csv, OUT.jsonl, or - (JSONL to stdout).")],
    quiet: bool = Quiet,
) -> None:
    """Write a file of tags in another format.

    Example: weibotag export tags.parquet -o tags.csv
    """
    from weibotag.posts.tags_file import convert

    posts = convert(source, out)
    if not quiet:
        typer.echo(f"{out}: {posts:,} posts", err=True)
