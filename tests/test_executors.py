import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from weibotag.runtime.pool import Limits, run_parts

# What a shell starts in the background ignores SIGINT, and so would the children that it is sent to here.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHORES = '''
import json, logging, os, signal, subprocess, sys, time
from pathlib import Path
from weibotag.core.errors import RequestError

def square(job):
    return {"rows": job.get("n", 0) ** 2, "pid": os.getpid(), "名": "口红"}

def chatter(job):
    os.write(1, b'{"part": "lie", "status": "ok"}\\n')
    print("hello from python")
    logging.getLogger("weibotag.somewhere").warning("for people")
    sys.stdout.flush()
    subprocess.run(["sh", "-c", "cat; echo child speaks"], check=True)
    return {"read": sys.stdin.read()}

def stumble(job):
    if job["n"] % 2:
        raise ValueError("two\\nlines")
    if job["n"] == 2:
        raise RequestError("no such model")
    if job["n"] == 4:
        return {"path": Path()}
    return {}

def die(job):
    """Die each time, or only the first time; `how` says by what."""
    marks = Path(job["marks"])
    with (marks / job["part"]).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    times = (marks / job["part"]).read_text().count("\\n")
    if times <= job.get("deaths", 0):
        if job["how"] == "exit":
            print("something is wrong", file=sys.stderr, flush=True)
            os._exit(3)
        if job["how"] == "hang":
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    return {"times": times}

def plod(job):
    """Be slow, with a sign of life now and then."""
    from weibotag.runtime.worker import alive
    for _ in range(job["steps"]):
        time.sleep(0.1)
        alive()
    return {}

def eat(job):
    if job["n"] == 1:
        eaten = [b"x" * 2**20 for _ in range(job["megabytes"])]
        time.sleep(600)
    return {}

def gulp(job):
    """Take memory at once, faster than a watch looks; `begun` tells whether the work has begun by then."""
    from weibotag.runtime.worker import WORKING, alive
    if job["begun"]:
        alive(WORKING)
    return {"length": len(bytearray(job["megabytes"] << 20))}

def crash(job):
    from weibotag.runtime.worker import WORKING, alive
    if job["begun"]:
        alive(WORKING)
    os.kill(os.getpid(), job["signal"])

def wait(job):
    (Path(job["marks"]) / str(os.getpid())).touch()
    time.sleep(600)

def show_environment(job):
    import weibotag
    return {"weibotag": weibotag.__file__, "threads": os.environ["OMP_NUM_THREADS"]}
'''


@pytest.fixture(autouse=True)
def chores(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("chores")
    (folder / "chores.py").write_text(CHORES, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("chores", None)


def jobs(count: int, **more: object) -> list[dict]:
    return [{"part": f"part-{n}", "n": n, **more} for n in range(count)]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 200
    while not true():
        assert time.monotonic() < end, "waited 200 s in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_job_has_its_receipt(workers: int) -> None:
    receipts = list(run_parts("chores:square", jobs(7), workers))
    assert sorted(receipt["part"] for receipt in receipts) == [job["part"] for job in jobs(7)]
    assert {receipt["part"]: receipt["rows"] for receipt in receipts}["part-6"] == 36
    assert all(receipt["status"] == "ok" and receipt["seconds"] >= 0 for receipt in receipts)
    assert {receipt["名"] for receipt in receipts} == {"口红"}
    assert (os.getpid() in {receipt["pid"] for receipt in receipts}) == (workers == 0)
    assert list(run_parts("chores:square", [], workers)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_keeps_the_order(workers: int) -> None:
    assert [receipt["part"] for receipt in run_parts("chores:square", jobs(9), workers)] == [job["part"] for job in jobs(9)]


def test_workers_are_replaced_after_their_share() -> None:
    pids = [receipt["pid"] for receipt in run_parts("chores:square", jobs(5), 1, Limits(recycle=2))]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    assert not any(lives(pid) for pid in pids)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_become_failed_receipts_of_one_line(workers: int) -> None:
    receipts = list(run_parts("chores:stumble", jobs(5), workers))
    assert [receipt["status"] for receipt in receipts] == ["ok", "failed", "failed", "failed", "failed"]
    assert receipts[1] == {"part": "part-1", "status": "failed", "error": "ValueError: two lines"}
    assert receipts[2]["error"] == "RequestError: no such model"
    assert receipts[4]["error"].startswith("TypeError: ")
    (receipt,) = run_parts("nowhere:anything", jobs(1), workers)
    assert receipt["error"] == "ModuleNotFoundError: No module named 'nowhere'"


def test_chatter_is_not_heard_and_does_not_spoil_the_receipts(capfd: pytest.CaptureFixture[str]) -> None:
    receipts = list(run_parts("chores:chatter", jobs(3), 1))
    assert [(receipt["part"], receipt["read"]) for receipt in receipts] == [(f"part-{n}", "") for n in range(3)]
    said = capfd.readouterr()
    assert said.out == ""
    # What native code and other libraries say is not for people.
    assert said.err == "for people\n" * 3


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "exit", "hang"])
def test_a_part_that_kills_its_worker_once_is_done_by_a_fresh_one(tmp_path: Path, how: str) -> None:
    mixed = [{**job, "how": how, "marks": str(tmp_path), "deaths": int(job["n"] == 1)} for job in jobs(3)]
    # Starting a process does not count as silence, so only the one that hangs exceeds it.
    receipts = list(run_parts("chores:die", mixed, 1, Limits(silence=2 if how == "hang" else None)))
    assert [(receipt["part"], receipt["status"], receipt["times"]) for receipt in receipts] == [
        ("part-0", "ok", 1),
        ("part-1", "ok", 2),
        ("part-2", "ok", 1),
    ]
    first, second = (tmp_path / "part-1").read_text().split()
    assert first != second
    assert not lives(int(first))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kill", "worker killed by signal 9, 2 times"),
        ("exit", "worker exited with 3, 2 times; it last said: something is wrong"),
        ("hang", "worker gave no sign of life for 2 s, 2 times"),
    ],
)
def test_a_part_that_kills_its_worker_twice_is_set_aside(tmp_path: Path, how: str, said: str) -> None:
    mixed = [{**job, "how": how, "marks": str(tmp_path), "deaths": 2 * int(job["n"] == 1)} for job in jobs(4)]
    receipts = {r["part"]: r for r in run_parts("chores:die", mixed, 2, Limits(silence=2 if how == "hang" else None))}
    assert receipts.pop("part-1") == {"part": "part-1", "status": "set_aside", "error": said}
    assert [receipt["status"] for receipt in receipts.values()] == ["ok"] * 3
    assert (tmp_path / "part-1").read_text().count("\n") == 2


def test_a_slow_job_that_gives_signs_of_life_is_left_alone() -> None:
    slow = [{**job, "steps": 20} for job in jobs(1)]
    assert [receipt["status"] for receipt in run_parts("chores:plod", slow, 1, Limits(silence=1.5))] == ["ok"]
    (receipt,) = run_parts("chores:plod", slow, 0)
    assert receipt["status"] == "ok"


@pytest.mark.slow
def test_a_worker_that_eats_memory_is_killed_before_the_machine_suffers() -> None:
    hungry = [{**job, "megabytes": 400} for job in jobs(3)]
    receipts = {r["part"]: r for r in run_parts("chores:eat", hungry, 1, Limits(memory=300 * 2**20, lives=1))}
    assert receipts.pop("part-1")["error"] == "worker took more than 300 MB of memory"
    assert [receipt["status"] for receipt in receipts.values()] == ["ok", "ok"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_worker_is_refused_more_memory_than_its_share_at_once(begun: bool) -> None:
    megabytes = [1, 4000, 1]
    greedy = [{**job, "megabytes": megabytes[job["n"]], "begun": begun} for job in jobs(3)]
    receipts = {r["part"]: r for r in run_parts("chores:gulp", greedy, 1, Limits(memory=300 * 2**20, lives=1))}
    refused = receipts.pop("part-1")
    assert (refused["status"], refused["error"]) == ("set_aside", "worker took more than 300 MB of memory")
    assert refused.get("blamed", False) == begun
    assert [receipt["status"] for receipt in receipts.values()] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("name", "begun", "blamed"),
    [("SIGSEGV", True, True), ("SIGABRT", True, True), ("SIGSEGV", False, False), ("SIGKILL", True, False)],
)
def test_a_job_is_blamed_for_what_ends_its_own_work_and_for_nothing_else(name: str, begun: bool, blamed: bool) -> None:
    number = int(signal.Signals[name])
    (receipt,) = run_parts("chores:crash", [{**jobs(1)[0], "signal": number, "begun": begun}], 1, Limits(lives=1))
    assert receipt["error"] == f"worker killed by signal {number}"
    assert receipt.get("blamed", False) == blamed


def test_a_worker_that_is_killed_from_outside_costs_nothing() -> None:
    receipts = []
    for receipt in run_parts("chores:square", jobs(6), 1):
        receipts.append(receipt)
        if len(receipts) == 2:
            # It may be at work or not, or done already.
            with_pid = receipt["pid"]
            if lives(with_pid):
                os.kill(with_pid, signal.SIGKILL)
    assert [(receipt["part"], receipt["status"]) for receipt in receipts] == [(f"part-{n}", "ok") for n in range(6)]


def test_jobs_are_taken_one_by_one_and_by_one_thread_at_a_time() -> None:
    taken: list[int] = []
    inside = threading.Lock()

    def come() -> Iterator[dict]:
        for job in jobs(12):
            assert inside.acquire(blocking=False)
            taken.append(job["n"])
            inside.release()
            yield job

    receipts = run_parts("chores:square", come(), 0)
    next(receipts)
    assert taken == [0]
    receipts.close()
    taken.clear()
    assert len(list(run_parts("chores:square", come(), 3))) == 12
    assert taken == list(range(12))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_jobs_is_raised(workers: int) -> None:
    def come() -> Iterator[dict]:
        yield from jobs(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(run_parts("chores:square", come(), workers))


def test_a_job_that_json_cannot_hold_is_raised() -> None:
    with pytest.raises(TypeError):
        list(run_parts("chores:square", [{"part": "a", "path": Path()}], 1))


def test_closing_ends_the_workers(tmp_path: Path) -> None:
    first = [{"part": "a", "how": "", "marks": str(tmp_path / "quick")}]
    (tmp_path / "quick").mkdir()
    (tmp_path / "slow").mkdir()

    def come() -> Iterator[dict]:
        yield from first
        yield from ({"part": str(n), "how": "hang", "deaths": 9, "marks": str(tmp_path / "slow")} for n in range(9))

    receipts = run_parts("chores:die", come(), 2)
    assert next(receipts)["part"] == "a"
    wait_until(lambda: [path for path in (tmp_path / "slow").iterdir() if path.read_text().endswith("\n")])
    pids = [int(path.read_text()) for path in (tmp_path / "slow").iterdir() if path.read_text()]
    assert any(map(lives, pids))
    receipts.close()
    assert not any(map(lives, pids))


PARENT = """
import sys
from weibotag.runtime.pool import run_parts
try:
    list(run_parts("chores:wait", [{"part": str(n), "marks": sys.argv[1]} for n in range(4)], 2))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_worker_outlives_its_parent(tmp_path: Path, how: signal.Signals, code: int) -> None:
    # A session of its own: the signal goes to all of it, as Ctrl-C does in a terminal.
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    assert parent.stderr
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        pids = [int(path.name) for path in tmp_path.iterdir()]
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)
        else:
            parent.kill()
        assert parent.wait(200) == code
        wait_until(lambda: not any(map(lives, pids)))
        assert "Traceback" not in parent.stderr.read()
    finally:
        parent.kill()
        parent.communicate()


def test_workers_find_the_same_package_and_keep_to_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import weibotag

    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    (receipt,) = run_parts("chores:show_environment", jobs(1), 1)
    assert (receipt["weibotag"], receipt["threads"]) == (weibotag.__file__, "1")


def test_a_worker_alone_reads_lines_and_writes_lines() -> None:
    lines = "".join(json.dumps(job) + "\n" for job in jobs(3))
    done = subprocess.run(
        [sys.executable, "-m", "weibotag.runtime.worker", "chores:square"],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["rows"] for line in done.stdout.splitlines() if line] == [0, 1, 4]
