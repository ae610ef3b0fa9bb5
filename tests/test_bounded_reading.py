"""Input that is too much, or says a thing twice: rejected with its reason, whatever it would take to hold it whole."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import read, rejected, write

from weibotag.core import schema
from weibotag.core.errors import RequestError
from weibotag.core.spreadsheet import unguard
from weibotag.posts import reader, table_files
from weibotag.posts.cells import simplify
from weibotag.posts.encodings import MOST_COLUMNS, RECORD_LIMIT
from weibotag.posts.parquet_batches import BATCH_BYTES, read_batches
from weibotag.posts.rejects import Rejects
from weibotag.posts.result_files import read_table
from weibotag.posts.source import PostsSource
from weibotag.posts.writer import write_tables

TAGS = schema.arrow_schema("tags")


def reasons(path: Path, folder: Path) -> dict[int, str]:
    return {int(row["line"]): row["reason"] for row in rejected(path, folder)}


def test_a_json_key_given_twice_rejects_its_line(tmp_path: Path) -> None:
    lines = [
        '{"post_id": "1", "text": "a", "text": "b"}',
        '{"post_id": "2", "text": "a", "more": [{"x": {"k": 1, "k": 1}}]}',
        '{"post_id": "3", "text": "\\"text\\": a, \\"text\\": b"}',
    ]
    path = write(tmp_path / "p.jsonl", "\n".join(lines))
    assert read(path)["post_id"].to_pylist() == ["3"]
    said = [f"key {key!r} given twice; expected each key once" for key in ("text", "k")]
    assert reasons(path, tmp_path) == dict(enumerate(said, 1))


def test_quotes_that_never_fit_cost_their_lines_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "post_id,text\n1,first\n" + 'id","\n' * 5_000 + '2,"two\nlines"\n3,last\n')
    assert read(path)["post_id"].to_pylist() == ["1", "2", "3"]
    assert list(reasons(path, tmp_path)) == list(range(3, 5_003))


def test_a_key_on_every_line_makes_so_many_columns(tmp_path: Path) -> None:
    rows = [{"post_id": str(number), "text": "a", f"k{number}": 1} for number in range(MOST_COLUMNS + 2)]
    path = write(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert len(read(path)) == MOST_COLUMNS - 2
    assert list(reasons(path, tmp_path)) == list(range(MOST_COLUMNS - 1, MOST_COLUMNS + 3))
    write(tmp_path / "p.csv", ",".join(["post_id", "text", *(f"c{number}" for number in range(MOST_COLUMNS))]) + "\n")
    with pytest.raises(RequestError, match=f"has {MOST_COLUMNS + 2:,} columns"):
        read(tmp_path / "p.csv")


@pytest.mark.parametrize("depth", [90, 400, 980, 100_000])
def test_deep_json_is_a_cell_or_a_reject(tmp_path: Path, depth: int) -> None:
    deep = '{"post_id": "1", "text": "a", "d": ' + "[" * depth + "]" * depth + "}"
    path = write(tmp_path / "p.jsonl", deep + '\n{"post_id": "2", "text": "b"}\n')
    assert read(path)["post_id"].to_pylist() == ["1", "2"][depth > 100 :]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl.gz"])
def test_a_line_without_an_end_is_one_reject(tmp_path: Path, name: str) -> None:
    endless = "x" * (2 * RECORD_LIMIT)
    if name == "p.csv":
        text = f'post_id,text\n1,a\n2,"{endless}\n3,"b\nc"\n'
    else:
        text = f'{{"post_id": "1", "text": "a"}}\n{{"post_id": "2", "text": "{endless}"}}\n{{"post_id": "3", "text": "b"}}\n'
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert read(tmp_path / name)["post_id"].to_pylist() == ["1", "3"]
    assert list(reasons(tmp_path / name, tmp_path).values()) == [f"a record of more than {RECORD_LIMIT:,} characters"]


def test_a_quote_without_an_end_stops_at_the_limit(tmp_path: Path) -> None:
    row = "y" * 999_999 + "\n"
    path = write(tmp_path / "p.csv", 'post_id,text\n1,"' + row * (RECORD_LIMIT // 1_000_000 + 2) + "2,b\n")
    assert read(path)["post_id"].to_pylist() == ["2"]


def test_tables_end_by_rows_or_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BATCH_BYTES", 3_000_000)
    monkeypatch.setattr(table_files, "CHUNK_SIZE", 1_000_000)
    path = write(tmp_path / "p.csv", "post_id,text\n" + "".join(f"{number},{'z' * 10_000}\n" for number in range(1_000)))
    tables = list(reader.read_posts(PostsSource(str(path)), Rejects()))
    assert [table["post_id"][0].as_py() for table in tables] == ["0", "300", "600", "900"]
    assert sum(map(len, tables)) == 1_000


def test_a_dictionary_of_parquet_is_cut_to_size(tmp_path: Path) -> None:
    path, rows = tmp_path / "p.parquet", 2_000
    places = pa.array([0, 1] * (rows // 2), pa.int32())
    texts = pa.DictionaryArray.from_arrays(places, pa.array(["long " * 60_000, "short"]))
    lists = pa.array([["b" * 100_000, "c"] if number % 2 else None for number in range(rows)])
    pq.write_table(pa.table({"post_id": [str(number) for number in range(rows)], "text": texts, "l": lists}), path)
    sizes, texts_read = [], []
    for count, table in read_batches(path, 20_000):
        assert count == len(table)
        plain = [simplify(column) for column in table.columns]
        sizes.append(sum(column.nbytes for column in plain))
        texts_read += plain[1].to_pylist()
    assert texts_read == texts.to_pylist()
    assert len(sizes) > 1
    assert max(sizes) <= BATCH_BYTES + 1_000_000


def test_long_rows_of_parquet_are_rejected_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    structs = [{"a": ["x" * 1_000] * (RECORD_LIMIT // 1_000)}, None, {"a": None}, {"a": ["y"]}]
    texts = ["a", "b", "x" * (RECORD_LIMIT + 1), "c"]
    pq.write_table(pa.table({"post_id": ["1", "2", "3", "4"], "text": texts, "s": structs}), path)
    table = read(path)
    assert (table["post_id"].to_pylist(), table["s"].to_pylist()) == (["2", "4"], [None, {"a": ["y"]}])
    assert reasons(path, tmp_path) == dict.fromkeys((1, 3), f"a record of more than {RECORD_LIMIT:,} bytes")


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['"', "\0", "\r", "a\n\0b", "x" * 1_200_000]
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(CELLS, min_size=1, max_size=6), suffix=st.sampled_from(["csv", "jsonl"]))
def test_what_is_written_can_be_read(tmp_path_factory: pytest.TempPathFactory, rows: list[str], suffix: str) -> None:
    out = tmp_path_factory.mktemp("written") / f"tags.{suffix}"
    columns = {"post_id": [str(number) for number in range(len(rows))], "tags": [[{"id": "a", "score": 0.5}]] * len(rows)}
    table = pa.table({name: pa.array(columns.get(name, [None] * len(rows)), TAGS.field(name).type) for name in TAGS.names})
    table = table.append_column("note", pa.array(rows)).append_column("text", pa.array(["b"] * len(rows)))
    write_tables([table], out, table.schema)
    found = pa.concat_tables(read_table(out))
    assert found["post_id"].to_pylist() == columns["post_id"]
    assert found["note"].to_pylist() == rows
    rejects = Rejects()
    notes = read(out, rejects)["note"].to_pylist()
    # As posts, cells of a CSV are what a spreadsheet shows.
    assert [unguard(note) for note in notes] == rows if suffix == "csv" else notes == rows
    assert rejects.count == 0
