"""`weibotag taxonomy`: check a tag tree, show it, audit it against labelled posts, apply what a review accepted."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from weibotag.cli.answer import Answer, say
from weibotag.cli.command import Group, command
from weibotag.core.errors import RequestError
from weibotag.core.option import Argument, Input, Option, Output, Quiet
from weibotag.extraction.requests import PostsRequest, TaxonomyFile
from weibotag.posts.source import PostsSource

if TYPE_CHECKING:
    from rich.tree import Tree

    from weibotag.taxonomy.tree import Taxonomy

Counts = dict[str, tuple[int, int]]


File = Annotated[
    Path, Argument("Taxonomy: CSV id,parent_id,name,aliases,keywords,description, or a JSON or YAML tree."), Input()
]


@command("check")
def check_file(file: File, quiet: Quiet = False) -> Answer:
    """List what is wrong or odd in a taxonomy file, with line and fix; exit 2 when there are errors.

    Example: weibotag taxonomy check taxonomies/weibo.csv
    """
    from weibotag.taxonomy.check import LEVELS, check

    findings = check(file)
    shown = [finding for finding in findings if finding.level == "error" or not quiet]
    lines = [f"{file}:{one.line}: {one.level}: {one.kind}: {one.message}; {one.fix}" for one in shown]
    numbers = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    summary = ", ".join(f"{number} {level}{'' if number == 1 else 's'}" for level, number in numbers.items())
    say(f"{file}: {summary}", quiet)
    return Answer([asdict(one) for one in shown], shown="\n".join(lines) or None, code=2 if numbers["error"] else 0)


@command("show")
def show(
    file: File,
    posts: Annotated[
        str | None, Argument("Labelled posts to count: file, folder, quoted glob, or -.", "POSTS"), Input(posts=True)
    ] = None,
    where: Annotated[str | None, Option("Rows of POSTS to count, a DuckDB expression.", metavar="EXPR")] = None,
    depth: Annotated[int | None, Ge(1), Option("Levels to show.", shown="all")] = None,
    quiet: Quiet = False,
) -> Answer:
    """Print the tag tree; with POSTS, how many posts carry each tag (itself / it or a tag below it).

    Example: weibotag taxonomy show taxonomies/weibo.csv posts.csv --depth 2
    """
    from weibotag.posts.reader import read_posts
    from weibotag.posts.rejects import Rejects
    from weibotag.taxonomy.tree import count_posts, load

    taxonomy = load(file)
    numbers: Counts | None = None
    if posts is not None:
        numbers = count_posts(read_posts(PostsSource(posts, where=where), Rejects(None)), taxonomy)
    elif where is not None:
        raise RequestError("--where picks rows of POSTS, but no POSTS were given; name the posts file after FILE")
    unknown = {tag_id: both for tag_id, both in (numbers or {}).items() if tag_id not in taxonomy.index}
    if unknown:
        most = sorted(unknown, key=lambda tag_id: (-unknown[tag_id][0], tag_id))[:5]
        listed = ", ".join(f"{tag_id} ({unknown[tag_id][0]})" for tag_id in most)
        more = " …" if len(unknown) > 5 else ""
        say(f"{len(unknown)} tag ids of the posts are not in {file}: {listed}{more}", quiet)
    tree = _draw_tree(taxonomy, numbers, depth, file.name)
    return Answer(_list_tags(taxonomy, numbers, depth), shown=tree)


@command("audit")
def audit(
    request: PostsRequest,
    taxonomy: TaxonomyFile,
    out: Annotated[
        Path,
        Option("Folder for findings.csv and proposals.csv.", short="-o"),
        Output(files=("findings.csv", "proposals.csv", "splits.parquet", "audit.json")),
    ],
    annotator: Annotated[str | None, Option("Who labelled: finds tags that are one's habit.", metavar="COLUMN")] = None,
    minutes: Annotated[float, Ge(0.1), Option("What its trainings may take together.")] = 10,
) -> Answer:
    """Find what is wrong with tags and labels, and propose what to change; nothing is changed.

    In proposals.csv a reviewer writes yes into the column accept; an empty cell means no. Then: weibotag taxonomy apply.

    Example: weibotag taxonomy audit posts.csv -t taxonomy.csv -o AUDIT
    """
    from weibotag.curation.tags.audit import audit
    from weibotag.taxonomy.tree import load

    quiet = request.quiet
    about = audit(request.source, load(taxonomy), out, annotator=annotator, minutes=minutes, quiet=quiet)
    lines = []
    for title, numbers in (("findings", about["findings"]), ("proposals", about["proposals"])):
        counted = ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number)
        lines.append(f"{title}: {counted or 'none'} ({out / title}.csv)")
    return Answer(about, "\n".join(lines))


@command("apply")
def apply(
    request: PostsRequest,
    audit: Annotated[Path, Argument("The folder that `weibotag taxonomy audit` wrote.", place=0), Input()],
    taxonomy: Annotated[Path, Option("The tag tree that was audited.", short="-t"), Input()],
    out: Annotated[
        Path,
        Option("Folder for the new taxonomy.csv and the relabelled posts.", short="-o"),
        Output(files=("taxonomy.csv", "rejects.csv", "posts.csv", "posts.jsonl", "posts.parquet")),
    ],
    accept: Annotated[
        str | None,
        Option(
            "What is accepted where the column accept is empty: all, recommended (relabel from 0.5, all else from "
            "0.9), or actions and a least confidence: merge,alias,>=0.9.",
            shown="nothing",
        ),
    ] = None,
) -> Answer:
    """Carry out the accepted proposals of an audit: a new taxonomy, relabelled posts, and micro-F1 before and after.

    Example: weibotag taxonomy apply AUDIT posts.csv -t taxonomy.csv -o NEW --accept recommended
    """
    from weibotag.curation.tags.apply import apply
    from weibotag.taxonomy.tree import load

    about = apply(audit, request.source, load(taxonomy), out, accept)
    accepted = ", ".join(f"{number:,} {action}" for action, number in about["accepted"].items() if number)
    tags, judged = about["tags"], about["micro_f1"]
    lines = [
        f"accepted: {accepted}; {about['posts_changed']:,} of {about['posts']:,} posts changed",
        f"tags: {tags['before']:,} before, {tags['after']:,} after; written to {out}",
    ]
    if about["rejects"]:
        lines.append(f"rows that could not be used: {about['rejects']:,} ({out / 'rejects.csv'})")
    if judged is None:
        lines.append("micro-F1: too few labelled posts to judge")
    else:
        lines.append(
            f"micro-F1 of a linear tagger: {judged['before']:.3f} before, {judged['after']:.3f} after, on "
            f"{judged['posts']:,} posts held out, by the labels they were given (merged tags as one, split ones whole, no "
            "post relabelled)"
        )
    return Answer(about, "\n".join(lines))


def _list_tags(taxonomy: "Taxonomy", numbers: Counts | None, depth: int | None) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = []
    for at, tag in enumerate(taxonomy.tags):
        if depth is None or taxonomy.depth[at] <= depth:
            entry: dict[str, object] = {"id": tag.id, "parent_id": tag.parent_id, "name": tag.name}
            if numbers is not None:
                entry["posts"], entry["posts_below"] = numbers[tag.id]
            listed.append(entry)
    if numbers is not None:
        unknown = (tag_id for tag_id in numbers if tag_id not in taxonomy.index)
        listed += [{"id": tag_id, "unknown": True, "posts": numbers[tag_id][0]} for tag_id in unknown]
    return listed


def _draw_tree(taxonomy: "Taxonomy", numbers: Counts | None, depth: int | None, title: str) -> "Tree":
    from rich.markup import escape
    from rich.tree import Tree

    branches = {-1: Tree(f"{escape(title)} [dim]{len(taxonomy)} tags[/dim]")}
    waiting = [-1]
    while waiting:
        parent = waiting.pop()
        for number in taxonomy.children(parent):
            if depth is not None and taxonomy.depth[number] > depth:
                continue
            tag = taxonomy.tags[number]
            label = escape(tag.name)
            if numbers is not None:
                own, below = numbers[tag.id]
                label += f" [cyan]{own}[/cyan]" if taxonomy.is_leaf[number] else f" [cyan]{own} / {below}[/cyan]"
            branches[number] = branches[parent].add(label)
            waiting.append(number)
    return branches[-1]


group = Group(
    "taxonomy",
    "Check a tag tree, show it with the number of posts per tag, audit it, apply proposals.",
    check_file,
    show,
    audit,
    apply,
)
