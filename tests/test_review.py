"""Posts chosen for review, as tasks and tables, and what was decided back."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask
from hypothesis import given
from hypothesis import strategies as st
from reading import write

from weibotag.core.schema import arrow_schema
from weibotag.curation.tags.review import RANDOM, choose
from weibotag.taxonomy.tree import load

FOUND = {
    "sure": [("food", 0.99), ("cake", 0.98)],
    "doubtful": [("cake", 0.52)],
    "doubtful too": [("cake", 0.53)],
    "other": [("car", 0.6)],
    "none": [],
}


def write_tags(path: Path, found: dict[str, list[tuple[str, float]]]) -> None:
    rows = [
        {"post_id": post_id, "tags": [{"id": tag, "score": score} for tag, score in tags]} for post_id, tags in found.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema("tags")), path)


@pytest.fixture
def answered(folder: Path) -> Path:
    """Go to a folder with posts (p.csv) and tags of them (o.parquet)."""
    rows = "".join(
        f'{post_id},"<b>{post_id}</b> & 今天","{"a b.png;https://x.example/c.png" if post_id == "sure" else ""}"\n'
        for post_id in FOUND
    )
    write(folder / "p.csv", f"post_id,text,images\n{rows}late,无,\n")
    write_tags(folder / "o.parquet", FOUND)
    return folder


def test_the_least_sure_come_first_and_tags_take_turns() -> None:
    assert choose(FOUND, {}, 3, 0.0, 0) == [("doubtful", "cake 0.52"), ("other", "car 0.60"), ("none", "no tag")]
    assert [post_id for post_id, _ in choose(FOUND, {}, 9, 0.0, 0)][-1] == "sure"
    differ = {post_id: {tag for tag, _ in tags} for post_id, tags in FOUND.items()} | {"sure": {"car"}}
    assert choose(FOUND, differ, 1, 0.0, 0) == [("sure", "taggers differ")]


@given(
    st.dictionaries(
        st.text(max_size=3), st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), max_size=3), max_size=20
    ),
    st.integers(1, 25),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_each_post_is_asked_once_and_the_share_is_random(
    found: dict[str, list[tuple[str, float]]], count: int, share: float, seed: int
) -> None:
    chosen = choose(found, {}, count, share, seed)
    assert len(chosen) == min(count, len(found))
    assert len({post_id for post_id, _ in chosen}) == len(chosen)
    assert {post_id for post_id, _ in chosen} <= set(found)
    assert sum(why == RANDOM for _, why in chosen) == round(share * len(chosen))


def export(out: str, *words: str) -> dict[str, Any]:
    done = ask(
        "review",
        "export",
        "o.parquet",
        "p.csv",
        "-t",
        "tree.csv",
        "-o",
        out,
        "--count",
        "4",
        "--random",
        "0.25",
        "--json",
        *words,
    )
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def annotate(task: dict[str, Any], *answers: list[list[str]]) -> dict[str, Any]:
    def of(paths: list[list[str]]) -> dict[str, Any]:
        value = {"taxonomy": paths}
        return {"result": [{"from_name": "tags", "to_name": "text", "type": "taxonomy", "value": value}] if paths else []}

    skipped = {"result": [], "was_cancelled": True}
    return task | {"annotations": [*map(of, answers), skipped]}


def test_tasks_for_label_studio_and_back(answered: Path) -> None:
    told = export("tasks.json")
    assert (told["posts"], told["random"], told["answers"], told["config"]) == (4, 1, 5, "tasks.xml")
    tasks = json.loads((answered / "tasks.json").read_text(encoding="utf-8"))
    by_id = {task["data"]["post_id"]: task for task in tasks}
    tree = load(answered / "tree.csv")
    name = {tag.id: tag.name for tag in tree.tags}
    [result] = by_id["doubtful"]["predictions"][0]["result"]
    assert result["value"] == {"taxonomy": [[name["food"], name["cake"]]]}
    assert by_id["none"]["predictions"][0]["result"] == []
    config = ElementTree.fromstring((answered / "tasks.xml").read_text(encoding="utf-8"))
    assert [one.get("value") for one in config.iter("Choice")] == [name["food"], name["cake"], name["car"]]
    whole = [
        annotate(
            task, [[name["food"], name["cake"]], ["无此"]], [[name["food"], name["cake"]], [name["car"]]], [[name["car"]]]
        )
        if task["data"]["post_id"] == "doubtful"
        else annotate(task, [])
        if task["data"]["post_id"] == "other"
        else task | {"annotations": []}
        for task in tasks
    ]
    write(answered / "done.json", json.dumps(whole))
    done = ask("review", "import", "done.json", "-t", "tree.csv", "-o", "c.jsonl", "--json")
    assert done.exit_code == 1
    assert "tags that the taxonomy does not have, left out: 无此 (1)" in done.stderr
    told = json.loads(done.stdout)
    assert (told["posts"], told["unreviewed"], told["changed"]) == (2, 2, 2)
    assert told["agreement"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    lines = [json.loads(line) for line in (answered / "c.jsonl").read_text(encoding="utf-8").splitlines()]
    assert Counter(map(str, lines)) == Counter(
        map(
            str,
            (
                {"post_id": "doubtful", "tags": ["cake", "car"], "annotators": 3},
                {"post_id": "other", "tags": [], "annotators": 1},
            ),
        )
    )


def test_label_studio_itself_takes_the_tasks(answered: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    export("tasks.json")
    config = interface.LabelInterface((answered / "tasks.xml").read_text(encoding="utf-8"))
    config.validate()
    for task in json.loads((answered / "tasks.json").read_text(encoding="utf-8")):
        # What it makes of predictions within a task is an error of its own (2.1.2).
        assert config.validate_task({"data": task["data"]})
        for one in task["predictions"]:
            assert config.validate_prediction(one)


@pytest.mark.parametrize("ending", ["csv", "xlsx"])
def test_a_table_is_mended_in_a_spreadsheet(answered: Path, ending: str) -> None:
    export(f"tasks.{ending}")
    edits = {
        "doubtful": ("car；蛋糕", "yes"),
        "none": ("nonsense;car", "是"),
        "other": ("", "x"),
        "doubtful too": ("cake", "no"),
    }
    if ending == "xlsx":
        book = openpyxl.load_workbook("tasks.xlsx")
        head, *rows = book.worksheets[0].iter_rows()
        place = {cell.value: at for at, cell in enumerate(head)}
        for row in rows:
            if row[0].value in edits:
                row[place["tags"]].value, row[place["reviewed"]].value = edits[row[0].value]
        book.save("tasks.xlsx")
    else:
        with Path("tasks.csv").open(encoding="utf-8-sig", newline="") as file:
            cells = list(csv.DictReader(file))
        for cell in cells:
            cell["tags"], cell["reviewed"] = edits.get(cell["post_id"], (cell["tags"], ""))
        with Path("tasks.csv").open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(cells[0]))
            writer.writeheader()
            writer.writerows(cells)
    done = ask("review", "import", f"tasks.{ending}", "-t", "tree.csv", "-o", "c.parquet", "--json")
    assert "nonsense (1)" in done.stderr
    found = {row["post_id"]: row["tags"] for row in pq.read_table("c.parquet").to_pylist()}
    asked = {post_id for post_id in edits if post_id in found}
    assert asked <= {"doubtful", "none", "other"}
    assert all(found[post_id] == {"doubtful": ["cake", "car"], "none": ["car"], "other": []}[post_id] for post_id in asked)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("[]", 3, "no post is reviewed yet"),
        ('{"a": 1}', 2, "no tasks that Label Studio exported"),
        ("[1]", 2, "no tasks that Label Studio exported"),
        ('[{"data": {}, "annotations": []}]', 2, "no tasks that Label Studio exported"),
        ("[" * 9_000, 2, "no tasks that Label Studio exported"),
    ],
)
def test_what_is_no_review_is_one_line(answered: Path, text: str, code: int, said: str) -> None:
    write(answered / "r.json", text)
    done = ask("review", "import", "r.json", "-t", "tree.csv", "-o", "c.jsonl")
    assert (done.exit_code, said in done.output) == (code, True), done.output
    assert not (answered / "c.jsonl").exists()


def test_a_table_without_the_columns_and_an_unknown_ending_are_refused(answered: Path) -> None:
    write(answered / "t.csv", "post_id,text\n1,a\n")
    for words, said in (
        (("import", "t.csv", "-t", "tree.csv", "-o", "c.jsonl"), "has no column tags, reviewed"),
        (
            ("export", "o.parquet", "p.csv", "-t", "tree.csv", "-o", "tasks.txt"),
            "expected .json (Label Studio), .csv or .xlsx",
        ),
    ):
        done = ask("review", *words)
        assert (done.exit_code, said in done.output) == (2, True), done.output
