"""`weibotag keywords map`: what pictures say, mapped onto keywords; learnt by `map train`."""

from pathlib import Path
from typing import Annotated

import typer

from weibotag.cli.options import Columns, Json, Limit, Quiet, Where, Words, check_stdout, parse_columns, parse_pairs
from weibotag.cli.stages import StageGroup
from weibotag.cli.tagging import PostsArgument, report

app = typer.Typer(cls=StageGroup, help="Map what pictures say onto the keywords of the post's channel; learn the map.")

Wordings = Annotated[
    Path | None,
    typer.Option(
        "--wordings", help="What `weibotag wordings POSTS` wrote (.parquet).", show_default="the posts' own column"
    ),
]


@app.command("posts")
def map_command(
    posts: PostsArgument,
    model: Annotated[Path, typer.Option("--map", "-m", metavar="MAP", help="What `weibotag keywords map train` wrote.")],
    out: Annotated[str, typer.Option("--out", "-o", help="OUT.parquet, OUT.csv, OUT.jsonl, or - (JSONL to stdout).")],
    wordings: Wordings = None,
    words: list[str] | None = Words,
    where: str | None = Where,
    column: list[str] | None = Columns,
    limit: int | None = Limit,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Give posts the keywords that their pictures show; `weibotag keywords map train` learns which wordings show which.

    Only pictures are asked, never the text. Where they don't show a keyword it is not given; a face with a name gives that
    name. OUT is a file of tags, with the wording that spoke for each keyword as evidence.

    Example: weibotag keywords map posts.csv --wordings wordings.parquet -m map -o keywords.parquet
    """
    from weibotag.curation.keywords.picture_keywords import foresee_mapping, map_posts
    from weibotag.posts.source import PostsSource

    check_stdout(out, as_json)
    source = PostsSource(posts, parse_columns(column), where, limit)
    if not quiet:
        typer.echo(foresee_mapping(source, model), err=True)
    summary = map_posts(source, model, out, parse_pairs(words, "--words"), wordings)
    line = f"{out}: {summary['keywords']:,} keywords for {summary['posts_with']:,} of {summary['posts']:,} posts"
    report(summary, line, as_json, quiet)


@app.command("train")
def train_command(
    posts: PostsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; an older one at that place is replaced.")],
    wordings: Wordings = None,
    words: list[str] | None = Words,
    keywords: Annotated[
        Path | None,
        typer.Option(
            "--keywords",
            metavar="KEYWORDS",
            help="What `weibotag keywords extract` wrote: posts without keywords have those that their text mentions.",
        ),
    ] = None,
    precision: Annotated[
        float, typer.Option("--precision", min=0.5, max=0.99, help="Share of right ones that each keyword must reach.")
    ] = 0.8,
    where: str | None = Where,
    column: list[str] | None = Columns,
    limit: int | None = Limit,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Learn from posts with pictures and keywords what shows which keyword, and which keywords no picture shows.

    Each channel learns for itself; thresholds are chosen on held-out posts. OUT/keywords.parquet lists all keywords, the
    refused ones with the reason.

    Example: weibotag keywords map train posts.csv --wordings wordings.parquet -o map
    """
    from weibotag.curation.keywords.picture_learning import foresee_learning, train_map
    from weibotag.posts.source import PostsSource

    source = PostsSource(posts, parse_columns(column), where, limit)
    if not quiet:
        typer.echo(foresee_learning(source, wordings), err=True)
    summary = train_map(source, out, parse_pairs(words, "--words"), wordings, keywords, precision)
    line = f"{out}: pictures show {summary['shown']:,} of {summary['keywords']:,} keywords of {summary['posts']:,} posts"
    if summary["shown"]:
        line += f", {summary['precision']:.1%} right and {summary['recall']:.1%} of all found on held-out posts"
    report(summary, f"{line}; the others are refused: see {out}/keywords.parquet", as_json, quiet)
