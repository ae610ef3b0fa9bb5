"""`weibotag keywords`: the vocabulary of each channel, found in its posts and shrunk to clusters."""

from pathlib import Path
from typing import Annotated, Any

import typer

from weibotag.cli.options import Columns, Json, Limit, Quiet, Where, Words, check_stdout, parse_columns, parse_pairs
from weibotag.cli.picture_keywords import Wordings
from weibotag.cli.picture_keywords import app as map_app
from weibotag.cli.tagging import PostsArgument, report
from weibotag.core.errors import RequestError

app = typer.Typer(help="Find the keywords of each channel; shrink them to clusters.", no_args_is_help=True)
app.add_typer(map_app, name="map")

KeywordsArgument = Annotated[
    Path, typer.Argument(metavar="KEYWORDS", help="What `weibotag keywords extract` wrote (.parquet, .csv).")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="OUT.parquet, OUT.csv, OUT.jsonl, or - (JSONL to stdout).")]
# Clusters as a share of the keywords.
SHARE = 0.1


@app.command("extract")
def extract_command(
    posts: PostsArgument,
    out: OutOption,
    earlier: Annotated[
        str | None,
        typer.Option(
            "--earlier", metavar="POSTS", help="Posts of an earlier time, or the keywords that were found in them."
        ),
    ] = None,
    stop_words: Annotated[
        Path | None, typer.Option("--stop-words", metavar="FILE", help="Words that are no keywords, one a line.")
    ] = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    words: list[str] | None = Words,
    wordings: Wordings = None,
    limit: int | None = Limit,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Find the keywords of each channel, those that no dictionary has too, in texts and in what pictures say.

    A row per channel and keyword: how many posts mention it, where, and with --earlier whether it is new or rising. What
    pictures say is the posts' column `wordings`, the file --wordings, or the columns that --words names.

    Example: weibotag keywords extract posts.csv -o keywords.csv --earlier yesterday.csv
    """
    from weibotag.curation.keywords.extract import extract_keywords, foresee_extraction
    from weibotag.posts.source import PostsSource

    check_stdout(str(out), as_json)
    source = PostsSource(posts, parse_columns(column), where, limit)
    if not quiet:
        typer.echo(foresee_extraction(source), err=True)
    summary = extract_keywords(source, out, earlier, stop_words, parse_pairs(words, "--words"), wordings, quiet)
    new = "" if summary["new"] is None else f", {summary['new']:,} of them new"
    line = f"{out}: {summary['keywords']:,} keywords of {summary['posts']:,} posts{new}{tell_rejects(summary)}"
    report(summary, line, as_json, quiet)


@app.command("cluster")
def cluster_command(
    keywords: KeywordsArgument,
    posts: Annotated[str, typer.Option("--posts", help="Posts that mention them: a file, a folder, a quoted glob, or -.")],
    out: OutOption,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Clusters of all channels together.")] = None,
    share: Annotated[
        float | None,
        typer.Option("--share", min=0, max=1, help="Clusters as a share of the keywords.", show_default=str(SHARE)),
    ] = None,
    old: Annotated[
        Path | None, typer.Option("--old", metavar="CLUSTERS", help="Clusters of an earlier time, which stay as they are.")
    ] = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    words: list[str] | None = Words,
    wordings: Wordings = None,
    limit: int | None = Limit,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Gather keywords that mean nearly the same, within their channel, in clusters named by their most frequent member.

    Example: weibotag keywords cluster keywords.csv --posts posts.csv -o clusters.csv --share 0.1
    """
    from weibotag.curation.keywords.cluster import cluster_keywords, foresee_clustering
    from weibotag.curation.keywords.extract import read_keywords
    from weibotag.posts.source import PostsSource

    check_stdout(str(out), as_json)
    if sum(given is not None for given in (size, share, old)) > 1:
        raise RequestError("--size, --share and --old each say how many clusters there are to be: give one of them")
    source = PostsSource(posts, parse_columns(column), where, limit)
    table = read_keywords(keywords)
    wanted = size or max(1, round((SHARE if share is None else share) * len(table)))
    if not quiet:
        typer.echo(foresee_clustering(len(table), wanted, source), err=True)
    summary = cluster_keywords(table, source, out, wanted, old, parse_pairs(words, "--words"), wordings, quiet)
    added = f", {summary['new_keywords']:,} and {summary['new_clusters']:,} of them new" if old is not None else ""
    line = f"{out}: {summary['keywords']:,} keywords in {summary['clusters']:,} clusters{added}{tell_rejects(summary)}"
    report(summary, line, as_json, quiet)


def tell_rejects(summary: dict[str, Any]) -> str:
    """Return how many rows could not be used, to be appended to a line."""
    return f"; {summary['rejects']:,} rows that could not be used were left out" if summary["rejects"] else ""


@app.command("export")
def export_command(
    tagged: Annotated[
        Path, typer.Argument(metavar="TAGGED", help="Tags: what `weibotag tag` wrote (.parquet, .csv, .jsonl).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="OUT.libsvm, OUT.libffm, OUT.vw or OUT.parquet.")],
    dictionary: Annotated[
        Path, typer.Option("--dictionary", help="Numbers of the features (.parquet); new ones are added at its end.")
    ],
    clusters: Annotated[
        Path | None,
        typer.Option("--clusters", help="What `weibotag keywords cluster` wrote: clusters in place of keywords."),
    ] = None,
    codes: Annotated[Path | None, typer.Option("--codes", help="What `weibotag codes apply` wrote for these posts.")] = None,
    label: Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="Column of TAGGED with the label.")] = None,
    taxonomy: Annotated[
        Path | None,
        typer.Option("--taxonomy", "-t", help="The tag tree, for the levels of tags.", show_default="slashes in ids"),
    ] = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Write the features of tagged posts for factorisation machines: tags, keywords or clusters, codes and the route.

    A feature keeps its number for ever, so yesterday's model reads today's file.

    Example: weibotag keywords export tags.parquet -o today.libffm --dictionary features.parquet
    """
    from weibotag.curation.keywords.feature_export import export_features, foresee_export, open_clusters, read_codes
    from weibotag.taxonomy.tree import load

    if not quiet:
        typer.echo(foresee_export(tagged, dictionary), err=True)
    summary = export_features(
        tagged,
        out,
        dictionary,
        taxonomy=None if taxonomy is None else load(taxonomy),
        clusters=None if clusters is None else open_clusters(clusters),
        codes=None if codes is None else read_codes(codes),
        label=label,
    )
    report(
        summary,
        f"{out}: {summary['posts']:,} posts, {summary['features']:,} features, {summary['new']:,} of them new",
        as_json,
        quiet,
    )
