"""What `tag` wrote is read as posts again, with what was kept, and corrections win over it."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from commands import ask
from hypothesis import given
from hypothesis import strategies as st
from reading import read, rejected, write

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.posts.rejects import Rejects
from weibotag.posts.writer import write_tables

POSTS = [
    {"post_id": "1", "text": "今天\n的蛋糕", "author": "甲", "tags": ["car"], "more": "x"},
    {"post_id": "2", "text": "汽车", "author": "", "tags": None, "more": "y"},
]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "xlsx"])
def test_what_is_kept_stands_behind_the_tags_and_is_read_as_posts(folder: Path, ending: str) -> None:
    write(folder / "p.jsonl", "".join(json.dumps(post) + "\n" for post in POSTS))
    words = (
        "tag",
        "p.jsonl",
        "-t",
        "tree.csv",
        "-o",
        f"o.{ending}",
        "--words-only",
        "-q",
        "--keep",
        "text,author",
        "--keep",
        "tags",
    )
    done = ask(*words)
    assert done.exit_code == 0, done.output
    table = read(folder / f"o.{ending}")
    assert table.column_names[-1] == "tags_in"
    assert table["text"].to_pylist() == [post["text"] for post in POSTS]
    assert table["author"].to_pylist() == ["甲", ""]
    assert table["more"].to_pylist() == ["x", "y"]
    assert set(table["tags"].to_pylist()[0]) == {"food", "cake"}
    assert table["tags"].to_pylist()[1] == ["car"]
    assert "蛋糕" in table["keywords"].to_pylist()[0]
    # The same command with other columns is another run.
    assert ask(*words[:-4], "--keep", "all").exit_code == 0
    assert {"text", "images", "created_at", "keywords_in"} <= set(read(folder / f"o.{ending}").column_names)


def test_an_unknown_column_is_refused(folder: Path) -> None:
    done = ask("tag", "posts.csv", "-t", "tree.csv", "-o", "o.csv", "--keep", "text,words")
    assert (done.exit_code, "--keep words: expected all, or some of text, images" in done.output) == (2, True)


TAG = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\r\n"), min_size=1, max_size=6).filter(
    lambda text: text == text.strip()
)


@given(st.lists(st.lists(st.tuples(TAG, st.floats(0, 1)), max_size=3), min_size=1, max_size=4))
def test_names_come_back_whatever_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[tuple[str, float]]]
) -> None:
    folder = tmp_path_factory.mktemp("own")
    schema = arrow_schema("tags")
    posts = [
        {
            "post_id": str(at),
            "tags": [{"id": tag, "score": score} for tag, score in row],
            "keywords": [{"keyword": tag, "score": score, "source": "text"} for tag, score in row],
        }
        for at, row in enumerate(rows)
    ]
    table = pa.Table.from_pylist(posts, schema=schema).append_column("text", pa.array(["a"] * len(rows)))
    for ending in ("csv", "jsonl", "parquet"):
        write_tables([table], folder / f"o.{ending}", table.schema)
        found = read(folder / f"o.{ending}")
        for name in ("tags", "keywords"):
            assert [cells or [] for cells in found[name].to_pylist()] == [[tag for tag, _ in row] for row in rows]


def test_tags_that_look_a_little_like_ours_stay(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", "post_id,text,tags\n1,a,food:0.5000;car\n2,b,cake:0.2500\n")
    assert read(tmp_path / "p.csv")["tags"].to_pylist() == [["food:0.5000", "car"], ["cake:0.2500"]]
    write(tmp_path / "q.jsonl", '{"post_id": 1, "text": "a", "tags": [{"name": "b"}]}\n')
    assert read(tmp_path / "q.jsonl")["tags"].to_pylist() == [['{"name": "b"}']]


LINES = """{"post_id": "1", "tags": ["cake"], "annotators": 2}
{"post_id": "2", "tags": []}
{"post_id": "9", "tags": ["car"]}
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.jsonl", LINES),
        ("c.csv", "post_id,tags\n1,cake:0.9000\n2,\n9,car\n"),
    ],
)
def test_corrections_win_and_what_they_changed_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str
) -> None:
    posts = write(tmp_path / "p.csv", "post_id,text,tags,keywords\n1,a,car,k\n2,b,car,\n3,c,car,\n")
    corrections = str(write(tmp_path / name, text))
    table = read(posts, corrections=corrections)
    assert table["tags"].to_pylist() == [["cake"], [], ["car"]]
    assert table["keywords"].to_pylist() == [["k"], None, None]
    assert f"{name}: 2 posts have corrected tags; 1 corrections are of no post" in caplog.text
    assert read(posts, corrections=corrections, where="tags = ['cake']")["post_id"].to_pylist() == ["1"]
    with pytest.raises(RequestError, match="no such file"):
        read(posts, corrections=str(tmp_path / "none.csv"))


def test_rows_of_one_post_are_its_labels_where_they_are_united(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "post_id,text,tags,keywords\n1,a,car,k\n2,b,,\n1,a,cake;car,l\n3,c,car,\n1,a,food,\n,x,y,\n2,b,cake,\n3,c,,\n"
    path = write(tmp_path / "p.csv", text)
    rejects = Rejects()
    table = read(path, rejects, unite=True, batch_rows=2)
    assert table.select(["post_id", "tags", "keywords"]).to_pylist() == [
        {"post_id": "1", "tags": ["car", "cake", "food"], "keywords": ["k", "l"]},
        {"post_id": "2", "tags": ["cake"], "keywords": None},
        {"post_id": "3", "tags": ["car"], "keywords": None},
    ]
    # A row that has no label brings nothing: it is the same post again.
    assert rejects.count == 2
    assert "3 rows repeat a post: their labels are united" in caplog.text
    assert rejected(path, tmp_path)[0]["reason"] == "duplicate post_id, first one kept"


def test_wrong_and_missed_tags_are_listed_and_absent_posts_are_told(folder: Path) -> None:
    write(folder / "g.csv", "post_id,text,tags\n1,今天的蛋糕,car\n2,汽车,car\n3,雨,\n4,蛋糕,cake\n")
    ask("tag", "g.csv", "-t", "tree.csv", "-o", "o.parquet", "--words-only", "--limit", "3")
    done = ask("evaluate", "o.parquet", "g.csv", "-t", "tree.csv", "--errors", "e.csv")
    assert done.exit_code == 0, done.output
    assert "1 of 3 posts with labels are not in o.parquet: they count as without a tag" in done.stderr
    assert "3 wrong and missed tags: e.csv" in done.stderr
    with (folder / "e.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [(row["post_id"], row["fault"], row["tag"], row["because"], row["text"]) for row in csv.DictReader(file)]
    text = "今天的蛋糕"
    assert rows == [("1", "wrong", "cake", "蛋糕", text), ("1", "wrong", "food", "", text), ("1", "missed", "car", "", text)]
