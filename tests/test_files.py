"""A folder that is replaced is the older one or the whole new one, whatever comes between."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import weibotag
from weibotag.core.files import FolderKind, atomic, open_to_append, remove_left, replace_folder

MODEL = FolderKind(("model",))


def write(folder: Path, text: str) -> None:
    with replace_folder(folder, MODEL) as fresh:
        (fresh / "model").write_text(text)
        assert not (folder / "model").exists() or (folder / "model").read_text() != text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Letters that mean something in a pattern.
@pytest.mark.parametrize("name", ["model", "model[1]*"])
def test_a_folder_is_replaced_and_what_was_killed_there_goes(name: str, tmp_path: Path) -> None:
    others = [f".{name}.b.{'a' * 16}.old", f".{name}.mine.old", f".model1.{'c' * 16}.old"]
    for left in (f".{name}.{'e' * 16}.old", *others):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model").write_text("half")
    for text in ("one", "two"):
        write(tmp_path / name, text)
        assert (tmp_path / name / "model").read_text() == text
        assert names(tmp_path) == sorted([name, *others])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_older_folder(error: type[BaseException], tmp_path: Path) -> None:
    write(tmp_path / "model", "one")
    with pytest.raises(error), replace_folder(tmp_path / "model", MODEL) as fresh:
        (fresh / "model").write_text("half")
        raise error
    assert names(tmp_path) == ["model"] and (tmp_path / "model" / "model").read_text() == "one"


def test_a_kill_between_the_renames_leaves_the_older_folder_beside(tmp_path: Path) -> None:
    write(tmp_path / "model", "one")
    replace = os.replace

    def die_at_the_second(source: Path, target: Path) -> Any:
        if source.suffix == ".tmp":
            os._exit(9)
        replace(source, target)

    child = os.fork()
    if child == 0:
        try:
            os.replace = die_at_the_second  # type: ignore[assignment]
            write(tmp_path / "model", "two")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    older = next(tmp_path.glob(".model.*.old"))
    assert (older / "model").read_text() == "one" and not (tmp_path / "model").exists()
    write(tmp_path / "model", "three")
    assert names(tmp_path) == ["model"]


def test_what_killed_writers_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from weibotag.core.files import atomic, replace_folder, FolderKind
with atomic(Path(sys.argv[1])), replace_folder(Path(sys.argv[1]), FolderKind(("model",))) as fresh:
    (fresh / "part").write_text("half")
    print(flush=True)
    sys.stdin.read()
"""
    out = tmp_path / ("长" * 80 + "[1]*")
    words = [sys.executable, "-c", code, str(out)]
    writer = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdin is not None and writer.stdout is not None
    try:
        writer.stdout.readline()
        remove_left(out)
        assert len(names(tmp_path)) == 2
    finally:
        writer.kill()
        writer.communicate()
    (tmp_path / ".out.csv.mine.tmp").touch()
    remove_left(out)
    assert names(tmp_path) == [".out.csv.mine.tmp"]


def test_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weibotag.core.files.token_hex", lambda _: "one")
    (tmp_path / "secret").write_text("mine")
    (tmp_path / ".out.one.tmp").symlink_to("secret")
    (tmp_path / "log").symlink_to("secret")
    with pytest.raises(FileExistsError), atomic(tmp_path / "out") as file:
        file.write(b"theirs")
    with pytest.raises(OSError, match="log"):
        open_to_append(tmp_path / "log")
    assert (tmp_path / "secret").read_text() == "mine" and (tmp_path / ".out.one.tmp").is_symlink()


def test_what_utf_8_can_not_hold_is_written_as_json_spells_it(tmp_path: Path) -> None:
    with atomic(tmp_path / "out", "w") as file:
        file.write("a\udce4")
    assert (tmp_path / "out").read_bytes() == b"a\\udce4"


# What writes a file by other ways: a folder of its own that nobody else sees, or one that `replace_folder` gave.
ELSEWHERE = {
    "core/files.py",
    "cli/faults.py",
    "runtime/worker.py",
    "taggers/fasttext.py",
    "training/network/fit.py",
    "curation/keywords/cluster.py",
    "vision/backends/ocr_paddleocr.py",
    "workflows/api.py",
}


def test_all_other_modules_write_files_by_this_one() -> None:
    root = Path(weibotag.__file__).parent
    writes = re.compile(
        r"""open\([^)\n]*["'][wax]b?\+?["']|\.write_text\(|\.write_bytes\(|pq\.write_table\(|os\.replace\("""
    )
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if writes.search(path.read_text("utf-8"))}
    assert found - ELSEWHERE <= {"vision/weights/fetch.py"}
