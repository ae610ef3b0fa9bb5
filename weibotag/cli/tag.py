"""`weibotag tag`, `run`, `status`, `export`: the main job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from weibotag.cli.answer import Answer, say
from weibotag.cli.command import check_given, command, find_places
from weibotag.core.errors import RequestError
from weibotag.core.option import Argument, Input, Quiet
from weibotag.extraction.requests import Out, TagRequest

if TYPE_CHECKING:
    from weibotag.extraction.context import PictureCounts
    from weibotag.workflows.run_stage import StageSummary
    from weibotag.workflows.spend_budget import BudgetSummary
    from weibotag.workflows.tag import TagSummary


@command("tag")
def tag(request: TagRequest) -> Answer:
    """Tag posts with a model, or with a taxonomy alone.

    Example: weibotag tag posts.csv -m model -o tags.parquet

    Example: weibotag tag posts.csv -t taxonomies/weibo.csv -o tags.csv
    """
    from weibotag.workflows.tag import tag

    summary = tag(request)
    return Answer(summary, describe_run(summary))


@command("run")
def run(
    pipeline: Annotated[
        Path, Argument("Pipeline file (TOML) with a table \\[train], \\[plan] or \\[tag], or several."), Input()
    ],
    quiet: Quiet = False,
) -> Answer:
    """Do what a pipeline file says: train, plan, tag, or one after the other. This is what cron calls.

    Example: weibotag run pipelines/demo.toml --quiet
    """
    from weibotag.cli.plan import plan
    from weibotag.cli.train import train
    from weibotag.extraction.pipeline_files import read_pipeline

    orders = read_pipeline(str(pipeline))
    answers, asked = {}, []
    for name, order in (("train", train), ("plan", plan), ("tag", tag)):
        table = getattr(orders, name)
        if table is not None:
            # Pictures are looked at as the file says, where the table names no other pipeline.
            changed = {"pipeline": table.pipeline or orders, "quiet": quiet or table.quiet}
            asked.append((name, order, table.model_copy(update=changed)))
    own = find_places(run.answer, pipeline)
    check_given([*own, *(place for _, order, table in asked for place in find_places(order.answer, table))])
    for name, order, table in asked:
        answer = order.answer(table)
        answers[name] = answer.found
        say(answer.line, quiet)
    if not answers:
        raise RequestError(f"{pipeline}: nothing to do; expected a table [train] or [tag], or both")
    return Answer(answers)


@command("status")
def status(run: Annotated[Path, Argument("Run folder: OUT.run unless --run said otherwise."), Input()]) -> Answer:
    """Say how far a run is, and what it has rejected.

    Example: weibotag status tags.parquet.run
    """
    from weibotag.runtime.run_folder import status

    state = status(run)
    if state["state"] == "none":
        raise RequestError(f"{run}: no run has started there; expected a run folder, which is OUT.run unless --run named it")
    lines = [f"{state['folder']}: {state['state']}"]
    for kind, counts in state["kinds"].items():
        total = "" if counts["total"] is None else f" of {counts['total']}"
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        lines.append(f"  {kind}: {counts['done']}{total} parts{failed}, {counts['seconds']} s")
    return Answer(state, shown="\n".join([*lines, f"  rejects: {state['rejects']}"]))


@command("export")
def export(
    source: Annotated[Path, Argument("Tags: what `weibotag tag` wrote (.parquet, .csv, .jsonl).", "IN"), Input()],
    out: Out,
) -> Answer:
    """Write a file of tags in another format.

    Example: weibotag export tags.parquet -o tags.csv
    """
    from weibotag.posts.result_files import convert

    posts = convert(source, Path(out))
    return Answer({"out": out, "posts": posts}, f"{out}: {posts:,} posts")


def describe_run(summary: "TagSummary") -> str:
    """Return what a run did, in one line."""
    seconds = sum(summary["seconds"].values())
    seen = f", {describe_pictures(summary['pictures'])}" if summary["pictures"]["files"] else ""
    faults = f", {summary['with_errors']:,} posts with pictures that could not be used (column error)"
    posts = f"{summary['posts']:,} posts, {summary['tagged']:,} with tags"
    looks = f"; {describe_cascade(summary['cascade'])}" if "cascade" in summary else ""
    faults = faults if summary["with_errors"] else ""
    return f"{summary['out']}: {posts}{seen}{faults}{describe_rejects(summary)}{looks}; {seconds:.1f} s"


def describe_rejects(summary: "TagSummary | StageSummary") -> str:
    """Return how many rows a run rejected, and where they are, to be appended to a line."""
    return f", {summary['rejects']:,} rows rejected (see {summary['run']}/rejects.csv)" if summary["rejects"] else ""


def describe_pictures(pictures: "PictureCounts") -> str:
    """Return how many pictures a run met, how many the store knew, and how reposts that were looked at compare."""
    reposts = ""
    if pictures.get("reposts"):
        reposts = f", {pictures['reposts']:,} reposts: {pictures['agreed']:,} of {pictures['checked']:,} checked agreed"
    return f"{pictures['files']:,} pictures ({pictures['reused']:,} known before{reposts})"


def describe_cascade(spent: "BudgetSummary") -> str:
    """Return what a cascade has spent on looks, and what it kept, in one line."""
    sample, whole = spent["sample"], spent["looking_at_everything_seconds"]
    kept = f", keeping {sample['kept']:.0%} of the gain (as {sample['posts']} posts tell)" if sample["posts"] else ""
    return f"looked for {spent['looking_seconds']:.1f} s where everything takes about {whole:.1f} s{kept}"
