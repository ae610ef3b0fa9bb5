"""Columns of the user's own, whatever they are called and hold: all of them pass through, none is taken for one of ours."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask

from weibotag.core.schema import TABLES, arrow_schema
from weibotag.posts.passing import find_column, pass_through, set_apart
from weibotag.posts.result_files import read_table

INSIDE = ("wordings", "wordings_error", "vectors", "looked", "pictured", "given:looked", "route", "score", "task_a", "_in")
EVERY_NAME = sorted({column.name for table in TABLES.values() for column in table} | set(INSIDE))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("ending", ["", "sale.png"])
def test_a_column_passes_whatever_its_name(pictures: Path, suffix: str, ending: str) -> None:
    ours = {"post_id", "text", "images", "videos", "tags", "keywords", "author", "channel", "created_at"}
    names = [name for name in EVERY_NAME if name not in ours]
    rows = {"post_id": ["1", "2"], "text": ["蛋糕", "汽车"], "images": [ending, ""]}
    pq.write_table(pa.table(rows | {name: [f"{name} 1", f"{name} 2"] for name in names}), "given.parquet")
    done = ask("tag", "given.parquet", "-t", "tree.csv", "-o", f"out.{suffix}", "-q", "--workers", "0")
    assert done.exit_code == 0, done.output
    out = pa.concat_tables(read_table(Path(f"out.{suffix}")))
    expected = [f"{name}_in" if name in (*arrow_schema("tags").names, "folder") else name for name in names]
    assert out.column_names == [*arrow_schema("tags").names, *expected]
    assert [out[shown].to_pylist() for shown in expected] == [[f"{name} 1", f"{name} 2"] for name in names]
    assert [[tag["id"] for tag in row] for row in out["tags"].to_pylist()] == [["food", "cake"], ["car"]]


def test_given_words_are_found_by_the_name_that_the_user_knows(folder: Path) -> None:
    (folder / "p.csv").write_text("post_id,text,looked\n1,嗯,蛋糕\n2,嗯,汽车\n")
    done = ask("tag", "p.csv", "-t", "tree.csv", "-o", "out.parquet", "-q", "--words", "object=looked")
    assert done.exit_code == 0, done.output
    out = pq.read_table("out.parquet")
    assert [[tag["id"] for tag in row] for row in out["tags"].to_pylist()] == [["food", "cake"], ["car"]]
    assert out["looked"].to_pylist() == ["蛋糕", "汽车"]
    done = ask("tag", "p.csv", "-t", "tree.csv", "-o", "out.parquet", "-q", "--words", "object=look")
    assert "did you mean 'looked'?" in done.stderr


def test_a_name_that_the_answer_has_gets_an_ending_and_takes_nobody_elses() -> None:
    posts = pa.table({"post_id": ["1"], "text": ["a"], "similarity": [1], "similarity_in": [2], "vectors": [3]})
    apart = set_apart(posts)
    assert not set(apart.column_names) & {"similarity", "vectors"}
    found = find_column(apart, "vectors")
    assert found is not None
    assert found.to_pylist() == [3]
    assert find_column(apart, "looked") is None
    answer = pass_through(pa.table({"post_id": ["1"], "similarity": [0.5]}), apart)
    assert answer.to_pylist() == [
        {"post_id": "1", "similarity": 0.5, "similarity_in_in": 1, "similarity_in": 2, "vectors": 3}
    ]
