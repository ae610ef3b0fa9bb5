import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from dataclasses import asdict
from http.server import ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from commands import shell
from hypothesis import given
from hypothesis import strategies as st
from model_servers import CONTENT, SHA256, Hub, Server, know, put, refuse, tiny
from typer.testing import CliRunner

from weibotag.cli.main import app
from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.vision.weights import catalogue
from weibotag.vision.weights.catalogue import TABLE, at_hand, cache_folder, examine, find_model, match, pin, split_hash

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("WEIBOTAG_SHARED", ROOT.parent / "shared"))
CLOSED = "http://127.0.0.1:9/tiny.onnx"
HUB_CLIENT = find_spec("huggingface_hub") is not None
pytestmark = pytest.mark.usefixtures("no_models")


def ask(*words: str) -> Any:
    return CliRunner().invoke(app, ["models", *words])


def test_a_path_then_the_folder_then_the_cache_then_the_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    know(monkeypatch, tiny(server.url))
    folder = tmp_path / "folder"
    monkeypatch.setenv("WEIBOTAG_MODELS", str(folder))
    assert at_hand("tiny.onnx") is None
    assert find_model("tiny.onnx") == cache_folder() / "tiny.onnx" == at_hand("tiny.onnx")
    assert len(server.asked) == 1
    in_folder = put(folder / "tiny.onnx", b"mine")
    assert find_model("tiny.onnx") == in_folder
    here = put(tmp_path / "work" / "tiny.onnx", b"nearer")
    assert find_model("tiny.onnx").resolve() == here
    assert find_model(str(in_folder)) == in_folder
    assert len(server.asked) == 1


def test_a_pattern_finds_the_newest_by_name(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, tiny(server.url, "net_2023.onnx"), tiny(server.url, "net_2026.onnx"))
    assert find_model("net*.onnx").name == "net_2026.onnx"
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    for year in (2021, 2022):
        put(tmp_path / f"net_{year}.onnx")
    assert find_model("net*.onnx") == tmp_path / "net_2022.onnx"
    # What a download left beside the models is none.
    assert at_hand("net_2026*") == cache_folder() / "net_2026.onnx"


def test_weights_of_a_package_are_always_there() -> None:
    for model in TABLE:
        if model.source.startswith("package:"):
            state = examine(model.name)
            assert state.fault is None and state.path == find_model(model.name)
            assert state.path is not None and state.path.stat().st_size == model.size


def test_an_unknown_name_is_told_with_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "did you mean face_detection_yunet_2026may.onnx" in refuse("face_detection_yunet_2026mai.onnx")
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    assert f"not in {tmp_path}" in refuse("nothing like it")
    assert "hf:owner/name@revision" in refuse("hf:../../etc")
    assert "weibotag models pull yolo11n.pt --allow-pickle" in refuse("yolo11n.onnx")


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        found = at_hand(text)
    except RequestError:
        assert "#sha256=" in text
        return
    assert found is None or found.exists()


def test_a_pickle_needs_the_flag_and_a_known_hash(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, tiny(server.url, "tiny.pt"))
    assert "allow_pickle" in refuse("tiny.pt")
    assert server.asked == []
    assert ask("pull", "tiny.pt", "--allow-pickle").stdout == f"{cache_folder() / 'tiny.pt'}\n"
    assert find_model("tiny.pt", allow_pickle=True).read_bytes() == CONTENT
    # Also once it is here.
    assert "allow_pickle" in refuse("tiny.pt")
    assert "allow_pickle" in refuse(f"tiny.pt#sha256={SHA256}")
    assert "another file" in refuse(f"tiny.pt#sha256={'0' * 64}", allow_pickle=True)


def test_an_own_pickle_is_named_with_its_hash(tmp_path: Path) -> None:
    path = put(tmp_path / "best.PT")
    assert "allow_pickle" in refuse(str(path))
    line = refuse(str(path), allow_pickle=True)
    found = re.search(r"name it (\S+)", line)
    assert found is not None
    assert find_model(found[1], allow_pickle=True) == path
    put(path, CONTENT[::-1])
    assert "damaged, or another file" in refuse(found[1], allow_pickle=True)


def test_a_changed_pickle_of_the_table_is_not_offered_to_be_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    know(monkeypatch, tiny(CLOSED, "tiny.pt"))
    path = put(tmp_path / "tiny.pt", b"cuckoo")
    line = refuse(str(path), allow_pickle=True)
    assert SHA256 in line and "#sha256=" not in line


def test_a_hash_in_the_name_holds_for_every_file(tmp_path: Path) -> None:
    path = put(tmp_path / "tiny.onnx")
    assert find_model(f"{path}#sha256={SHA256.upper()}") == path
    assert "another file" in refuse(f"{path}#sha256={'0' * 64}")
    assert "64 hexadecimal digits" in refuse(f"{path}#sha256=12")
    # Of a folder, the names and hashes of its files.
    pinned = pin(str(tmp_path))
    assert find_model(pinned) == tmp_path
    put(tmp_path / "more.json")
    assert "another file" in refuse(pinned)
    assert "@commit" in refuse(f"hf:owner/net#sha256={SHA256}")


@given(st.text(min_size=1).filter(lambda text: not re.search(r"^hf:|#sha256=|\n", text)), st.binary())
def test_split_hash_undoes_the_name(name: str, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    assert split_hash(name) == (name, None)
    assert split_hash(f"{name}#sha256={digest}") == (name, digest)


@pytest.mark.parametrize("place", ["owner/net", "net"])
def test_a_hub_folder_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    put(tmp_path / place / "pytorch_model.bin")
    assert at_hand("hf:owner/net") is None
    put(tmp_path / place / "model.safetensors")
    assert find_model("hf:owner/net@v2") == tmp_path / place


def test_a_hub_model_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert at_hand("hf:owner/net") is None
    with pytest.raises(MissingExtraError, match=r"weibotag\[hf\]"):
        find_model("hf:owner/net")


def run(tmp_path: Path, endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `weibotag models` against a hub: its client reads the environment once, when it is imported."""
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    return shell("models", *words, env={**os.environ, **hub})


@pytest.mark.skipif(not HUB_CLIENT, reason="needs the extra hf: huggingface_hub is absent")
def test_a_snapshot_of_the_hub_without_its_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        pulled = run(tmp_path, endpoint, "pull", "hf:owner/net")
        server.shutdown()
        assert pulled.returncode == 0, pulled.stderr
        folder = Path(pulled.stdout.strip())
        assert {path.name for path in folder.iterdir()} == {"config.json", "vocab.txt", "model.safetensors"}
        assert not any("pytorch_model.bin" in path for path in server.asked)  # type: ignore[attr-defined]
    # From here on the hub is gone.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    assert find_model("hf:owner/net") == folder
    assert examine("hf:owner/net").fault is None
    (folder / "model.safetensors").resolve().write_bytes(b"damaged")
    assert "model.safetensors is damaged: remove" in str(examine("hf:owner/net").fault)
    other = run(tmp_path, endpoint, "pull", "hf:owner/net@v2")
    assert other.returncode == 2 and other.stderr.count("\n") == 1, other.stderr
    for expected in (f"{endpoint}/owner/net/tree/v2", ".safetensors", str(cache_folder() / "owner/net")):
        assert expected in other.stderr


def test_the_table_is_whole() -> None:
    names = [model.name for model in TABLE]
    assert len(set(names)) == len(names)
    for model in TABLE:
        assert re.fullmatch(r"https://\S+/[\w.-]+|hf:[\w-]+/[\w.-]+@[\w/]+|package:\w+/\w+", model.source), model
        assert model.source.endswith(model.name) or not model.source.startswith("https:")
        assert model.source.startswith(f"{model.name}@") or not model.source.startswith("hf:")
        assert model.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", model.sha256), model
        # What is fetched by its address is checked; the hub checks by itself.
        assert (model.sha256 and model.size) or model.source.startswith("hf:"), model
        assert match(model.name) == [model]


def test_the_table_travels_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "*.csv" in project["tool"]["setuptools"]["package-data"]["weibotag.vision.weights"]
    assert "*.csv" in project["tool"]["setuptools"]["package-data"]["weibotag.vision"]
    assert "*.yml" in project["tool"]["setuptools"]["package-data"]["weibotag.vision.backends"]


def test_docs_show_the_table() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")]
    expected = [
        [
            f"`{model.name}`",
            model.stage,
            model.note,
            f"{model.size:,}" if model.size else "?",
            f"`{model.sha256}`" if model.sha256 else "?",
            model.licence,
            model.extra or "",
            f"`{model.source}`" if "://" not in model.source else f"<{model.source}>",
        ]
        for model in TABLE
    ]
    assert shown == expected


def test_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    know(monkeypatch, tiny(CLOSED), tiny(CLOSED, "other.pt", extra="yolo", sha256=None))
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    put(tmp_path / "tiny.onnx")
    rows = json.loads(ask("list", "--json").stdout)
    assert rows[0] == {**asdict(tiny(CLOSED)), "path": str(tmp_path / "tiny.onnx")}
    assert (rows[1]["path"], rows[1]["sha256"], rows[1]["extra"]) == (None, None, "yolo")
    shown = ask("list").stdout
    for expected in ("tiny.onnx", "detect", "MIT", "0.1 MB", SHA256[:12], "yes", "no", CLOSED):
        assert expected in shown


def test_pull_prints_the_path_and_mends_the_cache(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    know(monkeypatch, tiny(server.url))
    target = cache_folder() / "tiny.onnx"
    for _ in range(2):
        assert ask("pull", "tiny.onnx").stdout == f"{target}\n"
    assert len(server.asked) == 1
    put(target, b"damaged")
    assert "pull it again" in ask("check").stdout
    assert ask("pull", "tiny.onnx").stdout == f"{target}\n"
    assert target.read_bytes() == CONTENT
    # A folder of the user's own is not written to.
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    put(tmp_path / "tiny.onnx", b"damaged")
    refused = ask("pull", "tiny.onnx")
    assert refused.exit_code == 2 and "put the right file there" in refused.stderr
    assert (tmp_path / "tiny.onnx").read_bytes() == b"damaged"


def test_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    know(monkeypatch, tiny(CLOSED), tiny(CLOSED, "absent.onnx"))
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    path = put(tmp_path / "tiny.onnx")
    result = ask("check")
    assert (result.exit_code, result.stdout) == (0, f"tiny.onnx: ok, {path}, sha256 {SHA256}\n")
    assert "1 of 2 models are here" in result.stderr
    result = ask("check", "absent.onnx", "tiny.onnx")
    assert result.exit_code == 2 and "absent.onnx: not here: weibotag models pull absent.onnx\n" in result.stdout
    own = put(tmp_path / "best.pt", b"own")
    assert ask("check", str(own)).stdout.endswith(f"sha256 {hashlib.sha256(b'own').hexdigest()}\n")
    put(path, CONTENT[:-1])
    result = ask("check")
    assert result.exit_code == 2 and "damaged" in result.stdout
    assert ask("check", "unknown.onnx").exit_code == 2


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="no shared models (set WEIBOTAG_SHARED)")
def test_real_weights_have_the_hash_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIBOTAG_MODELS", str(SHARED / "models"))
    state = examine("face_detection_yunet*.onnx")
    assert state.path is not None and state.path.name == "face_detection_yunet_2026may.onnx"
    assert state.fault is None and state.sha256 == match(state.path.name)[0].sha256


def test_importing_is_light() -> None:
    program = "import sys, weibotag.vision.weights.catalogue, weibotag.cli.weights; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True
    ).stdout.split()
    assert catalogue.__name__ in loaded
    assert not {"huggingface_hub", "torch", "filelock", "rich.table", "urllib3", "requests"} & set(loaded)
