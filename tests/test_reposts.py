"""Reposts in a run: what was found in one file is given to those that are the same picture, saved anew."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import ask, enter
from test_near import paint, save_anew, write_on

from weibotag.extraction import reposts
from weibotag.runtime.run_folder import Run

PICTURES = 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures, two reposts of each, and one with another text on it."""
    enter(tmp_path, monkeypatch)
    rows = ["post_id,images"]
    for number in range(PICTURES):
        first = write_on(paint(number), f"SALE {number}")
        first.save(tmp_path / f"{number}.png")
        save_anew(first, 1, 70).save(tmp_path / f"{number}-saved.jpg", quality=80)
        save_anew(first, 0.6, 85).save(tmp_path / f"{number}-small.png")
        write_on(paint(number), "NO MORE PHONES").save(tmp_path / f"{number}-other.png")
        rows += [f"{number}{mark or '-first'},{number}{mark}" for mark in (".png", "-saved.jpg", "-small.png", "-other.png")]
    (tmp_path / "posts.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def find_faces(out: str, *options: str) -> dict:
    done = ask("faces", "posts.csv", "-o", out, "--workers", "0", "--json", *options)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def ids(out: str) -> dict[str, str]:
    table = pq.read_table(out)
    return dict(zip(table["post_id"].to_pylist(), table["media_id"].to_pylist(), strict=True))


def test_only_the_same_bytes_are_the_same_unless_asked(folder: Path) -> None:
    summary = find_faces("exact.parquet")
    assert summary["frames_per_stage"] == {"faces": 4 * PICTURES}
    assert "reposts" not in summary["pictures"]
    assert len(set(ids("exact.parquet").values())) == 4 * PICTURES


def test_a_repost_is_given_what_was_found_in_the_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reposts, "CHECKED_ONE_IN", 2)
    summary = find_faces("near.parquet", "--reuse", "near")
    pictures = summary["pictures"]
    checked = pictures["checked"]
    assert pictures["reposts"] == 2 * PICTURES
    assert 0 < checked == pictures["agreed"] < 2 * PICTURES
    # The pictures themselves, those with another text, and the reposts that were looked at to check.
    assert summary["frames_per_stage"] == {"faces": 2 * PICTURES + checked}
    found = ids("near.parquet")
    assert None not in found.values()
    given = [n for n in range(PICTURES) for mark in ("-saved.jpg", "-small.png") if found[f"{n}{mark}"] == found[f"{n}.png"]]
    assert len(given) == 2 * PICTURES - checked
    assert all(found[f"{n}-other.png"] != found[f"{n}.png"] for n in range(PICTURES))


def test_a_later_run_is_given_what_the_store_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reposts, "CHECKED_ONE_IN", 2**33)
    find_faces("first.parquet", "--where", "post_id LIKE '%.png' AND post_id NOT LIKE '%-%'", "--reuse", "near")
    summary = find_faces("second.parquet", "--reuse", "near")
    assert summary["frames_per_stage"]["faces"] == PICTURES
    assert summary["pictures"]["reposts"] == 2 * PICTURES
    again = find_faces("third.parquet", "--reuse", "near")
    assert ids("third.parquet") == ids("second.parquet")
    assert again["frames_per_stage"].get("faces", 0) == 0


def test_without_a_print_a_picture_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reposts, "run_parts", lambda *asked: iter(()))
    summary = find_faces("out.parquet", "--reuse", "near")
    assert summary["frames_per_stage"] == {"faces": 4 * PICTURES}
    assert summary["pictures"]["reposts"] == 0


def test_a_run_that_goes_on_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reposts, "CHECKED_ONE_IN", 2)
    find_faces("whole.parquet", "--reuse", "near", "--store", str(folder / "other"))

    def stop(run: Run, context: object) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("weibotag.extraction.schedule.check_reposts", stop)
        assert ask("faces", "posts.csv", "-o", "near.parquet", "--workers", "0", "--reuse", "near").exit_code == 70
    find_faces("near.parquet", "--reuse", "near")
    assert pq.read_table("near.parquet").equals(pq.read_table("whole.parquet"))
