"""`weibotag evaluate`, `compare`: what predicted tags are worth, and what each tagger brings and costs."""

from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from weibotag.cli.answer import Answer, say
from weibotag.cli.command import command
from weibotag.cli.faults import tell
from weibotag.core.errors import RequestError
from weibotag.core.option import Argument, Input, Option, Output
from weibotag.extraction.requests import PicturesRequest, PostsRequest, TaxonomyFile, Valid
from weibotag.extraction.settings import TaxonomyPath

TAGGERS = "rules,fast,text"


@command("evaluate")
def evaluate(
    request: PostsRequest,
    out: Annotated[Path, Argument("Predicted tags: what `weibotag tag` wrote.", place=0), Input()],
    taxonomy: Annotated[Path, Option("The taxonomy that OUT was tagged with.", short="-t"), Input()],
    train: Annotated[
        str | None, Option("Posts that say how frequent tags are.", metavar="POSTS", shown="POSTS"), Input(posts=True)
    ] = None,
    train_where: Annotated[str | None, Option("Rows of --train, a DuckDB expression.", metavar="EXPR")] = None,
    per_tag: Annotated[int, Ge(0), Option("Tags in the table, lowest f1 first.")] = 20,
    errors: Annotated[Path | None, Option("File for wrong and missed tags: .csv, .xlsx …"), Output()] = None,
) -> Answer:
    """Measure predicted tags and keywords against gold ones, over all levels and per level, tag, route and what posts have.

    How well rare tags are found (head, torso, tail; PSP@k) depends on how frequent tags were in training: name those posts
    with --train. The names in --json are explained in docs/evaluate.md.

    Example: weibotag evaluate out.parquet posts.csv -t taxonomy.csv --where "split = 'test'"

    Example: weibotag evaluate out.parquet posts.csv -t taxonomy.csv --where "split = 'test'" --train posts.csv
    --train-where "split = 'train'"
    """
    from dataclasses import replace

    from weibotag.posts.reader import read_posts
    from weibotag.posts.rejects import Rejects
    from weibotag.posts.result_files import read_table
    from weibotag.scoring.report import evaluate
    from weibotag.scoring.report_tables import render
    from weibotag.taxonomy.tree import load
    from weibotag.workflows.list_errors import write_errors

    if train is None and train_where is not None:
        raise RequestError("--train-where picks rows of --train, which is not given; name the training posts with it")
    rejects, trained = Rejects(None), None
    gold = read_posts(request.source, rejects)
    if train is not None:
        trained = read_posts(replace(request.source, path=train, where=train_where), Rejects(None))
    tree = load(taxonomy)
    report = evaluate(read_table(out), gold, tree, trained)
    if errors is not None:
        rows = write_errors(out, read_posts(request.source, Rejects(None)), tree, errors)
        say(f"{rows:,} wrong and missed tags: {errors}", request.quiet)
    if report["missing"]:
        tell(f"{report['missing']:,} of {report['posts']:,} posts with labels are not in {out}: they count as without a tag")
    if rejects.count:
        say(f"rows of {request.posts} that could not be used, left out: {rejects.count}", request.quiet)
    return Answer(report, shown=render(report, per_tag))


@command("report")
def report(
    request: PostsRequest,
    tags: Annotated[Path, Argument("Tags: what `weibotag tag` wrote.", "OUT", place=0), Input()],
    out: Annotated[Path, Option("Folder of the page: index.html.", short="-o"), Output(files=("index.html",), folder=True)],
    taxonomy: Annotated[
        TaxonomyPath | None, Option("The taxonomy of OUT: names, and parents of labels.", short="-t"), Input()
    ] = None,
    against: Annotated[Path | None, Option("Another file of tags: say what changed."), Input()] = None,
    wordings: Annotated[Path | None, Option("What `weibotag wordings` wrote: draw boxes."), Input()] = None,
    media_root: Annotated[
        Path | None, Option("Folder pictures may lie in or below.", shown="the posts' folder"), Input(outside=True)
    ] = None,
) -> Answer:
    """Write a page that a browser opens from disk: posts with their tags, what spoke for them, pictures, and filters.

    With labels in POSTS it says which tags are wrong or missed, by post and by tag.

    Example: weibotag report out.parquet posts.csv -t taxonomy.csv -o report

    Example: weibotag report new.parquet posts.csv --against old.parquet --where "split = 'test'" -o report
    """
    from dataclasses import asdict

    from weibotag.taxonomy.tree import load
    from weibotag.workflows.page import write_page

    tree = None if taxonomy is None else load(taxonomy)
    root = media_root or (Path(request.posts) if Path(request.posts).is_dir() else None)
    found = write_page(request.source, tags, out, tree, against, wordings, root, request.quiet)
    without = f", {found.without_answer:,} posts without an answer left out" if found.without_answer else ""
    unshown = f", {found.unshown:,} pictures can't be shown" if found.unshown else ""
    rejects = f", {found.rejects:,} rows that could not be used" if found.rejects else ""
    return Answer(
        asdict(found), f"{found.posts:,} posts, {found.pictures:,} pictures{unshown}{without}{rejects}: {found.page}"
    )


@command("compare")
def compare(
    request: PicturesRequest,
    taxonomy: TaxonomyFile,
    taggers: Annotated[
        str, Option("Names joined by commas: rules, those of `train --tagger`, networks (concat …).")
    ] = TAGGERS,
    valid: Valid = None,
    test: Annotated[str | None, Option("Rows that taggers are scored on.", metavar="EXPR", shown="a fifth")] = None,
    minutes: Annotated[float | None, Ge(0), Option("Training time of each tagger.", shown="as it needs")] = None,
    seed: Annotated[int, Ge(0), Option("Random seed of the networks.")] = 0,
    out: Annotated[
        Path | None,
        Option("Folder for the table (Markdown, CSV) and plot (PNG, SVG).", short="-o"),
        Output(beside=(".run",), files=("compare.md", "compare.csv", "compare.png", "compare.svg")),
    ] = None,
) -> Answer:
    """Train taggers on the same rows, score and time them on others: what each brings, and what it costs.

    Example: weibotag compare posts.csv -t taxonomy.csv --taggers fast,concat,hma --test "split = 'test'" -o figures
    """
    from dataclasses import replace

    from weibotag.extraction.pipeline_files import choose_pipeline
    from weibotag.taxonomy.tree import load
    from weibotag.workflows.compare import compare, write_markdown

    report = compare(
        replace(request.source, unite=True),
        load(taxonomy),
        list(dict.fromkeys(filter(None, map(str.strip, taggers.split(","))))),
        choose_pipeline(request),
        valid=valid,
        test=test,
        minutes=minutes,
        seed=seed,
        folder=out,
        quiet=request.quiet,
    )
    return Answer(report, shown=write_markdown(report).removesuffix("\n"))
