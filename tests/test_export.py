"""Tags tables to Parquet, CSV and JSONL, and back."""

import csv
import json
import math
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core import schema
from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.posts.result_files import convert, read_table
from weibotag.posts.writer import find_format, flatten, write_tables

TAGS = schema.arrow_schema("tags")
OTHERS = [("text", pa.string()), ("n", pa.int64()), ("images", pa.list_(pa.string()))]
SCHEMA = pa.schema([*TAGS, *OTHERS])


def table_of(*rows: dict[str, Any], kind: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(list(rows), kind)


def read(path: Path) -> pa.Table:
    return pa.concat_tables(read_table(path))


ROW = {
    "post_id": "4512345678901234567",
    "tags": [{"id": "食品/水果", "score": 0.87654}, {"id": "a:b;c%3B", "score": 1.0}],
    "keywords": [{"keyword": "苹果", "score": 0.5, "source": "ocr"}, {"keyword": "x", "score": 0.25, "source": None}],
    "route": "fast",
    "evidence": [{"tag_id": "食品", "kind": "ocr", "word": "吃:喝", "media_id": "m#1", "box": [0.1, 2.5]}],
    "error": None,
    "text": '=1+1, "说"\n第二行\r你好😀',
    "n": 3,
    "images": ["a.jpg", "b.jpg"],
}
BARE = {"post_id": "2", "tags": [], "keywords": [], "route": "rules", "evidence": [], "text": "", "images": []}


def test_flatten_writes_lists_as_text() -> None:
    flat = flatten(table_of(ROW, BARE))
    assert flat.to_pylist()[0] == {
        "post_id": "4512345678901234567",
        "tags": "食品/水果:0.8765;a%3Ab%3Bc%253B:1.0000",
        "keywords": "苹果:0.5000:ocr;x:0.2500:",
        "route": "fast",
        "evidence": "食品:ocr:吃%3A喝",
        "error": None,
        "text": ROW["text"],
        "n": "3",
        "images": "a.jpg;b.jpg",
    }
    assert [flat[name][1].as_py() for name in ("tags", "keywords", "evidence", "images")] == [""] * 4


def test_flatten_keeps_rows_of_a_slice_apart() -> None:
    table = table_of(BARE, ROW, {**BARE, "tags": None}, ROW, BARE)
    assert flatten(table.slice(2, 2)).to_pylist() == flatten(table).to_pylist()[2:4]


def test_flatten_of_other_nested_columns_is_json() -> None:
    table = pa.table({"post_id": ["1", "2"], "o": [{"k": ["你"]}, None], "l": [[{"a": 1}], None]})
    assert flatten(table).to_pylist() == [
        {"post_id": "1", "o": '{"k": ["你"]}', "l": '[{"a": 1}]'},
        {"post_id": "2", "o": None, "l": None},
    ]


def test_csv_opens_in_a_spreadsheet_and_is_lossless(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    assert write_tables([table_of(ROW), table_of(BARE)], path, SCHEMA) == 2
    assert path.read_bytes().startswith(b"\xef\xbb\xbfpost_id,tags,")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["post_id"] for row in rows] == ["4512345678901234567", "2"]
    assert [row["text"] for row in rows] == ["'" + ROW["text"], ""]
    found = read(path).to_pylist()[0]
    assert found["tags"] == [{"id": "食品/水果", "score": pytest.approx(0.8765)}, {"id": "a:b;c%3B", "score": 1.0}]
    assert found["keywords"] == ROW["keywords"]
    assert found["evidence"] == [{"tag_id": "食品", "kind": "ocr", "word": "吃:喝", "media_id": None, "box": None}]
    assert (found["route"], found["error"], found["n"], found["images"]) == ("fast", None, "3", "a.jpg;b.jpg")


def test_json_lines_are_exact_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    row = {**ROW, "tags": [{"id": "食品", "score": 0.9}]}
    assert write_tables([table_of(row, BARE)], path, SCHEMA) == 2
    lines = path.read_text(encoding="utf-8").splitlines()
    assert '"tags": [{"id": "食品", "score": 0.9}]' in lines[0]
    assert json.loads(lines[0])["images"] == ["a.jpg", "b.jpg"]
    found = read(path)
    assert found.select(TAGS.names).equals(table_of(row, BARE).select(TAGS.names))
    assert found["n"].to_pylist() == [3, None]


def test_json_has_no_number_that_json_does_not_know(tmp_path: Path) -> None:
    table = pa.table({"post_id": ["1", "2"], "x": [math.nan, math.inf], "t": [datetime(2026, 1, 2, tzinfo=UTC), None]})
    write_tables([table], tmp_path / "out.jsonl", table.schema)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["x"] for line in lines] == [None, None]
    assert json.loads(lines[0])["t"].startswith("2026-01-02")


def test_parquet_is_what_was_given(tmp_path: Path) -> None:
    table = table_of(ROW, BARE)
    assert write_tables(iter([table.slice(0, 1), table.slice(1)]), tmp_path / "out.parquet", SCHEMA) == 2
    assert read(tmp_path / "out.parquet").equals(table)
    assert pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_standard_output_is_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert write_tables([table_of(ROW)], "-", SCHEMA) == 1
    line = capsys.readouterr().out
    assert "食品/水果" in line
    assert json.loads(line)["post_id"] == ROW["post_id"]


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.jsonl"])
def test_same_tables_give_same_bytes(tmp_path: Path, name: str) -> None:
    first, second = tmp_path / name, tmp_path / f"again.{name}"
    for path in (first, second):
        write_tables([table_of(ROW, BARE)], path, SCHEMA)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.jsonl"])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, name: str) -> None:
    def broken() -> Iterator[pa.Table]:
        yield table_of(ROW)
        raise RuntimeError("worker died")

    (tmp_path / name).write_text("old")
    with pytest.raises(RuntimeError, match="worker died"):
        write_tables(broken(), tmp_path / name, SCHEMA)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


def test_wrong_places_are_refused_before_any_work(tmp_path: Path) -> None:
    def work() -> Iterator[pa.Table]:
        pytest.fail("asked for a table")
        yield

    with pytest.raises(RequestError, match=r"\.parquet, \.csv, \.jsonl, \.xlsx"):
        write_tables(work(), tmp_path / "out.xls", SCHEMA)
    assert find_format(Path("-")) == "jsonl"


def test_files_that_are_no_tags_are_refused(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.csv", "id,tags\n1,a\n", "no column post_id; found id, tags"),
        ("b.csv", "post_id,tags\n1\n", "line 2: 1 fields; expected 2"),
        ("c.jsonl", '{"post_id": "1"}\n[]\n', "line 2: not a JSON object"),
        ("d.jsonl", '{"post_id"\n', "line 1: not JSON"),
        ("e.jsonl", '{"id": 1}\n', "no column post_id"),
        ("f.parquet", "x", "not a Parquet file"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(RequestError, match=said) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="no such file"):
        next(read_table(tmp_path / "none.csv"))


def test_tags_without_scores_have_the_highest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("post_id,tags,keywords\n1,食品/水果;http://x:0.5;50%,苹果;y:0.25;z:1e-3:ocr\n")
    rows = [{"post_id": 1, "tags": ["食品/水果", {"id": "http://x", "score": 0.5}, {"id": "50%"}], "keywords": "苹果"}]
    (tmp_path / "b.jsonl").write_text(json.dumps(rows[0]))
    pq.write_table(pa.table({"post_id": ["1"], "tags": [["食品/水果", "http://x:0.5", "50%"]]}), tmp_path / "c.parquet")
    expected = [{"id": "食品/水果", "score": 1.0}, {"id": "http://x", "score": 0.5}, {"id": "50%", "score": 1.0}]
    for name in ("a.csv", "b.jsonl", "c.parquet"):
        row = read(tmp_path / name).to_pylist()[0]
        assert (row["post_id"], row["tags"]) == ("1", expected)
    assert [tuple(keyword.values()) for keyword in read(tmp_path / "a.csv")["keywords"].to_pylist()[0]] == [
        ("苹果", 1.0, None),
        ("y", 0.25, None),
        ("z", pytest.approx(0.001), "ocr"),
    ]


@pytest.mark.parametrize("source", ["a.parquet", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("out", ["b.parquet", "b.csv", "b.jsonl"])
def test_convert_keeps_tags_and_text(tmp_path: Path, source: str, out: str) -> None:
    kind = pa.schema([*TAGS, ("text", pa.string())])
    rows: list[dict[str, Any]] = [{**ROW, "tags": [{"id": "a", "score": 0.25}]}, BARE]
    table = table_of(*({name: row.get(name) for name in kind.names} for row in rows), kind=kind)
    write_tables([table], tmp_path / source, kind)
    assert convert(tmp_path / source, tmp_path / out) == 2
    names = ["post_id", "tags", "keywords", "route", "error", "text"]
    assert read(tmp_path / out).select(names).equals(table.select(names))


@pytest.mark.parametrize("source", ["a.parquet", "a.csv", "a.jsonl"])
def test_a_file_without_rows_is_not_converted(tmp_path: Path, source: str) -> None:
    write_tables([], tmp_path / source, TAGS)
    for out in ("b.parquet", "b.csv", "b.jsonl"):
        (tmp_path / out).write_text("older")
        with pytest.raises(NothingAcceptedError, match="no row can be used"):
            convert(tmp_path / source, tmp_path / out)
        assert (tmp_path / out).read_text() == "older"


def test_columns_of_json_keep_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"post_id": "1", "tags": [], "i": 1, "f": 1, "b": True, "s": "x", "m": 1, "big": 2**70},
        {"post_id": "2", "i": None, "f": 0.5, "b": None, "m": "y"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    table = read(path).select(["i", "f", "b", "s", "m", "big"])
    assert table.schema.types == [pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.string(), pa.string()]
    assert table.to_pylist() == [
        {"i": 1, "f": 1.0, "b": True, "s": "x", "m": "1", "big": str(2**70)},
        {"i": None, "f": 0.5, "b": None, "s": None, "m": "y", "big": None},
    ]


WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.text(
    st.sampled_from('%:;23ABab,"\n\r 0.5你'), max_size=8
)
SCORE = st.integers(0, 10_000).map(lambda units: units / 10_000)
POST = st.fixed_dictionaries(
    {
        "post_id": st.text(st.sampled_from("0123456789"), min_size=1, max_size=19),
        "tags": st.lists(st.fixed_dictionaries({"id": WORD, "score": SCORE}), max_size=4),
        "keywords": st.lists(
            st.fixed_dictionaries(
                {"keyword": WORD, "score": SCORE, "source": st.sampled_from(["text", "ocr", "object", "face"])}
            ),
            max_size=4,
        ),
        "text": WORD,
    }
)


@settings(max_examples=100, deadline=None)
@given(st.lists(POST, min_size=1, max_size=6), st.sampled_from(["parquet", "csv", "jsonl"]))
def test_what_is_written_is_read_back(rows: list[dict[str, Any]], suffix: str) -> None:
    kind = pa.schema([*TAGS, ("text", pa.string())])
    table = table_of(*rows, kind=kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"out.{suffix}"
        assert write_tables([table], path, kind) == len(rows)
        found = read(path)
    names = ["post_id", "tags", "keywords", "text"]
    assert found.select(names).to_pylist() == table.select(names).to_pylist()
