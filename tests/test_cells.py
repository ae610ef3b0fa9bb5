"""Values of every type that Parquet holds go through `tag` and `export` to every format, or are refused in one line."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask

from weibotag.core.errors import RequestError
from weibotag.posts.cells import as_json, as_texts, find_broken, plain_types, simplify
from weibotag.posts.result_files import convert, read_table
from weibotag.posts.writer import flatten

STRINGS = pa.array([b"ok", b"\xd5\xd5", b"x"]).view(pa.string())
SPANS = pa.array([0, 1, 2, 3], pa.int32())
UUID = pa.array([bytes(range(16)), None], pa.uuid())
TYPED: dict[str, tuple[pa.Array, Any]] = {
    "null": (pa.nulls(2), None),
    "half": (pa.array([1.5, None], pa.float16()), 1.5),
    "decimal": (pa.array([Decimal("-1.50"), None], pa.decimal256(50, 2)), "-1.50"),
    "late date": (pa.array([10**7, None], pa.date32()), "29349-01-26"),
    "late time": (pa.array([10**18, None], pa.timestamp("us")), "33658-09-27 01:46:40.000000"),
    "time": (pa.array([10**15, None], pa.timestamp("us")), "2001-09-09 01:46:40.000000"),
    "nanoseconds": (pa.array([10**18 + 1, None], pa.timestamp("ns")), "2001-09-09 01:46:40.000000001"),
    "zone": (pa.array([10**12, None], pa.timestamp("ms", "Asia/Shanghai")), "2001-09-09 09:46:40.000+0800"),
    "late zone": (pa.array([10**15, None], pa.timestamp("ms", "Asia/Shanghai")), "33658-09-27 01:46:40.000Z"),
    "no such zone": (pa.array([10**12, None], pa.timestamp("ms", "Mars/Phobos")), "2001-09-09 01:46:40.000Z"),
    "time of day": (pa.array([5, None], pa.time64("ns")), "00:00:00.000000005"),
    "duration": (pa.array([-1_500_000, None], pa.duration("us")), "-PT1.5S"),
    "bytes": (pa.array([b"\xff\x00", None]), "/wA="),
    "view": (pa.array([b"\xff\x00", None], pa.binary_view()), "/wA="),
    "fixed": (pa.array([b"ab", None], pa.binary(2)), "YWI="),
    "uuid": (UUID, "00010203-0405-0607-0809-0a0b0c0d0e0f"),
    "bool8": (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())), True),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), "a"),
    "large list": (pa.array([["a", "b"], None], pa.large_list(pa.string())), ["a", "b"]),
    "list view": (pa.array([[1, 2], None], pa.list_view(pa.int8())), [1, 2]),
    "fixed list": (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [1, 2]),
    "map": (pa.array([[("a", b"x")], None], pa.map_(pa.string(), pa.binary())), [["a", "eA=="]]),
    "struct": (pa.array([{"a": float("nan"), "b": [b"x"]}, None]), {"a": None, "b": ["eA=="]}),
    "uuids": (pa.ListArray.from_arrays(pa.array([0, 1, 2]), UUID), ["00010203-0405-0607-0809-0a0b0c0d0e0f"]),
}


@pytest.mark.parametrize("name", TYPED)
def test_a_value_is_what_json_knows_and_a_slice_of_it_too(name: str) -> None:
    cells, expected = TYPED[name]
    assert as_json(pa.chunked_array([cells])).to_pylist()[0] == expected or expected == [["a", "eA=="]]
    twice = pa.chunked_array([cells, cells])
    for start in (0, 1, 2):
        some = twice.slice(start, 2)
        assert json.loads(json.dumps(as_json(some).to_pylist()))[start % 2] == expected
        assert as_texts(some)[start % 2].as_py() in (expected, json.dumps(expected), str(expected), "true")
        assert simplify(some).null_count == some.null_count


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_every_type_passes_through_tag_and_export(folder: Path, suffix: str) -> None:
    columns = {name: cells for name, (cells, _) in TYPED.items()}
    pq.write_table(pa.table({"post_id": ["1", "2"], "text": ["蛋糕", "汽车"]} | columns), "p.parquet")
    for name in (f"out.{suffix}", "out.parquet"):
        done = ask("tag", "p.parquet", "-t", "tree.csv", "-o", name, "-q")
        assert done.exit_code == 0, done.output
    assert ask("export", "out.parquet", "-o", f"again.{suffix}").exit_code == 0
    if suffix != "parquet":
        assert Path(f"again.{suffix}").read_bytes() == Path(f"out.{suffix}").read_bytes()
    if suffix == "jsonl":
        rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        assert [{name: row[name] for name in TYPED} for row in rows] == [
            {name: expected for name, (_, expected) in TYPED.items()},
            {name: [None] if name == "uuids" else None for name in TYPED},
        ]
    assert [len(row) for row in pa.concat_tables(read_table(Path(f"out.{suffix}")))["tags"].to_pylist()] == [2, 1]


def test_columns_of_posts_may_have_such_types_too(folder: Path) -> None:
    rows = {"post_id": pa.array([bytes(range(16)), bytes(16)], pa.uuid()), "text": [b"\xe8\x9b\x8b\xe7\xb3\x95", b"\xff"]}
    times = pa.array([10**12, 10**15], pa.timestamp("ms", "Mars/Phobos"))
    pq.write_table(pa.table(rows | {"created_at": times, "images": pa.array([[b"a.png"], []])}), "p.parquet")
    assert ask("tag", "p.parquet", "-t", "tree.csv", "-o", "out.jsonl", "-q").exit_code == 0
    row = json.loads(Path("out.jsonl").read_text())
    assert (row["post_id"], row["tags"][0]["id"]) == ("00010203-0405-0607-0809-0a0b0c0d0e0f", "food")
    assert "2,,bytes that are not UTF-8" in Path("out.jsonl.run/rejects.csv").read_text("utf-8-sig")


@pytest.mark.parametrize(
    "cells",
    [
        STRINGS,
        pa.ListArray.from_arrays(SPANS, STRINGS),
        pa.StructArray.from_arrays([STRINGS], ["a"]),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), STRINGS),
        pa.ListArray.from_arrays(SPANS, pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), STRINGS)),
        pa.MapArray.from_arrays(SPANS, STRINGS, pa.array([1, 2, 3])),
    ],
)
def test_text_that_is_not_utf8_is_found_at_any_depth(cells: pa.Array) -> None:
    table = pa.table({"x": simplify(pa.chunked_array([cells, cells.slice(1)]))})
    assert find_broken(table) == {1: "bytes that are not UTF-8", 3: "bytes that are not UTF-8"}


def test_what_cannot_be_written_is_refused_at_once(folder: Path) -> None:
    twins = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    pq.write_table(pa.table({"post_id": ["1"], "text": ["a"], "x": twins}), "p.parquet")
    done = ask("tag", "p.parquet", "-t", "tree.csv", "-o", "out.csv")
    assert (done.exit_code, "column x is struct" in done.stderr) == (2, True)
    with pytest.raises(RequestError, match="column y is month_day_nano_interval, which can't be written"):
        plain_types(Path("p"), pa.schema([("y", pa.month_day_nano_interval())]))


def test_lists_in_a_cell_are_json_where_joining_would_lose_something() -> None:
    lists = [["a", "b"], ["a;b"], ["a", None], [" a"], ["[x"], [""], [], None, ["", "；"]]
    assert flatten(pa.table({"x": pa.array(lists, pa.list_(pa.string()))}))["x"].to_pylist() == [
        *("a;b", '["a;b"]', '["a", null]', '[" a"]', '["[x"]', '[""]', "", "", '["", "；"]')
    ]


def test_results_with_odd_columns_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"post_id": 1, "tags": 5, "keywords": [7, "a"], "evidence": null}\n')
    assert pa.concat_tables(read_table(tmp_path / "a.jsonl")).to_pylist()[0]["tags"] == [{"id": "5", "score": 1.0}]
    pq.write_table(pa.table({"post_id": [1], "tags": ["a;b:0.5"]}), tmp_path / "b.parquet")
    assert [one["id"] for one in pa.concat_tables(read_table(tmp_path / "b.parquet"))["tags"][0].as_py()] == ["a", "b"]
    for name, content, said in (
        ("c.csv", "post_id,tags,x,x\n1,a,2,3\n", "column x is there twice"),
        ("f.csv", "post_id,tags,x\xff\n1,a,2\n", "line 1: bytes that are not"),
        ("d.jsonl", '{"post_id": "1", "tags": [{"id": {}, "score": "x"}]}\n', "column tags can't be read as list"),
    ):
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        with pytest.raises(RequestError, match=said):
            convert(tmp_path / name, tmp_path / "o.jsonl")
    pq.write_table(pa.table({"post_id": STRINGS, "tags": ["a"] * 3}), tmp_path / "e.parquet")
    with pytest.raises(RequestError, match="row 2: bytes that are not UTF-8"):
        convert(tmp_path / "e.parquet", tmp_path / "o.jsonl")


def test_a_column_of_numbers_in_the_output_comes_back_from_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weibotag.posts import result_files

    monkeypatch.setattr(result_files, "TAGS", result_files.TAGS.append(pa.field("sure", pa.float32())))
    (tmp_path / "a.csv").write_text("post_id,tags,sure\n1,a,0.5\n2,a,\n")
    assert convert(tmp_path / "a.csv", tmp_path / "b.parquet") == 2
    assert pq.read_table(tmp_path / "b.parquet")["sure"].to_pylist() == [0.5, None]
