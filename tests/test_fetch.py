"""Pictures behind web addresses, from a server that misbehaves; nothing leaves the machine."""

import asyncio
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import ask, draw
from picture_site import BEHAVIOUR, PICTURE, Site, answer, leads, make_picture

from weibotag.vision.media import fetch
from weibotag.vision.media.fetch import fetch_pictures, read_wait
from weibotag.vision.media.fetched import LOG, Fetched, FetchedFolder, name_address
from weibotag.vision.media.manners import WebSettings, is_public
from weibotag.vision.media.pictures import MediaLimits

LOOPBACK = ("127.0.0.0/8",)
WEB = WebSettings.model_validate({"allow_network": LOOPBACK, "delay": 0, "seconds": 5, "tries": 2})
LIMITS = MediaLimits(max_bytes=200_000, max_clip_bytes=400_000)
EXPECTED = {
    "/good.png": None,
    "/wrong-type": None,
    "/no-length": None,
    "/longer": None,
    "/moved": None,
    "/图 片.png": None,
    "/slow-body": "failed: not there after",
    "/slow-headers": "failed: not there after",
    "/silent": "failed: not there after",
    "/endless": "refused: too large: more than 200,000 bytes",
    "/endless-chunks": "refused: too large: more than 200,000 bytes",
    "/too-long": "refused: too large: 1,000,000,000,000 bytes",
    "/no-number": "failed: bad Content-Length",
    "/two-lengths": "failed: conflicting Content-Length",
    "/cut": "failed: peer closed connection without sending complete message body",
    "/packed": r"refused: packed by its host \(gzip\)",
    "/packed-unsaid": "refused: not a picture: looks like gzip",
    "/loop": "refused: redirected more than 5 times",
    "/to-metadata": "refused: not fetched: its host has no public address",
    "/to-file": "refused: leads to file: only http and https",
    "/to-nowhere": "refused: no web address that can be read",
    "/gone": "refused: HTTP 404 Not Found",
    "/locked": "failed: HTTP 403 Forbidden; many hosts want a Referer",
    "/broken": "failed: HTTP 500 Internal Server Error",
    "/closes": "failed: Server disconnected",
    "/page": "refused: not a picture: looks like HTML",
    "/empty": r"refused: an empty file \(0 bytes\)",
    "/huge-headers": "failed: Receive buffer too long",
    "/bad-chunks": "failed: illegal chunk header",
    "/garbage": "failed: illegal status line",
    "/nul-header": "failed: illegal header line",
    "/partial": "refused: HTTP 206 Partial Content",
    "/odd-status": "refused: HTTP 299",
}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(fetch, "BACKOFF", 0.001)
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Addresses of names, one list a look-up, the last for ever; all other names are as they are."""
    known: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *words: Any, **named: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        if text not in known:
            return real(host, port, *words, **named)
        found = known[text].pop(0) if len(known[text]) > 1 else known[text][0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in one else socket.AF_INET for one in found]
        return [(family, socket.SOCK_STREAM, 6, "", (one, port)) for family, one in zip(families, found, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


def get_all(urls: list[str], folder: Path, web: WebSettings = WEB) -> dict[str, Fetched]:
    return fetch_pictures(urls, FetchedFolder(folder), web, LIMITS, quiet=True)


def get(url: str, folder: Path, web: WebSettings = WEB) -> Fetched:
    return get_all([url], folder, web)[name_address(url)]


@pytest.mark.parametrize("path", EXPECTED)
def test_whatever_a_server_does_there_is_a_picture_or_a_reason(site: Site, tmp_path: Path, path: str) -> None:
    expected, slow = EXPECTED[path], "not there" in str(EXPECTED[path])
    one = get(site.at(path), tmp_path, WEB.model_copy(update={"seconds": 0.3}) if slow else WEB)
    if expected is None:
        assert one.error is None and one.file and (tmp_path / one.file).read_bytes() == PICTURE
    else:
        assert one.file is None and re.match(expected, f"{one.status}: {one.error}"), one
        assert [path.name for path in tmp_path.rglob("*")] == [LOG]
    # What another try can't mend is not tried again.
    tries = 6 if path == "/loop" else 2 if path == "/moved" or (one.error and one.status == "failed" and not slow) else 1
    assert len(site.asked) == (1 if path == "/locked" else tries)
    assert len(str(one.error)) < 300 and "\n" not in str(one.error)


@pytest.mark.parametrize(
    "turns", [[answer(b"", status="503 Busy")], [b""], [answer(b"", "Retry-After: 0", status="429 Slow")]]
)
def test_what_another_try_may_mend_is_tried_again(site: Site, tmp_path: Path, turns: list[bytes]) -> None:
    site.turns["/good.png"] = turns
    assert get(site.at("/good.png"), tmp_path).status == "ok"
    assert len(site.asked) == 2


def test_a_host_that_asks_to_be_left_alone_for_long_is_left_alone(site: Site, tmp_path: Path) -> None:
    site.turns["/good.png"] = [answer(b"", "Retry-After: 86400", status="429 Too Many Requests")]
    web = WEB.model_copy(update={"per_host": 1})
    found = get_all([site.at("/good.png"), site.at("/moved")], tmp_path, web)
    assert site.paths == ["/good.png"]
    assert {one.error for one in found.values()} == {"its host asks to be left alone for 86,400 s"}
    # The next run asks again, and first for what it has not asked for yet.
    assert {one.status for one in get_all([*found], tmp_path, web).values()} == {"ok"}


@pytest.mark.parametrize(
    ("text", "least", "most"), [("7", 7, 7), ("soon", None, None), ("-3", None, None), ("9" * 10, None, None)]
)
def test_retry_after_is_a_number_or_a_date(text: str, least: float | None, most: float | None) -> None:
    assert read_wait(text) == least == most
    assert read_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert (read_wait("Wed, 21 Oct 2099 07:28:00 GMT") or 0) > 1e9


def test_a_host_that_does_nothing_but_fail_is_given_up(site: Site, tmp_path: Path) -> None:
    urls = [site.at(f"/closes?{number}") for number in range(50)]
    found = get_all([*urls, site.at("/good.png", "localhost")], tmp_path)
    assert len(site.asked) < 30 and {one.status for url, one in found.items() if url in urls} == {"failed"}
    assert "given up after 10 faults in a row: Server disconnected" in str(found[urls[-1]].error)
    assert found[site.at("/good.png", "localhost")].status == "ok"


def test_no_host_is_asked_for_more_at_once_than_it_may_be(site: Site, tmp_path: Path) -> None:
    busy, most, lock = 0, 0, threading.Lock()

    def count(peer: socket.socket) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.01)
        with lock:
            busy -= 1
        peer.sendall(answer())

    site.turns = {f"/{number}": [count] for number in range(12)}  # type: ignore[list-item, misc]
    get_all([site.at(path) for path in site.turns], tmp_path, WEB.model_copy(update={"per_host": 2}))
    assert len(site.asked) == 12 and most <= 2


@pytest.mark.parametrize(
    ("address", "public"),
    [(one, True) for one in ("1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1", "2002:101:101::1")]
    + [
        (one, False)
        for one in (
            *(
                "0.0.0.0",
                "10.0.0.1",
                "100.64.0.1",
                "127.0.0.1",
                "127.255.0.1",
                "169.254.169.254",
                "172.16.0.1",
                "192.168.0.1",
            ),
            *("192.0.2.1", "198.18.0.1", "203.0.113.5", "224.0.1.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
            *("::", "::1", "fe80::1", "fe80::1%1", "fc00::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "2001::1"),
            *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1"),
            *("2002:7f00:1::", "2002:a9fe:a9fe::1", "100::1", "4000::1"),
        )
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert WebSettings().may_reach(address) == public
    assert is_public(ip_address(address)) == public
    assert WebSettings.model_validate({"allow_network": ("0.0.0.0/0", "::/0")}).may_reach(address)


PRIVATE_HOSTS = [
    "127.0.0.1",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "inner.example",
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_no_host_is_reached_that_is_not_public(
    site: Site, names: dict[str, list[list[str]]], tmp_path: Path, host: str
) -> None:
    names["inner.example"] = [["127.0.0.1"]]
    one = get(site.at("/good.png", host), tmp_path, WebSettings(delay=0))
    assert (one.status, site.asked, site.hellos) == ("refused", [], [])
    assert "no public address" in str(one.error) and "127" not in str(one.error)


def test_the_address_that_was_checked_is_the_one_that_is_reached(
    site: Site, names: dict[str, list[list[str]]], tmp_path: Path
) -> None:
    # The second answer is another: whoever resolved the name once more would reach it.
    names["turns.example"] = [["127.0.0.1"], ["169.254.169.254"]]
    names["both.example"] = [["10.0.0.1", "fe80::1", "127.0.0.1"]]
    for host in ("turns.example", "both.example"):
        assert get(site.at("/good.png", host), tmp_path).status == "ok"
        assert site.asked[-1][1]["host"] == f"{host}:{site.server_address[1]}"
    assert get(site.at("/moved", "turns.example"), tmp_path).status == "refused"
    names["gone.example"] = [[]]
    assert "no address of its host is known" in str(get(site.at("/x", "gone.example"), tmp_path).error)


def test_tls_asks_for_the_name_and_is_no_picture_where_there_is_none(
    site: Site, names: dict[str, list[list[str]]], tmp_path: Path
) -> None:
    names["safe.example"] = [["127.0.0.1"]]
    one = get(site.at("/good.png", "safe.example", "https"), tmp_path)
    assert one.status == "failed" and not site.asked and b"safe.example" in site.hellos[0]


def test_credentials_and_headers_go_to_their_own_host_only(
    site: Site, names: dict[str, list[list[str]]], tmp_path: Path
) -> None:
    names["one.example"] = names["two.example"] = [["127.0.0.1"]]
    BEHAVIOUR["/away"] = leads(site.at("/good.png", "me:secret@two.example"))
    headers = ("X-All: 1", "one.example Cookie: a=b", "example Referer: old", "Referer: new", "example.org X-Not: 1")
    url = site.at("/away#part", "me:secret@sub.one.example")
    names["sub.one.example"] = [["127.0.0.1"]]
    one = get(url, tmp_path, WEB.model_copy(update={"headers": headers}))
    (_, first), (_, second) = site.asked
    assert one.status == "ok" and (first["cookie"], first["x-all"], first["referer"]) == ("a=b", "1", "new")
    assert first["authorization"] == "basic " + "bWU6c2VjcmV0".lower()
    assert "authorization" not in second and "cookie" not in second and second["x-all"] == "1"
    assert "secret" not in (tmp_path / LOG).read_text() and "x-not" not in first
    assert WebSettings().headers_for("wx1.sinaimg.cn") == {"referer": "https://weibo.com/"}
    assert WebSettings().headers_for("evilsinaimg.cn") == {}


def test_no_proxy_of_the_environment_is_asked(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert get(site.at("/good.png"), tmp_path).status == "ok"


def test_what_is_there_is_not_asked_for_again(site: Site, tmp_path: Path) -> None:
    good, gone, broken = (site.at(path) for path in ("/good.png", "/gone", "/broken"))
    urls = [good, gone, broken, good, f"{good}#part", good.replace("//", "//me@"), "a.png", "ftp://127.0.0.1/a.png"]
    assert len(get_all(urls, tmp_path)) == 3
    assert Counter(site.paths) == {"/good.png": 1, "/gone": 1, "/broken": 2}
    # The folder may be taken elsewhere; what a process that was killed has begun to say counts for nothing.
    with (tmp_path / LOG).open("a") as log:
        log.write('{"url":"http://x/","file":"../../etc/passwd","status":"ok","error":null,"settings":""}\n{"url":')
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    site.asked.clear()
    found = get_all(urls, moved)
    assert site.paths == ["/broken"] * 2 and FetchedFolder(moved).locate("http://x/")[2] == "not fetched: time was up"  # type: ignore[index]
    assert all(json.loads(line) for line in (moved / LOG).read_text().splitlines() if not line.endswith('{"url":'))
    # A file that is gone is fetched again, and what was refused under other settings is asked for again.
    (moved / str(found[good].file)).unlink()
    site.asked.clear()
    get_all([good, gone], moved, WEB.model_copy(update={"headers": ("X: y",)}))
    assert Counter(site.paths) == {"/good.png": 1, "/gone": 1}


def test_two_addresses_of_the_same_picture_are_one_file(site: Site, tmp_path: Path) -> None:
    found = get_all([site.at("/good.png"), site.at("/moved"), site.at("/图 片.png")], tmp_path)
    assert len({one.file for one in found.values()}) == 1 and len([*tmp_path.rglob("*.png")]) == 1


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_files_are_called_by_what_their_bytes_say(site: Site, tmp_path: Path, kind: str) -> None:
    site.turns["/good.png"] = [answer(make_picture(kind), "Content-Type: text/plain")]
    suffix = {"JPEG": "jpg"}.get(kind, kind.lower())
    assert str(get(site.at("/good.png"), tmp_path).file).endswith(f".{suffix}")


def test_where_a_loop_runs_already_another_thread_does_it(site: Site, tmp_path: Path) -> None:
    async def ask_within() -> Fetched:
        return get(site.at("/good.png"), tmp_path)

    assert asyncio.run(ask_within()).status == "ok"


def test_once_it_is_late_nothing_is_begun(site: Site, tmp_path: Path) -> None:
    found = fetch_pictures([site.at("/good.png")], FetchedFolder(tmp_path), WEB, LIMITS, quiet=True, is_late=lambda: True)
    assert [one.error for one in found.values()] == ["not fetched: time was up"] and not site.asked


# The commands


def test_posts_are_tagged_by_what_was_fetched_without_the_network(site: Site, pictures: Path) -> None:
    draw(pictures / "served.png", "SALE 2026")
    site.turns["/sale"] = [answer((pictures / "served.png").read_bytes())]
    url = site.at("/sale")
    rows = f"1,蛋糕,{url}\n2,汽车,sale.png;{url}\n3,甜品,{site.at('/gone')};none.png;../x.png\n"
    (pictures / "posts.csv").write_text(f"post_id,text,images\n{rows}", encoding="utf-8")
    done = ask("fetch", "posts.csv", "-o", "pics", "--allow-network", LOOPBACK[0])
    assert done.exit_code == 0 and "2 web addresses, 2 asked for now" in done.stderr and "1 there, 1 refused" in done.stderr
    asked = len(site.asked)
    command = ("ocr", "posts.csv", "--workers", "0", "-q")
    assert ask(*command, "-o", "out.parquet", "--fetch", "pics").exit_code == 0
    seen = pq.read_table("out.parquet").to_pylist()
    assert [bool(row["ocr_lines"]) for row in seen] == [True, True, True, False, False, False]
    assert [row["link_error"] for row in seen[3:5]] == [
        "not fetched: its host has no public address (weibotag fetch --allow-network NETWORK)",
        "no such file",
    ]
    assert "media root" in seen[5]["link_error"] and len(site.asked) == asked
    assert ask(*command, "-o", "none.parquet").exit_code == 0
    errors = [str(row["link_error"]) for row in pq.read_table("none.parquet").to_pylist()]
    assert sum("--fetch DIR" in error for error in errors) == 3
    # A post names no file of the folder as one of its own.
    name = next(path for path in (pictures / "pics").rglob("*.png"))
    (pictures / "below").mkdir()
    (pictures / "below" / "posts.csv").write_text(f"post_id,images\n1,{url};{name}\n", encoding="utf-8")
    assert ask("ocr", "below/posts.csv", "--workers", "0", "-q", "-o", "b.parquet", "--fetch", "pics").exit_code == 0
    first, second = pq.read_table("b.parquet").to_pylist()
    assert first["ocr_lines"] and "media root" in second["link_error"]


def test_what_failed_is_tried_again_by_the_same_command(site: Site, folder: Path) -> None:
    (folder / "posts.csv").write_text(f"post_id,text,images\n1,蛋糕,{site.at('/good.png')}\n", encoding="utf-8")
    (folder / "look.toml").write_text(
        'stages = ["faces"]\n[web]\nallow_network = ["127.0.0.0/8"]\ntries = 1\n', encoding="utf-8"
    )
    site.turns["/good.png"] = [b""]
    command = ("tag", "posts.csv", "-t", "tree.csv", "--words-only", "--workers", "0", "-p", "look.toml", "--fetch", "pics")
    done = ask(*command, "-q", "-o", "tags.parquet")
    assert done.exit_code == 1 and "the same command tries them again" in done.stderr
    assert "Server disconnected" in pq.read_table("tags.parquet")["error"][0].as_py()
    done = ask(*command, "-q", "-o", "tags.parquet")
    assert done.exit_code == 0 and pq.read_table("tags.parquet")["error"].to_pylist() == [None]
    site.turns["/moved"] = [b""]
    (folder / "posts.csv").write_text(f"post_id,text,images\n1,蛋糕,{site.at('/moved')}\n", encoding="utf-8")
    done = ask("fetch", "posts.csv", "-p", "look.toml", "-o", "pics", "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["failed"] == 1 and "error: 1 could not be fetched" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--header", "Cookie: a=b"], "give the one it is for, 'HOST Cookie: VALUE'"),
        (["--header", "Host: a"], "not yours to set"),
        (["--header", "no header"], "expected 'NAME: VALUE'"),
        (["--header", "A: b\r\nC: d"], "expected 'NAME: VALUE'"),
        (["--allow-network", "10.0.0.1/8"], "not a valid IPv4 or IPv6 network"),
        (["-o", "posts.csv"], "posts.csv"),
    ],
)
def test_what_can_not_be_asked_for_is_refused_in_one_line(folder: Path, words: list[str], said: str) -> None:
    done = ask("fetch", "posts.csv", "-o", "pics", *words)
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert "Value error" not in done.stderr
