import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from weibotag.runtime.run_folder import status

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from kill import disturb, finish, start  # noqa: E402

# What a shell starts in the background ignores SIGINT, and so would the children that it is sent to here.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytestmark = pytest.mark.slow

POSTS = ROOT / "examples" / "posts.csv"
TAXONOMY = ROOT / "taxonomies" / "weibo.csv"
LIMIT = 50
KILLS = 5
# Parts so small that kills fall between them.
SMALL_PARTS = "import weibotag.extraction.ingest as ingest, weibotag.cli.main as cli; ingest.PART_ROWS = 9; cli.main()"
SECONDS = 250.0
# What model.json says beside how long it took and what the store knew before.
DECIDED = ("valid", "posts", "stages", "fingerprints", "taxonomy", "files")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "small.toml"
    path.write_text("[workers]\npart_files = 3\ncount = 2\n[ocr]\nmax_side = 320\n")
    return path


@pytest.fixture(scope="module")
def tag(settings: Path) -> Callable[[Path], list[str]]:
    """The command that tags in a folder: its store, its run folder and its output are there."""

    def command(place: Path) -> list[str]:
        asked = ["tag", str(POSTS), "-t", str(TAXONOMY), "-p", str(settings), "--limit", str(LIMIT), "--quiet"]
        return [sys.executable, "-c", SMALL_PARTS, *asked, "--store", f"{place / 'store'}", "-o", f"{place / 'out.csv'}"]

    return command


@pytest.fixture(scope="module")
def undisturbed(tag: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("undisturbed")
    finish(tag(place))
    return place


def wait_until(true: Callable[[], object], child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end, f"waited {SECONDS} s in vain"
        time.sleep(0.005)


def find_children(parent: int) -> list[int]:
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, found = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(found) == parent and state != "Z":
            children.append(int(path.parent.name))
    return children


def leftovers(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.name.endswith((".tmp", ".old")) and "store" not in path.parts]


def test_a_run_that_is_killed_again_and_again_gives_the_same_bytes(
    tag: Callable[[Path], list[str]], undisturbed: Path, tmp_path: Path
) -> None:
    def read(place: Path) -> bytes:
        assert leftovers(place) == []
        return (place / "out.csv").read_bytes()

    result = disturb(tag, read, tmp_path, KILLS, seed=3)
    assert result.kills == KILLS
    assert result.outputs == [read(undisturbed)] * len(result.outputs)
    assert result.orphans == 0
    assert read(undisturbed).count(b"\n") > LIMIT


def test_training_that_is_killed_again_and_again_gives_the_same_model(
    undisturbed: Path, settings: Path, tmp_path: Path
) -> None:
    def train(place: Path) -> list[str]:
        asked = ["train", str(POSTS), "-t", str(TAXONOMY), "-p", str(settings), "--limit", str(LIMIT), "--quiet"]
        kept = ["--tagger", "fast", "--tune-seconds", "0", "--store", str(undisturbed / "store"), "-o", str(place / "model")]
        return [sys.executable, "-c", SMALL_PARTS, *asked, *kept]

    def read(place: Path) -> dict[str, object]:
        assert leftovers(place) == []
        files = {path.name: path.read_bytes() for path in (place / "model").rglob("*.*") if path.name != "model.json"}
        about = json.loads((place / "model" / "model.json").read_text("utf-8"))
        report = about["taggers"]["fast"]["training"]["fast"]
        return {**files, **{name: about[name] for name in DECIDED}, "settings": report["settings"]}

    result = disturb(train, read, tmp_path, KILLS - 2, seed=4)
    assert "fasttext.bin" in result.outputs[0]  # type: ignore[operator]
    assert "codes.safetensors" in result.outputs[0]  # type: ignore[operator]
    assert all(output == result.outputs[0] for output in result.outputs)


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_is_unharmed(
    tag: Callable[[Path], list[str]], undisturbed: Path, tmp_path: Path
) -> None:
    child = start(tag(tmp_path))
    try:
        wait_until(lambda: list(tmp_path.glob("out.csv.run/receipts/looks/*")), child)
        # Stopped, it holds its folder for as long as the second takes to start.
        os.kill(child.pid, signal.SIGSTOP)
        second = subprocess.run(tag(tmp_path), capture_output=True, text=True, timeout=SECONDS)
        os.kill(child.pid, signal.SIGCONT)
        assert child.poll() is None, "the first run ended too early for a test"
        assert second.returncode == 4
        assert second.stdout == ""
        (line,) = second.stderr.splitlines()
        assert line.startswith(f"error: {tmp_path / 'out.csv.run'}: process {child.pid} is at work")
        _, said = child.communicate(timeout=SECONDS)
        assert (child.returncode, said) == (0, "")
    finally:
        child.kill()
        child.communicate()
    assert (tmp_path / "out.csv").read_bytes() == (undisturbed / "out.csv").read_bytes()


def test_a_worker_that_is_killed_costs_nothing(tag: Callable[[Path], list[str]], undisturbed: Path, tmp_path: Path) -> None:
    child = start(tag(tmp_path))
    try:
        for looked_at in (1, 3):
            wait_until(lambda: len(list(tmp_path.glob("out.csv.run/receipts/looks/*"))) >= looked_at, child)  # noqa: B023
            os.kill(find_children(child.pid)[0], signal.SIGKILL)
        _, said = child.communicate(timeout=SECONDS)
        assert (child.returncode, said) == (0, "")
    finally:
        child.kill()
        child.communicate()
    assert (tmp_path / "out.csv").read_bytes() == (undisturbed / "out.csv").read_bytes()


def test_an_interrupted_run_says_so_in_one_line_and_goes_on(
    tag: Callable[[Path], list[str]], undisturbed: Path, tmp_path: Path
) -> None:
    child = start(tag(tmp_path))
    try:
        wait_until(lambda: list(tmp_path.glob("out.csv.run/receipts/looks/*")), child)
        # To the whole group, as Ctrl-C does in a terminal.
        os.killpg(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=SECONDS)
        assert (child.returncode, said) == (130, "interrupted: the same command goes on\n")
        assert not (tmp_path / "out.csv").exists()
    finally:
        child.kill()
        child.communicate()
    assert status(tmp_path / "out.csv.run")["state"] == "stopped"
    finish(tag(tmp_path))
    assert (tmp_path / "out.csv").read_bytes() == (undisturbed / "out.csv").read_bytes()
