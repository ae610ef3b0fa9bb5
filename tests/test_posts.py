"""Files to posts tables: columns, cells, files, and the rows that are asked for."""

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import read, rejected, write

from weibotag.core import schema
from weibotag.core.arrays import list_parts
from weibotag.core.errors import RequestError
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource, resolve_files

SHARED = Path(os.environ.get("WEIBOTAG_SHARED", Path(__file__).parents[2] / "shared"))
POSTS = schema.arrow_schema("posts")


def test_columns_are_those_of_the_schema_then_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "split,text,post_id,route,folder\ntrain,hi,1,x,y\n")
    table = read(path)
    assert table.schema == pa.schema([*POSTS, ("split", pa.string()), ("route_in", pa.string()), ("folder_in", pa.string())])
    assert table.to_pylist() == [
        {
            "post_id": "1",
            "text": "hi",
            "images": [],
            "videos": [],
            "author": "",
            "channel": "",
            "created_at": "",
            "tags": None,
            "keywords": None,
            "folder": str(tmp_path),
            "split": "train",
            "route_in": "x",
            "folder_in": "y",
        }
    ]


def test_columns_with_other_names_are_mapped_and_the_one_they_hide_passes_through(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "mid,content,text\n1,hi,old\n")
    row = read(path, columns=(("post_id", "mid"), ("text", "content"))).to_pylist()[0]
    assert (row["post_id"], row["text"], row["text_in"]) == ("1", "hi", "old")


@pytest.mark.parametrize(
    ("header", "columns", "said"),
    [
        ("mid,text", (), "no column post_id; found mid, text; say which it is: --column post_id=mid"),
        ("user_id,id,text", (), "no column post_id; .*: --column post_id=id$"),
        (
            "type,note_id,my desc,desc",
            (),
            "no column post_id and none of text, .*: --column post_id=note_id --column text=desc$",
        ),
        ("user_id,type", (), "--column post_id=NAME --column text=NAME$"),
        ("post_id,Content", (), "none of text, images, videos.*--column text=Content"),
        ("post_id,zzzz", (), "--column text=NAME"),
        ("post_id,text", (("text", "body"),), "no column body; found post_id, text"),
        ("post_id,text", (("words", "text"),), "unknown column; expected one of post_id, text"),
        ("post_id,text,text", (), "column text is there twice"),
        ("post_id,te\0xt", (), "header can't be read"),
    ],
)
def test_a_wrong_header_says_what_there_is(
    tmp_path: Path, header: str, columns: tuple[tuple[str, str], ...], said: str
) -> None:
    path = write(tmp_path / "p.csv", f"{header}\n1,a,b\n")
    with pytest.raises(RequestError, match=said) as caught:
        read_posts(PostsSource(str(path), columns, adapter="none"), Rejects())
    assert "\n" not in str(caught.value)


def test_unnamed_columns_get_a_name_by_place(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", ",post_id,text,\n0,1,hi,z\n")
    assert read(path).select(["column_1", "column_4"]).to_pylist() == [{"column_1": "0", "column_4": "z"}]


def test_lists_are_json_or_joined_and_unlabelled_is_null(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    cells = ["a;b", "a； b ;;", '["a;b", "c", 3, null, ""]', "[头条] x;y", "", " ", "[]", ";", "[1", "[1],[2]"]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["post_id", "text", "images", "tags"], *([i, "t", c, c] for i, c in enumerate(cells))])
    table = read(path)
    assert table["tags"].to_pylist() == [
        ["a", "b"],
        ["a", "b"],
        ["a;b", "c", "3"],
        ["[头条] x", "y"],
        None,
        None,
        [],
        None,
        ["[1"],
        ["[1],[2]"],
    ]
    assert table["images"].to_pylist() == [cell or [] for cell in table["tags"].to_pylist()]
    assert table["keywords"].null_count == len(cells)


def test_pictures_are_parted_as_crawlers_join_them(tmp_path: Path) -> None:
    cells = {
        "['a.jpg', \"it's.png\"]": ["a.jpg", "it's.png"],
        "a.jpg, b.PNG": ["a.jpg", "b.PNG"],
        "a.jpg|b.jpg\nc.webp": ["a.jpg", "b.jpg", "c.webp"],
        "https://x.example/a,https://x.example/b": ["https://x.example/a", "https://x.example/b"],
        # A name may have a comma.
        "one, two.jpg": ["one, two.jpg"],
        "a,b.jpg;c.jpg": ["a,b.jpg", "c.jpg"],
        "['a.jpg', b": ["['a.jpg', b"],
        "无": [],
        "NULL": [],
        "NaN": [],
        r"\N": [],
        "[]": [],
    }
    rows = [["post_id", "text", "images", "tags"], *([at, "t", cell, cell] for at, cell in enumerate(cells))]
    with (tmp_path / "p.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    table = read(tmp_path / "p.csv")
    assert table["images"].to_pylist() == list(cells.values())
    # A tag may be called so.
    assert table["tags"].to_pylist()[1:5] == [[cell] for cell in list(cells)[1:5]]
    assert table["tags"].to_pylist()[7:9] == [["无"], ["NULL"]]


def test_parquet_lists_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    given_lists = [["a;b", None, " c "], None, [], ["d"]]
    table = pa.table(
        {
            "post_id": ["1", "2", "3", "4"],
            "text": pa.array(["x"] * 4).dictionary_encode(),
            "tags": pa.array(given_lists, pa.large_list(pa.large_string())),
            "images": pa.array(given_lists),
            "n": pa.array([1, None, 3, 4], pa.int16()),
        }
    )
    pq.write_table(table, path)
    found = read(path)
    assert found["tags"].to_pylist() == [["a;b", " c "], None, [], ["d"]]
    assert found["images"].to_pylist() == [["a;b", " c "], [], [], ["d"]]
    assert found.schema.field("n").type == pa.int16()
    assert found["n"].to_pylist() == [1, None, 3, 4]


def test_parquet_column_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"post_id": ["1"], "text": [{"a": 1}]}), path)
    with pytest.raises(RequestError, match="column text is struct"):
        read(path)


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet"])
def test_long_ids_stay_what_they_are(tmp_path: Path, name: str) -> None:
    path, ids = tmp_path / name, [4512345678901234567, 4512345678901234568]
    if name.endswith("parquet"):
        pq.write_table(pa.table({"post_id": pa.array(ids, pa.int64()), "text": ["a", "b"]}), path)
    elif name.endswith("jsonl"):
        write(path, "".join(f'{{"post_id": {post_id}, "text": "a"}}\n' for post_id in ids))
    else:
        sign = "," if name == "p.csv" else "\t"
        write(path, f"post_id{sign}text\n" + "".join(f" {post_id} {sign}a\n" for post_id in ids))
    assert read(path)["post_id"].to_pylist() == [str(post_id) for post_id in ids]


def test_float_ids_pass_only_while_they_are_exact(tmp_path: Path) -> None:
    path, numbers = tmp_path / "p.parquet", [12.0, 2.0**53 - 1, 2.0**53, 1.5, float("nan"), None, float("inf")]
    pq.write_table(pa.table({"post_id": numbers, "text": ["a"] * len(numbers)}), path)
    assert read(path)["post_id"].to_pylist() == ["12", "9007199254740991"]
    reasons = [(row["line"], row["reason"].split(" and ")[0].split(";")[0]) for row in rejected(path, tmp_path)]
    inexact, none = "post_id is no text", "no post_id"
    assert reasons == [("3", inexact), ("4", inexact), ("5", none), ("6", none), ("7", inexact)]
    lines = write(tmp_path / "p.jsonl", '{"post_id": 7.0, "text": "a"}\n{"post_id": 4.5e18, "text": "a"}\n')
    assert read(lines)["post_id"].to_pylist() == ["7"]
    assert "whole number" in rejected(lines, tmp_path)[0]["reason"]


def test_json_cells_are_text_or_json(tmp_path: Path) -> None:
    rows = [
        {"post_id": "1", "text": None, "images": ["a.jpg", "b;c.jpg"], "n": 3, "o": {"k": ["你"]}},
        {"post_id": "2", "text": 5, "tags": [], "late": True},
        {"post_id": "3", "text": "x", "tags": "a;b", "late": None},
    ]
    path = write(tmp_path / "p.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    table = read(path)
    assert table["images"].to_pylist() == [["a.jpg", "b;c.jpg"], [], []]
    assert table["text"].to_pylist() == ["", "5", "x"]
    assert table["tags"].to_pylist() == [None, [], ["a", "b"]]
    assert table.select(["n", "o", "late"]).to_pylist() == [
        {"n": "3", "o": '{"k": ["你"]}', "late": None},
        {"n": None, "o": None, "late": "true"},
        {"n": None, "o": None, "late": None},
    ]


def test_where_leaves_out_rows_and_counts_no_reject(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "post_id,text,split,tags\n1,a,train,x;y\n2,b,test,x\n3,c,train,\n,d,train,\n")
    rejects = Rejects()
    assert read(path, rejects, where="split = 'train' AND len(tags) = 2")["post_id"].to_pylist() == ["1"]
    assert rejects.count == 1


def test_limit_stops_and_reports_nothing_behind_it(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "post_id,text\n,a\n1,b\n,c\n2,d\n,e\n3,f\n")
    for rows in (1, 2, 100):
        rejects = Rejects()
        assert read(path, rejects, rows, limit=2)["post_id"].to_pylist() == ["1", "2"]
        assert rejects.count == 2


def test_limit_counts_rows_that_where_keeps(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "post_id,text\n" + "".join(f"{n},t\n" for n in range(100)))
    kept = read(path, batch_rows=3, where="post_id::INT % 10 = 0", limit=4)
    assert kept["post_id"].to_pylist() == ["0", "10", "20", "30"]


def test_files_of_a_folder_have_one_schema(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "post_id,text,n,only_a\n1,a,1,x\n")
    (tmp_path / "deep").mkdir()
    pq.write_table(
        pa.table({"post_id": [2], "text": ["b"], "n": [2], "m": [[1.5]], "k": [5], "z": pa.nulls(1)}),
        tmp_path / "deep" / "b.parquet",
    )
    pq.write_table(
        pa.table({"post_id": ["3"], "text": ["c"], "m": [{"q": "r"}], "k": [6], "z": [7]}),
        tmp_path / "deep" / "c.parquet",
    )
    write(tmp_path / "deep" / "d.txt", "no posts")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden" / "e.csv", "broken")
    table = read(tmp_path)
    rows = table.select(["post_id", "n", "only_a", "m", "k", "z"]).to_pylist()
    assert rows == [
        {"post_id": "1", "n": "1", "only_a": "x", "m": None, "k": None, "z": None},
        {"post_id": "2", "n": "2", "only_a": None, "m": "[1.5]", "k": 5, "z": None},
        {"post_id": "3", "n": None, "only_a": None, "m": '{"q": "r"}', "k": 6, "z": 7},
    ]
    assert table["folder"].to_pylist() == [str(tmp_path), *[str(tmp_path / "deep")] * 2]
    assert [len(batch) for batch in read_posts(PostsSource(str(tmp_path)), Rejects(), 2)] == [2, 1]


def test_resolve_files(tmp_path: Path) -> None:
    names = ["b.csv", "a.tsv", "c.jsonl.gz", "d.ndjson", "e.parquet", "f.txt", "g.parquet.gz", "H.CSV", "[x].csv"]
    for name in names:
        write(tmp_path / name, "x")
    known = sorted(tmp_path / name for name in names if name not in ("f.txt", "g.parquet.gz"))
    assert resolve_files(str(tmp_path)) == known
    assert resolve_files(str(tmp_path / "*.csv")) == [tmp_path / "[x].csv", tmp_path / "b.csv"]
    assert resolve_files(str(tmp_path / "[x].csv")) == [tmp_path / "[x].csv"]
    assert resolve_files("-") == [Path("-")]
    (tmp_path / "empty").mkdir()
    for path, said in (("f.txt", "unknown kind"), ("none*.csv", "no such file"), ("empty", "no posts in this folder")):
        with pytest.raises(RequestError, match=said):
            resolve_files(str(tmp_path / path))


@pytest.mark.skipif(not (SHARED / "data/feed/posts.csv").is_file(), reason="no shared data (WEIBOTAG_SHARED)")
def test_real_feed_is_read_whole() -> None:
    rejects = Rejects()
    table = read(SHARED / "data/feed/posts.csv", rejects)
    assert (table.num_rows, rejects.count) == (9_310, 0)
    assert table["tags"].null_count == 0
    pictures = [image for images in table["images"].to_pylist() for image in images]
    assert pictures
    assert all((SHARED / "data/feed" / image).is_file() for image in pictures[:50])


def test_list_parts_start_from_nothing() -> None:
    lists = pa.array([["a"], ["b", "c"], [], ["d"]], pa.list_(pa.string()))
    offsets, values = list_parts(lists.slice(1, 2))
    assert (offsets.tolist(), values.to_pylist()) == ([0, 2, 2], ["b", "c"])
    offsets, values = list_parts(lists.slice(4))
    assert (offsets.tolist(), values.to_pylist()) == ([0], [])
