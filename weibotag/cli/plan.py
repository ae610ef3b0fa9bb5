"""`weibotag plan`: what a budget buys."""

from pathlib import Path
from typing import TYPE_CHECKING

from weibotag.cli.answer import Answer
from weibotag.cli.command import command
from weibotag.extraction.requests import PlanRequest

if TYPE_CHECKING:
    from weibotag.workflows.plan import Plan

# Points of the curve that the table shows.
SHOWN = 12


@command("plan")
def plan(request: PlanRequest) -> Answer:
    """Time a cascade's steps on a sample of posts, show quality against cost, write a plan for `tag --plan`.

    Quality is the micro-F1 that probabilities promise: the posts need no tags.

    Example: weibotag plan posts.csv -m model --budget 30m -o plan.json --plot curve.png
    """
    from weibotag.workflows.plan import plan_tagging
    from weibotag.workflows.plots import check_plot

    if request.plot is not None:
        check_plot(request.plot)
    plan = plan_tagging(request)
    if request.plot is not None:
        draw_plan(plan, request.plot)
    expected, budget = plan["expected"], plan["budget"]
    kept = _share(expected["quality"], plan)
    line = f"{request.out}: {expected['seconds']:.1f} s for {plan['posts']:,} posts keep {kept:.1%} of the gain"
    if budget is not None and expected["seconds"] > budget:
        line += f"\nthe budget of {budget:.1f} s is less than the text alone takes: nothing will be looked at"
    return Answer(plan, line, describe_curve(plan))


def describe_curve(plan: "Plan") -> str:
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


def draw_plan(plan: "Plan", path: Path) -> None:
    """Draw the curve of a plan."""
    from weibotag.workflows.plots import draw_curve

    points = [(point["seconds"], point["quality"]) for point in plan["curve"]]
    references = {"text alone": plan["text_alone_quality"], "everything": plan["everything_quality"]}
    title = f"{plan['posts']:,} posts, {plan['posts_with_pictures']:,} with pictures"
    draw_curve(path, points, plan["knee"], plan["budget"], "seconds", "expected micro-F1", title, references)


def _share(quality: float, plan: "Plan") -> float:
    """Return how much of the gain over text alone a quality is."""
    whole = plan["everything_quality"] - plan["text_alone_quality"]
    return (quality - plan["text_alone_quality"]) / whole if whole > 0 else 1.0
