"""RapidOCR: PP-OCRv6 small on onnxruntime, whose weights travel in the wheel."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from weibotag.backends.ocr_lines import Line, drop_doubles, order_lines
from weibotag.errors import RequestError

SMALLEST = 16
ENLARGE = 1.5
ENLARGE_TO = 720
LONG = 2.5
# The page that the detector was tuned on is about 3:2; wide pictures get the same area, not the same side.
PAGE = 1.5
WIDE_SIDES = 4
# OpenCV's warps address pixels with 16-bit signed numbers.
WIDEST = 30_000


@dataclass(frozen=True)
class View:
    """One look at a picture: rows `top` to `bottom`, times `scale`, found at `side` pixels on the long side at most."""

    top: int
    bottom: int
    scale: float
    side: int


class RapidOcr:
    """Text lines of one picture at a time."""

    def __init__(self, max_side: int = 960) -> None:
        self.max_side = max_side
        self.errors: tuple[type[Exception], ...] = ()
        self._engine: Any = None

    def weights(self) -> list[Path]:
        """Return the files of the detector and of the recogniser; RequestError when the library is absent."""
        spec = find_spec("rapidocr")
        if spec is None or spec.origin is None:
            raise RequestError("ocr with rapidocr needs: pip install 'rapidocr>=3.10,<3.11'")
        models = Path(spec.origin).parent / "models"
        return [models / "PP-OCRv6_det_small.onnx", models / "PP-OCRv6_rec_small.onnx"]

    def open(self, threads: int) -> None:
        """Load both models, to run on `threads` threads."""
        import cv2
        from rapidocr import RapidOCR
        from rapidocr.ch_ppocr_det.utils import ResizeImgError
        from rapidocr.inference_engine.onnxruntime.main import ONNXRuntimeError

        cv2.setNumThreads(threads)
        detector, recogniser = self.weights()
        # Above the number of cores the library silently takes all of them.
        threads = min(threads, os.cpu_count() or 1)
        self._engine = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": 0.0,
                "Global.use_cls": False,
                "Global.use_preprocess_img": False,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                # A path of our own: the library looks at the network for a file whose hash it does not know.
                "Det.model_path": str(detector),
                "Det.limit_type": "max",
                "Det.limit_side_len": self.max_side,
                "Rec.model_path": str(recogniser),
                # Lines one by one, each as wide as it is: padding them to a common width costs more than a batch gains.
                "Rec.rec_batch_num": 1,
                "Rec.rec_img_shape": [3, 48, 48],
            }
        )
        self.errors = (cv2.error, ONNXRuntimeError, ResizeImgError, ValueError, IndexError, ArithmeticError)
        # The library loads each model at its first use: a blank picture loads the detector, one line the recogniser.
        blank = np.full((48, 96, 3), 255, np.uint8)
        self._engine(blank, use_det=True, use_rec=False)
        self._engine(blank, use_det=False, use_rec=True)

    def look(self, pictures: list[np.ndarray]) -> list[list[Line]]:
        """Return the lines of each picture, uint8 (height, width, 3), in reading order; may raise what `errors` names."""
        return [self.read(rgb) for rgb in pictures]

    def read(self, rgb: np.ndarray) -> list[Line]:
        """Return the lines of a picture, uint8 (height, width, 3), in reading order; may raise what `errors` names."""
        height, width = rgb.shape[:2]
        if min(height, width) < SMALLEST:
            return []
        views = plan_views(width, height, self.max_side)
        lines = [line for view in views for line in self._look(rgb, view, height)]
        return order_lines(drop_doubles(lines) if len(views) > 1 else lines)

    def close(self) -> None:
        """Let the models go."""
        self._engine = None

    def _look(self, rgb: np.ndarray, view: View, height: int) -> list[Line]:
        import cv2

        part = cv2.cvtColor(rgb[view.top : view.bottom], cv2.COLOR_RGB2BGR)
        if view.scale != 1:
            how = cv2.INTER_CUBIC if view.scale > 1 else cv2.INTER_AREA
            part = cv2.resize(part, None, fx=view.scale, fy=view.scale, interpolation=how)
        self._engine.text_det.limit_side_len = view.side
        # What is given in a call stays for the next ones, so each call gives all of it.
        found = self._engine(part, use_det=True, use_rec=True)
        boxes, texts, scores = (getattr(found, name, None) for name in ("boxes", "txts", "scores"))
        if boxes is None or texts is None or scores is None:
            return []
        lines = []
        for box, text, score in zip(boxes, texts, scores, strict=True):
            corners = np.asarray(box, np.float64) / view.scale + (0, view.top)
            if text.strip() and not is_cut(corners[:, 1], view, height):
                lines.append(Line(text.strip(), float(score), tuple(corners.ravel().tolist())))
        return lines


def plan_views(width: int, height: int, max_side: int) -> list[View]:
    """Return how a picture is looked at: enlarged, whole, or in overlapping tiles from top to bottom.

    A small picture is enlarged up to 1.5 times (not beyond 720 pixels); a large one is searched at `max_side`; a wide
    one at a longer side, for the same area; a tall one (a poster, a long screenshot) in tiles, so that its text stays
    readable.
    """
    longest = max(width, height)
    if height > LONG * width and height > max_side:
        return [View(top, bottom, 1.0, max_side) for top, bottom in tile_rows(height, max(max_side, round(PAGE * width)))]
    if width > LONG * height:
        side = min(WIDE_SIDES * max_side, max(max_side, round(max_side * sqrt(width / height / PAGE))))
    else:
        side = max_side
    scale = max(1.0, min(ENLARGE, ENLARGE_TO / longest)) if longest < WIDEST else WIDEST / longest
    return [View(0, height, scale, side)]


def tile_rows(height: int, tile: int) -> list[tuple[int, int]]:
    """Return (top, bottom) of tiles of `tile` rows that cover `height` rows and overlap by an eighth or more."""
    if height <= tile:
        return [(0, height)]
    step = tile - tile // 8
    count = -(-(height - tile) // step) + 1
    tops = [round(index * (height - tile) / (count - 1)) for index in range(count)]
    return [(top, top + tile) for top in tops]


def is_cut(ys: np.ndarray, view: View, height: int) -> bool:
    """Say whether a box touches an edge where the picture goes on: the next tile has that line whole."""
    cut_above = view.top > 0 and ys.min() <= view.top + 2
    cut_below = view.bottom < height and ys.max() >= view.bottom - 3
    return bool(cut_above or cut_below)
