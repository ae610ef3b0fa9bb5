"""A picture vector without any download: the backbone of the text detector in the rapidocr wheel, and colours.

Early and middle stages of a text detector answer to edges, texture and print, which tell products, food and clothes
apart well enough to cluster; a HSV histogram adds what such stages throw away.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from weibotag.vision.backends.onnx_session import open_session, session_errors
from weibotag.vision.weights.catalogue import find_model

DETECTOR = "PP-OCRv6_det_small.onnx"
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


class PpocrBackbone:
    """Pictures to vectors of twelve blocks: mean and deviation of five stages, colours of the whole and by place.

    With a `grid`, also to its cells, row by row: the mean of one stage in each, and its colours.
    """

    def __init__(self, grid: int = 0) -> None:
        self.grid = grid
        self.errors: tuple[type[Exception], ...] = ()
        self._session: Any = None

    def weights(self) -> list[Path]:
        """Return the file of the text detector, which travels in the rapidocr wheel."""
        return [find_model(DETECTOR)]

    def open(self, threads: int = 1) -> None:
        """Load the detector with its inner stages as outputs, to run on `threads` threads of the CPU."""
        import cv2
        import onnx

        model = onnx.load(str(self.weights()[0]))
        del model.graph.output[:]
        for name in STAGE_OUTPUTS:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        inner = onnx.utils.Extractor(model).extract_model([model.graph.input[0].name], list(STAGE_OUTPUTS))
        self._session = open_session(inner.SerializeToString(), threads, "cpu")
        self._input = model.graph.input[0].name
        self.errors = (cv2.error, *session_errors(), ValueError)
        cv2.setNumThreads(threads)
        self.look([np.zeros((SIDE, SIDE, 3), np.uint8)])

    def look(self, pictures: Sequence[np.ndarray]) -> list[Any]:
        """Return a vector per picture, (h, w, 3) uint8 RGB: float16, each of its blocks of unit length.

        With a grid, the vector and its patches, float16 (grid * grid, d).
        """
        return [self._embed(picture) for picture in pictures]

    def _embed(self, rgb: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        import cv2

        small = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        # The detector was trained on BGR with the RGB constants in this order; the vector keeps to that.
        pixels = (small[:, :, ::-1].astype(np.float32) / 255 - MEAN) / DEVIATION
        stages = self._session.run(None, {self._input: pixels.transpose(2, 0, 1)[None]})
        blocks: list[np.ndarray] = []
        for stage in stages:
            flat = stage[0].reshape(stage.shape[1], -1)
            blocks += [flat.mean(axis=1), flat.std(axis=1)]
        vector = np.concatenate([normalise_block(block) for block in [*blocks, *colours(rgb)]]).astype(np.float16)
        return (vector, cut_up(stages[PATCH_STAGE][0], rgb, self.grid)) if self.grid else vector

    def close(self) -> None:
        """Let the model go."""
        self._session = None


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

    means = cv2.resize(stage.transpose(1, 2, 0), (grid, grid), interpolation=cv2.INTER_AREA).reshape(grid * grid, -1)
    edges = np.arange(grid + 1) * COLOUR_SIDE // grid
    spans = [slice(start, end) for start, end in pairwise(edges)]
    hsv = small_hsv(rgb)
    seen = [histogram(hsv[y, x], PLACE_BINS) for y in spans for x in spans]
    cells = [np.concatenate([normalise_block(mean), normalise_block(bins)]) for mean, bins in zip(means, seen, strict=True)]
    return np.stack(cells).astype(np.float16)


def small_hsv(rgb: np.ndarray) -> np.ndarray:
    """Return a picture in HSV, scaled to the square in which colours are counted."""
    import cv2

    return cv2.cvtColor(cv2.resize(rgb, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2HSV)


def histogram(hsv: np.ndarray, bins: tuple[int, int, int]) -> np.ndarray:
    """Return the share of pixels in each of the hue x saturation x value bins, float32."""
    import cv2

    counts = cv2.calcHist([hsv], [0, 1, 2], None, list(bins), [0, 180, 0, 256, 0, 256])
    return counts.ravel() / (hsv.shape[0] * hsv.shape[1])


def normalise_block(block: np.ndarray) -> np.ndarray:
    """Return the block's signed square roots at unit length, so that no block and no single channel outweighs others."""
    rooted = np.sign(block) * np.sqrt(np.abs(block))
    return rooted / (np.linalg.norm(rooted) + 1e-9)
