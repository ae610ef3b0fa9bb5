import csv
import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask, draw

from weibotag.core.schema import arrow_schema
from weibotag.workflows.run_stage import list_pictures, pictures_schema


@pytest.mark.parametrize(("stage", "column"), [("ocr", "ocr_lines"), ("faces", "faces_found"), ("embed", "embed_vector")])
def test_a_stage_alone_gives_a_row_for_each_picture_of_each_post(pictures: Path, stage: str, column: str) -> None:
    result = ask(stage, "seen.csv", "-o", "out.parquet", "--workers", "0", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["posts"], summary["rows"], summary["pictures"]["files"]) == (5, 7, 3)
    table = pq.read_table("out.parquet")
    assert table.schema.equals(pictures_schema(stage))
    rows = table.to_pylist()
    assert [(row["post_id"], row["position"], row["frame"]) for row in rows] == [
        ("a", 0, 0),
        ("b", 0, 0),
        ("b", 1, 0),
        ("c", 0, None),
        ("d", 0, 0),
        ("d", 0, 1),
        ("d", 1, None),
    ]
    looked = [0, 1, 4, 5]
    assert [number for number, row in enumerate(rows) if row[column] is not None] == looked
    assert rows[0][column] == rows[1][column]
    assert rows[0]["media_id"] == rows[0]["file_id"] != rows[4]["file_id"]
    assert rows[2]["media_error"]
    assert rows[3]["link_error"] == "no such file"
    assert rows[6]["link_error"] == "no such file"
    assert all(row[f"{stage}_error"] is None for row in rows)
    assert (rows[0]["format"], rows[0]["width"], rows[0]["height"]) == ("PNG", 320, 160)
    if stage == "ocr":
        assert "SALE" in rows[0]["ocr_lines"][0]["text"]


def test_a_store_that_cannot_be_made_is_told_before_any_work(pictures: Path) -> None:
    result = ask("faces", "seen.csv", "-o", "out.csv", "--store", "seen.csv/store", "-q")
    assert result.exit_code == 2
    assert "expected a folder: choose another place" in result.stderr
    assert not (pictures / "out.csv").exists()


def test_what_the_store_knows_is_not_looked_at_again_and_any_format_holds_it(pictures: Path) -> None:
    first = json.loads(ask("faces", "seen.csv", "-o", "out.parquet", "--workers", "0", "--json").stdout)
    assert first["frames_per_stage"] == {"faces": 3}
    again = json.loads(ask("faces", "seen.csv", "-o", "out.csv", "--workers", "0", "--json").stdout)
    assert again["frames_per_stage"] == {}
    assert again["pictures"]["reused"] == again["pictures"]["files"] == 3
    lines = ask("faces", "seen.csv", "-o", "-", "-q").stdout.splitlines()
    with (pictures / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["media_id"] for row in read] == [json.loads(line)["media_id"] or "" for line in lines]


def test_rows_and_columns_are_chosen_for_a_stage_too(pictures: Path) -> None:
    seen = (pictures / "seen.csv").read_text(encoding="utf-8")
    (pictures / "seen.csv").write_text(seen.replace("images", "photos", 1), encoding="utf-8")
    words = "faces seen.csv -o out.jsonl -q --workers 0 --limit 1 --column images=photos --where \"post_id >= 'b'\""
    result = ask(*shlex.split(words))
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (pictures / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["post_id"] for row in rows] == ["b", "b"]


def test_wordings_are_a_row_for_each_post(pictures: Path) -> None:
    result = ask("wordings", "seen.csv", "-o", "out.parquet", "-q", "--workers", "0")
    assert result.exit_code == 0, result.output
    table = pq.read_table("out.parquet")
    assert table.schema.equals(arrow_schema("wordings"))
    rows = {row["post_id"]: row for row in table.to_pylist()}
    assert list(rows) == ["a", "b", "c", "d", "e"]
    assert {wording["kind"] for wording in rows["a"]["wordings"]} - {"looks", "guess"} == {"ocr"}
    assert rows["a"]["wordings"] == rows["b"]["wordings"]
    assert "broken.png" in rows["b"]["wordings_error"]
    assert "none.png: no such file" in rows["c"]["wordings_error"]
    assert (rows["e"]["wordings"], rows["e"]["wordings_error"]) == ([], None)


def test_wordings_of_posts_without_any_picture(folder: Path) -> None:
    assert ask("wordings", "posts.csv", "-o", "out.parquet", "-q").exit_code == 0
    assert pq.read_table("out.parquet").to_pylist() == [
        {"post_id": post_id, "wordings": [], "wordings_error": None} for post_id in "123"
    ]
    assert ask("ocr", "posts.csv", "-o", "ocr.parquet", "-q").exit_code == 0
    assert len(pq.read_table("ocr.parquet")) == 0


def test_wordings_have_the_visual_codes_of_a_model(folder: Path) -> None:
    lines = ["post_id,text,images,tags"]
    for number in range(24):
        tag, colour = (("cake", "pink"), ("car", "navy"))[number % 2]
        draw(folder / f"{number}.png", f"{number}", (96, 96), colour)
        lines.append(f"{number},{'蛋糕' if tag == 'cake' else '汽车'}{number},{number}.png,{tag}")
    (folder / "posts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "vectors.toml").write_text("stages = ['embed']\n")
    trained = ask(*shlex.split("train posts.csv -t tree.csv -o model -p vectors.toml --tune-seconds 0 --workers 0 -q"))
    assert trained.exit_code == 0, trained.output
    result = ask(*shlex.split("wordings posts.csv -m model -o out.parquet -q --workers 0"))
    assert result.exit_code == 0, result.output
    posts = pq.read_table("out.parquet")["wordings"].to_pylist()
    assert len(posts) == 24
    codes = [[wording["word"] for wording in post if wording["kind"] == "code"] for post in posts]
    # Pink and navy pictures have likeliest tags and clusters of their own.
    assert len(codes) == 24 and {len(own) for own in codes} == {2}
    for words in zip(*codes, strict=True):
        assert set(words[0::2]).isdisjoint(words[1::2])


def test_a_frame_that_a_stage_has_not_seen_says_why() -> None:
    def table(name: str, rows: list[dict[str, object]]) -> pa.Table:
        return pa.Table.from_pylist(rows, schema=arrow_schema(name))

    links = table("links", [{"post_id": "a", "position": place, "file_id": file_id} for place, file_id in enumerate("xyz")])
    media = table("media", [{"file_id": file_id, "media_id": file_id, "frame": 0} for file_id in "xy"])
    faces = table("faces", [{"media_id": "x", "faces_found": []}])
    rows = list_pictures(links, media, faces, "faces", {"y": "took too long", "z": "it changed"}).to_pylist()
    assert [(row["file_id"], row["media_error"], row["faces_error"]) for row in rows] == [
        ("x", None, None),
        ("y", None, "not looked at: took too long"),
        ("z", "not looked at: it changed", None),
    ]
