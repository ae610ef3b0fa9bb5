import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from weibotag.core.errors import LockedError, PartialError, RequestError
from weibotag.core.files import atomic, write_json, write_parquet
from weibotag.extraction.ingest import ingest
from weibotag.posts.source import PostsSource
from weibotag.runtime.run_folder import KeptReceipt, Plan, Run, status

REQUEST = {"input": ["a.csv"], "settings": {"tagger": "rules", "名": 1}}
PARTS = [f"part-{n:05}" for n in range(40)]
PLAN = Plan({"posts": PARTS[:2], "tags": PARTS[:2]})
TABLE = pa.table({"post_id": ["1", "2"]})


def start(folder: Path, request: dict = REQUEST) -> None:
    """A run that is stopped after one of two parts of tags."""
    with Run.open(folder, request) as run:
        for part in PARTS[:2]:
            run.write("posts", part, TABLE)
        run.begin(PLAN)
        run.write("tags", PARTS[0], TABLE)
        run.receipt("tags", PARTS[0], {"status": "ok", "rows": 2, "seconds": 1.5})
        run.receipt("tags", PARTS[1], {"status": "failed", "error": "OSError: x"})
        run.rejects_path.write_text('file,line,post_id,reason\na,1,,"two\nlines"\n', "utf-8-sig")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_an_unfinished_run_of_the_same_request_goes_on(tmp_path: Path) -> None:
    start(tmp_path / "out.run")
    with Run.open(tmp_path / "out.run", dict(reversed(REQUEST.items()))) as run:
        assert (run.resumed, run.plan) == (True, PLAN)
        assert [run.done("tags", part) for part in PARTS[:2]] == [True, False]
        assert run.done("posts", PARTS[1])
        assert pq.read_table(run.path("tags", PARTS[0])).equals(TABLE)
        assert [receipt["status"] for receipt in run.receipts(KeptReceipt, "tags")] == ["ok", "failed"]
        assert run.rejects_path.exists()


def test_a_new_run_is_empty(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a" / "out.run", REQUEST) as run:
        assert (run.resumed, run.plan, run.receipts(KeptReceipt), run.done("posts", PARTS[0])) == (False, None, [], False)
        assert (run.folder, run.request) == (tmp_path / "a" / "out.run", REQUEST)


@pytest.mark.parametrize("why", ["another request", "finished", "stopped before its plan"])
def test_other_runs_are_started_anew(tmp_path: Path, why: str, caplog: pytest.LogCaptureFixture) -> None:
    if why == "stopped before its plan":
        with Run.open(tmp_path, REQUEST) as run:
            run.write("posts", PARTS[0], TABLE)
    else:
        start(tmp_path)
    if why == "finished":
        with Run.open(tmp_path, REQUEST) as run:
            run.finish({"posts": 2})
    caplog.clear()
    with (
        caplog.at_level(logging.INFO),
        Run.open(tmp_path, {"other": 1} if why == "another request" else REQUEST) as run,
    ):
        assert (run.resumed, run.plan, run.receipts(KeptReceipt)) == (False, None, [])
        assert names(tmp_path) == ["lock", "manifest.json"]
    assert len(caplog.records) == 1


def test_finishing_keeps_what_tells_of_the_run(tmp_path: Path) -> None:
    start(tmp_path)
    with Run.open(tmp_path, REQUEST) as run:
        (tmp_path / "tags" / "mine.txt").touch()
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "part-1.parquet").touch()
        run.finish({"posts": 2, "标签": "口红"})
    assert names(tmp_path) == [
        "lock",
        "manifest.json",
        "notes/part-1.parquet",
        "receipt.json",
        "receipts/tags/part-00000.json",
        "receipts/tags/part-00001.json",
        "rejects.csv",
        "tags/mine.txt",
    ]
    assert not (tmp_path / "posts").exists()
    assert json.loads((tmp_path / "receipt.json").read_text("utf-8")) == {"posts": 2, "标签": "口红"}


@pytest.mark.parametrize(
    "columns",
    [{"post_id": ["1", None]}, {"post_id": ["1"], "images": ["a.jpg"]}, {"post_id": ["1", "2"], "text": ["a", None]}],
)
def test_a_part_without_every_id_and_text_or_of_other_types_is_none_of_ours(
    tmp_path: Path, columns: dict[str, list[Any]]
) -> None:
    start(tmp_path / "out.run")
    with Run.open(tmp_path / "out.run", REQUEST) as run:
        run.write("posts", PARTS[0], pa.table(columns))
        assert run.read("posts", PARTS[1]).equals(TABLE)
        with pytest.raises(PartialError, match="damaged since it was written"):
            run.read("posts", PARTS[0])


def test_a_later_receipt_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    start(tmp_path)
    with Run.open(tmp_path, REQUEST) as run:
        run.receipt("tags", PARTS[1], {"status": "ok", "rows": 3})
        run.receipt("ocr", PARTS[0], {"status": "ok"})
        assert [(receipt["kind"], receipt["part"]) for receipt in run.receipts(KeptReceipt)] == [
            ("ocr", PARTS[0]),
            ("tags", PARTS[0]),
            ("tags", PARTS[1]),
        ]
        assert run.receipts(KeptReceipt, "tags")[1] == {"kind": "tags", "part": PARTS[1], "status": "ok", "rows": 3}


@pytest.mark.parametrize("stranger", ["diary.txt", "manifest.json", "posts"])
def test_a_strangers_folder_is_left_alone(tmp_path: Path, stranger: str) -> None:
    if stranger == "posts":
        (tmp_path / stranger).mkdir()
    else:
        (tmp_path / stranger).write_text('{"name": "web app"}')
    for look in (lambda: Run.open(tmp_path, REQUEST), lambda: status(tmp_path)):
        with pytest.raises(RequestError, match=stranger):
            look()
    assert [path.name for path in tmp_path.iterdir()] == [stranger]


def test_a_folder_with_nothing_but_a_lock_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / ".manifest.json.1.tmp").touch()
    with Run.open(tmp_path, REQUEST) as run:
        assert not run.resumed
    assert names(tmp_path) == ["lock", "manifest.json"]


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "out.run").touch()
    for path in (tmp_path / "out.run", tmp_path / "out.run" / "deeper"):
        with pytest.raises(RequestError, match="--run"):
            Run.open(path, REQUEST)


def test_a_part_of_no_declared_kind_is_refused(tmp_path: Path) -> None:
    with Run.open(tmp_path, REQUEST) as run, pytest.raises(ValueError, match="notes"):
        run.write("notes", PARTS[0], TABLE)


def test_a_folder_that_another_run_of_this_process_holds(tmp_path: Path) -> None:
    with Run.open(tmp_path, REQUEST), pytest.raises(LockedError, match=str(os.getpid())):
        Run.open(tmp_path, REQUEST)
    with Run.open(tmp_path, REQUEST):
        pass


HOLD = """
import sys
from pathlib import Path
from weibotag.runtime.run_folder import Plan, Run
run = Run.open(Path(sys.argv[1]), {"a": 1})
run.begin(Plan({}))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_live_process_holds_the_folder_and_a_dead_one_does_not(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {child.pid} ") as caught:
            Run.open(tmp_path, {"a": 1})
        assert caught.value.exit_code == 4
        assert status(tmp_path)["state"] == "running"
    finally:
        child.kill()
        child.communicate()
    assert status(tmp_path)["state"] == "stopped"
    with Run.open(tmp_path, {"a": 1}) as run:
        assert run.resumed


LOOP = """
import sys
from pathlib import Path
import pyarrow as pa
from weibotag.runtime.run_folder import Plan, Run
with Run.open(Path(sys.argv[1]), {"a": 1}) as run:
    parts = [f"part-{n:05}" for n in range(100)]
    print("open", flush=True)
    if run.plan is None:
        for n, part in enumerate(parts[:5]):
            run.write("posts", part, pa.table({"n": [n] * 5000}))
            print("part", flush=True)
        run.begin(Plan({"tags": parts}))
    for n, part in enumerate(parts):
        if not run.done("tags", part):
            run.write("tags", part, pa.table({"n": [n] * 5000}))
            run.receipt("tags", part, {"status": "ok", "rows": 5000})
            print("part", flush=True)
    print("end", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    before: set[str] = set()
    chance = random.Random(7)
    for attempt in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout
        assert child.stdout.readline() == "open\n"
        for _ in range(attempt):
            child.stdout.readline()
        time.sleep(chance.uniform(0, 0.004))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        # What has a part's name is a whole part, whatever else lies there.
        for path in tmp_path.glob("*/part-*.parquet"):
            assert set(pq.read_table(path)["n"].to_pylist()) == {int(path.stem[-5:])}
        for receipt in tmp_path.glob("receipts/*/*.json"):
            assert json.loads(receipt.read_bytes())["rows"] == 5000
        state = status(tmp_path)
        done = {path.stem for path in tmp_path.glob("tags/*.parquet")}
        assert before <= done
        assert state["state"] == "stopped"
        before = done
    last = subprocess.run(
        [sys.executable, "-c", LOOP, str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert last.stdout.endswith("end\n")
    assert len(before) > 10
    assert status(tmp_path)["kinds"]["tags"]["done"] == 100
    assert list(tmp_path.rglob(".*.tmp")) == []


def test_what_a_killed_writer_left_is_removed_and_never_taken_for_a_part(tmp_path: Path) -> None:
    start(tmp_path)
    for place in (tmp_path, tmp_path / "tags", tmp_path / "receipts" / "tags"):
        (place / ".part-00001.parquet.12345678.tmp").write_bytes(b"half")
    with Run.open(tmp_path, REQUEST) as run:
        assert not run.done("tags", PARTS[1])
    assert list(tmp_path.rglob(".*.tmp")) == []


def test_a_run_that_is_killed_while_an_old_one_is_removed_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path)

    def die(self: Run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "_remove_parts", die)
        Run.open(tmp_path, {"other": 1})
    # Not even the first request may go on with what is half removed.
    with Run.open(tmp_path, REQUEST) as run:
        assert not run.resumed
        assert names(tmp_path) == ["lock", "manifest.json"]


def test_status_counts(tmp_path: Path) -> None:
    assert status(tmp_path / "none") == {"folder": str(tmp_path / "none"), "state": "none"}
    start(tmp_path)
    before = names(tmp_path)
    state = status(tmp_path)
    assert (state["state"], state["rejects"], state["seconds"], state["summary"]) == ("stopped", 1, 1.5, None)
    assert state["kinds"] == {
        "posts": {"done": 2, "failed": 0, "total": 2, "rows": 0, "seconds": 0},
        "tags": {"done": 1, "failed": 1, "total": 2, "rows": 2, "seconds": 1.5},
    }
    with Run.open(tmp_path, REQUEST) as run:
        assert status(tmp_path)["state"] == "running"
        run.finish({"posts": 4})
    assert (status(tmp_path)["state"], status(tmp_path)["summary"]) == ("finished", {"posts": 4})
    assert status(tmp_path)["kinds"]["tags"]["total"] == 2
    assert len(before) > len(names(tmp_path))


def test_a_look_at_the_state_writes_nothing(tmp_path: Path) -> None:
    start(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]
    with atomic(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_files_are_plain(tmp_path: Path) -> None:
    write_json({"b": 1, "a": "口红"}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n "a": "口红",\n "b": 1\n}\n'
    with pytest.raises(TypeError):
        write_json({"a": Path()}, tmp_path / "a.json")
    write_parquet(TABLE, tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").equals(TABLE)
    (tmp_path / "plain").touch()
    assert (tmp_path / "t.parquet").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert names(tmp_path) == ["a.json", "plain", "t.parquet"]


def test_posts_are_read_again_where_the_plan_lacks_their_parts(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("post_id,text\n1,a\n")
    with Run.open(tmp_path / "out.run", REQUEST) as run:
        run.begin(Plan({}))
        assert ingest(run, PostsSource(str(tmp_path / "p.csv")), None, quiet=True) == ["00000"]
        assert run.read("posts", "00000")["text"].to_pylist() == ["a"]
