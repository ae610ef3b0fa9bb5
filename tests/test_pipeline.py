import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import read, write_rows

from weibotag.core.errors import NothingAcceptedError, PartialError, TooManyRejectsError
from weibotag.core.schema import arrow_schema
from weibotag.extraction import ingest, schedule
from weibotag.extraction.requests import TagRequest
from weibotag.extraction.settings import Pipeline, WorkerSettings
from weibotag.posts.result_files import read_table
from weibotag.posts.source import PostsSource
from weibotag.runtime.pool import run_parts
from weibotag.runtime.run_folder import status
from weibotag.scoring.report import evaluate
from weibotag.taxonomy.tree import load
from weibotag.workflows import tag as workflow

ROOT = Path(__file__).parents[1]
POSTS = ROOT / "examples" / "posts.csv"
TAXONOMY = ROOT / "taxonomies" / "weibo.csv"
TEXTS = ["梅西进球了", "皇马夺冠", "", "口红试色", "红烧肉怎么做", "足球直播", "面膜好用", "去清迈旅游", "猫", "手机发布会"]
# Looks at files like the real one, but a file of that name takes the worker down.
DEADLY = """
import os, signal, time
from weibotag.extraction import jobs

def look_at_files(job):
    if any("deadly" in file["path"] for file in job["tasks"]):
        if os.environ["DEADLY"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        eaten = [b"x" * 2**20 for _ in range(2000 if os.environ["DEADLY"] == "eat" else 0)]
        time.sleep(600)
    return jobs.look_at_files(job)
"""


def tag(posts: PostsSource | Path, out: Path, store: Path, model: Path | None = None, **options: Any) -> dict[str, Any]:
    source = posts if isinstance(posts, PostsSource) else PostsSource(str(posts))
    options |= {"columns": dict(source.columns), "where": source.where, "limit": source.limit, "store": store}
    options |= {"model": model, "taxonomy": None if model else TAXONOMY, "quiet": True}
    options["pipeline"] = Pipeline(**options.pop("settings", {}))
    return workflow.tag(TagRequest(posts=source.path, out=str(out), **options))


def few_posts(path: Path, count: int = 10, **more: Any) -> Path:
    return write_rows(path, [{"post_id": f"p{n}", "text": f"{TEXTS[n % 10]} {n}", **more} for n in range(count)])


def rejects(out: Path) -> list[dict[str, str]]:
    with out.with_name(f"{out.name}.run").joinpath("rejects.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def measure(out: Path) -> dict[str, Any]:
    return evaluate(read_table(out), iter([read(POSTS, where="split = 'test'")]), load(TAXONOMY))


def test_a_trained_model_and_the_rules_find_the_tags_of_the_examples(model: Path, store: Path, tmp_path: Path) -> None:
    source = PostsSource(str(POSTS), where="split = 'test'")
    trained, ruled = tmp_path / "trained.parquet", tmp_path / "ruled.csv"
    summary = tag(source, trained, store, model)
    assert (summary["posts"], summary["rejects"], summary["with_errors"], summary["route"]) == (84, 0, 0, "fast")
    tag(source, ruled, store)
    assert measure(trained)["micro_f1"] >= 0.45
    assert measure(ruled)["micro_f1"] >= 0.5


def test_pictures_speak_where_words_do_not(model: Path, store: Path, tmp_path: Path) -> None:
    wordless = [
        {"post_id": row["post_id"], "images": ";".join(str(POSTS.parent / name) for name in row["images"])}
        for row in read(POSTS, where="split = 'test'").to_pylist()
        if row["images"]
    ]
    out = tmp_path / "out.parquet"
    summary = tag(write_rows(tmp_path / "wordless.csv", wordless), out, store, model, media_root=POSTS.parent)
    assert summary["pictures"]["failed"] == 0
    report = evaluate(read_table(out), iter([read(POSTS, where="split = 'test' AND len(images) > 0")]), load(TAXONOMY))
    assert report["micro_f1"] >= 0.3
    evidence = [found for row in pq.read_table(out).to_pylist() for found in row["evidence"]]
    seen = [found for found in evidence if found["kind"] == "ocr"]
    assert seen
    assert all(len(found["box"]) == 8 and len(found["media_id"].partition("#")[0]) == 64 for found in seen)


def test_a_model_tags_by_its_rules_when_asked(model: Path, store: Path, tmp_path: Path) -> None:
    posts = few_posts(tmp_path / "posts.csv")
    tag(posts, tmp_path / "a.csv", store, model, route="rules")
    tag(posts, tmp_path / "b.csv", store)
    (fast, *_), (ruled, *_) = (read_table(tmp_path / name) for name in ("a.csv", "b.csv"))
    assert fast.select(["post_id", "tags", "route"]).equals(ruled.select(["post_id", "tags", "route"]))
    assert set(fast["route"].to_pylist()) == {"rules"}


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.jsonl"])
def test_where_that_leaves_no_post_keeps_the_older_output(store: Path, tmp_path: Path, name: str) -> None:
    posts = few_posts(tmp_path / "posts.csv")
    tag(posts, tmp_path / name, store)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(NothingAcceptedError, match="0 rejected, the others are none that --where asks for"):
        tag(PostsSource(str(posts), where="text = 'nothing like it'"), tmp_path / name, store)
    assert (tmp_path / name).read_bytes() == before


def test_the_second_post_of_an_id_is_rejected(store: Path, tmp_path: Path) -> None:
    rows = [{"post_id": "a", "text": "皇马"}, {"post_id": "b", "text": "口红"}, {"post_id": " a", "text": "猫"}]
    out = tmp_path / "out.parquet"
    summary = tag(write_rows(tmp_path / "posts.csv", rows), out, store)
    assert (summary["posts"], summary["rejects"]) == (2, 1)
    assert pq.read_table(out)["post_id"].to_pylist() == ["a", "b"]
    assert [(row["line"], row["reason"]) for row in rejects(out)] == [("4", "duplicate post_id, first one kept")]


def test_other_names_and_another_encoding_give_the_same_tags(store: Path, tmp_path: Path) -> None:
    few_posts(tmp_path / "posts.csv")
    tag(tmp_path / "posts.csv", tmp_path / "plain.csv", store)
    rows = [{"编号": f"p{n}", "正文": f"{TEXTS[n % 10]} {n}"} for n in range(10)]
    theirs = write_rows(tmp_path / "theirs.csv", rows, "gb18030")
    tag(PostsSource(str(theirs), (("post_id", "编号"), ("text", "正文"))), tmp_path / "mapped.csv", store)
    assert (tmp_path / "mapped.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def test_other_columns_pass_through(store: Path, tmp_path: Path) -> None:
    table = pa.table(
        {
            "post_id": pa.array([11, 12], pa.int64()),
            "text": ["皇马", "口红"],
            "likes": pa.array([3, None], pa.int32()),
            "error": ["theirs", None],
            "tags": [["体育/足球"], None],
            "路线": [["a", "b"], []],
        }
    )
    pq.write_table(table, tmp_path / "posts.parquet")
    tag(tmp_path / "posts.parquet", tmp_path / "out.parquet", store)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.names == [*arrow_schema("tags").names, "likes", "error_in", "路线"]
    assert found.schema.field("likes").type == pa.int32()
    assert found.select(["likes", "error_in", "路线"]).to_pylist() == [
        {"likes": 3, "error_in": "theirs", "路线": ["a", "b"]},
        {"likes": None, "error_in": None, "路线": []},
    ]
    assert found["post_id"].to_pylist() == ["11", "12"]
    assert found["error"].null_count == 2


def test_posts_come_out_in_the_order_they_came_in(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "PART_ROWS", 7)
    posts = few_posts(tmp_path / "posts.csv", 60)
    tag(PostsSource(str(posts), limit=50), tmp_path / "out.csv", store)
    (table,) = read_table(tmp_path / "out.csv")
    assert table["post_id"].to_pylist() == [f"p{n}" for n in range(50)]
    monkeypatch.setattr(ingest, "PART_ROWS", 1000)
    tag(PostsSource(str(posts), limit=50), tmp_path / "whole.csv", store)
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()


def test_an_interrupted_run_goes_on_where_it_stopped(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "PART_ROWS", 7)
    posts = few_posts(tmp_path / "posts.csv", 60)
    tag(posts, tmp_path / "whole.parquet", store)
    calls: list[int] = []
    own = workflow.tag_posts

    def stop_at(limit: int) -> Callable[..., Any]:
        def tag_posts(*asked: Any) -> Any:
            calls.append(len(calls))
            if len(calls) > limit:
                raise KeyboardInterrupt
            return own(*asked)

        return tag_posts

    monkeypatch.setattr(workflow, "tag_posts", stop_at(4))
    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        tag(posts, out, store)
    assert not out.exists()
    state = status(tmp_path / "out.parquet.run")
    assert (state["state"], state["kinds"]["tags"]["total"]) == ("stopped", 9)
    done = state["kinds"]["tags"]["done"]
    assert 3 <= done <= 4
    calls.clear()
    monkeypatch.setattr(workflow, "tag_posts", stop_at(100))
    summary = tag(posts, out, store)
    assert len(calls) == 9 - done
    assert (summary["posts"], summary["tagged"]) == (
        60,
        len([tags for tags in pq.read_table(out)["tags"].to_pylist() if tags]),
    )
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_too_many_rejects_stop_a_run_before_it_tags(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"post_id": f"p{n % 8}", "text": "皇马"} for n in range(10)]
    posts, out = write_rows(tmp_path / "posts.csv", rows), tmp_path / "out.csv"
    with pytest.raises(TooManyRejectsError, match="2 rows"):
        tag(posts, out, store, max_rejects=1)
    assert not out.exists()
    assert len(rejects(out)) == 2

    def stop(*asked: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(workflow, "tag_posts", stop)
        tag(posts, out, store)
    # A run that goes on has read the posts already; the limit holds all the same.
    with pytest.raises(TooManyRejectsError, match="2 rows"):
        tag(posts, out, store, max_rejects=1)
    assert tag(posts, out, store, max_rejects=2)["rejects"] == 2


def test_a_part_that_fails_costs_only_itself_and_is_tried_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "PART_ROWS", 7)
    posts, out = few_posts(tmp_path / "posts.csv", 30), tmp_path / "out.csv"
    own = workflow.tag_posts

    def stumble(tables: Any, tagger: Any) -> Any:
        tables = list(tables)
        if "p7" in tables[0]["post_id"].to_pylist():
            raise ZeroDivisionError("by nothing")
        return own(tables, tagger)

    monkeypatch.setattr(workflow, "tag_posts", stumble)
    for _ in range(2):
        with pytest.raises(PartialError, match=r"1 parts could not be done.*ZeroDivisionError: by nothing"):
            tag(posts, out, store)
        (table,) = read_table(out)
        assert table["post_id"].to_pylist() == [f"p{n}" for n in range(30) if not 7 <= n < 14]
        assert [row["post_id"] for row in rejects(out)] == [f"p{n}" for n in range(7, 14)]
    monkeypatch.setattr(workflow, "tag_posts", own)
    summary = tag(posts, out, store)
    assert (summary["posts"], summary["rejects"], rejects(out)) == (30, 0, [])
    tag(posts, tmp_path / "whole.csv", store)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kill", "worker killed by signal 9"),
        ("hang", "worker gave no sign of life for 4 s"),
        ("eat", "worker took more than 1,200 MB of memory"),
    ],
)
def test_a_picture_that_takes_its_workers_down_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    images = sorted((ROOT / "examples" / "images").glob("n*.png"))[:6]
    for number, path in enumerate(images):
        shutil.copy(path, tmp_path / (f"deadly{number}.png" if number == 2 else f"{number}.png"))
    names = ["0.png", "1.png", "deadly2.png", "3.png", "4.png", "5.png"]
    rows = [{"post_id": f"p{n}", "text": "", "images": name} for n, name in enumerate(names)]
    rows.append({"post_id": "both", "text": "皇马", "images": "deadly2.png;5.png"})
    posts, out = write_rows(tmp_path / "posts.csv", rows), tmp_path / "out.csv"
    workers = WorkerSettings(count=2, part_files=3, picture_seconds=4 if how == "hang" else 60, memory_mb=1200)
    settings = {"workers": workers, "stages": ("faces",)}
    store = tmp_path / "store"
    monkeypatch.setenv("DEADLY", how)
    tag(posts, tmp_path / "whole.csv", tmp_path / "other", settings=settings)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
        patch.setattr(schedule, "run_parts", lambda _, *asked: run_parts("deadly:look_at_files", *asked))
        for _ in range(1 if how == "hang" else 2):
            with pytest.raises(PartialError, match=rf"1 pictures .*deadly2\.png: {said}"):
                tag(posts, out, store, settings=settings)
            kept = [json.loads(path.read_text()) for path in sorted(Path(f"{out}.run").glob("receipts/*looks/*.json"))]
            assert [receipt["error"] for receipt in kept if receipt["status"] != "ok"] == [said] * 2
            (table,) = read_table(out)
            errors = dict(zip(table["post_id"].to_pylist(), table["error"].to_pylist(), strict=True))
            assert [post for post, error in errors.items() if error] == ["p2", "both"]
            assert errors["p2"].startswith(str(tmp_path / "deadly2.png"))
    summary = tag(posts, out, store, settings=settings)
    assert (summary["posts"], summary["with_errors"], summary["pictures"]["failed"]) == (7, 0, 0)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_picture_that_changes_or_vanishes_in_between_is_said_in_its_post(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((ROOT / "examples" / "images").glob("n*.png"))[:4]
    for number, path in enumerate(images):
        shutil.copy(path, tmp_path / f"{number}.png")
    rows = [{"post_id": f"p{n}", "images": f"{n}.png"} for n in range(3)]
    posts, out = write_rows(tmp_path / "posts.csv", rows), tmp_path / "out.csv"
    own = workflow.look

    def meddle(*asked: Any) -> Any:
        (tmp_path / "0.png").unlink()
        shutil.copy(images[3], tmp_path / "1.png")
        return own(*asked)

    monkeypatch.setattr(workflow, "look", meddle)
    summary = tag(posts, out, tmp_path / "store", settings={"stages": ("faces",)}, workers=0)
    (table,) = read_table(out)
    assert (summary["posts"], summary["with_errors"]) == (3, 2)
    said = table["error"].to_pylist()
    for number in (0, 1):
        assert said[number].startswith(f"{tmp_path / f'{number}.png'}: not looked at: it changed or vanished")
    assert said[2] is None


def test_every_distinct_picture_is_looked_at_once(tmp_path: Path) -> None:
    images = sorted((ROOT / "examples" / "images").glob("n*.png"))[:2]
    shutil.copy(images[0], tmp_path / "a.png")
    shutil.copy(images[0], tmp_path / "copy of a.png")
    shutil.copy(images[1], tmp_path / "图 b.png")
    named = ["a.png", "copy of a.png;a.png", "图 b.png;" * 12 + "a.png", str(tmp_path / "图 b.png"), ""]
    rows = [{"post_id": f"p{n}", "text": "皇马", "images": name} for n, name in enumerate(named)]
    posts = write_rows(tmp_path / "posts.csv", rows)
    settings = {"stages": ("faces",)}
    first = tag(posts, tmp_path / "a.csv", tmp_path / "store", settings=settings, workers=0)
    assert first["pictures"] == {"files": 2, "reused": 0, "failed": 0, "setbacks": 0, "first_setbacks": []}
    assert first["frames_per_stage"] == {"faces": 2}
    again = tag(posts, tmp_path / "b.csv", tmp_path / "store", settings=settings, workers=0)
    assert again["pictures"] == {"files": 2, "reused": 2, "failed": 0, "setbacks": 0, "first_setbacks": []}
    assert again["frames_per_stage"] == {}
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_without_stages_pictures_are_only_opened(tmp_path: Path) -> None:
    picture = min((POSTS.parent / "images").glob("*.png"))
    posts = few_posts(tmp_path / "posts.csv", 3, images=f"{picture};absent.png")
    summary = tag(posts, tmp_path / "out.parquet", tmp_path / "store", settings={"stages": ()}, media_root=Path("/"))
    assert (summary["posts"], summary["with_errors"]) == (3, 3)
    assert (summary["pictures"]["files"], summary["pictures"]["failed"]) == (1, 0)
