"""The backbone of a detector as a picture vector: a tiny network with the shape of one stands in for it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from weibotag.core.errors import RequestError
from weibotag.vision.backends.embed_onnxruntime import find_stages, fit
from weibotag.vision.embed import Embed
from weibotag.vision.media.pictures import Frame, frames_table

PPOCR = 2376


def write_network(path: Path, halvings: int = 4, side: int | None = 64) -> Path:
    """Write a network of convolutions that halve the side, each followed by another one, and a head that grows again."""
    random = np.random.default_rng(0)
    nodes, weights, name, channels = [], [], "images", 3
    for stage in range(halvings):
        for step, stride in enumerate((2, 1)):
            kernel = f"k{stage}{step}"
            values = random.normal(size=(8 + stage, channels, 3, 3)).astype(np.float32) / channels
            weights.append(helper.make_tensor(kernel, TensorProto.FLOAT, values.shape, values.ravel()))
            out = f"stage{stage}_{step}"
            nodes.append(helper.make_node("Conv", [name, kernel], [out], strides=[stride] * 2, pads=[1] * 4))
            name, channels = out, 8 + stage
    weights.append(helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, 2.0, 2.0]))
    nodes.append(helper.make_node("Resize", [name, "", "scales"], ["head"], mode="nearest"))
    dims = [1, 3, side, side] if side else [1, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("head", TensorProto.FLOAT, None)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def stage_of(path: Path, grid: int = 0) -> Embed:
    return Embed(Embed.Config(backend="detector", model=str(path), grid=grid))


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 90, 3), dtype=np.uint8)


def test_of_each_side_the_last_output_before_a_smaller_one_is_read(tmp_path: Path) -> None:
    assert find_stages(onnx.load(write_network(tmp_path / "a.onnx"))) == [f"stage{number}_1" for number in range(4)]


@pytest.mark.parametrize("side", [64, None])
def test_the_detectors_blocks_follow_the_others(tmp_path: Path, side: int | None) -> None:
    stage = stage_of(write_network(tmp_path / "a.onnx", side=side))
    plain = Embed(Embed.Config(backend="ppocr"))
    for one in (stage, plain):
        one.open()
    frames = frames_table([Frame("a", picture(0)), Frame("b", picture(1))])
    found, other = (one.process(frames)["embed_vector"].to_pylist() for one in (stage, plain))
    # Three stages of 9, 10 and 11 channels, mean and deviation of each.
    assert [len(vector) for vector in found] == [PPOCR + 2 * (9 + 10 + 11)] * 2
    assert [vector[:PPOCR] for vector in found] == other
    assert found[0][PPOCR:] != found[1][PPOCR:] and np.isfinite(found).all()


def test_a_grid_cuts_the_picture_as_before(tmp_path: Path) -> None:
    stage = stage_of(write_network(tmp_path / "a.onnx"), grid=2)
    stage.open()
    table = stage.process(frames_table([Frame("a", picture(0))]))
    assert len(table["embed_patches"][0]) == 4 and len(table["embed_vector"][0]) == PPOCR + 60


def test_the_fingerprint_is_of_the_detector_too(tmp_path: Path) -> None:
    one, other = (stage_of(write_network(tmp_path / f"{count}.onnx", count)).fingerprint() for count in (3, 4))
    assert len({one, other, Embed(Embed.Config()).fingerprint()}) == 3


def test_what_is_no_detector_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"expected the \.onnx of a detector"):
        Embed(Embed.Config(backend="detector")).fingerprint()
    with pytest.raises(RequestError, match="whose stages halve the picture's side; found 2"):
        stage_of(write_network(tmp_path / "a.onnx", 2)).open()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 2), (64, 64)])
def test_a_picture_stands_whole_in_the_middle(size: tuple[int, int]) -> None:
    fitted = fit(np.full((*size, 3), 255, np.uint8), 64)
    assert fitted.shape == (1, 3, 64, 64) and fitted.dtype == np.float32
    white = (fitted[0] == 1).all(axis=0)
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    assert max(len(rows), len(columns)) == 64
    assert abs(rows[0] - (63 - rows[-1])) <= 1 and abs(columns[0] - (63 - columns[-1])) <= 1
