"""Servers that stand for the places models are downloaded from, and short ways to know and to ask for models."""

import hashlib
import json
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from weibotag.core.errors import RequestError
from weibotag.vision.weights import catalogue
from weibotag.vision.weights.catalogue import Model, find_model

CONTENT = bytes(range(256)) * 300
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_FILES = {
    "config.json": b"{}",
    "vocab.txt": b"a\n",
    "model.safetensors": CONTENT,
    "pytorch_model.bin": b"code",
    "net.onnx": b"twin",
}


class Server(ThreadingHTTPServer):
    """Gives `content` under every path, broken off after each of `cuts` bytes; `ranges` says whether it knows Range."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = CONTENT
        self.ranges = True
        self.cuts: list[int] = []
        self.status = 200
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/tiny.onnx"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if self.server.status != 200 or start > len(self.server.content):
            self.send_error(416 if self.server.status == 200 else self.server.status)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *words: Any) -> None:
        pass


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as its client asks for."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)  # type: ignore[attr-defined]
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/owner/net/tree/"):
            self.reply(json.dumps([self.describe(name) for name in HUB_FILES]).encode())
        elif path.startswith("/api/models/owner/net"):
            files = [{"rfilename": name} for name in HUB_FILES]
            self.reply(json.dumps({"id": "owner/net", "sha": COMMIT, "siblings": files}).encode())
        elif f"/owner/net/resolve/{COMMIT}/" in path:
            self.reply(HUB_FILES[name], {"ETag": f'"{self.etag(name)}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    def describe(self, name: str) -> dict[str, Any]:
        row = {"type": "file", "path": name, "size": len(HUB_FILES[name]), "oid": "0" * 40}
        large = {"lfs": {"oid": self.etag(name), "size": len(HUB_FILES[name]), "pointerSize": 132}}
        return row | (large if name == "model.safetensors" else {})

    def etag(self, name: str) -> str:
        return SHA256 if name == "model.safetensors" else hashlib.sha1(HUB_FILES[name]).hexdigest()

    def reply(self, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        pass


def tiny(url: str, name: str = "tiny.onnx", **other: Any) -> Model:
    return replace(Model(name, "detect", url, len(CONTENT), SHA256, "MIT"), **other)


def know(monkeypatch: pytest.MonkeyPatch, *rows: Model) -> None:
    """Let the table have these rows."""
    monkeypatch.setattr(catalogue, "TABLE", rows)


def refuse(name: str, allow_pickle: bool = False) -> str:
    """Return the one line that `find_model` refuses a name with."""
    with pytest.raises(RequestError) as caught:
        find_model(name, allow_pickle)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
