"""Picture vectors from the backbones of networks that find something else, on onnxruntime, and from colours.

Early and middle stages of a text detector answer to edges, texture and print, which tell products, food and clothes
apart well enough to cluster; a HSV histogram adds what such stages throw away. A network that was taught objects tells
products apart that differ neither in print nor in colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backend import Backend, PictureVector
from weibotag.vision.backends.onnx_session import Network, cut_network, open_network, session_errors
from weibotag.vision.weights.catalogue import find_model

if TYPE_CHECKING:
    from onnx import ModelProto

TEXT_DETECTOR = "PP-OCRv6_det_small.onnx"
# Outputs of its five stages: 48 and 96 channels at a quarter and an eighth of the size, 192 twice, 384.
STAGE_OUTPUTS = ("Add.33", "Add.65", "Add.87", "Add.121", "Add.143")
# The one that tells patches: the last of a sixteenth of the size.
PATCH_STAGE = 3
SIDE = 256
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
COLOUR_SIDE = 64
WHOLE_BINS = (12, 4, 4)
PLACE_BINS = (8, 3, 3)
# Of any other detector so many stages are read, the last ones; each halves the side of the one before.
STAGES = 3
DETECTOR_SIDE = 320
FEWEST_CHANNELS = 8
GREY = 114


@dataclass
class PpocrBackbone(Backend[PictureVector]):
    """Pictures to vectors of twelve blocks: mean and deviation of five stages, colours of the whole and by place.

    Each has unit length. The stages are of the text detector in the rapidocr wheel. With a `grid`, also to its cells,
    row by row: the mean of one stage in each, and its colours.
    """

    grid: int = 0

    def weights(self) -> list[Path]:
        """Return the file of the text detector, which travels in the rapidocr wheel."""
        return [find_model(TEXT_DETECTOR)]

    def open(self, threads: int = 1) -> None:
        """Load the detector with its inner stages as outputs, to run on `threads` threads of the CPU."""
        import cv2
        import onnx

        self._model = open_network(cut_network(onnx.load(str(self.weights()[0])), STAGE_OUTPUTS), threads, "cpu")
        self.errors = (cv2.error, *session_errors(), ValueError)
        cv2.setNumThreads(threads)
        self.look([np.zeros((SIDE, SIDE, 3), np.uint8)])

    def _look_at(self, rgb: np.ndarray) -> PictureVector:
        import cv2

        small = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        # The detector was trained on BGR with the RGB constants in this order; the vector keeps to that.
        pixels = (small[:, :, ::-1].astype(np.float32) / 255 - MEAN) / DEVIATION
        stages = self._model(pixels.transpose(2, 0, 1)[None])
        vector = join_blocks([*describe_stages(stages), *colours(rgb)])
        return PictureVector(vector, cut_up(stages[PATCH_STAGE][0], rgb, self.grid) if self.grid else None)


@dataclass
class DetectorBackbone(PpocrBackbone):
    """Pictures to the vectors of `PpocrBackbone`, followed by mean and deviation of a detector's last stages.

    `model`: the .onnx of a detector that takes RGB squares from 0 to 1, such as any YOLO's export, as `find_model` knows it.
    """

    model: str | None = None

    def weights(self) -> list[Path]:
        """Return the files of both detectors; raises RequestError where no .onnx is named, or it is absent."""
        if self.model is None or not self.model.partition("#")[0].endswith(".onnx"):
            raise RequestError(f"[embed] backend detector: model is {self.model!r}; expected the .onnx of a detector")
        return [*super().weights(), find_model(self.model)]

    def open(self, threads: int = 1) -> None:
        """Load both; raises RequestError for a network that has no such stages."""
        import onnx

        path = self.weights()[-1]
        model = onnx.load(str(path))
        self._side = fix_input(model)
        stages = find_stages(model)
        if len(stages) < STAGES:
            raise RequestError(f"{path}: expected a detector whose stages halve the picture's side; found {len(stages)}")
        self._detector: Network = open_network(cut_network(model, stages[-STAGES:]), threads, "cpu")
        super().open(threads)

    def _look_at(self, rgb: np.ndarray) -> PictureVector:
        found = super()._look_at(rgb)
        own = join_blocks(describe_stages(self._detector(fit(rgb, self._side))))
        return PictureVector(np.concatenate([found.vector, own]), found.patches)


def describe_stages(stages: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the mean and the deviation of each channel, one block of each for every stage (1, channels, h, w)."""
    flat = [stage[0].reshape(stage.shape[1], -1) for stage in stages]
    return [block for stage in flat for block in (stage.mean(axis=1), stage.std(axis=1))]


def join_blocks(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Return blocks one after the other, float16: signed square roots, each block at unit length.

    So no block and no single channel outweighs others.
    """
    rooted = [np.sign(block) * np.sqrt(np.abs(block)) for block in blocks]
    joined: np.ndarray = np.concatenate([block / (np.linalg.norm(block) + 1e-9) for block in rooted])
    return joined.astype(np.float16)


def colours(rgb: np.ndarray) -> list[np.ndarray]:
    """Return the HSV histogram of a picture (192 bins) and those of its quarters and its middle (5 x 72 bins)."""
    hsv = small_hsv(rgb)
    half, quarter = COLOUR_SIDE // 2, COLOUR_SIDE // 4
    places = [hsv[y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    places.append(hsv[quarter : quarter + half, quarter : quarter + half])
    return [histogram(hsv, WHOLE_BINS), np.concatenate([histogram(place, PLACE_BINS) for place in places])]


def cut_up(stage: np.ndarray, rgb: np.ndarray, grid: int) -> np.ndarray:
    """Return the cells of a picture (grid * grid, d) float16, row by row, from a stage (channels, h, w) and its colours."""
    import cv2

    # Of more than four channels OpenCV 4.10 reduces none by three.
    fours = [four.transpose(1, 2, 0) for four in np.split(stage, len(stage) // 4)]
    small = [cv2.resize(four, (grid, grid), interpolation=cv2.INTER_AREA).reshape(grid * grid, 4) for four in fours]
    edges = np.arange(grid + 1) * COLOUR_SIDE // grid
    spans = [slice(start, end) for start, end in pairwise(edges)]
    hsv = small_hsv(rgb)
    seen = [histogram(hsv[y, x], PLACE_BINS) for y in spans for x in spans]
    return np.stack([join_blocks(cell) for cell in zip(np.concatenate(small, axis=1), seen, strict=True)])


def small_hsv(rgb: np.ndarray) -> np.ndarray:
    """Return a picture in HSV, scaled to the square in which colours are counted."""
    import cv2

    return cv2.cvtColor(cv2.resize(rgb, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2HSV)


def histogram(hsv: np.ndarray, bins: tuple[int, int, int]) -> np.ndarray:
    """Return the share of pixels in each of the hue x saturation x value bins, float32."""
    import cv2

    counts: np.ndarray = cv2.calcHist([hsv], [0, 1, 2], None, list(bins), [0, 180, 0, 256, 0, 256])
    shares: np.ndarray = counts.ravel() / (hsv.shape[0] * hsv.shape[1])
    return shares


def fix_input(model: "ModelProto") -> int:
    """Give the input the shape of one square picture; return its side, `DETECTOR_SIDE` where the network takes any."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    side = int(dims[2].dim_value) if len(dims) == 4 and dims[2].dim_value else DETECTOR_SIDE
    for dim, value in zip(dims, (1, 3, side, side), strict=False):
        dim.dim_value = value
    return side


def find_stages(model: "ModelProto") -> list[str]:
    """Return the outputs of a backbone's stages, the largest first: of each side the last before a smaller one comes.

    The input of `model` is a square of fixed side. What is larger than what was there before belongs to
    the head, which starts when the sides begin to grow again.
    """
    import onnx

    # What an exporter wrote of shapes may be of another input.
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model)
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in inferred.graph.value_info
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    side = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    sides = {side >> halved for halved in range(1, 8)}
    last: dict[int, str] = {}
    for name in (output for node in model.graph.node for output in node.output):
        shape = shapes.get(name, [])
        if len(shape) != 4 or shape[2] != shape[3] or shape[2] not in sides or shape[1] < FEWEST_CHANNELS:
            continue
        if last and shape[2] > min(last) and len(last) >= STAGES:
            break
        last[shape[2]] = name
    return [last[size] for size in sorted(last, reverse=True)]


def fit(rgb: np.ndarray, side: int) -> np.ndarray:
    """Return a picture in the middle of a grey square, float32 (1, 3, side, side) from 0 to 1."""
    import cv2

    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    square = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(square.transpose(2, 0, 1)[None].astype(np.float32) / 255)
