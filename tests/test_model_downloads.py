import hashlib
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_servers import CONTENT, SHA256, Answer, Server, know, put, refuse, tiny

from weibotag.core.errors import RequestError
from weibotag.vision.weights import fetch
from weibotag.vision.weights.catalogue import cache_folder, find_model
from weibotag.vision.weights.fetch import download

CLOSED = "http://127.0.0.1:9/tiny.onnx"
HUB_CLIENT = find_spec("huggingface_hub") is not None
pytestmark = pytest.mark.usefixtures("no_models")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 40_000), max_size=6), ranges=st.booleans())
def test_a_broken_download_goes_on_where_it_stopped(
    server: Server, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges: bool
) -> None:
    server.cuts, server.ranges, server.asked = list(cuts), ranges, []
    target = tmp_path_factory.mktemp("target") / "tiny.onnx"
    for _ in range(len(cuts) + 1):
        try:
            download(server.url, target, SHA256, len(CONTENT), target)
            break
        except RequestError as error:
            # Only a server without ranges can bring nothing new.
            assert not ranges and "try again" in str(error)
    assert target.read_bytes() == CONTENT
    assert not target.with_name(".tiny.onnx.part").exists()
    done = [0, *(sum(cuts[: at + 1]) for at in range(len(cuts)))]
    expected = [f"bytes={at}-" if at else None for at in done if at < len(CONTENT)]
    assert not ranges or server.asked == expected


@pytest.mark.parametrize(
    ("part", "asked"),
    [(CONTENT[:1000], ["bytes=1000-"]), (CONTENT, []), (CONTENT + b"more", [None])],
    ids=["begun", "whole", "longer than the file"],
)
def test_the_next_call_goes_on_with_the_part(server: Server, tmp_path: Path, part: bytes, asked: list[str | None]) -> None:
    target = tmp_path / "tiny.onnx"
    put(tmp_path / ".tiny.onnx.part", part)
    download(server.url, target, SHA256, len(CONTENT), target)
    assert target.read_bytes() == CONTENT and server.asked == asked


def test_a_wrong_hash_is_thrown_away_and_both_are_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, tiny(server.url))
    server.content = CONTENT[::-1]
    line = refuse("tiny.onnx")
    assert SHA256 in line and hashlib.sha256(server.content).hexdigest() in line
    assert [path.name for path in cache_folder().iterdir()] == [".tiny.onnx.lock"]
    server.content = CONTENT
    assert find_model("tiny.onnx").read_bytes() == CONTENT


def test_the_page_of_a_proxy_does_not_cost_the_part(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, tiny(server.url))
    part = put(cache_folder() / ".tiny.onnx.part", CONTENT[:1000])
    server.content, server.ranges = b"<html>log in</html>", False
    assert f"19 bytes instead of {len(CONTENT):,}" in refuse("tiny.onnx")
    assert part.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_refusal_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    know(monkeypatch, tiny(server.url))
    server.status = status
    assert f"HTTP Error {status}" in refuse("tiny.onnx")
    assert len(server.asked) == 1


def test_offline_names_file_url_and_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    know(monkeypatch, tiny(CLOSED))
    line = refuse("tiny.onnx")
    assert line.startswith("tiny.onnx can't be downloaded") and CLOSED in line
    assert line.endswith(f"put it at {cache_folder() / 'tiny.onnx'}")
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    assert refuse("tiny.onnx").endswith(f"put it at {tmp_path / 'tiny.onnx'}")
    put(tmp_path / "tiny.onnx")
    assert find_model("tiny.onnx") == tmp_path / "tiny.onnx"


def test_a_server_that_falls_silent_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.2)
    silent = threading.Event()
    monkeypatch.setattr(Answer, "do_GET", lambda self: silent.wait(20))
    with pytest.raises(RequestError, match="timed out"):
        download(server.url, tmp_path / "tiny.onnx", SHA256, len(CONTENT), tmp_path / "tiny.onnx")
    silent.set()


def test_a_proxy_of_the_environment_is_asked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/tiny.onnx"))
    monkeypatch.setenv("no_proxy", "")
    # The environment is read once a process.
    monkeypatch.setattr("urllib.request._opener", None)
    download("http://models.invalid/tiny.onnx", tmp_path / "tiny.onnx", SHA256, len(CONTENT), tmp_path / "tiny.onnx")
    assert (tmp_path / "tiny.onnx").read_bytes() == CONTENT


FETCH = """
import sys
from pathlib import Path
from weibotag.vision.weights.fetch import download
url, target, sha256, size = sys.argv[1:]
download(url, Path(target), sha256, int(size), Path(target))
"""


def test_two_processes_fetch_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "models" / "tiny.onnx"
    words = [sys.executable, "-c", FETCH, server.url, str(target), SHA256, str(len(CONTENT))]
    running = [subprocess.Popen(words, stderr=subprocess.PIPE, encoding="utf-8") for _ in range(2)]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert target.read_bytes() == CONTENT and len(server.asked) == 1


def answer_with(monkeypatch: pytest.MonkeyPatch, *headers: str, body: bytes = CONTENT, drip: bool = False) -> None:
    """Have the server give these lines of headers and this body; `drip`: byte by byte, for ever, from the headers on."""

    def give(self: Answer) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in ("HTTP/1.0 200 OK", *headers)).encode())
        try:
            while drip:
                self.wfile.write(b"x")
                time.sleep(0.02)
            self.wfile.write(b"\r\n" + body)
        except OSError:
            return

    monkeypatch.setattr(Answer, "do_GET", give)


@pytest.mark.parametrize("length", ["many", "-1", "1e9", "9" * 5000, "", "0x10", "１２", "1" * 19])
def test_a_length_that_is_no_number_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch, length: str) -> None:
    know(monkeypatch, tiny(server.url))
    answer_with(monkeypatch, f"Content-Length: {length}")
    line = refuse("tiny.onnx")
    assert "Content-Length is no number" in line and len(line) < 600 and "\n" not in line


@pytest.mark.parametrize("body", [CONTENT, CONTENT + b"x", CONTENT * 50, CONTENT[:-1], b""])
def test_without_a_length_no_more_is_taken_than_the_file_has(
    server: Server, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    know(monkeypatch, tiny(server.url))
    answer_with(monkeypatch, body=body)
    if body == CONTENT:
        assert find_model("tiny.onnx").read_bytes() == CONTENT
        return
    # The server gives no ranges: what has not arrived at once comes no nearer.
    assert ("more than" if len(body) > len(CONTENT) else "the connection ended") in refuse("tiny.onnx")
    assert all(path.stat().st_size <= len(CONTENT) for path in cache_folder().iterdir())


@pytest.mark.parametrize("headers", [(), ("Content-Length: 76800\r\n",)])
def test_a_server_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch, headers: tuple[str, ...]) -> None:
    know(monkeypatch, tiny(server.url))
    monkeypatch.setattr(fetch, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(fetch, "LEAST_BYTES_PER_SECOND", 200_000)
    answer_with(monkeypatch, *headers, drip=True)
    assert "slower than 200,000 bytes a second" in refuse("tiny.onnx")


def test_a_redirection_to_no_address_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, tiny(server.url))

    def send_away(self: Answer) -> None:
        self.wfile.write(b"HTTP/1.0 302 Found\r\nLocation: http://[::1\r\n\r\n")

    monkeypatch.setattr(Answer, "do_GET", send_away)
    assert "tiny.onnx can't be downloaded" in refuse("tiny.onnx")


@pytest.mark.parametrize("name", [".tiny.onnx.part", ".tiny.onnx.lock"])
def test_a_link_that_another_user_laid_is_not_followed(server: Server, tmp_path: Path, name: str) -> None:
    victim = put(tmp_path / "victim", b"mine" * len(CONTENT))
    place = tmp_path / "shared" / "tiny.onnx"
    place.parent.mkdir()
    place.with_name(name).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        download(server.url, place, SHA256, len(CONTENT), place)
    assert victim.read_bytes() == b"mine" * len(CONTENT)
