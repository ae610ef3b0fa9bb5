import csv
import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from damaged_media import SOUND, make
from hostile_posts import Hostile, write_hostile

from weibotag.extraction.jobs import media_fingerprint
from weibotag.vision.media.pictures import MediaLimits

ROOT = Path(__file__).parents[1]
COUNT = 60
HOPELESS = {"empty.jpg", "page.jpg", "answer.png", "noise.jpg", "bomb.png", "bomb.gif", "folder.jpg", "missing.jpg"}
ALL = "all of them"


@dataclass(frozen=True)
class Ordeal:
    """What came of `weibotag tag` over a folder of hostile posts and damaged media."""

    done: subprocess.CompletedProcess[str]
    media: list[Path]
    hostile: Hostile
    rows: list[dict]
    rejects: list[dict[str, str]]
    store: Path


@pytest.fixture(scope="module")
def ordeal(tmp_path_factory: pytest.TempPathFactory) -> Ordeal:
    place = tmp_path_factory.mktemp("ordeal")
    folder = place / "posts"
    (folder / "pictures of 微博").mkdir(parents=True)
    media = make(folder / "pictures of 微博", COUNT, seed=7)
    names = [str(path.relative_to(folder)) for path in media]
    with (folder / "damaged.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("post_id", "text", "images"))
        writer.writerows((f"m{number}", "分享图片", name) for number, name in enumerate(names))
        writer.writerow((ALL, "足球", ";".join(names)))
    hostile = write_hostile(folder / "hostile.csv", seed=5)
    command = ["weibotag", "tag", str(folder), "-t", str(ROOT / "taxonomies" / "weibo.csv")]
    done = subprocess.run(
        [sys.executable, "-m", *command, "-o", str(place / "out.parquet"), "--store", str(place / "store")],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(place / "out.parquet").to_pylist()
    with (place / "out.parquet.run" / "rejects.csv").open(encoding="utf-8-sig", newline="") as file:
        rejects = list(csv.DictReader(file))
    return Ordeal(done, media, hostile, rows, rejects, place / "store")


def kind_of(path: Path) -> str:
    return path.name.partition("-")[2]


def test_nothing_crashes(ordeal: Ordeal) -> None:
    assert "Traceback" not in ordeal.done.stderr
    assert ordeal.done.stdout == ""


def test_every_row_is_tagged_or_rejected(ordeal: Ordeal) -> None:
    ids = [row["post_id"] for row in ordeal.rows]
    assert ids == [*(f"m{number}" for number in range(COUNT)), ALL, *ordeal.hostile.good]
    assert len(ordeal.hostile.good) + len(ordeal.rejects) == ordeal.hostile.rows
    found = [(int(row["line"]), row["post_id"] or None) for row in ordeal.rejects]
    assert found == [(line, post_id) for line, post_id, _ in sorted(ordeal.hostile.bad, key=lambda bad: bad[0])]
    assert {row["file"] for row in ordeal.rejects} == {str(ordeal.hostile.path)}


def test_every_damaged_picture_is_accounted_for_by_its_name(ordeal: Ordeal) -> None:
    parts = [pq.read_table(part) for part in ordeal.store.glob(f"media-{media_fingerprint(MediaLimits())}/part-*.parquet")]
    seen = {row["file_id"] for part in parts for row in part.to_pylist() if row["media_error"] is None}
    assert seen
    for path, row in zip(ordeal.media, ordeal.rows, strict=False):
        kind = kind_of(path)
        if row["error"] is not None:
            assert kind not in SOUND, row["error"]
            assert re.match(re.escape(f"{path}: ") + r"\S.{5,}", row["error"])
            assert "\n" not in row["error"]
        else:
            assert kind not in HOPELESS
            assert file_id(path) in seen


def file_id(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_many_bad_pictures_of_one_post_are_counted(ordeal: Ordeal) -> None:
    bad = [row["error"] for row in ordeal.rows[:COUNT] if row["error"]]
    row = ordeal.rows[COUNT]
    assert row["error"] == f"{'; '.join(bad[:3])}; and {len(bad) - 3} more"
    assert any(tag["id"] == "体育/足球" for tag in row["tags"])


def test_a_second_run_looks_at_nothing_and_says_the_same(ordeal: Ordeal, tmp_path: Path) -> None:
    from weibotag.extraction.requests import TagRequest
    from weibotag.workflows.tag import tag

    out, taxonomy = tmp_path / "again.parquet", ROOT / "taxonomies" / "weibo.csv"
    posts = str(ordeal.hostile.path.parent)
    summary = tag(TagRequest(posts=posts, out=str(out), taxonomy=taxonomy, store=ordeal.store, quiet=True))
    assert summary["frames_per_stage"] == {}
    assert summary["pictures"]["reused"] == summary["pictures"]["files"] > COUNT / 2
    assert list(tmp_path.glob("again.parquet.run/receipts/looks/*")) == []
    assert pq.read_table(out).to_pylist() == ordeal.rows
