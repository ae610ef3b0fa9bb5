"""Tensors of a file of torch's old kind are read as torch reads them, and nothing else that a pickle can say is done."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from weibotag.core.errors import RequestError
from weibotag.vision.backends.efficientnet import read_network
from weibotag.vision.backends.embed_efficientnet import EfficientNetLite
from weibotag.vision.weights.torch_tensors import MAGIC, VERSION, read_tensors


def test_the_tensors_are_those_that_torch_reads() -> None:
    torch = pytest.importorskip("torch", reason="needs torch to compare with")
    (path,) = EfficientNetLite().weights()
    expected = torch.load(path, weights_only=True)
    found = read_tensors(path)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], tensor.numpy()) for name, tensor in expected.items())


def test_files_of_torch_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch to write")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    given = OrderedDict(whole=base, turned=base.T, part=base[1:3, 2:], number=torch.tensor(7))
    torch.save(given, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    found = read_tensors(tmp_path / "a.pth")
    assert all(np.array_equal(found[name], tensor.numpy()) for name, tensor in given.items())


class Call:
    """Unpickled, it would call a function."""

    def __init__(self, *words: object) -> None:
        self.words = words

    def __reduce__(self) -> tuple[object, ...]:
        return self.words[0], tuple(self.words[1:])


def write(path: Path, tensors: object, keys: list[str] | None = None) -> Path:
    parts = [MAGIC, VERSION, {"little_endian": True}, tensors, keys or []]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts))
    return path


@pytest.mark.parametrize("call", [Call(print, "hostile"), Call(open, "hostile", "w"), Call(eval, "1/0")])
def test_nothing_that_a_pickle_calls_is_called(tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="which is no tensor"):
        read_tensors(write(tmp_path / "a.pth", call))
    assert capfd.readouterr() == ("", "") and not Path("hostile").exists()


def test_other_files_are_one_line(tmp_path: Path) -> None:
    contents: list[object] = [[1, 2], {"a": 1}, OrderedDict(a=None), 7]
    paths = [write(tmp_path / str(place), content) for place, content in enumerate(contents)]
    for place, data in enumerate([b"", b"PK\x03\x04", pickle.dumps(7), pickle.dumps(MAGIC, 2)]):
        paths.append(tmp_path / f"bytes{place}")
        paths[-1].write_bytes(data)
    for path in paths:
        with pytest.raises(RequestError) as caught:
            read_network(path)
        assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = EfficientNetLite().weights()
    data = bytearray(path.read_bytes())
    data[30_000] ^= 1
    (tmp_path / path.name).write_bytes(data)
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    with pytest.raises(RequestError, match=r"expected 579344248a93.*damaged"):
        EfficientNetLite().weights()
