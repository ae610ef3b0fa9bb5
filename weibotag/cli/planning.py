"""`weibotag plan`: what a budget buys."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from weibotag.cli.options import Columns, Gallery, Json, Limit, Quiet, Store, Where, parse_columns
from weibotag.cli.tagging import PipelineOption, PostsArgument, WorkersOption, choose_tagger, say

# Points of the curve that the table shows.
SHOWN = 12


def plan_command(
    posts: PostsArgument,
    model: Annotated[Path, typer.Option("--model", "-m", help="Folder of a model trained with --tagger cascade.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File that the plan is written to.")] = Path("plan.json"),
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="BUDGET",
            help="Time for the whole run (90s, 30m, 2h), a post (5ms), or as times a run on text alone (3x).",
            show_default="the knee of the curve",
        ),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", min=10, help="Posts with pictures that are looked at to know.")] = 300,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the curve: .png or .svg.")] = None,
    pipeline: PipelineOption = None,
    where: str | None = Where,
    column: list[str] | None = Columns,
    limit: int | None = Limit,
    gallery: Gallery = None,
    store: Path | None = Store,
    workers: WorkersOption = None,
    quiet: bool = Quiet,
    as_json: bool = Json,
) -> None:
    """Time a cascade's steps on a sample of posts, show quality against cost, write a plan for `tag --plan`.

    Quality is the micro-F1 that probabilities promise: the posts need no tags.

    Example: weibotag plan posts.csv -m model --budget 30m -o plan.json --plot curve.png
    """
    from weibotag.extraction.settings import read_pipeline
    from weibotag.posts.source import PostsSource
    from weibotag.workflows.plan import Budget, plan_tagging

    if plot is not None:
        from weibotag.workflows.plots import check_plot

        check_plot(plot)
    asked = None if budget is None else Budget.parse(budget)
    settings = read_pipeline(pipeline).with_looks(gallery, None)
    tagger, settings = choose_tagger(model, None, "cascade", settings)
    source = PostsSource(posts, parse_columns(column), where, limit)
    plan = plan_tagging(
        source, tagger, settings, out, budget=asked, sample=sample, store=store, workers=workers, quiet=quiet
    )
    if plot is not None:
        draw_plan(plan, plot)
    if as_json:
        typer.echo(json.dumps(plan, ensure_ascii=False, indent=1))
        return
    typer.echo(describe_curve(plan))
    expected, budget_seconds = plan["expected"], plan["budget"]
    kept = _share(expected["quality"], plan)
    say(f"{out}: {expected['seconds']:.1f} s for {plan['posts']:,} posts keep {kept:.1%} of the gain", quiet)
    if budget_seconds is not None and expected["seconds"] > budget_seconds:
        say(f"the budget of {budget_seconds:.1f} s is less than the text alone takes: nothing will be looked at", quiet)


def describe_curve(plan: dict[str, Any]) -> str:
    """Return some points of the curve as a table, the knee and the chosen one among them."""
    curve = plan["curve"]
    every = max(1, len(curve) // SHOWN)
    rows = sorted({*range(0, len(curve), every), plan["knee"], plan["chosen"], len(curve) - 1})
    marks = {plan["knee"]: " knee", plan["chosen"]: " chosen"}
    if plan["knee"] == plan["chosen"]:
        marks[plan["knee"]] = " knee, chosen"
    lines = [f"{'seconds':>10} {'ms/post':>9} {'micro-F1':>9} {'of the gain':>12}"]
    for row in rows:
        point = curve[row]
        each = 1000 * point["seconds"] / max(1, plan["posts"])
        gain = _share(point["quality"], plan)
        lines.append(f"{point['seconds']:>10.1f} {each:>9.3f} {point['quality']:>9.4f} {gain:>12.1%}{marks.get(row, '')}")
    lines.append(f"text alone {plan['text_alone_seconds']:.1f} s, everything looked at {plan['everything_seconds']:.1f} s")
    return "\n".join(lines)


def draw_plan(plan: dict[str, Any], path: Path) -> None:
    """Draw the curve of a plan."""
    from weibotag.workflows.plots import draw_curve

    points = [(point["seconds"], point["quality"]) for point in plan["curve"]]
    references = {"text alone": plan["text_alone_quality"], "everything": plan["everything_quality"]}
    title = f"{plan['posts']:,} posts, {plan['posts_with_pictures']:,} with pictures"
    draw_curve(path, points, plan["knee"], plan["budget"], "seconds", "expected micro-F1", title, references)


def _share(quality: float, plan: dict[str, Any]) -> float:
    """Return how much of the gain over text alone a quality is."""
    whole = plan["everything_quality"] - plan["text_alone_quality"]
    return (quality - plan["text_alone_quality"]) / whole if whole > 0 else 1.0
