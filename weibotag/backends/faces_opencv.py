"""OpenCV's face finders: Haar cascades, which travel in its wheel, and YuNet, better, with a file of its own."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from weibotag.errors import RequestError

MODELS_VARIABLE = "WEIBOTAG_MODELS"
YUNET_FILE = "face_detection_yunet*.onnx"
# Long side that faces are searched at: the window of the cascade is 20 pixels, so it needs more of them.
HAAR_SIDE = 960
YUNET_SIDE = 640
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


@dataclass(frozen=True)
class Face:
    """One face; score 0 to 1; box: x y width height; landmarks: eyes, nose, mouth: five x y pairs or none; pixels."""

    score: float
    box: tuple[float, ...]
    landmarks: tuple[float, ...]


class Haar:
    """Frontal faces by OpenCV's cascade: no download, no landmarks."""

    def __init__(self) -> None:
        self.errors: tuple[type[Exception], ...] = ()
        self._cascade: Any = None

    def weights(self) -> list[Path]:
        """Return the file of the cascade; RequestError when the library is absent or of a version without cascades."""
        spec = find_spec("cv2")
        folder = Path(spec.origin).parent / "data" if spec is not None and spec.origin is not None else None
        if folder is None or not folder.is_dir():
            raise RequestError("faces with haar needs OpenCV's cascades: pip install 'opencv-python-headless>=4.10,<5'")
        return [folder / "haarcascade_frontalface_alt2.xml"]

    def open(self) -> None:
        """Load the cascade."""
        import cv2

        cv2.setNumThreads(1)
        self.errors = (cv2.error,)
        self._cascade = cv2.CascadeClassifier(str(self.weights()[0]))

    def find(self, rgb: np.ndarray) -> list[Face]:
        """Return the faces of a picture, uint8 (height, width, 3), best first; may raise what `errors` names."""
        import cv2

        small, scale = reduce_picture(rgb, HAAR_SIDE)
        if min(small.shape[:2]) < SMALLEST:
            return []
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        smallest = max(SMALLEST, round(SMALLEST_SHARE * max(grey.shape)))
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey, scaleFactor=STEP, minNeighbors=NEIGHBOURS, minSize=(smallest, smallest), outputRejectLevels=True
        )
        return sort_faces(
            [
                Face(score_weight(float(weight)), tuple(float(side) / scale for side in box), ())
                for box, weight in zip(boxes, np.ravel(weights), strict=True)
            ]
        )

    def close(self) -> None:
        """Let the cascade go."""
        self._cascade = None


class YuNet:
    """Faces with landmarks by OpenCV's YuNet, whose file is looked for in the folder that `WEIBOTAG_MODELS` names."""

    def __init__(self) -> None:
        self.errors: tuple[type[Exception], ...] = ()
        self._detector: Any = None

    def weights(self) -> list[Path]:
        """Return the newest YuNet file at hand; RequestError when there is none."""
        path = find_yunet()
        if path is None:
            folder = os.environ.get(MODELS_VARIABLE)
            where = f"found none in {folder}" if folder else f"{MODELS_VARIABLE} is not set"
            raise RequestError(
                f"faces with yunet needs {YUNET_FILE} in the folder that {MODELS_VARIABLE} names ({where}): "
                "take it from OpenCV Zoo, or choose backend haar"
            )
        return [path]

    def open(self) -> None:
        """Load the network."""
        import cv2

        cv2.setNumThreads(1)
        self.errors = (cv2.error,)
        self._detector = cv2.FaceDetectorYN.create(
            str(self.weights()[0]), "", (YUNET_SIDE, YUNET_SIDE), YUNET_FLOOR, OVERLAP, YUNET_MOST
        )

    def find(self, rgb: np.ndarray) -> list[Face]:
        """Return the faces of a picture, uint8 (height, width, 3), best first; may raise what `errors` names."""
        import cv2

        small, scale = reduce_picture(rgb, YUNET_SIDE)
        if min(small.shape[:2]) < SMALLEST:
            return []
        below, beside = (max(0, YUNET_LEAST - size) for size in small.shape[:2])
        padded = cv2.copyMakeBorder(small, 0, below, 0, beside, cv2.BORDER_CONSTANT)
        self._detector.setInputSize((padded.shape[1], padded.shape[0]))
        _, found = self._detector.detect(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
        if found is None:
            return []
        return sort_faces(
            [
                Face(
                    min(1.0, float(row[14])),
                    tuple(float(value) / scale for value in row[:4]),
                    tuple(float(value) / scale for value in row[4:14]),
                )
                for row in found
            ]
        )

    def close(self) -> None:
        """Let the network go."""
        self._detector = None


def find_yunet() -> Path | None:
    """Return the last by name of the YuNet files in the folder that `WEIBOTAG_MODELS` names, or None."""
    folder = os.environ.get(MODELS_VARIABLE)
    return max(Path(folder).glob(YUNET_FILE), default=None) if folder else None


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


def sort_faces(faces: list[Face]) -> list[Face]:
    """Return the faces with the best first; equals by their place, so that the order is always the same."""
    return sorted(faces, key=lambda face: (-face.score, face.box))
