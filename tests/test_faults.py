import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commands import ask

from weibotag.cli import faults


def raise_recursion() -> None:
    raise_recursion()


def raise_interrupted() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as stop:
        raise ImportError("half imported") from stop


def throw(error: BaseException) -> Callable[[], None]:
    def thrown() -> None:
        raise error

    return thrown


@pytest.mark.parametrize(
    ("fail", "code", "said"),
    [
        (throw(KeyError("x")), 70, "unexpected KeyError: 'x'"),
        (throw(MemoryError()), 70, "not enough memory"),
        (throw(pa.ArrowMemoryError("malloc")), 70, "not enough memory: malloc"),
        (throw(pa.ArrowInvalid("two\nlines")), 70, r"unexpected ArrowInvalid: two\\nlines"),
        (throw(ValueError("embedded null byte")), 70, "unexpected ValueError: embedded null byte"),
        (raise_recursion, 70, "unexpected RecursionError"),
        (throw(OSError(28, "No space left on device", "x\x1b")), 2, r"x\\x1b: No space left on device"),
        (throw(KeyboardInterrupt()), 130, "interrupted: the same command goes on"),
        (raise_interrupted, 130, "interrupted: the same command goes on"),
    ],
    ids=lambda given: str(given) if isinstance(given, str) else "",
)
def test_whatever_happens_is_one_line_and_a_documented_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None], code: int, said: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("weibotag.taxonomy.check.check", lambda *_: fail())
    done = ask("taxonomy", "check", "tree.csv")
    assert done.exit_code == code
    assert done.stdout == ""
    logs = list(folder.glob("weibotag-*.log"))
    assert len(logs) == (code == 70)
    place = f"; the traceback is in {re.escape(str(logs[0]))}; please report it" if logs else ""
    assert re.fullmatch(f"(error: )?{said}.*{place}\n", done.stderr)
    for log in logs:
        assert "Traceback (most recent call last)" in log.read_text()
        assert log.stat().st_mode & 0o77 == 0


def test_without_a_place_for_the_traceback_there_is_still_the_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert faults.report(KeyError("x")) == 70
    said = "error: unexpected KeyError: 'x'; no file could be written for the traceback (Permission denied)\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("module", ["weibotag.cli.main", "typer", "weibotag.cli.tag", "pydantic", "pyarrow", "duckdb"])
def test_ctrl_c_during_an_import_is_one_line(folder: Path, module: str) -> None:
    code = f"""
import os, runpy, signal, sys
class Stop:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Stop())
sys.argv = "weibotag tag posts.csv -t tree.csv -o out.csv -q --where text<>''".split()
runpy.run_module("weibotag", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted: the same command goes on\n")


def test_a_colon_in_a_path_makes_no_address_of_it(folder: Path) -> None:
    for out in ("out:1.csv", "file:out.parquet", "s3:out.parquet", "C:out.jsonl"):
        done = ask("tag", "posts.csv", "-t", "tree.csv", "-o", out, "-q")
        assert (done.exit_code, done.stderr) == (0, "")
        assert (folder / out).is_file()
        assert ask("export", out, "-o", f"again:{Path(out).stem}.parquet", "-q").exit_code == 0
    assert ask("evaluate", "file:out.parquet", "posts.csv", "-t", "tree.csv", "-q").exit_code == 0
    Path("file:posts.parquet").write_bytes(Path("file:out.parquet").read_bytes())
    assert "file:posts.parquet has none of text, images" in ask("ocr", "file:posts.parquet", "-o", "s3:w.parquet").stderr


def test_stdout_is_utf8_whatever_the_locale() -> None:
    code = "from weibotag.cli.faults import prepare_streams; prepare_streams(); print('火锅')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=120)
    assert done.stdout.decode() == "火锅\n"
