"""`weibotag taxonomy`: check a tag tree, show it, audit it against labelled posts, apply what a review accepted."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weibotag.cli.options import Columns, Json, Limit, Quiet, Where, parse_columns

if TYPE_CHECKING:
    from rich.tree import Tree

    from weibotag.taxonomy.tree import Taxonomy

app = typer.Typer(
    help="Check a tag tree, show it with the number of posts per tag, audit it, apply proposals.", no_args_is_help=True
)

FileArgument = Annotated[
    Path, typer.Argument(help="Taxonomy: CSV id,parent_id,name,aliases,keywords, or a JSON or YAML tree.")
]


@app.command("check", epilog="Example: weibotag taxonomy check taxonomies/weibo.csv")
def check_command(
    file: FileArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """List what is wrong or odd in a taxonomy file, with line and fix; exit 2 when there are errors."""
    from dataclasses import asdict

    from weibotag.taxonomy.check import LEVELS, check

    findings = check(file)
    shown = [finding for finding in findings if finding.level == "error" or not quiet]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in shown], ensure_ascii=False, indent=1))
    else:
        for finding in shown:
            typer.echo(f"{file}:{finding.line}: {finding.level}: {finding.kind}: {finding.message}; {finding.fix}")
    if not quiet:
        numbers = [(sum(finding.level == level for finding in findings), level) for level in LEVELS]
        summary = ", ".join(f"{number} {level}{'' if number == 1 else 's'}" for number, level in numbers)
        typer.echo(f"{file}: {summary}", err=True)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(2)


@app.command("show", epilog="Example: weibotag taxonomy show taxonomies/weibo.csv posts.csv --depth 2")
def show_command(
    file: FileArgument,
    posts: Annotated[str | None, typer.Argument(help="Labelled posts to count: file, folder, quoted glob, or -.")] = None,
    where: Annotated[str | None, typer.Option("--where", help="Rows of POSTS to count, a DuckDB expression.")] = None,
    depth: Annotated[int | None, typer.Option("--depth", min=1, help="Levels to show; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tags as JSON.")] = False,
) -> None:
    """Print the tag tree; with POSTS, how many posts carry each tag (itself / it or a tag below it)."""
    from weibotag.core.errors import RequestError
    from weibotag.taxonomy.tree import load

    taxonomy = load(file)
    numbers: dict[str, tuple[int, int]] | None = None
    if posts is not None:
        from weibotag.posts.reader import read_posts
        from weibotag.posts.rejects import Rejects
        from weibotag.posts.source import PostsSource
        from weibotag.taxonomy.labels import count_posts

        rejects = Rejects(None)
        numbers = count_posts(read_posts(PostsSource(path=posts, where=where), rejects), taxonomy)
    elif where is not None:
        raise RequestError("--where picks rows of POSTS, but no POSTS were given; name the posts file after FILE")
    if as_json:
        typer.echo(json.dumps(_list_tags(taxonomy, numbers, depth), ensure_ascii=False, indent=1))
    else:
        from rich.console import Console

        Console(highlight=False, soft_wrap=True).print(_draw_tree(taxonomy, numbers, depth, file.name))
    unknown = {tag_id: both for tag_id, both in (numbers or {}).items() if tag_id not in taxonomy.index}
    if unknown:
        most = sorted(unknown, key=lambda tag_id: (-unknown[tag_id][0], tag_id))[:5]
        listed = ", ".join(f"{tag_id} ({unknown[tag_id][0]})" for tag_id in most)
        typer.echo(
            f"{len(unknown)} tag ids of the posts are not in {file}: {listed}{' …' if len(unknown) > 5 else ''}",
            err=True,
        )


@app.command("audit", epilog="Example: weibotag taxonomy audit posts.csv -t taxonomy.csv -o AUDIT")
def audit_command(
    posts: Annotated[str, typer.Argument(help="Labelled posts: file, folder, quoted glob, or -.")],
    taxonomy: Annotated[Path, typer.Option("--taxonomy", "-t", help="The tag tree: CSV, JSON or YAML.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for findings.csv and proposals.csv.")],
    where: str | None = Where,
    column: list[str] | None = Columns,
    annotator: Annotated[
        str | None,
        typer.Option("--annotator", metavar="COLUMN", help="Who labelled the post: finds tags that are one's habit."),
    ] = None,
    limit: int | None = Limit,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="What its trainings may take together.")] = 10,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Find what is wrong with tags and labels, and propose what to change; nothing is changed.

    In proposals.csv a reviewer writes yes into the column accept; an empty cell means no. Then: weibotag taxonomy apply.
    """
    from weibotag.curation.tags.audit import audit
    from weibotag.posts.source import PostsSource
    from weibotag.taxonomy.tree import load

    source = PostsSource(posts, parse_columns(column), where, limit)
    about = audit(source, load(taxonomy), out, annotator=annotator, minutes=minutes, quiet=quiet)
    if as_json:
        typer.echo(json.dumps(about, ensure_ascii=False, indent=1))
    elif not quiet:
        for title in ("findings", "proposals"):
            said = ", ".join(f"{number:,} {name}" for name, number in about[title].items() if number)
            typer.echo(f"{title}: {said or 'none'} ({out / title}.csv)", err=True)


@app.command("apply", epilog="Example: weibotag taxonomy apply AUDIT posts.csv -t taxonomy.csv -o NEW --accept recommended")
def apply_command(
    audit: Annotated[Path, typer.Argument(help="The folder that `weibotag taxonomy audit` wrote.")],
    posts: Annotated[str, typer.Argument(help="The posts to relabel: file, folder, quoted glob, or -.")],
    taxonomy: Annotated[Path, typer.Option("--taxonomy", "-t", help="The tag tree that was audited.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new taxonomy.csv and the relabelled posts.")],
    accept: Annotated[
        str | None,
        typer.Option(
            "--accept",
            help="What is accepted where the column accept is empty: all, recommended (relabel from 0.5, all else from "
            "0.9), or actions and a least confidence: merge,alias,>=0.9.",
            show_default="nothing",
        ),
    ] = None,
    column: list[str] | None = Columns,
    as_json: bool = Json,
) -> None:
    """Carry out the accepted proposals of an audit: a new taxonomy, relabelled posts, and micro-F1 before and after."""
    from weibotag.curation.tags.apply import apply, foresee_applying
    from weibotag.posts.source import PostsSource
    from weibotag.taxonomy.tree import load

    source = PostsSource(posts, parse_columns(column))
    if not as_json:
        typer.echo(foresee_applying(source), err=True)
    about = apply(audit, source, load(taxonomy), out, accept)
    if as_json:
        typer.echo(json.dumps(about, ensure_ascii=False, indent=1))
        return
    accepted = ", ".join(f"{number:,} {action}" for action, number in about["accepted"].items() if number)
    typer.echo(f"accepted: {accepted}; {about['posts_changed']:,} of {about['posts']:,} posts changed", err=True)
    tags = about["tags"]
    typer.echo(f"tags: {tags['before']:,} before, {tags['after']:,} after; written to {out}", err=True)
    if about["rejects"]:
        typer.echo(f"rows that could not be used: {about['rejects']:,} ({out / 'rejects.csv'})", err=True)
    judged = about["micro_f1"]
    if judged is None:
        typer.echo("micro-F1: too few labelled posts to judge", err=True)
    else:
        typer.echo(
            f"micro-F1 of a linear tagger: {judged['before']:.3f} before, {judged['after']:.3f} after, on "
            f"{judged['posts']:,} posts held out, by the labels they were given (merged tags as one, split ones whole, no "
            "post relabelled)",
            err=True,
        )


def _list_tags(taxonomy: "Taxonomy", numbers: dict[str, tuple[int, int]] | None, depth: int | None) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = []
    for at, tag in enumerate(taxonomy.tags):
        if depth is None or taxonomy.depth[at] <= depth:
            entry: dict[str, Any] = {"id": tag.id, "parent_id": tag.parent_id, "name": tag.name}
            if numbers is not None:
                entry["posts"], entry["posts_below"] = numbers[tag.id]
            listed.append(entry)
    if numbers is not None:
        unknown = (tag_id for tag_id in numbers if tag_id not in taxonomy.index)
        listed += [{"id": tag_id, "unknown": True, "posts": numbers[tag_id][0]} for tag_id in unknown]
    return listed


def _draw_tree(taxonomy: "Taxonomy", numbers: dict[str, tuple[int, int]] | None, depth: int | None, title: str) -> "Tree":
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
