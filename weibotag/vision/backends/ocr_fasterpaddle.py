"""PP-OCRv6 tiny by the faster-paddle library finds and reads; what it is in doubt of, PP-OCRv6 small reads once more."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from weibotag.vision.backend import Backend, Line
from weibotag.vision.backends.ocr_layout import RECOGNISER, Found, order_lines, search_pictures
from weibotag.vision.backends.ocr_rapidocr import CPU_BATCHES, LineReader, Spot, put_down, start_at_text
from weibotag.vision.backends.onnx_session import session_errors
from weibotag.vision.weights.catalogue import find_model

# Read again below it: chosen on rendered pictures, docs/figures.md.
SURE = 0.97
THINNEST = 3


@dataclass
class FasterPaddle(Backend[list[Line]]):
    """Text lines of pictures one by one, on a CPU; boxes are upright.

    `max_side`: a picture that is higher than this, and two and a half times as high as wide, is looked at in tiles.
    """

    max_side: int = 800

    def weights(self) -> list[Path]:
        """Return the library, which carries its networks, and the file of the recogniser."""
        from faster_paddle import faster_paddle

        return [Path(faster_paddle.__file__), find_model(RECOGNISER)]

    def open(self, threads: int = 1) -> None:
        """Load the networks, to run on `threads` threads."""
        import cv2
        from faster_paddle import OcrEngine

        cv2.setNumThreads(threads)
        self._model = OcrEngine(model_size="tiny", threads=threads)
        self._reader = LineReader.open(find_model(RECOGNISER), CPU_BATCHES[1], "onnxruntime", threads, "cpu")
        self.errors = (cv2.error, *session_errors(), RuntimeError, ValueError, MemoryError)
        self.look([np.full((48, 96, 3), 255, np.uint8)])

    def _look_at(self, rgb: np.ndarray) -> list[Line]:
        (lines,) = search_pictures([rgb], self.max_side, self._search)
        return order_lines(lines)

    def _search(self, parts: Sequence[np.ndarray], scales: Sequence[float]) -> list[Found]:
        # The library scales by itself: small pictures up, large ones down.
        return [self._read(part) for part in parts]

    def _read(self, part: np.ndarray) -> Found:
        """Return the lines of a part of a picture, read."""
        file = BytesIO()
        Image.fromarray(part).save(file, "BMP")
        found = self._model.ocr(file.getvalue())["bounds"].values()
        corners = np.zeros((len(found), 4, 2))
        for place, line in enumerate(found):
            (left, top), (right, bottom) = line["topLeftCoord"], line["bottomRightCoord"]
            corners[place] = (left, top), (right, top), (right, bottom), (left, bottom)
        corners = corners.clip(0, (part.shape[1] - 1, part.shape[0] - 1))
        read = [(line["text"].strip(), round(float(line["confidence"]), 4)) for line in found]
        thick = np.ptp(corners, axis=1).min(1) >= THINNEST
        doubtful = [place for place, (_, score) in enumerate(read) if score < SURE and thick[place]]
        again = self._reader.read([Spot(part, start_at_text(corners[place])) for place in doubtful])
        for place, other in zip(doubtful, again, strict=True):
            if other.score > read[place][1]:
                line = put_down(corners[place].ravel(), other)
                corners[place], read[place] = np.reshape(line.box, (4, 2)), (line.text, line.score)
        kept = [place for place, (text, _) in enumerate(read) if text]
        return Found(corners[kept], False, [read[place] for place in kept])
