"""Files that stop the worker that looks at them: said once, remembered, and never paid for again within the same limits."""

import csv
import os
import random
import shutil
from pathlib import Path
from typing import Any

import damaged_media
import pytest
from commands import ask, draw

from weibotag.extraction import schedule
from weibotag.runtime.pool import run_parts
from weibotag.vision.media.pictures import MediaLimits, read_media

# The decoder of a picture called so hangs, eats, crashes; or loading the stages does.
DEADLY = """
import os, signal, time
from weibotag.extraction import jobs

own, own_open = jobs.decode, jobs.open_stage

def suffer(path):
    if "hang" in path:
        time.sleep(600)
    if "eat" in path:
        bytearray(8 << 30)
    if "crash" in path:
        os.kill(os.getpid(), signal.SIGSEGV)

def decode(task, limits):
    suffer(task.path)
    return own(task, limits)

def open_stage(*asked):
    suffer(os.environ.get("DEADLY_STAGE", ""))
    return own_open(*asked)

def look_at_files(job):
    jobs.decode, jobs.open_stage = decode, open_stage
    return jobs.look_at_files(job)
"""
SETTINGS = 'stages = ["faces"]\n[workers]\ncount = 1\nrecycle = 50\npicture_seconds = {seconds}\nmemory_mb = 600\n'


@pytest.fixture
def deadly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "deadly.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
    monkeypatch.setattr(schedule, "run_parts", lambda _, *asked: run_parts("deadly:look_at_files", *asked))
    draw(folder / "good.png", "good")
    return folder


def look(folder: Path, *names: str, seconds: float = 60, out: str = "out.csv") -> tuple[int, str, dict[str, dict[str, str]]]:
    """Run `faces` on one post a picture; return exit code, stderr, and the rows by the picture's name."""
    (folder / "posts.csv").write_text("post_id,images\n" + "".join(f"{name},{name}\n" for name in names), encoding="utf-8")
    (folder / "look.toml").write_text(SETTINGS.format(seconds=seconds), encoding="utf-8")
    done = ask("faces", "posts.csv", "-p", "look.toml", "-o", out, "-q")
    rows: list[dict[str, Any]] = []
    if Path(out).exists():
        rows = list(csv.DictReader(Path(out).read_text(encoding="utf-8-sig").splitlines()))
    return done.exit_code, done.output, {row["post_id"]: row for row in rows}


def looks(folder: Path) -> int:
    return len(list(folder.glob("*.run/receipts/*looks/*.json")))


@pytest.mark.parametrize(
    ("name", "said"),
    [("eat.png", "worker took more than 600 MB of memory"), ("crash.png", "worker killed by signal 11")],
)
def test_a_file_that_stops_its_worker_is_said_in_its_row_and_not_tried_again(deadly: Path, name: str, said: str) -> None:
    draw(deadly / name, name)
    code, _, rows = look(deadly, name, "good.png")
    assert code == 0
    assert rows[name]["media_error"] == f"not looked at: {said}; it is not tried again within these limits"
    assert (rows["good.png"]["media_error"], rows["good.png"]["width"]) == ("", "320")
    paid = looks(deadly)
    # The same bytes by another name, too.
    shutil.copy(deadly / name, deadly / "same.png")
    code, _, again = look(deadly, name, "same.png", "good.png", out="again.csv")
    assert (code, looks(deadly)) == (0, paid)
    assert again["same.png"]["media_error"] == again[name]["media_error"] == rows[name]["media_error"]


@pytest.mark.slow
def test_a_file_that_hangs_is_tried_again_when_it_is_given_more_time(deadly: Path) -> None:
    draw(deadly / "hang.png", "hang")
    code, _, rows = look(deadly, "hang.png", "good.png", seconds=3)
    assert code == 0 and "no sign of life for 3 s" in rows["hang.png"]["media_error"]
    paid = looks(deadly)
    assert look(deadly, "hang.png", seconds=3, out="again.csv")[0] == 0 and looks(deadly) == paid
    _, _, rows = look(deadly, "hang.png", seconds=4, out="longer.csv")
    assert "no sign of life for 4 s" in rows["hang.png"]["media_error"] and looks(deadly) > paid


def test_no_picture_is_blamed_where_a_stage_does_not_start(deadly: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEADLY_STAGE", "crash")
    code, said, _ = look(deadly, "good.png")
    assert code == 1 and "killed by signal 11" in said
    monkeypatch.delenv("DEADLY_STAGE")
    code, _, rows = look(deadly, "good.png")
    assert code == 0 and rows["good.png"]["media_error"] == ""


def with_scans(data: bytes, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan comes so many times more."""
    start = data.rfind(b"\xff\xda")
    return data[:start] + data[start:-2] * (1 + scans) + data[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    scene = damaged_media.draw_scene(random.Random(1))
    data = damaged_media.encode(scene, "JPEG", progressive=True)
    assert read_media(with_scans(data, 50), "id", MediaLimits()).rows[0]["media_error"] is None
    reason = read_media(with_scans(data, 5000), "id", MediaLimits()).rows[0]["media_error"]
    assert reason == "too many scans: of so large a picture the limit is 100"
    # What lies in a thumbnail, or behind the picture, is not decoded.
    plain = damaged_media.encode(scene, "JPEG")
    comment = b"\xff\xfe\xff\xff" + b"\xff\xda" * 32766 + b"\x00"
    for sound in (plain + b"\xff\xda" * 500, plain[:2] + comment + plain[2:]):
        assert read_media(sound, "id", MediaLimits()).rows[0]["media_error"] is None
