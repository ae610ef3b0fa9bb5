"""`weibotag review`: posts for people to review, and what they decided."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from weibotag.cli.answer import Answer
from weibotag.cli.command import Group, command
from weibotag.core.option import Argument, Input, Option, Output, Quiet
from weibotag.extraction.requests import PostsRequest, TaxonomyFile


@command("export")
def export(
    request: PostsRequest,
    tags: Annotated[Path, Argument("Tags: what `weibotag tag` wrote.", "OUT", place=0), Input()],
    taxonomy: TaxonomyFile,
    out: Annotated[Path, Option("TASKS.json (Label Studio), .csv or .xlsx.", short="-o"), Output()],
    count: Annotated[int, Ge(1), Option("Posts to review.")] = 300,
    random: Annotated[float, Ge(0), Le(1), Option("Share of them that is drawn at random.")] = 0.2,
    against: Annotated[Path | None, Option("Tags of another tagger: where they differ is asked."), Input()] = None,
    seed: Annotated[int, Option("Of what is drawn.")] = 0,
) -> Answer:
    """Write the posts that teach most for review: the least sure, all tags in turn, and some at random, to estimate quality.

    A .json is for Label Studio, with its labelling config beside it (.xml). In a .csv or .xlsx mend the column tags, and
    write yes into the column reviewed.

    Example: weibotag review export out.parquet posts.csv -t taxonomy.csv -o tasks.xlsx --count 200
    """
    from weibotag.curation.tags.review import export_tasks
    from weibotag.taxonomy.tree import load

    found = export_tasks(tags, request.source, load(taxonomy), out, count, random, against, seed)
    config = f", and how to label them: {found.config}" if found.config else ""
    return Answer(
        asdict(found), f"{found.posts:,} of {found.answers:,} posts, {found.random:,} at random: {found.out}{config}"
    )


@command("import")
def import_(
    reviewed: Annotated[Path, Argument("What Label Studio exported (.json), or the table.", "REVIEWED"), Input()],
    taxonomy: TaxonomyFile,
    out: Annotated[Path, Option("CORRECTIONS.jsonl, .csv, .parquet.", short="-o"), Output()],
    quiet: Quiet = False,
) -> Answer:
    """Write what was decided as corrections: a row of post_id and tags for each reviewed post.

    Example: weibotag review import tasks.xlsx -t taxonomy.csv -o corrections.jsonl
    """
    from weibotag.curation.tags.review import import_reviews
    from weibotag.taxonomy.tree import load

    found = import_reviews(reviewed, load(taxonomy), out)
    lines = [f"{found.posts:,} posts reviewed, {found.changed:,} changed, {found.unreviewed:,} not yet: {found.out}"]
    if found.random_micro_f1 is not None:
        lines.append(
            f"micro-F1 of the tags on the {found.random_posts:,} posts drawn at random: {found.random_micro_f1:.3f}"
        )
    if found.agreement is not None:
        lines.append(f"annotators of one post agree: mean F1 {found.agreement:.3f}")
    fault = None
    if found.unknown:
        names = ", ".join(f"{name} ({times:,})" for name, times in sorted(found.unknown.items())[:20])
        fault = f"tags that the taxonomy does not have, left out: {names}"
    return Answer(asdict(found), "\n".join(lines), fault=fault, code=1 if fault else 0)


group = Group("review", "Posts for people to review, and what they decided.", export, import_)
