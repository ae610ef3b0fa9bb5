"""Plots: what is drawn can be found in the file, and the same numbers give the same bytes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from weibotag.core.errors import MissingExtraError, RequestError

POINTS = [(1.0, 0.4), (10.0, 0.5), (100.0, 0.51)]


def scatter(path: Path) -> None:
    from weibotag.workflows.plots import draw_scatter

    points = {"fast": (12.0, 0.41), "concat": (150.0, 0.45), "hma": (900.0, 0.44)}
    draw_scatter(path, points, "microseconds a post", "micro-F1", "Quality against cost")


def curve(path: Path) -> None:
    from weibotag.workflows.plots import draw_curve

    draw_curve(path, POINTS, 1, 50.0, "cost", "micro-F1", "A budget", {"all by fast": 0.4, "all by fused": 0.52})


BOTH = pytest.mark.parametrize("draw", [scatter, curve])


@BOTH
def test_the_suffix_says_the_format(draw: Callable[[Path], None], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are drawn by matplotlib")
    draw(tmp_path / "a.png")
    draw(tmp_path / "a.SVG")
    with Image.open(tmp_path / "a.png") as picture:
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")), 2, 0)
    assert len(np.unique(red)) > 2
    # Nothing is told by colour.
    assert (red == green).all() and (green == blue).all()
    assert ElementTree.parse(tmp_path / "a.SVG").getroot().tag.endswith("svg")
    with pytest.raises(RequestError, match=r"a\.pdf: a plot is written as \.png or \.svg"):
        draw(tmp_path / "a.pdf")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.SVG"}


@BOTH
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_numbers_give_the_same_bytes(draw: Callable[[Path], None], suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots are drawn by matplotlib")
    for name in ("one", "two"):
        draw(tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.mark.parametrize(("draw", "named"), [
    (scatter, ["fast", "concat", "hma", "micro-F1", "Quality against cost"]),
    (curve, ["knee", "chosen budget", "all by fast", "all by fused", "cost"]),
])  # fmt: skip
def test_all_that_is_drawn_is_named(draw: Callable[[Path], None], named: list[str], tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="plots are drawn by matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(tmp_path / "a.svg")
    told = {part.text for part in ElementTree.parse(tmp_path / "a.svg").iter() if part.text}
    assert set(named) <= told


def test_without_matplotlib_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'weibotag\[plot\]'"):
        scatter(tmp_path / "a.png")


def test_matplotlib_is_imported_when_something_is_drawn() -> None:
    code = "import sys, weibotag.workflows.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
