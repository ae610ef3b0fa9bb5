"""A server of pictures that misbehaves, by the path that it is asked for."""

import gzip
import socket
import socketserver
import time
from collections.abc import Callable
from io import BytesIO
from urllib.parse import unquote

from PIL import Image


def make_picture(kind: str = "PNG") -> bytes:
    made = BytesIO()
    Image.new("RGB", (40, 30), "red").save(made, kind)
    return made.getvalue()


PICTURE = make_picture()


def answer(body: bytes = PICTURE, *headers: str, status: str = "200 OK", length: int | None = -1) -> bytes:
    """Return an answer with its body's length, another, or (None) none."""
    own = [] if length is None else [f"Content-Length: {len(body) if length < 0 else length}"]
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, *own, "", ""]).encode() + body


def leads(to: str, status: str = "302 Found") -> bytes:
    return answer(b"", f"Location: {to}", status=status)


def drip(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head)
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def pour(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head)
    while True:
        connection.sendall(bytes(1 << 16))


ENDLESS = "HTTP/1.1 200 OK\r\n{}\r\n\r\n"
# By path: what is sent, or what sends it.
BEHAVIOUR: dict[str, bytes | Callable[[socket.socket], None]] = {
    "/good.png": answer(),
    "/wrong-type": answer(PICTURE, "Content-Type: text/html"),
    "/no-length": answer(length=None),
    "/slow-body": lambda peer: drip(peer, answer(PICTURE, length=100_000)),
    "/slow-headers": lambda peer: drip(peer, b"HTTP/1.1 200 OK\r\nX: "),
    "/silent": lambda peer: peer.recv(1) and None,
    "/endless": lambda peer: pour(peer, ENDLESS.format("Connection: close").encode() + PICTURE),
    "/endless-chunks": lambda peer: pour(peer, answer(b"40000\r\n" + PICTURE, "Transfer-Encoding: chunked", length=None)),
    "/too-long": answer(PICTURE, length=10**12),
    "/no-number": answer(PICTURE, "Content-Length: many", length=None),
    "/two-lengths": answer(PICTURE, "Content-Length: 5"),
    "/cut": answer(PICTURE[:50], length=len(PICTURE)),
    "/longer": answer(PICTURE + b"HTTP/1.1 200 OK", length=len(PICTURE)),
    "/packed": answer(gzip.compress(bytes(10_000_000)), "Content-Encoding: gzip"),
    "/packed-unsaid": answer(gzip.compress(PICTURE)),
    "/loop": leads("/loop"),
    "/to-metadata": leads("http://169.254.169.254/latest/meta-data/"),
    "/to-file": leads("file:///etc/passwd"),
    "/to-nowhere": leads("http://[::1"),
    "/gone": answer(b"not here", status="404 Not Found"),
    "/locked": answer(b"", status="403 Forbidden"),
    "/broken": answer(b"", status="500 Oops"),
    "/closes": b"",
    "/page": answer(b"<!doctype html><html>log in</html>", "Content-Type: image/jpeg"),
    "/empty": answer(b""),
    "/huge-headers": b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 100_000 + b"\r\n",
    "/bad-chunks": answer(b"zz\r\n" + PICTURE, "Transfer-Encoding: chunked", length=None),
    "/garbage": b"\0\1\2 nonsense\r\n\r\n",
    "/nul-header": answer(PICTURE, "X: \0"),
    "/partial": answer(PICTURE, status="206 Partial Content"),
    "/odd-status": answer(PICTURE, status="299 Odd"),
    "/moved": leads("good.png", "301 Moved"),
    "/图 片.png": answer(),
}


class Peer(socketserver.BaseRequestHandler):
    server: "Site"

    def handle(self) -> None:
        """Answer each request of a connection as its path says, until that is no answer."""
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = self.request.recv(1 << 16)
                data += more
                if not more or data.startswith(b"\x16"):
                    self.server.hellos.append(data)
                    return
            head, _, data = data.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            path = lines[0].split(" ")[1]
            self.server.asked.append((path, dict(line.lower().split(": ", 1) for line in lines[1:])))
            turn = self.server.turns.get(path)
            sent = turn.pop(0) if turn else BEHAVIOUR[unquote(path.partition("?")[0])]
            try:
                if callable(sent):
                    sent(self.request)
                    return
                self.request.sendall(sent)
            except OSError:
                return
            if not sent or path not in ("/good.png", "/moved"):
                return


class Site(socketserver.ThreadingTCPServer):
    """Behaves by path; `turns` go before, one a request. `asked` are paths and headers, `hellos` what was no HTTP."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Peer)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.hellos: list[bytes] = []
        self.turns: dict[str, list[bytes]] = {}

    def at(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_address[1]}{path}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]
