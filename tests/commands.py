"""Short ways for tests to run the command line, and small posts and pictures to run it on."""

import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from weibotag.cli.main import app

TAXONOMY = "id,parent_id,name,aliases,keywords\nfood,,美食,,\ncake,food,蛋糕,甜品,\ncar,,汽车,,\n"
POSTS = "post_id,text,tags\n1,今天的蛋糕真好吃,cake\n2,新买的汽车,car\n3,爱了爱了,\n"


def slow_but(kept: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Return cases for `parametrize`, of which all but some are slow."""
    return [case if case in kept else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def draw(path: Path, text: str, size: tuple[int, int] = (320, 160), colour: str = "white") -> None:
    picture = Image.new("RGB", size, colour)
    ImageDraw.Draw(picture).text((20, 50), text, fill="black", font=ImageFont.load_default(48))
    picture.save(path)


def shell(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run weibotag as a shell does."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-m", "weibotag", *words], encoding="utf-8", timeout=120, **options)


def ask(*words: str) -> Any:
    """Run weibotag in this process, which has the libraries loaded."""
    return CliRunner().invoke(app, list(words), prog_name="weibotag")


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working folder with a taxonomy and posts of text, and a store of its own, and go there."""
    monkeypatch.setenv("WEIBOTAG_STORE", str(folder / "store"))
    # No weights but those that packages carry, whatever this machine has fetched.
    monkeypatch.delenv("WEIBOTAG_MODELS", raising=False)
    monkeypatch.setattr("weibotag.vision.weights.catalogue.cache_folder", lambda: folder / "no-models")
    monkeypatch.chdir(folder)
    (folder / "tree.csv").write_text(TAXONOMY, encoding="utf-8")
    (folder / "posts.csv").write_text(POSTS, encoding="utf-8")
    return folder


def add_pictures(folder: Path) -> Path:
    """Add five posts: text in a picture, the same again with a damaged one, a missing one, two frames and a clip, none."""
    draw(folder / "sale.png", "SALE 2026")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    frames = [Image.new("RGB", (120, 90), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "two.gif", save_all=True, append_images=frames[1:], duration=500)
    (folder / "seen.csv").write_text(
        "post_id,text,images,videos\n"
        "a,蛋糕,sale.png,\n"
        "b,汽车,sale.png;broken.png,\n"
        "c,甜品,none.png,\n"
        "d,动图,two.gif,clip.mp4\n"
        "e,没有图,,\n",
        encoding="utf-8",
    )
    return folder
