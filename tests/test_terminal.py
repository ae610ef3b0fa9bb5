import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ask, shell
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from weibotag.core.terminal import LONGEST, OBEYED, Stderr, escape_json, make_visible, one_line

# Clears the screen, sets the title, colours (C1, in one byte), turns the text round, deletes.
EVIL = "\x1b[2J\x1b]0;t\x07\x9b31m\u202egnp\u2066\x7f"
TREE = f"id,parent_id,name,aliases,keywords\nfood{EVIL},,美食{EVIL},饭{EVIL},\n"
POSTS = f"post_id,text,images,tags,extra{EVIL}\n1{EVIL},美食{EVIL},none{EVIL}.jpg,food{EVIL},x{EVIL}\n2,饭,,gone{EVIL},y\n"


@given(st.text())
def test_what_a_terminal_obeys_is_spelled_out(text: str) -> None:
    seen = make_visible(text)
    assert not OBEYED.search(seen)
    assert seen == text or OBEYED.search(text)
    seen.encode()
    assert "\n" not in one_line(text)


@given(st.text())
def test_json_says_the_same(text: str) -> None:
    told = escape_json(json.dumps([text], ensure_ascii=False))
    assert json.loads(told) == [text]
    assert not OBEYED.search(told)


def test_emoji_chinese_tabs_and_line_breaks_stay_and_bytes_are_shown() -> None:
    assert make_visible("a\tb\n美食 👨‍👩‍👧") == "a\tb\n美食 👨‍👩‍👧"
    assert make_visible(os.fsdecode(b"\xff.csv") + "\r\x1b\u202e") == "\\xff.csv\\x0d\\x1b\\u202e"


def test_a_long_line_keeps_its_ends() -> None:
    line = one_line("error: " + "x" * 100_000 + "; do this")
    assert line.startswith("error: x")
    assert line.endswith("x; do this")
    assert len(line) < LONGEST + 50


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_a_stderr_that_is_closed_stops_nothing(stream: io.StringIO | None) -> None:
    if stream is not None:
        stream.close()
    stderr = Stderr(stream)
    assert (stderr.write("lost"), stderr.isatty(), stderr.encoding is None) == (4, False, stream is not None)
    stderr.flush()


def test_lines_stand_above_a_bar_and_are_visible() -> None:
    shown: list[str] = []
    stderr = Stderr(io.StringIO())
    with stderr.above(shown.append):
        stderr.write("a\x1b\n")
    stderr.write("b\x1b\n")
    assert shown == ["a\\x1b\n"]
    assert stderr.raw.getvalue() == "b\\x1b\n"


def test_rich_keeps_its_own_escapes() -> None:
    stream = io.StringIO()
    Console(file=Stderr(stream), force_terminal=True, color_system="standard").print("[red]a")
    assert "\x1b[31m" in stream.getvalue()


@pytest.fixture
def evil(folder: Path) -> Path:
    """Files whose names, columns, ids and tags hold what a terminal would obey."""
    for name in (f"tree{EVIL}.csv", "tree.csv"):
        (folder / name).write_text(TREE, encoding="utf-8", newline="")
    for name in (f"posts{EVIL}.csv", "posts.csv"):
        (folder / name).write_text(POSTS, encoding="utf-8", newline="")
    (folder / f"bad{EVIL}.toml").write_text(f"stage = '{make_visible(EVIL)}'", encoding="utf-8")
    (folder / "bad.toml").write_text('"st\\u001b\\u202e\\u009b" = 1', encoding="utf-8")
    (folder / f"broken{EVIL}.yaml").write_text("a: [", encoding="utf-8")
    return folder


COMMANDS = [
    ["tag", f"posts{EVIL}.csv", "-t", f"tree{EVIL}.csv", "-o", f"out{EVIL}.csv"],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", f"out{EVIL}.xls"],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "--column", f"text={EVIL}"],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "--where", f"{EVIL} = 1"],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "--where", "text = 1"],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "--route", EVIL],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", f"--{EVIL}"],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "-p", f"bad{EVIL}.toml"],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "-p", "bad.toml"],
    ["tag", "posts.csv", "-t", "tree.csv", "-o", "out.csv", "--deadline", EVIL],
    [EVIL],
    ["tag", EVIL, "-t", "tree.csv", "-o", "out.csv"],
    ["tag", "posts.csv", "-m", EVIL, "-o", "out.csv"],
    ["train", f"posts{EVIL}.csv", "-t", "tree.csv", "-o", f"model{EVIL}", "--tagger", EVIL],
    ["ocr", f"posts{EVIL}.csv", "-o", f"ocr{EVIL}.csv"],
    ["status", f"run{EVIL}"],
    ["taxonomy", "check", f"tree{EVIL}.csv"],
    ["taxonomy", "check", f"broken{EVIL}.yaml"],
    ["taxonomy", "show", "tree.csv"],
    ["taxonomy", "show", f"tree{EVIL}.csv", "posts.csv"],
    ["evaluate", "posts.csv", "posts.csv", "-t", "tree.csv"],
    ["keywords", "extract", f"posts{EVIL}.csv", "-o", f"keywords{EVIL}.csv"],
    ["faces", "gallery", "show", EVIL],
    ["models", "check", EVIL],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: make_visible(" ".join(words))[:60])
def test_no_name_of_any_kind_reaches_the_terminal_as_it_is(evil: Path, words: list[str]) -> None:
    done = ask(*words)
    assert not OBEYED.search(done.stdout + done.stderr), make_visible(done.stdout + done.stderr)
    assert done.exit_code in (0, 1, 2)
    assert "Traceback" not in done.stderr


def test_data_on_stdout_stay_exact(evil: Path) -> None:
    done = shell("tag", "posts.csv", "-t", "tree.csv", "--words-only", "-o", "-", "-q")
    assert [row["post_id"] for row in map(json.loads, done.stdout.splitlines())] == [f"1{EVIL}", "2"]
    told = shell("taxonomy", "show", "tree.csv", "--json").stdout
    assert f"food{EVIL}" in {tag["id"] for tag in json.loads(told)}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    ("streams", "code"),
    [("2>/dev/full", 0), ("2>&-", 0), ("<&-", 0), (">&-", 0), ("<&- >&- 2>&-", 0), ("-o - >&-", 2), ("-o - >/dev/full", 2)],
)
def test_streams_that_are_closed_or_full(folder: Path, streams: str, code: int) -> None:
    command = f"{sys.executable} -m weibotag tag posts.csv -t tree.csv --words-only -o out.csv {streams}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code == 0:
        assert len((folder / "out.csv").read_text(encoding="utf-8-sig").splitlines()) == 4
    else:
        assert done.stderr.splitlines()[-1].startswith("error: ")
