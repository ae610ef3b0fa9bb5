import io
import sys

import pytest

from weibotag.core import progress
from weibotag.core.progress import bar, format_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_every_30_seconds_and_one_at_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(4400, "ocr") as shown:
        for _ in range(44):
            clock.now += 10
            shown.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ocr: 300 of 4,400, 10.0/s, 30 s"
    assert lines[-1] == "ocr: 4,400 of 4,400, 10.0/s, 7 min"
    assert len(lines) == 15


def test_a_total_that_is_not_known(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(None, "posts") as shown:
        clock.now += 2
        shown.advance()
        shown.advance(2)
    assert capsys.readouterr() == ("", "posts: 3, 1.5/s, 2 s\n")


def test_no_time_at_all(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(0, "faces"):
        pass
    assert capsys.readouterr().err == "faces: 0 of 0, 0 s\n"


def test_an_interrupted_block_says_how_far_it_came(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), bar(10, "ocr") as shown:
        shown.advance(4)
        clock.now += 4
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "ocr: 4 of 10, 1.0/s, 4 s\n"


def test_quiet_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with bar(10, "ocr", quiet=True) as shown:
        clock.now += 100
        shown.advance(10)
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("total", [7, None])
def test_a_terminal_gets_a_bar(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with bar(total, "看图 [1/2]") as shown:
        shown.advance(3)
        sys.stdout.write("data\n")
        shown.advance(4)
    drawn = terminal.getvalue()
    assert "看图 [1/2]" in drawn
    assert "7/7" in drawn if total else "7/?" in drawn
    assert out.getvalue() == "data\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (45.4, "45 s"), (59.7, "1 min"), (90, "2 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_spans_of_time(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words
