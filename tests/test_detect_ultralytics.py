"""Objects by Ultralytics: each kind of file against the library's own `predict`, and what it refuses."""

import os
import re
import sys
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of
from weibotag.vision.backend import DetectedObject, list_objects
from weibotag.vision.backends import detect_ultralytics
from weibotag.vision.backends.detect_ultralytics import Ultralytics, import_library
from weibotag.vision.object_names import chinese_name

for library in ("ultralytics", "torch", "torchvision"):
    if find_spec(library) is None:
        pytest.skip(f"needs the extra yolo: {library} is absent", allow_module_level=True)
# The library writes its settings when it is imported.
SETTINGS = TemporaryDirectory()
os.environ.setdefault("YOLO_CONFIG_DIR", SETTINGS.name)
import_library()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from ultralytics import YOLO  # noqa: E402

MODELS = Path(os.environ.get("WEIBOTAG_SHARED", "../shared")).resolve() / "models"
SIDE = 96
RANDOM = np.random.default_rng(0)
PICTURES = [
    RANDOM.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((90, 120), (96, 96), (33, 200), (300, 70))
]
PROMPTS = ("lipstick=口红", "birthday cake=蛋糕", "dog=狗狗")


def build(config: str, folder: Path) -> Path:
    """Save a network of random weights that is sure of many things."""
    torch.manual_seed(0)
    model: Any = YOLO(config)
    head = model.model.model[-1]
    for name in ("cv3", "one2one_cv3"):
        for branch in getattr(head, name, None) or ():
            branch[-1].bias.data.normal_(-2, 1.5)
    for branch in getattr(head, "cv4", ()):
        for parameter in ("bias", "logit_scale"):
            if hasattr(branch, parameter):
                getattr(branch, parameter).data.fill_({"bias": -1.0, "logit_scale": 2.0}[parameter])
    path = folder / f"{Path(config).stem}.pt"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yolo")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return build("yolo11n.yaml", folder)


@pytest.fixture(scope="module")
def yoloe(folder: Path) -> Path:
    return build("yoloe-11s.yaml", folder)


@pytest.fixture(scope="module")
def world(folder: Path) -> Path:
    return build("yolov8s-worldv2.yaml", folder)


def hashed(path: Path) -> str:
    return f"{path}#sha256={sha256_of(path)}"


def opened(path: Path, **settings: Any) -> Ultralytics:
    pickled = path.suffix == ".pt"
    backend = Ultralytics(hashed(path) if pickled else str(path), **{"min_score": 0.3, "allow_pickle": pickled, **settings})
    backend.open()
    return backend


def assert_predicted(
    found: list[list[DetectedObject]], path: Path, pictures: list[np.ndarray], min_score: float = 0.3, size: int = SIDE
) -> None:
    """The library's own predict finds the same in each picture, and something."""
    model: Any = YOLO(path, task="detect")
    for picture, objects in zip(pictures, found, strict=True):
        boxes = model.predict(picture[..., ::-1], conf=min_score, imgsz=size, verbose=False, device="cpu")[0].boxes
        assert objects
        assert_alike(
            objects, list_objects(boxes.xyxy.numpy(), boxes.conf.numpy(), [model.names[int(one)] for one in boxes.cls])
        )


def assert_alike(found: list[DetectedObject], expected: list[DetectedObject]) -> None:
    assert [one.label for one in found] == [one.label for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=2e-4)
    for one, other in zip(found, expected, strict=True):
        assert one.box == pytest.approx(other.box, abs=0.05)


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> Ultralytics:
    return opened(checkpoint, size=SIDE)


def assert_apart(backend: Ultralytics) -> None:
    """The answers of pictures seen together, in another order, and one by one are the same."""
    together = backend.look(PICTURES)
    assert sum(map(len, together)) > 10
    assert backend.look(PICTURES[::-1]) == together[::-1]
    assert [backend.look([picture])[0] for picture in PICTURES] == together


@pytest.mark.parametrize("config", ["yolo11n.yaml", "yolo26n.yaml", "yolov8n.yaml"])
def test_a_checkpoint_finds_what_predict_finds(config: str, folder: Path) -> None:
    path = build(config, folder)
    backend = opened(path, size=SIDE)
    assert backend.weights() == [path]
    assert_predicted(backend.look(PICTURES), path, PICTURES)
    assert_apart(backend)


@pytest.mark.parametrize("batch", [1, 3, None])
def test_an_export_finds_what_predict_finds(batch: int | None, checkpoint: Path) -> None:
    kind = {"dynamic": True} if batch is None else {"batch": batch}
    path = Path(YOLO(checkpoint).export(format="onnx", imgsz=SIDE, simplify=False, verbose=False, **kind))
    backend = opened(path)
    assert_predicted(backend.look(PICTURES), path, PICTURES)
    assert_apart(backend)
    if batch == 1:
        with pytest.raises(RequestError, match="takes pictures of 96 x 96, not 320"):
            opened(path, size=320)


def test_boxes_of_a_segmenting_network(folder: Path) -> None:
    found = opened(build("yolo11n-seg.yaml", folder), size=SIDE, min_score=0.4).look(PICTURES)
    assert all(found)
    assert all(len(one.box) == 4 for objects in found for one in objects)


def test_boxes_lie_inside_their_picture_and_are_sorted(detector: Ultralytics) -> None:
    for picture, objects in zip(PICTURES, detector.look(PICTURES), strict=True):
        assert [one.score for one in objects] == sorted((one.score for one in objects), reverse=True)
        for one in objects:
            left, top, width, height = one.box
            assert 0 <= left < left + width <= picture.shape[1] + 1e-6
            assert 0 <= top < top + height <= picture.shape[0] + 1e-6
            assert 0.3 <= one.score <= 1


@pytest.mark.parametrize("shape", [(1, 1), (30, 9000), (9000, 30), (4096, 4096)])
def test_odd_sizes(shape: tuple[int, int], detector: Ultralytics) -> None:
    picture = np.zeros((*shape, 3), np.uint8)
    picture.flags.writeable = False
    assert len(detector.look([picture])) == 1


def test_no_pictures(detector: Ultralytics) -> None:
    assert detector.look([]) == []


def test_a_batch_that_is_too_much_for_the_memory_is_halved_for_the_next(checkpoint: Path) -> None:
    backend = opened(checkpoint, size=SIDE)
    find: Any = backend._find
    network, fit, *_ = find.args
    run, backend._batch = network.run, 4
    fit.auto = False

    def run_out(stack: np.ndarray) -> torch.Tensor:
        if len(stack) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return run(stack)

    expected = backend.look(PICTURES)
    network.run = run_out
    found = backend.look(PICTURES)
    assert backend._batch == 2
    for one, other in zip(found, expected, strict=True):
        assert_alike(one, other)


def test_the_street_photo() -> None:
    path = MODELS / "yolo11n_int8.onnx"
    if not path.exists():
        pytest.skip(f"no {path}: WEIBOTAG_SHARED names the folder of models")
    picture = np.asarray(Image.open(MODELS / "sample_bus.jpg").convert("RGB"))
    found = opened(path).look([picture])[0]
    assert_predicted([found], path, [picture], size=320)
    names = [chinese_name(one.label) for one in found if one.score > 0.5]
    assert names.count("人") == 3
    assert names.count("公交车") == 1


class Encoder(nn.Module):
    """A text encoder of random weights: each letter's vector, averaged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.letters = nn.Embedding(256, 512)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.letters(tokens).mean(1), dim=-1)

    @torch.jit.export
    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.forward(tokens)


@pytest.fixture
def clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Stand in for the library clip, which no package index has, and for the encoders, which are downloads."""

    def tokenize(texts: list[str], truncate: bool = False) -> torch.Tensor:
        return torch.tensor([list(text.encode().ljust(77, b" ")[:77]) for text in texts])

    module = types.ModuleType("clip")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    module.clip = types.SimpleNamespace(tokenize=tokenize)  # type: ignore[attr-defined]
    module.tokenize = tokenize  # type: ignore[attr-defined]
    module.load = lambda path, device, download_root: (torch.jit.load(path), None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "clip", module)
    monkeypatch.setenv("WEIBOTAG_MODELS", str(tmp_path))
    encoder = torch.jit.script(Encoder())
    known = []
    for mark, name in detect_ultralytics.ENCODERS:
        encoder.save(str(tmp_path / name))
        known.append((mark, hashed(tmp_path / name).removeprefix(f"{tmp_path}/")))
    # The table knows the hashes of the real ones.
    monkeypatch.setattr(detect_ultralytics, "ENCODERS", known)
    yield tmp_path
    sys.modules.pop("ultralytics.nn.text_model", None)


@pytest.mark.parametrize(("kind", "encoder"), [("yoloe", "mobileclip_blt.ts"), ("world", "ViT-B-32.pt")])
def test_an_open_vocabulary_looks_for_the_classes(
    kind: str, encoder: str, clip: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    low = opened(path, size=SIDE, classes=PROMPTS, min_score=0.001)
    assert low.weights() == [path, clip / encoder]
    found = low.look(PICTURES)
    assert {one.label for objects in found for one in objects} <= {"口红", "蛋糕", "狗狗"}
    assert sum(map(len, found)) > 10
    turned = opened(path, size=SIDE, classes=PROMPTS[::-1], min_score=0.001).look(PICTURES)
    for one, other in zip(found, turned, strict=True):
        assert_alike(one, other)
    alone = opened(path, size=SIDE, classes=["dog"], min_score=0.001).look(PICTURES)
    assert {one.label for objects in alone for one in objects} == {"dog"}


def test_a_yoloe_that_was_saved_with_its_classes(yoloe: Path, tmp_path: Path) -> None:
    model: Any = YOLO(yoloe)
    model.model.set_classes(["lipstick", "cake"], nn.functional.normalize(torch.randn(1, 2, 512), dim=-1))
    path = tmp_path / "told.pt"
    model.save(path)
    found = opened(path, size=SIDE, min_score=0.001).look(PICTURES)
    assert {one.label for objects in found for one in objects} <= {"lipstick", "cake"}
    assert sum(map(len, found)) > 10
    assert_predicted(found, path, PICTURES, 0.001)


def test_a_checkpoint_is_a_pickle_and_needs_leave_and_its_hash(checkpoint: Path, yoloe: Path) -> None:
    for name in (str(checkpoint), hashed(checkpoint), "yolo11n.pt"):
        with pytest.raises(RequestError, match=r"pickle.*allow_pickle.*yolo export model=\S+\.pt format"):
            Ultralytics(name).weights()
    with pytest.raises(RequestError, match=f"unknown sha256.*{re.escape(hashed(yoloe))}"):
        Ultralytics(str(yoloe), allow_pickle=True).weights()
    # The table knows another file of the first name.
    for name in (str(checkpoint), f"{yoloe}#sha256={'0' * 64}"):
        with pytest.raises(RequestError, match="another file"):
            Ultralytics(name, allow_pickle=True).weights()


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(mark),)

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(RequestError, match=r"evil\.pt: ultralytics can't load it"):
        opened(tmp_path / "evil.pt")
    assert not mark.exists()


def test_classes_need_a_network_that_takes_them(checkpoint: Path, clip: Path) -> None:
    with pytest.raises(RequestError, match="its classes are fixed"):
        opened(checkpoint, classes=PROMPTS)
    export = clip / "a.onnx"
    export.touch()
    with pytest.raises(RequestError, match="has the classes it was exported with"):
        opened(export, classes=PROMPTS)
    (clip / "torn.pt").write_bytes(b"PK")
    with pytest.raises(RequestError, match="no checkpoint of torch"):
        opened(clip / "torn.pt", classes=PROMPTS)


def test_classes_need_the_encoder_and_its_tokenizer(yoloe: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clip / "mobileclip_blt.ts").unlink()
    with pytest.raises(RequestError, match=r"mobileclip_blt\.ts"):
        opened(yoloe, classes=PROMPTS)
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(RequestError, match="pip install git"):
        opened(yoloe, classes=PROMPTS)


def test_a_yoloe_without_classes(yoloe: Path) -> None:
    with pytest.raises(RequestError, match="give classes"):
        opened(yoloe)


@pytest.mark.parametrize("config", ["yolo11n-cls.yaml", "yolo11n-obb.yaml"])
def test_networks_that_find_no_upright_boxes(config: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    YOLO(config).save(path)
    with pytest.raises(RequestError, match="give a YOLO that finds boxes"):
        opened(path)


def test_an_onnx_of_another_kind(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    graph.output[0].name = "y"
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), tmp_path / "a.onnx"
    )
    with pytest.raises(RequestError, match="no names of classes in it"):
        opened(tmp_path / "a.onnx")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.engine").touch()
    with pytest.raises(RequestError, match=r"expected a \.onnx or \.pt file"):
        opened(tmp_path / "a.engine")
