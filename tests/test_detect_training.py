"""Detectors trained on drawn rectangles: figures, files, and what is refused."""

import hashlib
import json
import shutil
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from weibotag import detect_training
from weibotag.backends.detect_objects import DetectedObject
from weibotag.boxes import Box, BoxSet, LabelledPicture, read_boxes, read_picture
from weibotag.cli.detect import detect_train_command
from weibotag.detect_training import Fitting, mean_average_precision, share_union, train_detector
from weibotag.errors import RequestError

for library in ("transformers", "torch", "torchvision"):
    if find_spec(library) is None:
        pytest.skip(f"needs the extra hf: {library} is absent", allow_module_level=True)

import torch  # noqa: E402
from test_detect_transformers import save_d_fine, save_grounding_dino, save_rt_detr  # noqa: E402

from weibotag.backends.detect_transformers import Transformers, load_detector  # noqa: E402

LABELS = ("红", "蓝")
COLOURS = ((200, 20, 20), (20, 20, 200))
SHAPE = (100, 200)
YOLO = {
    "nc": 80,
    "scales": {"n": [0.33, 0.1, 64]},
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "C2f", [128, True]]],
    "head": [[[2], 1, "Detect", ["nc"]]],
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors on several threads mostly wait, above all on a machine that is busy."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw twelve pictures of a red and a blue rectangle in YOLO's layout; return data.yaml."""
    folder = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(0)
    for number in range(12):
        height, width = random.integers(60, 90, 2)
        pixels = np.full((height, width, 3), 230, np.uint8)
        lines = []
        for label, colour in enumerate(COLOURS):
            across, down = random.integers(15, 30, 2)
            left, top = random.integers(0, width - across), random.integers(0, height - down)
            pixels[top : top + down, left : left + across] = colour
            x, y = (left + across / 2) / width, (top + down / 2) / height
            lines.append(f"{label} {x} {y} {across / width} {down / height}\n")
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text(yaml.safe_dump({"train": ".", "names": list(LABELS)}, allow_unicode=True), "utf-8")
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rt_detr(tmp_path_factory.mktemp("start") / "rt_detr_v2", ("杯子", "猫", "狗"))


@pytest.fixture(scope="module")
def loaded(start: Path) -> tuple[Any, Any]:
    return load_detector(start, "rt_detr_v2")


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_training_lowers_the_loss_and_can_be_repeated(drawn: Path, start: Path, tmp_path: Path) -> None:
    boxes = read_boxes(drawn)
    fitting = Fitting(epochs=3, batch=4, device="cpu", learning_rate=1e-3)
    about = train_detector(boxes, str(start), tmp_path / "one", "transformers", fitting, quiet=True)
    again = train_detector(boxes, str(start), tmp_path / "two", "transformers", fitting, quiet=True)
    assert about["losses"] == again["losses"] and about["losses"][-1] < 0.95 * about["losses"][0]
    assert digest(tmp_path / "one") == digest(tmp_path / "two") != digest(start)
    assert about["pictures"] == {"train": 10, "held_out": 2} and about["boxes"] == {"train": 20, "held_out": 4}
    assert about["map50"]["before"] == 0 <= about["map50"]["after"] <= 1
    assert about["model"] == str(tmp_path / "one")
    kept = json.loads((tmp_path / "one" / "detector.json").read_text("utf-8"))
    assert kept == {name: value for name, value in about.items() if name not in ("model", "seconds")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    backend = Transformers(str(tmp_path / "one"), 0.01, device="cpu")
    backend.open()
    found = backend.look([read_picture(boxes.held_out[0].path)])[0]
    assert found and {one.label for one in found} <= set(LABELS)


def test_the_epoch_that_found_most_is_kept(
    drawn: Path, start: Path, loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([0.2, 0.5, 0.5, 0.1])
    monkeypatch.setattr(detect_training, "measure", lambda look, pictures: next(figures))
    monkeypatch.setattr(detect_training, "measure_detector", lambda backend, pictures: 0.0)
    saved = []
    monkeypatch.setattr(type(loaded[1]), "save_pretrained", lambda *words: saved.append(words))
    fitted = detect_training.fit_transformers(read_boxes(drawn), str(start), tmp_path, Fitting(4, 12, device="cpu"), True)
    assert fitted.best_epoch == 3 and len(saved) == 3 and len(fitted.losses) == 4


@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_the_rate_rises_and_falls(steps: int, loaded: tuple[Any, Any]) -> None:
    _, model = loaded
    optimizer, schedule = detect_training.make_optimizer(model, 1e-3, steps)
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [rate for rate, _ in rates] == pytest.approx([10 * rate for _, rate in rates])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    whole = [rate for rate, _ in rates]
    assert 0.9e-3 <= max(whole) <= 1e-3 and whole.index(max(whole)) <= steps // 10
    assert min(whole) > 0 and whole[steps // 10 :] == sorted(whole[steps // 10 :], reverse=True)


@pytest.mark.parametrize("save", [save_rt_detr, save_d_fine])
def test_a_step_on_pictures_with_and_without_boxes(save: Callable[..., Path], drawn: Path, tmp_path: Path) -> None:
    processor, model = load_detector(save(tmp_path / "model", LABELS), "any")
    pictures = [LabelledPicture(picture.path, ()) for picture in read_boxes(drawn).train[:2]]
    numbers = {label: number for number, label in enumerate(LABELS)}
    model.train()
    for some in (pictures, [*read_boxes(drawn).train[:2], *pictures]):
        batches = detect_training.load_batches(some, numbers, processor, len(some), torch.device("cpu"))
        optimizer, _ = detect_training.make_optimizer(model, 1e-4, 10)
        for batch in batches:
            assert len(batch["labels"]) == len(some) == len(batch["pixel_values"])
            assert 0 < detect_training.take_step(model, batch, optimizer) < 1000


def test_varied_pictures_keep_their_boxes_on_the_rectangles(drawn: Path, loaded: tuple[Any, Any]) -> None:
    processor, _ = loaded
    torch.manual_seed(0)
    batches = detect_training.load_batches(read_boxes(drawn).train, {"红": 0, "蓝": 1}, processor, 4, torch.device("cpu"))
    seen = 0
    for _ in range(3):
        for batch in batches:
            for pixels, labels in zip(batch["pixel_values"], batch["labels"], strict=True):
                for (x, y, _, _), number in zip(labels["boxes"].tolist(), labels["class_labels"].tolist(), strict=True):
                    # The later rectangle may cover the middle of the first.
                    middle = pixels[:, min(63, int(y * 64)), min(63, int(x * 64))]
                    seen += 1
                    assert int(middle.argmax()) in (2 * number, 2)
                    assert float(middle.max() - middle.min()) > 0.3
    assert seen > 40


def found_at(label: str, score: float, box: Box) -> DetectedObject:
    height, width = SHAPE
    return DetectedObject(label, score, (box.left * width, box.top * height, box.width * width, box.height * height))


def measure_one(boxes: list[Box], found: list[DetectedObject]) -> float:
    return mean_average_precision([found], [LabelledPicture(Path("one.png"), tuple(boxes))], [SHAPE])


LEFT, RIGHT, BELOW = (Box("红", left, top, 0.2, 0.2) for left, top in ((0.1, 0.1), (0.6, 0.1), (0.1, 0.6)))
NOWHERE = Box("红", 0.8, 0.8, 0.1, 0.1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], 0.0),
        ([(0.9, NOWHERE)], 0.0),
        ([(0.9, LEFT)], 0.5),
        ([(0.9, LEFT), (0.8, RIGHT)], 1.0),
        ([(0.9, LEFT), (0.8, NOWHERE), (0.7, RIGHT)], 0.5 + 0.5 * 2 / 3),
        # The same thing twice is a mistake the second time.
        ([(0.9, LEFT), (0.8, LEFT), (0.7, RIGHT)], 0.5 + 0.5 * 2 / 3),
        ([(0.9, NOWHERE), (0.8, LEFT)], 0.25),
        # A half of the width lies beside the box: a third of the union.
        ([(0.9, Box("红", 0.2, 0.1, 0.2, 0.2))], 0.0),
    ],
)
def test_average_precision_by_hand(found: list[tuple[float, Box]], expected: float) -> None:
    objects = [found_at("红", score, box) for score, box in found]
    assert measure_one([LEFT, RIGHT], objects) == pytest.approx(expected)
    # Labels without a box don't count, others do, in equal shares.
    assert measure_one([LEFT, RIGHT], [*objects, found_at("蓝", 0.95, BELOW)]) == pytest.approx(expected)
    blue = Box("蓝", 0.1, 0.6, 0.2, 0.2)
    assert measure_one([LEFT, RIGHT, blue], objects) == pytest.approx(expected / 2)
    assert measure_one([LEFT, RIGHT, blue], [*objects, found_at("蓝", 0.1, blue)]) == pytest.approx((expected + 1) / 2)


SIDE = st.floats(0.05, 0.45)
BOXES = st.lists(st.builds(Box, st.sampled_from(LABELS), SIDE, SIDE, SIDE, SIDE), min_size=1, max_size=6)


@given(BOXES, BOXES, st.randoms())
def test_average_precision_between_none_and_all(boxes: list[Box], others: list[Box], random: Any) -> None:
    exact = [found_at(box.label, 0.9, box) for box in boxes]
    assert measure_one(boxes, exact) == pytest.approx(1.0)
    objects = [found_at(box.label, random.random(), box) for box in others]
    score = measure_one(boxes, objects)
    assert 0 <= score <= 1 + 1e-9
    random.shuffle(objects)
    assert measure_one(boxes, objects) == pytest.approx(score)
    if objects:
        one, other = objects[0].box, exact[0].box
        assert share_union(one, other) == pytest.approx(share_union(other, one))
        assert share_union(one, one) == pytest.approx(1.0)


def test_the_command(drawn: Path, start: Path, tmp_path: Path) -> None:
    boxes = shutil.copytree(drawn.parent, tmp_path / "boxes")
    (boxes / "0.txt").write_text((boxes / "0.txt").read_text() + "9 0.5 0.5 0.1 0.1\n")
    app = typer.Typer()
    app.command()(detect_train_command)
    words = [str(boxes), "-o", str(tmp_path / "out"), "--model", str(start), "--epochs", "1", "--device", "cpu"]
    asked = CliRunner().invoke(app, [*words, "--json", "--valid", "0.25"])
    assert asked.exit_code == 0, asked.output
    about = json.loads(asked.stdout)
    assert about["model"] == str(tmp_path / "out") and about["pictures"] == {"train": 9, "held_out": 3}
    assert "0.txt:3: no label has the number 9" in asked.stderr
    asked = CliRunner().invoke(app, [*words, "--seed", "5"])
    assert asked.exit_code == 0 and not asked.stdout
    assert "2 labels, trained on" in asked.stderr and "1 problems" in asked.stderr and "mAP@50 0.000 before" in asked.stderr
    stopped = CliRunner().invoke(app, [*words, "--epochs", "0"])
    assert stopped.exit_code == 2


def test_what_is_refused(drawn: Path, start: Path, tmp_path: Path) -> None:
    boxes = read_boxes(drawn)
    fitting = Fitting(epochs=1, device="cpu")
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "letter.txt").write_text("dear")
    with pytest.raises(RequestError, match="exists and is no detector"):
        train_detector(boxes, str(start), stranger, "transformers", fitting, quiet=True)
    with pytest.raises(RequestError, match="train an RT-DETRv2 or a D-FINE"):
        train_detector(boxes, str(save_grounding_dino(tmp_path / "prompted")), tmp_path / "a", "transformers", fitting, True)
    with pytest.raises(RequestError, match="found no config"):
        train_detector(boxes, str(stranger), tmp_path / "a", "transformers", fitting, quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompted", "stranger"]


def test_a_training_that_fails_leaves_the_older_detector(
    drawn: Path, start: Path, loaded: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, out = read_boxes(drawn), tmp_path / "out"
    fitting = Fitting(epochs=1, batch=12, device="cpu")
    train_detector(boxes, str(start), out, "transformers", fitting, quiet=True)
    before = digest(out)

    network = type(loaded[1])
    forward = network.forward

    def lose(self: Any, *words: Any, **named: Any) -> Any:
        answer = forward(self, *words, **named)
        answer.loss = None if answer.loss is None else answer.loss * float("nan")
        return answer

    monkeypatch.setattr(network, "forward", lose)
    with pytest.raises(RequestError, match="the training ran away"):
        train_detector(boxes, str(start), out, "transformers", fitting, quiet=True)
    assert digest(out) == before and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_yolo(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ultralytics", reason="needs the extra yolo")

    def refuse(*words: Any, **named: Any) -> Any:
        raise AssertionError("it asked the network")

    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    boxes = read_boxes(drawn)
    few = BoxSet(boxes.labels, boxes.train[:4], boxes.held_out, ())
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(YOLO))
    fitting = Fitting(epochs=1, batch=4, device="cpu", size=64)
    about = train_detector(few, str(tmp_path / "tiny.yaml"), tmp_path / "out", "ultralytics", fitting, quiet=True)
    assert about["model"] == str(tmp_path / "out" / "best.onnx") and about["best_epoch"] == 1
    assert about["map50"]["before"] is None and 0 <= about["map50"]["after"] <= 1 and about["losses"][0] > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["best.onnx", "best.pt", "detector.json"]
    checkpoint = tmp_path / "out" / "best.pt"
    named = f"{checkpoint}#sha256={hashlib.sha256(checkpoint.read_bytes()).hexdigest()}"
    more = train_detector(few, named, tmp_path / "more", "ultralytics", fitting, quiet=True)
    assert more["map50"]["before"] == pytest.approx(about["map50"]["after"], abs=0.01)
    with pytest.raises(RequestError, match=r"expected a \.pt"):
        train_detector(few, about["model"], tmp_path / "none", "ultralytics", fitting, quiet=True)
    from weibotag.backends.detect_ultralytics import Ultralytics

    backend = Ultralytics(about["model"], 0.0001, device="cpu")
    backend.open()
    assert {one.label for one in backend.look([read_picture(few.train[0].path)])[0]} <= set(LABELS)
