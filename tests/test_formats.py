"""Posts in JSON, workbooks, databases, and as pictures alone; the same posts in several of these."""

import io
import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from commands import ask, draw
from hypothesis import given
from hypothesis import strategies as st
from reading import read, rejected, write

from weibotag.core.errors import RequestError
from weibotag.posts import spooled, workbook
from weibotag.posts.encodings import open_file, open_lines
from weibotag.posts.result_files import read_listing, read_table
from weibotag.posts.spooled import spool_json
from weibotag.posts.writer import write_tables

LONG_ID = 5271268008318503
ROWS = [{"post_id": LONG_ID, "text": "今天\n的蛋糕", "n": 1.5}, {"post_id": "a", "text": "雨", "n": None}]
READ = [{"post_id": str(LONG_ID), "text": "今天\n的蛋糕", "n": "1.5"}, {"post_id": "a", "text": "雨", "n": None}]


def write_book(path: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def write_database(path: Path, tables: dict[str, list[dict[str, Any]]]) -> Path:
    with sqlite3.connect(path) as database:
        for name, rows in tables.items():
            columns = list(rows[0])
            database.execute(f'CREATE TABLE "{name}" ({", ".join(map(json.dumps, columns))})')
            marks = ", ".join("?" * len(columns))
            database.executemany(f'INSERT INTO "{name}" VALUES ({marks})', [tuple(row.values()) for row in rows])
    database.close()
    return path


def as_sheet(rows: list[dict[str, Any]]) -> list[list[Any]]:
    return [list(rows[0]), *[[str(cell) if name == "post_id" else cell for name, cell in row.items()] for row in rows]]


WRITERS: dict[str, Callable[[Path], object]] = {
    "list.json": lambda path: write(path, json.dumps(ROWS, ensure_ascii=False)),
    "spread.json": lambda path: write(path, json.dumps(ROWS, indent=2)),
    "held.json": lambda path: write(path, json.dumps({"user": {"id": 1}, "data": {"tags": ["x"], "cards": ROWS}})),
    "lines.json": lambda path: write(path, "\n".join(map(json.dumps, ROWS))),
    "one_after_the_other.json": lambda path: write(path, "\n".join(json.dumps(row, indent=1) for row in ROWS)),
    "list.jsonl": lambda path: write(path, json.dumps(ROWS)),
    "gb.json": lambda path: path.write_bytes(json.dumps(ROWS, ensure_ascii=False).encode("gb18030")),
    "book.xlsx": lambda path: write_book(path, {"Sheet": as_sheet(ROWS)}),
    "table.db": lambda path: write_database(path, {"notes": ROWS}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_format_gives_the_same_posts(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    table = read(tmp_path / name)
    assert table.select(["post_id", "text", "n"]).to_pylist() == READ
    assert set(table["folder"].to_pylist()) == {str(tmp_path)}


def test_values_in_values_are_columns_by_dotted_names(tmp_path: Path) -> None:
    posts = [
        {"id": 1, "mblog": {"text": "一", "user": {"name": "甲"}, "pics": [{"url": "a.jpg"}, {"url": "b.jpg"}, {}]}},
        {"id": 2, "mblog": {"text": "二", "user": None, "pics": []}},
    ]
    path = write(tmp_path / "p.json", json.dumps(posts))
    columns = {"post_id": "id", "text": "mblog.text", "author": "mblog.user.name", "images": "mblog.pics.url"}
    table = read(path, columns=tuple(columns.items()))
    assert table.select(["text", "author", "images"]).to_pylist() == [
        {"text": "一", "author": "甲", "images": ["a.jpg", "b.jpg"]},
        {"text": "二", "author": "", "images": []},
    ]
    with pytest.raises(RequestError, match=r"has no column mblog\.words"):
        read(path, columns=(("post_id", "id"), ("text", "mblog.words")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{}, {]", "no JSON that can be read"),
        ('[{"post_id": 1, "text": "x"}', "expected , or ], found the end"),
        ('{"a": [{"post_id": 1}], "b": ', "no JSON that can be read"),
        ("12", "no object in this JSON"),
        ("[" * 5_000 + "]" * 5_000, "nested more than 100 levels"),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "nested more than 100 levels"),
        ("[]", "no columns|no column"),
        ('{"text": "x"}', "no column post_id"),
    ],
)
def test_json_that_is_none_or_has_no_posts_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "p.json", text)
    with pytest.raises(RequestError, match=said) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_element_that_is_no_post_costs_itself_alone(tmp_path: Path) -> None:
    text = '[{"post_id": 1, "text": "x"}, 7, {"post_id": 2, "post_id": 3, "text": "y"}, {"post_id": 4, "text": "\\ud800"}]'
    rows = rejected(write(tmp_path / "p.json", text), tmp_path)
    assert [row["line"] for row in rows] == ["2", "3", "4"]
    assert read(tmp_path / "p.json").num_rows == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=4), max_size=6), st.sampled_from((None, 1)), st.data())
def test_a_list_comes_back_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], indent: int | None, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("json") / "p.json"
    write(path, json.dumps(rows, indent=indent, ensure_ascii=data.draw(st.booleans())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spooled, "CHUNK", data.draw(st.integers(1, 40)))
        with open_lines(spool_json(open_file(path, "json"))) as lines:
            assert [json.loads(line) for line in lines] == rows


def test_a_workbook_keeps_what_it_says_and_tells_what_it_lost(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        [],
        ["post_id", "text", "when", None, "n"],
        [LONG_ID, "圆"],
        [],
        [3.0, "_x0041_", None, "more", 2],
    ]
    path = write_book(tmp_path / "p.xlsx", {"Sheet": rows})
    assert [(row["line"], row["post_id"]) for row in rejected(path, tmp_path)] == [("3", "5.27126800831850E+15")]
    table = read(path)
    assert table.select(["post_id", "text", "column_4", "n"]).to_pylist() == [
        {"post_id": "3", "text": "A", "column_4": "more", "n": "2"}
    ]


def test_tables_with_posts_are_found_or_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = [
        {"note_id": "1", "content": "一", "create_date_time": "x"},
        {"note_id": "2", "content": b"\xff", "create_date_time": ""},
    ]
    comments = [{"comment_id": "9", "note_id": "1", "content": "好", "create_date_time": "x"}]
    path = write_database(tmp_path / "p.db", {"weibo_note": notes, "weibo_note_comment": comments, "odd name": [{"a": 1}]})
    assert read(path)["post_id"].to_pylist() == ["1", "2"]
    assert "posts are in weibo_note, one of odd name, weibo_note, weibo_note_comment" in caplog.text
    columns = (("post_id", "comment_id"), ("text", "content"))
    assert read(f"{path}::weibo_note_comment", columns=columns)["text"].to_pylist() == ["好"]
    for asked, said in (("::none", "no table none; found odd name"), ("::odd name", "no column post_id")):
        with pytest.raises(RequestError, match=said):
            read(f"{path}{asked}")
    book = write_book(
        tmp_path / "b.xlsx", {"Info": [["made", "by"], [1, 2]], "Posts": [["note_id", "content"], ["7", "七"]]}
    )
    assert read(book)["post_id"].to_pylist() == ["7"]


def test_what_is_no_workbook_or_database_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_book(tmp_path / "whole.xlsx", {"Sheet": as_sheet(ROWS)}).read_bytes()
    (tmp_path / "cut.xlsx").write_bytes(whole[: len(whole) // 2])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.txt", "x")
    (tmp_path / "other.xlsx").write_bytes(packed.getvalue())
    write(tmp_path / "no.db", "this is no database")
    for name, said in (
        ("cut.xlsx", "no .xlsx workbook"),
        ("other.xlsx", "no .xlsx workbook"),
        ("no.db", "no SQLite database"),
    ):
        with pytest.raises(RequestError, match=said) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(workbook, "MOST_UNPACKED", 1_000)
    with pytest.raises(RequestError, match="1,000 at most can be read"):
        read(tmp_path / "whole.xlsx")


def test_the_same_posts_in_several_formats_are_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.csv", "id,content\n1,一\n2,二\n2,zwei\n")
    write(
        tmp_path / "b.json", json.dumps([{"id": 2, "content": "二"}, {"id": 3, "content": "三"}, {"id": 3, "content": "3"}])
    )
    write(tmp_path / "package.json", '{"name": "x", "files": []}')
    write(tmp_path / "Thumbs.db", "no database")
    write(tmp_path / "~$book.xlsx", "held by a program")
    rows = rejected(tmp_path, tmp_path)
    assert [(Path(row["file"]).name, row["line"]) for row in rows] == [("a.csv", "4"), ("b.json", "3")]
    assert "also in files of another kind are left out: " in caplog.text
    assert "b.json (1)" in caplog.text
    assert "Thumbs.db: no SQLite database; check the file: left out" in caplog.text
    assert "package.json has no column post_id" in caplog.text
    assert read(tmp_path)["text"].to_pylist() == ["一", "二", "三"]


def test_pictures_alone_are_posts(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.png", "in/a.PNG", "in/deep/c.png"):
        draw(tmp_path / name, "CAKE")
    (tmp_path / "in" / "d.mp4").write_bytes(b"")
    table = read(tmp_path)
    assert table["post_id"].to_pylist() == ["b.png", "in/a.PNG", "in/d.mp4", "in/deep/c.png"]
    assert table["images"].to_pylist() == [["b.png"], ["in/a.PNG"], [], ["in/deep/c.png"]]
    assert table["videos"].to_pylist()[2] == ["in/d.mp4"]
    assert set(table["folder"].to_pylist()) == {str(tmp_path)}
    assert read(tmp_path / "in" / "*.PNG").select(["post_id", "folder"]).to_pylist() == [
        {"post_id": "a.PNG", "folder": str(tmp_path / "in")}
    ]
    assert read(tmp_path / "b.png")["images"].to_pylist() == [["b.png"]]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ("=1+1", "@x", "_x0041_", "_x_x0041_", "\0\x07\n", "4750000000000001", "true", "1e5", " a ", "\uffff")
)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), st.integers(3, 9))
def test_what_is_written_to_a_workbook_is_text_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], most: int
) -> None:
    path = tmp_path_factory.mktemp("book") / "o.xlsx"
    table = pa.table({"n": [f"n{at}" for at in range(len(rows))], "a": [a for a, _ in rows], "b": [b for _, b in rows]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbook, "MOST_ROWS", most)
        assert write_tables([table.slice(0, 1), table.slice(1)], path, table.schema) == len(rows)
    book = openpyxl.load_workbook(path)
    assert {cell.data_type for sheet in book for row in sheet.iter_rows() for cell in row if cell.value is not None} == {"s"}
    assert len(book.worksheets) == -(-len(rows) // (most - 1))
    found = [cells for sheet in workbook.list_sheets(path) for _, cells in workbook.read_rows(path, sheet)]
    expected = [[f"n{at}", *(text or None for text in row)] for at, row in enumerate(rows)]
    assert [[*cells, None, None][:3] for cells in found] == expected


def test_tags_in_a_workbook_are_read_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "口红" * 20_000
    write(folder / "p.csv", f"post_id,text,extra\n4750000000000001,口红,=1\n2,火锅,{text}\n")
    done = ask("tag", "p.csv", "-t", "tree.csv", "-o", "o.xlsx", "--words-only")
    assert done.exit_code == 0, done.output
    assert "o.xlsx: 1 cells had more characters than a workbook keeps" in caplog.text
    ask("tag", "p.csv", "-t", "tree.csv", "-o", "o.csv", "--words-only")
    tables = [pa.concat_tables(read_table(folder / name)) for name in ("o.xlsx", "o.csv")]
    assert tables[0].select(["post_id", "tags", "keywords"]) == tables[1].select(["post_id", "tags", "keywords"])
    assert tables[0]["extra"].to_pylist() == ["=1", f"{text[:32_766]}…"]
    assert read_listing(folder / "o.xlsx", "tags", ["post_id"])["post_id"].to_pylist() == ["4750000000000001", "2"]


def test_a_database_a_split_and_a_taxonomy_by_name_from_the_shell(folder: Path) -> None:
    rows = [{"id": "7", "content": "火锅真好吃", "labels": "美食|旅游"}, {"id": "8", "content": "口红", "labels": ""}]
    write_database(folder / "p.db", {"notes": rows, "other": [{"a": 1}]})
    (folder / "weibo").mkdir()
    columns = ("--column", "tags=labels", "--column", "post_id=id", "--column", "text=content", "--split", "tags=|")
    done = ask("tag", "p.db::notes", "-t", "weibo", "-o", "o.jsonl", "--words-only", *columns)
    assert done.exit_code == 0, done.output
    (first, _) = [json.loads(line) for line in (folder / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (first["post_id"], first["tags"][0]["id"].split("/")[0]) == ("7", "美食")
    assert read(
        "p.db::notes", columns=(("text", "content"), ("post_id", "id"), ("tags", "labels")), splits=(("tags", "|"),)
    )["tags"].to_pylist() == [["美食", "旅游"], None]
    for asked, said in ((("--split", "text=|"), "expected one of images"), (("-o", "p.db"), "--out p.db: is also read")):
        done = ask("tag", "p.db::notes", "-t", "weibo", "-o", "o.jsonl", "--words-only", *columns, *asked)
        assert (done.exit_code, said in done.output.replace("\n", " ")) == (2, True), done.output
