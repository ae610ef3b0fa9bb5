"""Which rows can't be used, where they stood, and that none is lost."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_posts import write_hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import read, read_any, rejected, write

from weibotag.core import schema
from weibotag.posts.rejects import Rejects, SeenIds
from weibotag.posts.source import PostsSource


@pytest.mark.parametrize("seed", range(3))
def test_hostile_file_loses_no_row(tmp_path: Path, seed: int) -> None:
    made = write_hostile(tmp_path / "p.csv", seed)
    table = read(made.path)
    assert dict(zip(table["post_id"].to_pylist(), table["text"].to_pylist(), strict=True)) == made.good
    found = rejected(made.path, tmp_path)
    assert [(int(row["line"]), row["post_id"] or None) for row in found] == [
        (line, post_id) for line, post_id, _ in made.bad
    ]
    for row, (_, _, reason) in zip(found, made.bad, strict=True):
        assert reason in row["reason"]
    assert made.rows == len(table) + len(found)
    assert {row["file"] for row in found} == {str(made.path)}


def test_hostile_file_reads_the_same_in_any_batches(tmp_path: Path) -> None:
    path = write_hostile(tmp_path / "p.csv").path
    whole = read(path)
    batches = list(read_any(PostsSource(str(path)), Rejects(), 7))
    assert {len(batch) for batch in batches[:-1]} == {7}
    assert pa.concat_tables(batches).equals(whole)


def test_unclosed_quote_gives_back_all_that_it_swallowed(tmp_path: Path) -> None:
    rows = "".join(f"{number},row {number}\n" for number in range(60_000))
    path = write(tmp_path / "p.csv", f'post_id,text\nfirst,"open\n{rows}last,"open too')
    assert read(path).num_rows == 60_000
    assert [(row["line"], row["post_id"]) for row in rejected(path, tmp_path)] == [("2", "first"), ("60003", "last")]


def test_duplicates_are_found_across_files_and_batches(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "post_id,text\n1,a\n2,\n1,b\n2,c\n")
    write(tmp_path / "b.csv", "post_id,text\n3,a\n 2 ,b\n")
    rejects = Rejects()
    table = read(tmp_path, rejects, batch_rows=1)
    assert table.select(["post_id", "text"]).to_pylist() == [
        {"post_id": "1", "text": "a"},
        {"post_id": "2", "text": "c"},
        {"post_id": "3", "text": "a"},
    ]
    assert rejects.count == 3


@given(st.lists(st.lists(st.integers(0, 50), max_size=12), max_size=12))
def test_seen_ids_agree_with_a_set(batches: list[list[int]]) -> None:
    seen, known = SeenIds(), set()
    for batch in batches:
        expected = []
        for number in batch:
            expected.append(number in known)
            known.add(number)
        assert seen.add(np.array([str(number) for number in batch], dtype=object)).tolist() == expected


def test_bad_json_lines_are_rejected(tmp_path: Path) -> None:
    lines = [
        '{"post_id": "1", "text": "今天"}'.encode(),
        b"",
        b'{"post_id": "2", "text": ',
        b'["post_id"]',
        b'{"post_id": "3", "text": "\\ud83d"}',
        b'{"post_id": "4", "text": "\xe4\xbb"}',
        b'{"post_id": "5", "text": "\\u0000"}',
        b'{"post_id": {}, "text": "a"}',
        b'{"text": "a"}',
        b'{"post_id": "6", "text": "\\ud83d\\ude00"}',
        b"[" * 100_000,
    ]
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert read(path)["post_id"].to_pylist() == ["1", "6"]
    found = {int(row["line"]): row["reason"] for row in rejected(path, tmp_path)}
    assert list(found) == [3, 4, 5, 6, 7, 8, 9, 11]
    expected = ["not JSON", "not a JSON object", "half a character", "not UTF-8", "NUL byte", "post_id is no text"]
    for reason, part in zip(found.values(), [*expected, "no post_id", "not JSON"], strict=True):
        assert part in reason


def test_parquet_rows_with_broken_bytes_are_rejected(tmp_path: Path) -> None:
    texts = pa.array([b"ok", b"cut \xe4\xbb", None, "好".encode()], pa.binary())
    table = pa.table({"post_id": ["1", "2", "3", "4"], "text": texts.view(pa.string()), "images": ["", "", "a.jpg", ""]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert read(tmp_path / "p.parquet")["text"].to_pylist() == ["ok", "", "好"]
    found = rejected(tmp_path / "p.parquet", tmp_path)
    assert [(row["line"], row["reason"]) for row in found] == [("2", "bytes that are not UTF-8")]


def test_rejects_without_a_path_only_count() -> None:
    with Rejects() as rejects:
        rejects.append("p.csv", 3, None, "no post_id")
    assert rejects.count == 1


def test_rejects_file_has_the_declared_columns_and_a_bom(tmp_path: Path) -> None:
    with Rejects(tmp_path / "rejects.csv") as rejects:
        rejects.append("帖.csv", None, "1" * 5000, "worker died")
    data = (tmp_path / "rejects.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf" + ",".join(schema.arrow_schema("rejects").names).encode())
    assert data.decode("utf-8-sig").splitlines()[1] == f"帖.csv,,{'1' * 100},worker died"


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
SAID = TEXT | st.text(st.sampled_from('",;\n\r\t 你👍'), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(SAID, SAID), min_size=1, max_size=20),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_csv_gives_back_what_was_written(rows: list[tuple[str, str]], end: str, encoding: str, quoting: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.csv"
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
            writer.writerow(["post_id", "text", "other"])
            writer.writerows((str(number), *row) for number, row in enumerate(rows))
        rejects = Rejects()
        tables = list(read_any(PostsSource(str(path)), rejects, 3))
    found = [row for table in tables for row in zip(*map(table.__getitem__, ("text", "other")), strict=True)]
    usable = [row for row in rows if row[0].strip()]
    assert [tuple(cell.as_py() for cell in row) for row in found] == usable
    assert len(found) + rejects.count == len(rows)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.text('",\n\r;x1你', max_size=120).map(str.encode))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.csv"
        path.write_bytes(b"post_id,text\n0,first\n" + body + b"\n")
        rejects = Rejects()
        yielded = sum(len(table) for table in read_any(PostsSource(str(path)), rejects))
    lines = body.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    quoted = b'"' in body
    rows = 1 + sum(line != "" for line in lines)
    assert yielded >= 1
    assert yielded + rejects.count <= rows if quoted else yielded + rejects.count == rows


def test_rows_that_differ_from_the_header_are_settled_where_that_is_clear(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p.csv"
    path.write_text("post_id,place,text\n1,京\n2,京,吃,喝,玩\n3,京,好,,\n4,京,好\n", encoding="utf-8")
    assert read(path)["text"].to_pylist() == ["吃,喝,玩", "好", "好"]
    assert f"{path}: 1 rows have fewer fields than the header" in caplog.text
    assert f"{path}: 1 rows end in more delimiters" in caplog.text
    assert f"{path}: 1 rows have delimiters in their last field, the text" in caplog.text
    # A third of the rows is much: it is said whatever is quiet.
    assert f"{path}: 1 rows can't be used, 3 can; the first is {path}, line 2: none of text, images, videos" in caplog.text
    # In any other column a comma too many moves all that stands behind it.
    path.write_text("post_id,text,place\n1,吃,喝,京\n2,好,京\n", encoding="utf-8")
    assert read(path)["post_id"].to_pylist() == ["2"]
    # Where all rows have more, the header lacks names.
    path.write_text("post_id,text,place\n1,吃,京,,2025\n2,好,,沪,2026\n", encoding="utf-8")
    assert read(path).column_names[-2:] == ["column_4", "column_5"]
    assert read(path)["column_5"].to_pylist() == ["2025", "2026"]
    assert "the last 2 fields of its rows have no names" in caplog.text


def test_ids_that_a_spreadsheet_rounded_are_told_as_such(tmp_path: Path) -> None:
    ids = ["4750000000000000", "4.75E+15", "4750000000000000", '"=""4750000000000001"""', "4750000000000001", "7"]
    rows = rejected(write(tmp_path / "p.csv", "post_id,text\n" + "".join(f"{one},a\n" for one in ids)), tmp_path)
    assert [row["line"] for row in rows] == ["3", "4", "6"]
    assert ["rounded by a spreadsheet?" in row["reason"] for row in rows] == [True, True, False]
    assert read(tmp_path / "p.csv")["post_id"].to_pylist() == ["4750000000000000", "4750000000000001", "7"]
