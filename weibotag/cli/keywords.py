"""`weibotag keywords` and `weibotag codes`: the vocabulary of channels, its clusters, map and features; vectors as words."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from weibotag.cli.answer import Answer, say
from weibotag.cli.command import Group, command
from weibotag.core.errors import RequestError
from weibotag.core.files import MAP
from weibotag.core.option import Argument, Input, Option, Output, Quiet
from weibotag.extraction.requests import Out, WordingsRequest

# Clusters as a share of the keywords.
SHARE = 0.1
Vectors = Annotated[
    Path, Argument("Parquet with post_id and a column of lists of floats: `weibotag embed`.", "VECTORS"), Input()
]
Column = Annotated[str | None, Option("Column with the vectors.", shown="embed_vector, or the only one")]


@command("extract")
def extract(
    request: WordingsRequest,
    out: Out,
    earlier: Annotated[
        str | None, Option("Posts of an earlier time, or their keywords.", metavar="POSTS"), Input(posts=True)
    ] = None,
    stop_words: Annotated[Path | None, Option("Words that are no keywords, one a line.", metavar="FILE"), Input()] = None,
) -> Answer:
    """Find the keywords of each channel, those that no dictionary has too, in texts and in what pictures say.

    A row per channel and keyword: how many posts mention it, where, and with --earlier whether it is new or rising. What
    pictures say is the posts' column `wordings`, the file --wordings, or the columns that --words names.

    Example: weibotag keywords extract posts.csv -o keywords.csv --earlier yesterday.csv
    """
    from weibotag.curation.keywords.extract import cost_of_extraction, extract_keywords

    say(cost_of_extraction(request.source), request.quiet)
    summary = extract_keywords(request, Path(out), earlier, stop_words)
    new = "" if summary.new is None else f", {summary.new:,} of them new"
    counts = f"{summary.keywords:,} keywords of {summary.posts:,} posts"
    return Answer(asdict(summary), f"{out}: {counts}{new}{tell_rejects(summary.rejects)}")


@command("cluster")
def cluster(
    request: WordingsRequest,
    keywords: Annotated[Path, Argument("What `weibotag keywords extract` wrote (.parquet, .csv).", "KEYWORDS"), Input()],
    posts: Annotated[str, Option("Posts that mention them: a file, a folder, a quoted glob, or -."), Input(posts=True)],
    out: Out,
    size: Annotated[int | None, Ge(1), Option("Clusters of all channels together.")] = None,
    share: Annotated[float | None, Ge(0), Le(1), Option("Clusters as a share of the keywords.", shown=str(SHARE))] = None,
    old: Annotated[Path | None, Option("Earlier clusters, which stay as they are.", metavar="CLUSTERS"), Input()] = None,
) -> Answer:
    """Gather keywords that mean nearly the same, within their channel, in clusters named by their most frequent member.

    Example: weibotag keywords cluster keywords.csv --posts posts.csv -o clusters.csv --share 0.1
    """
    from weibotag.curation.keywords.cluster import cluster_keywords, cost_of_clustering
    from weibotag.curation.keywords.extract import read_keywords

    if sum(given is not None for given in (size, share, old)) > 1:
        raise RequestError("--size, --share and --old each say how many clusters there are to be: give one of them")
    table = read_keywords(keywords)
    wanted = size or max(1, round((SHARE if share is None else share) * len(table)))
    say(cost_of_clustering(len(table), wanted, request.source), request.quiet)
    summary = cluster_keywords(table, request, Path(out), wanted, old)
    added = f", {summary.new_keywords:,} and {summary.new_clusters:,} of them new" if old is not None else ""
    counts = f"{summary.keywords:,} keywords in {summary.clusters:,} clusters"
    unread = f"; what they mean was not read: {summary.unread}" if summary.unread else ""
    return Answer(asdict(summary), f"{out}: {counts}{added}{tell_rejects(summary.rejects)}{unread}")


@command("export")
def export(
    tagged: Annotated[Path, Argument("Tags: what `weibotag tag` wrote (.parquet, .csv, .jsonl).", "TAGGED"), Input()],
    out: Annotated[Path, Option("OUT.libsvm, OUT.libffm, OUT.vw or OUT.parquet.", short="-o"), Output(beside=(".ids",))],
    dictionary: Annotated[Path, Option("Numbers of the features (.parquet); new ones are added at its end."), Output()],
    clusters: Annotated[
        Path | None, Option("What `keywords cluster` wrote: clusters in place of keywords."), Input()
    ] = None,
    codes: Annotated[Path | None, Option("What `weibotag codes apply` wrote for these posts."), Input()] = None,
    label: Annotated[str | None, Option("Column of TAGGED with the label.", metavar="COLUMN")] = None,
    taxonomy: Annotated[
        Path | None, Option("Tag tree, for levels of tags.", short="-t", shown="slashes in ids"), Input()
    ] = None,
    quiet: Quiet = False,
) -> Answer:
    """Write the features of tagged posts for factorisation machines: tags, keywords or clusters, codes and the route.

    A feature keeps its number for ever, so yesterday's model reads today's file.

    Example: weibotag keywords export tags.parquet -o today.libffm --dictionary features.parquet
    """
    from weibotag.curation.keywords.feature_export import export_features, open_clusters, read_codes
    from weibotag.taxonomy.tree import load

    summary = export_features(
        tagged,
        out,
        dictionary,
        taxonomy=None if taxonomy is None else load(taxonomy),
        clusters=None if clusters is None else open_clusters(clusters),
        codes=None if codes is None else read_codes(codes),
        label=label,
    )
    counts = f"{summary.posts:,} posts, {summary.features:,} features, {summary.new:,} of them new"
    return Answer(asdict(summary), f"{out}: {counts}")


@command("posts")
def map_keywords(
    request: WordingsRequest,
    model: Annotated[Path, Option("What `keywords map train` wrote.", flag="--map", short="-m", metavar="MAP"), Input()],
    out: Out,
) -> Answer:
    """Give posts the keywords that their pictures show; `weibotag keywords map train` learns which wordings show which.

    Only pictures are asked, never the text. Where they don't show a keyword it is not given; a face with a name gives that
    name. OUT is a file of tags, with the wording that spoke for each keyword as evidence.

    Example: weibotag keywords map posts.csv --wordings wordings.parquet -m map -o keywords.parquet
    """
    from weibotag.curation.keywords.picture_keywords import map_posts

    summary = map_posts(request, model, out)
    counts = f"{summary.keywords:,} keywords for {summary.posts_with:,} of {summary.posts:,} posts"
    return Answer(asdict(summary), f"{out}: {counts}")


@command("train")
def learn_map(
    request: WordingsRequest,
    out: Annotated[Path, Option("Folder to write; an older one at that place is replaced.", short="-o"), Output(kind=MAP)],
    keywords: Annotated[
        Path | None,
        Option("What `keywords extract` wrote: posts without keywords have those of their text.", metavar="KEYWORDS"),
        Input(),
    ] = None,
    precision: Annotated[float, Ge(0.5), Le(0.99), Option("Share of right ones that each keyword must reach.")] = 0.8,
) -> Answer:
    """Learn from posts with pictures and keywords what shows which keyword, and which keywords no picture shows.

    Each channel learns for itself; thresholds are chosen on held-out posts. OUT/keywords.parquet lists all keywords, the
    refused ones with the reason.

    Example: weibotag keywords map train posts.csv --wordings wordings.parquet -o map
    """
    from weibotag.curation.keywords.picture_learning import cost_of_learning, train_map

    say(cost_of_learning(request), request.quiet)
    summary = train_map(request, out, keywords, precision)
    line = f"{out}: pictures show {summary.shown:,} of {summary.keywords:,} keywords of {summary.posts:,} posts"
    if summary.shown:
        line += f", {summary.precision:.1%} right and {summary.recall:.1%} of all found on held-out posts"
    return Answer(asdict(summary), f"{line}; the others are refused: see {out}/keywords.parquet")


def tell_rejects(rejects: int) -> str:
    """Return how many rows could not be used, to be appended to a line."""
    return f"; {rejects:,} rows that could not be used were left out" if rejects else ""


@command("fit")
def codes_fit(
    vectors: Vectors,
    out: Annotated[Path, Option("File of the codes (.safetensors).", short="-o"), Output()],
    levels: Annotated[int | None, Ge(1), Le(8), Option("Levels.", shown="3")] = None,
    size: Annotated[int | None, Ge(2), Option("Codes of a level.", shown="256")] = None,
    name: Annotated[str | None, Option("What the words begin with.", shown="s0")] = None,
    align: Annotated[Path | None, Option("Earlier codes, whose words keep their meaning.", metavar="OLD"), Input()] = None,
    column: Column = None,
    quiet: Quiet = False,
) -> Answer:
    """Learn semantic codes from vectors; with --align anew from old ones, and tell how many vectors keep theirs.

    Example: weibotag codes fit vectors.parquet -o today.safetensors --align yesterday.safetensors
    """
    from weibotag.curation.keywords.semantic_codes import cost_of_fitting, fit_codes

    if align is not None and (levels, size, name) != (None, None, None):
        raise RequestError("--align takes --levels, --size and --name from the old codes: leave them out")
    levels, size, name = levels or 3, size or 256, name or "s0"
    say(cost_of_fitting(vectors, column, size, levels), quiet)
    summary = fit_codes(vectors, out, name=name, levels=levels, size=size, column=column, align_to=align)
    line = f"{out}: {summary.vectors:,} vectors, explained by level: {_spell(summary.explained)}"
    if summary.kept is not None and summary.explained_before is not None:
        line += f" (old codes: {_spell(summary.explained_before)}); keep theirs: {_spell(summary.kept)}"
    return Answer(asdict(summary), line)


@command("apply")
def codes_apply(
    vectors: Vectors,
    model: Annotated[Path, Option("What `weibotag codes fit` wrote.", short="-m", metavar="CODES"), Input()],
    out: Out,
    column: Column = None,
    quiet: Quiet = False,
) -> Answer:
    """Write the semantic codes of posts, a row each: s0_17, s0_17_203 …

    Example: weibotag codes apply vectors.parquet -m codes.safetensors -o codes.parquet
    """
    from weibotag.curation.keywords.semantic_codes import SemanticCodes, apply_codes

    summary = apply_codes(vectors, SemanticCodes.load(model), Path(out), column)
    return Answer(asdict(summary), f"{out}: {summary.posts:,} posts, {summary.vectors:,} vectors")


def _spell(shares: list[float]) -> str:
    return ", ".join(f"{share:.1%}" for share in shares)


map_help = "Map what pictures say onto the keywords of the post's channel; learn the map."
map_group = Group("map", map_help, map_keywords, learn_map, first="posts")
group_help = "Find the keywords of each channel; shrink them to clusters."
group = Group("keywords", group_help, map_group, extract, cluster, export)
codes_group = Group("codes", "Turn vectors into words: semantic codes, coarse to fine.", codes_fit, codes_apply)
