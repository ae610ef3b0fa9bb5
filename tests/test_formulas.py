"""No cell of a CSV is a formula in a spreadsheet, and none is changed for whoever reads the file with weibotag."""

import csv
import math
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from commands import ask
from hypothesis import example, given
from hypothesis import strategies as st

from weibotag.core.schema import arrow_schema
from weibotag.core.spreadsheet import guard, is_formula, unguard
from weibotag.posts.rejects import Rejects
from weibotag.posts.result_files import read_listing, read_table
from weibotag.posts.writer import write_tables
from weibotag.runtime.run_folder import Run, reject_parts
from weibotag.taxonomy.tree import Tag, Taxonomy, load, save_csv

EVIL = [
    "=1+1",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\tx",
    "\r=1",
    "\n=1",
    "＝1",
    "＋a",
    "－a",
    "＠a",
    '"=1"',
    "'=1",
    " =1",
]
NUMBERS = ["-3.5", "+1", "-1e-7", "3", "-.5", "-3."]
HARMLESS = ["", "a=1", "你好 =1", "'a", "%3D1", "1-2", "'"]
TAGS = arrow_schema("tags")
CELL = st.text(st.sampled_from("=+-@＝\t\r\n'\" \u200b\ufeff1.e5aE%:;3D你"), max_size=6) | st.text(max_size=4)


def cells(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [cell for row in csv.reader(file) for cell in row]


@pytest.mark.parametrize("text", EVIL)
def test_what_a_spreadsheet_would_run_is_marked(text: str) -> None:
    assert guard(text) == f"'{text}"


@pytest.mark.parametrize("text", [*NUMBERS, *HARMLESS])
def test_numbers_and_other_text_are_as_they_were(text: str) -> None:
    assert guard(text) == text


@given(CELL)
def test_the_mark_is_taken_off_without_loss(text: str) -> None:
    assert unguard(guard(text)) == text
    assert guard(text) in (text, f"'{text}")


@example(["1", "-0"])
@given(st.lists(CELL.filter(lambda text: "\0" not in text), min_size=1, max_size=5))
def test_a_file_of_tags_has_no_formula_and_reads_back_the_same(texts: list[str]) -> None:
    names = [text for text in texts if text]
    row = {
        "post_id": texts[0],
        "tags": [{"id": name, "score": 0.5} for name in names],
        "keywords": [{"keyword": name, "score": 0.5, "source": "text"} for name in names],
        "evidence": [{"tag_id": name, "kind": "text", "word": name} for name in names],
        "error": texts[-1] or None,
        "mine": texts[-1],
        "=cmd": names,
    }
    kind = pa.schema([*TAGS, ("mine", pa.string()), ("=cmd", pa.list_(pa.string()))])
    table = pa.Table.from_pylist([row], kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.csv"
        write_tables([table], path, kind)
        assert not [cell for cell in cells(path) if is_formula(cell) and not cell.startswith("'")]
        # Where `;` ends a cell, too.
        own = [cell for cell in cells(path)[9:][:3] if cell]
        pieces = [piece for cell in own for piece in cell.split(";") if not piece.startswith("'")]
        assert not list(filter(is_formula, pieces))
        found = pa.concat_tables(read_table(path))
    names = ["post_id", "tags", "keywords", "error", "mine"]
    assert found.select(names).to_pylist() == table.select(names).to_pylist()
    assert "=cmd" in found.column_names
    assert [one["word"] for one in found["evidence"][0].as_py()] == [one["word"] for one in row["evidence"]]


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    table = pa.table({"x": [-3.5, 2e-9, math.inf], "n": [-1, 2, 3]})
    write_tables([table], tmp_path / "o.csv", table.schema)
    assert cells(tmp_path / "o.csv") == ["x", "n", "-3.5", "-1", "2e-9", "2", "inf", "3"]


def test_rejects_and_listings_and_trees_have_none(tmp_path: Path) -> None:
    with Rejects(tmp_path / "rejects.csv") as rejects:
        rejects.append("-x.csv", 3, "=1", "@reason")
    assert cells(tmp_path / "rejects.csv")[4:] == ["'-x.csv", "3", "'=1", "'@reason"]
    listing = arrow_schema("channel_keywords")
    row = {"channel": "@c", "keyword": "=k", "posts": 1, "score": -1.5, "sources": ["text", "ocr"]}
    write_tables([pa.Table.from_pylist([row], listing)], tmp_path / "k.csv", listing)
    assert {"'@c", "'=k", "-1.5", "text;ocr"} <= set(cells(tmp_path / "k.csv"))
    assert read_listing(tmp_path / "k.csv", "channel_keywords", ("channel",)).to_pylist()[0].items() >= row.items()
    tree = Taxonomy([Tag("=a", None, "-b", ("@c", "'=d"), ("+e",), 2), Tag("f", "=a", "'g", (), ("x", "=y"), 3)])
    save_csv(tree, tmp_path / "tree.csv")
    assert not [cell for cell in cells(tmp_path / "tree.csv") if is_formula(cell) and not cell.startswith("'")]
    again = load(tmp_path / "tree.csv")
    assert [(tag.id, tag.parent_id, tag.name, tag.aliases, tag.keywords) for tag in again.tags] == [
        (tag.id, tag.parent_id, tag.name, tag.aliases, tag.keywords) for tag in tree.tags
    ]
    assert again.digest == tree.digest


def test_rows_of_a_part_that_failed_are_marked_once(tmp_path: Path) -> None:
    failed = "part 00000 failed: why"
    with Run.open(tmp_path / "run", {}) as run:
        run.write("posts", "00000", pa.table({"post_id": ["=1", "2"]}))
        with Rejects(run.rejects_path) as rejects:
            rejects.append("p.csv", 3, "=0", "no text")
        for _ in range(2):
            reject_parts(run, {"00000": "why"})
        first, second = ["", "", "'=1", failed], ["", "", "2", failed]
        assert cells(run.rejects_path)[4:] == ["p.csv", "3", "'=0", "no text", *first, *second]


def test_tags_of_hostile_posts_come_back_from_csv_as_from_parquet(folder: Path) -> None:
    rows = "".join(
        f'"{index}{text.replace(chr(34), chr(34) * 2)}","蛋糕 #{text[:3].strip()}#","{text}"\n'
        for index, text in enumerate(["=1", "@a", "-b"])
    )
    (folder / "p.csv").write_text(f"post_id,text,mine\n{rows}-9,汽车,-3.5\n@me,汽车,=1\n", encoding="utf-8")
    for name in ("out.csv", "out.parquet"):
        assert ask("tag", "p.csv", "-t", "tree.csv", "-o", name, "-q").exit_code == 0
    first, second = (pa.concat_tables(read_table(folder / name)) for name in ("out.csv", "out.parquet"))
    assert first.select(["post_id", "mine"]).equals(second.select(["post_id", "mine"]))
    assert [[one["keyword"] for one in row] for row in first["keywords"].to_pylist()] == [
        [one["keyword"] for one in row] for row in second["keywords"].to_pylist()
    ]
    assert not [cell for cell in cells(folder / "out.csv") if is_formula(cell) and not cell.startswith("'")]
