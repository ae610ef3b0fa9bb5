"""What every backend does, and what those of each stage answer with about a picture."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

Answer = TypeVar("Answer")


class Backend(ABC, Generic[Answer]):
    """A library that looks at pictures; its settings are the arguments of its constructor, which loads nothing.

    `alone`: the library must have a process to itself. `errors`, known when it is open: what `look` raises for pictures
    that it can't work on. What `open` loads is in attributes whose names begin with an underscore.
    """

    alone: ClassVar[bool] = False
    errors: tuple[type[Exception], ...] = ()
    _model: Any

    @abstractmethod
    def weights(self) -> list[Path]:
        """Return the files that answers depend on; RequestError where one is absent, or can't be used with the settings."""

    @abstractmethod
    def open(self, threads: int = 1) -> None:
        """Load the model, to run on `threads` threads, and let it look once; RequestError where it can't be used."""

    def look(self, pictures: Sequence[np.ndarray]) -> list[Answer]:
        """Return the answer for each picture, uint8 RGB (height, width, 3) of any size, which depends on it alone."""
        return [self._look_at(picture) for picture in pictures]

    def _look_at(self, rgb: np.ndarray) -> Answer:
        raise NotImplementedError

    def close(self) -> None:
        """Let go what `open` loaded."""
        for name in [name for name in vars(self) if name.startswith("_")]:
            delattr(self, name)


@dataclass(frozen=True)
class Line:
    """A line of text; score 0 to 1; box: x1 y1 … x4 y4 clockwise from top left, pixels of the picture."""

    text: str
    score: float
    box: tuple[float, ...]


@dataclass(frozen=True)
class DetectedObject:
    """An object; label: the model's name of its class; score 0 to 1; box: x y width height, pixels of the picture."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Face:
    """A face; score 0 to 1; box: x y width height; landmarks: eyes, nose, mouth: five x y pairs or none; pixels.

    `vector` (unit length, values of float16) tells whose face it is; None without a model for it, or for a face too small.
    """

    score: float
    box: tuple[float, ...]
    landmarks: tuple[float, ...] = ()
    vector: tuple[float, ...] | None = None


@dataclass(frozen=True)
class PictureVector:
    """A picture's vector, float16 (d,); `patches`: of the cells of a grid, row by row, float16 (cells, d2), or None.

    `classes`: numbers of ImageNet's 1,000 classes and probabilities, likeliest first; empty where the network knows none.
    """

    vector: np.ndarray
    patches: np.ndarray | None = None
    classes: tuple[tuple[int, float], ...] = ()


def list_objects(corners: np.ndarray, scores: Iterable[float], labels: Iterable[str]) -> list[DetectedObject]:
    """Return objects, best first, of corners x1 y1 x2 y2 (n, 4), pixels; those without area are left out."""
    found = []
    rounded = np.asarray(corners, np.float64).round(2).tolist()
    for (left, top, right, bottom), score, label in zip(rounded, scores, labels, strict=True):
        if right > left and bottom > top:
            box = (left, top, round(right - left, 2), round(bottom - top, 2))
            found.append(DetectedObject(label, round(float(score), 4), box))
    return sorted(found, key=lambda one: (-one.score, one.label, one.box))
