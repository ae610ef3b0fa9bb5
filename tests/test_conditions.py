import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from weibotag.core.errors import RequestError
from weibotag.core.terminal import LONGEST
from weibotag.posts import condition
from weibotag.posts.condition import check_condition, matches
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource


def test_matches_takes_null_for_false() -> None:
    table = pa.table({"n": [1, None, 3], "#": [1, 2, 3]})
    assert matches(table, "n > 1 -- more than one").tolist() == [False, False, True]
    assert matches(table.slice(0, 0), "n > 1").tolist() == []


@pytest.mark.parametrize("expression", ["spli = 'x'", "n =", "count(*) > 1", "n); DROP TABLE posts; --", "words", ""])
def test_a_wrong_expression_is_one_line_that_names_the_columns(expression: str) -> None:
    table = pa.table({"n": [1, 2], "words": ["a", "b"]})
    with pytest.raises(RequestError, match=r"columns: n, words|one condition") as caught:
        matches(table, expression)
    assert "\n" not in str(caught.value)


def test_an_expression_on_a_column_that_duckdb_cannot_read_is_one_line() -> None:
    table = pa.table({"n": [1], "wide": pa.array([1], pa.decimal256(50, 2))})
    with pytest.raises(RequestError, match=r"Unsupported.*columns: n, wide"):
        matches(table, "n = 1")


def test_names_that_differ_in_case_alone_are_not_guessed() -> None:
    table = pa.table({"Split": ["a"], "split": ["b"], "n": [1]})
    assert matches(table, "n = 1").tolist() == [True]
    with pytest.raises(RequestError, match="columns Split, split differ in case alone"):
        matches(table, "split = 'b'")


def test_an_expression_reads_no_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(RequestError):
        matches(pa.table({"n": [1]}), f"n IN (SELECT a FROM read_csv('{secret}'))")


def test_a_condition_sees_one_row_whatever_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("post_id,text,n\n" + "".join(f"{n},t,{n}\n" for n in range(50)), encoding="utf-8")
    for where in (
        "n = (SELECT max(n) FROM posts)",
        "n = max(n)",
        "row_number() OVER () = 1",
        "n >= ALL (SELECT n FROM posts)",
    ):
        with Rejects(tmp_path / "rejects.csv") as rejects, pytest.raises(RequestError, match="one condition on"):
            list(read_posts(PostsSource(str(path), where=where), rejects, batch_rows=7))


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("true) UNION SELECT (1", "one condition"),
        ("true) LIMIT (1", "one condition"),
        ("true) GROUP BY (n", "one condition"),
        ("n); DROP TABLE posts; --", "syntax error"),
        ("EXISTS (WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM r) FROM r)", "a subquery looks at other rows"),
        ("lag(n) OVER () = 1", "a window function looks at other rows"),
        ("count(*) > 1", "no function count"),
        ("unnest([n]) = 1", "no function unnest"),
        ("repeat('x', 2000000000) = ''", "no function repeat"),
        ("len(range(1000000000)) = n", "no function range"),
        ("lpad('x', 1000000000, 'x') = ''", "no function lpad"),
        ("format('{:>2000000000}', n) = ''", "no function format"),
        ("replace(replace(words, 'a', 'aaaaaaaa'), 'a', 'aaaaaaaa') = ''", "one character at most"),
        ("replace(words, 'a', words) = ''", "one character at most"),
        ("len(list_transform([n], lambda x: x)) = 1", "no function list_transform"),
        ("[n]::INT[100000] IS NULL", "no cast to array"),
        ("words ~ '((a?){100}b?){100}'", "a regular expression is one text"),
        ("words ~ concat(words, words)", "a regular expression is one text"),
        ("random() < 0.5", "no function random"),
        ("COLUMNS(*) = 1", "star is not understood"),
        ("#1 = 1", "positional reference is not understood"),
        ("n = ?", "parameter is not understood"),
        ("getenv('HOME') = ''", "no function getenv"),
        ("n = 1" + " + 1" * 5_000, "depth"),
        ("(" * 50_000, "over 1,000 brackets"),
        ("n = " + "1" * 200_000, "characters"),
        ("\ud800 = 1", "surrogate"),
        ("words = 1", "Could not convert"),
        ("n = \0", ""),
    ],
    ids=lambda given: given[:40].encode("ascii", "replace").decode(),
)
def test_what_is_no_condition_on_one_row_is_refused_in_a_bounded_line(expression: str, said: str) -> None:
    table = pa.table({"n": [1, 2], "words": ["a" * 100_000, "b"]})
    with pytest.raises(RequestError) as caught:
        matches(table, expression)
    assert said in str(caught.value)
    assert len(str(caught.value)) < LONGEST


@pytest.mark.parametrize(
    "expression",
    [
        "split = 'train' AND n::INT % 2 = 0 OR lower(words) LIKE '%a%' AND words NOT IN ('x', 'y')",
        "CASE WHEN n BETWEEN 1 AND 2 THEN true ELSE false END",
        "list_contains(tags, 'a') AND tags[1] = 'a' AND 'a' IN tags AND len(tags) > 1 AND tags[1:2] = ['a', 'b']",
        "created_at >= DATE '2026-01-01' AND year(created_at) < 2030 AND created_at < current_date + INTERVAL 1 YEAR",
        "words ~ 'a.*' AND regexp_matches(words, 'c') IS NOT TRUE AND hash(words) % 10 < 11",
        "replace(words, ' ', '') <> '' AND words !~ '\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}'",
        "try_cast(words AS DECIMAL(10, 2)) IS NULL AND coalesce(nullif(words, ''), 'x') COLLATE NOCASE = 'AB'",
        "json_extract_string('{\"k\": 1}', '$.k') = '1' AND posts.n IS DISTINCT FROM 3 -- and a remark",
        "n IN (" + ", ".join(map(str, range(10_000))) + ")",
    ],
    ids=lambda given: given[:40],
)
def test_conditions_that_people_write(expression: str) -> None:
    row = {"n": 1, "split": "train", "words": "ab", "tags": ["a", "b"], "created_at": np.datetime64("2026-02-03", "s")}
    table = pa.Table.from_pylist([row | {"created_at": row["created_at"].astype(object)}])
    assert matches(table, expression).tolist() == [True]


def test_a_condition_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "SECONDS", 0.2)
    table = pa.table({"words": ["ab" * 50] * 100_000})
    with pytest.raises(RequestError, match=r"takes over 0.2 s for 100,000 rows"):
        matches(table, " OR ".join(f"sha256(concat(words, '{number}')) = ''" for number in range(500)))


def nested(start: str, around: str, times: int) -> str:
    for _ in range(times):
        start = around.format(start)
    return f"{start} = ''"


@pytest.mark.parametrize(
    "expression",
    [
        f"concat({','.join(['words'] * 14_000)}) = ''",
        nested("words", "[{}]::VARCHAR", 40),
        nested("words", "[{}]::JSON::VARCHAR", 40),
        "list_sort(split(concat(" + ",".join(["words"] * 1_000) + "), ''))[1] = ''",
    ],
    ids=lambda given: given[:20],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the system refuses memory on Linux alone")
def test_a_condition_takes_no_more_memory_than_it_may(expression: str) -> None:
    # What the process has is known at its end alone, so it is a process of its own.
    code = """
import resource, sys
import duckdb, pyarrow as pa
from weibotag.core.errors import RequestError
from weibotag.posts.condition import MEMORY, matches
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
table = pa.table({"words": ["a'" * 50_000, "b" * 900] * 2})
matches(table, "words = 'a'")
before, limits = peak(), resource.getrlimit(resource.RLIMIT_DATA)
try:
    matches(table, sys.stdin.read())
except RequestError as error:
    print("Out of Memory" in str(error) or str(error), len(str(error)) < 2_000)
print(peak() - before <= MEMORY, resource.getrlimit(resource.RLIMIT_DATA) == limits)
"""
    done = subprocess.run([sys.executable, "-c", code], input=expression, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\nTrue True\n", "")


def test_rows_are_taken_some_bytes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "AT_ONCE", 1_000)
    table = pa.table({"n": range(500), "words": ["a" * (number % 7 * 100) for number in range(500)]})
    pieces = list(condition._cut(table))
    assert len(pieces) > 100 and pa.concat_tables(pieces) == table
    assert np.flatnonzero(matches(table, "n % 100 = 7 AND len(words) < 100")).tolist() == [7]


def test_a_condition_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    with Rejects(tmp_path / "rejects.csv") as rejects, pytest.raises(RequestError, match="subquery"):
        read_posts(PostsSource(str(tmp_path / "none.csv"), where="n = (SELECT 1)"), rejects)


def test_check_condition_knows_nothing_of_columns() -> None:
    check_condition("whatever = 1")
