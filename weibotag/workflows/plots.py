"""Quality against cost as PNG or SVG: taggers as points, a budget as a curve. Readable in grey; same numbers, same bytes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.core.files import atomic

SUFFIXES = (".png", ".svg")
MARKERS = "osD^vP*Xph<>"
STYLES = ("--", ":", "-.")
GREY = "0.45"


def draw_scatter(path: Path, points: Mapping[str, tuple[float, float]], x_label: str, y_label: str, title: str) -> None:
    """Draw named points (cost above 0, quality), cost on a logarithmic axis, to a .png or .svg file.

    The line joins the points that none other beats at less cost. Raises RequestError for another suffix and
    MissingExtraError without matplotlib.
    """
    with _open_axes(path, x_label, y_label, title) as axes:
        axes.set_xscale("log")
        best = -float("inf")
        front = []
        for cost, quality in sorted(points.values(), key=lambda point: (point[0], -point[1])):
            if quality > best:
                front.append((cost, quality))
                best = quality
        axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1, drawstyle="steps-post", zorder=1)
        for marker, (name, (cost, quality)) in zip(cycle(MARKERS), points.items(), strict=False):
            axes.plot([cost], [quality], marker, color="black", markersize=6, label=name)
        # A legend beside the plot stays readable where points lie on each other.
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False)


def draw_curve(
    path: Path,
    points: Sequence[tuple[float, float]],
    knee: int,
    chosen: float | None,
    x_label: str,
    y_label: str,
    title: str,
    references: Mapping[str, float] | None = None,
) -> None:
    """Draw a curve of (cost, quality) with its knee, a number of `points`, to a .png or .svg file.

    `chosen` is the cost of the budget that was chosen, drawn upright; `references` are qualities by name, drawn level.
    Raises as `draw_scatter` does.
    """
    with _open_axes(path, x_label, y_label, title) as axes:
        ranked = sorted(points)
        axes.plot(*zip(*ranked, strict=True), "-", color="black", linewidth=1.5, marker=".", label="budgets")
        axes.plot(*([value] for value in points[knee]), "o", color="black", fillstyle="none", markersize=12, label="knee")
        if chosen is not None:
            axes.axvline(chosen, color=GREY, linewidth=1.5, label="chosen budget")
        for style, (name, quality) in zip(cycle(STYLES), (references or {}).items(), strict=False):
            axes.axhline(quality, color=GREY, linewidth=1, linestyle=style, label=name)
        axes.legend(loc="best", frameon=False)


def check_plot(path: Path) -> None:
    """Raise RequestError for a file that can't be drawn by its suffix, MissingExtraError without matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{path}: a plot is written as {' or '.join(SUFFIXES)}; give a name that ends so")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("drawing a plot", "plot") from error


@contextmanager
def _open_axes(path: Path, x_label: str, y_label: str, title: str) -> Iterator[Any]:
    """Give axes to draw on; write them when the block ends without an error."""
    check_plot(path)
    kind = path.suffix.lower()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A Figure that pyplot does not know is drawn by Agg and needs no display. The salt makes the ids of an SVG lasting.
    with rc_context({"svg.hashsalt": "weibotag", "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label, title=title)
        axes.grid(color="0.9", linewidth=0.6)
        yield axes
        with atomic(path) as file:
            figure.savefig(file, format=kind[1:], dpi=150, metadata={"Date": None} if kind == ".svg" else None)
