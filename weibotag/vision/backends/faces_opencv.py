"""OpenCV's face finders: Haar cascades, which travel in its wheel, and YuNet, better, with a file of its own."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import exp
from pathlib import Path
from typing import ClassVar

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backend import Backend, Face
from weibotag.vision.backends.faces_vectors import NO_VECTORS, FaceVectors
from weibotag.vision.backends.onnx_session import session_errors
from weibotag.vision.weights.catalogue import find_model

# Not the int8 files of OpenCV Zoo, whose names go on after the date.
YUNET_FILE = "face_detection_yunet_20?????.onnx"
SMALLEST = 24
SMALLEST_SHARE = 0.04
# Steps of 1.2 find nearly what steps of 1.1 do, at half the cost, with a quarter of the false faces in photos of goods.
STEP = 1.2
NEIGHBOURS = 4
# The sum of the last stages' weights at which a face and a chance hit are equally likely, and how fast that changes.
EVEN_WEIGHT = 54.0
WEIGHT_SLOPE = 0.6
# YuNet scores everything; what is below is noise that no setting should let in.
YUNET_FLOOR = 0.3
YUNET_MOST = 500
# Below this on a side OpenCV's YuNet reads memory that it never wrote, and answers differently each time.
YUNET_LEAST = 64
OVERLAP = 0.3


class FaceFinder(Backend[list[Face]]):
    """Faces of a picture that is reduced to `side` pixels on the long side, and of these those of `min_score` and more."""

    side: ClassVar[int]
    min_score: float

    def _look_at(self, rgb: np.ndarray) -> list[Face]:
        """Return the faces, best first; equals by their place, so that the order is always the same."""
        small, scale = reduce_picture(rgb, self.side)
        if min(small.shape[:2]) < SMALLEST:
            return []
        kept = (face for face in self._find(small, scale) if face.score >= self.min_score)
        return sorted(kept, key=lambda face: (-face.score, face.box))

    @abstractmethod
    def _find(self, small: np.ndarray, scale: float) -> list[Face]:
        """Return the faces of a picture that was reduced by `scale`, in pixels of the whole one."""


@dataclass
class Haar(FaceFinder):
    """Frontal faces by OpenCV's cascade: no download, no landmarks."""

    # Its window is 20 pixels, so it needs more of them.
    side: ClassVar[int] = 960
    min_score: float = 0.8

    def weights(self) -> list[Path]:
        """Return the file of the cascade; RequestError when the library is absent or of a version without cascades."""
        spec = find_spec("cv2")
        folder = Path(spec.origin).parent / "data" if spec is not None and spec.origin is not None else None
        if folder is None or not folder.is_dir():
            raise RequestError("faces with haar needs OpenCV's cascades: pip install 'opencv-python-headless>=4.10,<5'")
        return [folder / "haarcascade_frontalface_alt2.xml"]

    def open(self, threads: int = 1) -> None:
        """Load the cascade."""
        import cv2

        cv2.setNumThreads(threads)
        self.errors = (cv2.error,)
        self._model = cv2.CascadeClassifier(str(self.weights()[0]))

    def _find(self, small: np.ndarray, scale: float) -> list[Face]:
        import cv2

        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        smallest = max(SMALLEST, round(SMALLEST_SHARE * max(grey.shape)))
        boxes, _, weights = self._model.detectMultiScale3(
            grey, scaleFactor=STEP, minNeighbors=NEIGHBOURS, minSize=(smallest, smallest), outputRejectLevels=True
        )
        return [
            Face(round(score_weight(float(weight)), 4), in_picture(box, scale))
            for box, weight in zip(boxes, np.ravel(weights), strict=True)
        ]


@dataclass
class YuNet(FaceFinder):
    """Faces with landmarks by OpenCV's YuNet; `vectors` names the ONNX model that tells whose face it is, or is "none"."""

    side: ClassVar[int] = 640
    min_score: float = 0.8
    vectors: str = NO_VECTORS
    device: str = "auto"

    def weights(self) -> list[Path]:
        """Return the newest YuNet file and that of the vectors; RequestError when one can't be found or fetched."""
        return [find_model(name) for name in (YUNET_FILE, self.vectors) if name != NO_VECTORS]

    def open(self, threads: int = 1) -> None:
        """Load the networks."""
        import cv2

        cv2.setNumThreads(threads)
        self.errors = (cv2.error,)
        detector, *vectors = self.weights()
        size = (self.side, self.side)
        self._model = cv2.FaceDetectorYN.create(str(detector), "", size, YUNET_FLOOR, OVERLAP, YUNET_MOST)
        self._vectors = None
        if vectors:
            self._vectors = FaceVectors(vectors[0], threads, self.device)
            self.errors += session_errors()

    def _look_at(self, rgb: np.ndarray) -> list[Face]:
        faces = super()._look_at(rgb)
        if self._vectors is None:
            return faces
        return [replace(face, vector=self._vectors.embed(rgb, face.landmarks)) for face in faces]

    def _find(self, small: np.ndarray, scale: float) -> list[Face]:
        import cv2

        below, beside = (max(0, YUNET_LEAST - size) for size in small.shape[:2])
        padded = cv2.copyMakeBorder(small, 0, below, 0, beside, cv2.BORDER_CONSTANT)
        self._model.setInputSize((padded.shape[1], padded.shape[0]))
        _, found = self._model.detect(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
        return [
            Face(min(1.0, round(float(row[14]), 4)), in_picture(row[:4], scale), in_picture(row[4:14], scale))
            for row in (() if found is None else found)
        ]


def reduce_picture(rgb: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """Return the picture reduced to `side` pixels on the long side, and by how much (1.0: as it was)."""
    import cv2

    scale = side / max(rgb.shape[:2])
    if scale >= 1:
        return rgb, 1.0
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), scale


def score_weight(weight: float) -> float:
    """Return a score from 0 to 1 for the level weight of a cascade's hit."""
    return 1 / (1 + exp((EVEN_WEIGHT - weight) / WEIGHT_SLOPE))


def in_picture(numbers: Iterable[float], scale: float) -> tuple[float, ...]:
    """Return places of the reduced picture as pixels of the whole one, to a hundredth."""
    return tuple(round(float(number) / scale, 2) for number in numbers)
