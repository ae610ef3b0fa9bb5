"""A picture vector from a detector that is there anyway: the backbone of a YOLO, beside that of the text detector."""

from pathlib import Path
from typing import Any

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backends.embed_ppocr import PpocrBackbone, normalise_block
from weibotag.vision.backends.onnx_session import open_session, session_errors
from weibotag.vision.weights.catalogue import find_model

SIDE = 320
# How many of the backbone's stages are read, the last ones; each halves the side of the one before.
STAGES = 3
FEWEST_CHANNELS = 8
GREY = 114


class DetectorBackbone(PpocrBackbone):
    """Pictures to the vectors of `PpocrBackbone`, followed by mean and deviation of a detector's last stages.

    `model`: the .onnx of a detector that takes RGB squares from 0 to 1, such as any YOLO's export, as `find_model` knows it.
    A network that was taught objects tells products apart that differ neither in print nor in colours.
    """

    def __init__(self, model: str | None = None, grid: int = 0) -> None:
        super().__init__(grid)
        self.model = model
        self._detector: Any = None

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
        self._side = _fix_input(model)
        stages = find_stages(model)
        if len(stages) < STAGES:
            raise RequestError(f"{path}: expected a detector whose stages halve the picture's side; found {len(stages)}")
        self._name = model.graph.input[0].name
        del model.graph.output[:]
        for name in stages[-STAGES:]:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        inner = onnx.utils.Extractor(model).extract_model([self._name], stages[-STAGES:])
        self._detector = open_session(inner.SerializeToString(), threads, "cpu")
        super().open(threads)
        self.errors = (*self.errors, *session_errors())

    def _embed(self, rgb: np.ndarray) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        found = super()._embed(rgb)
        stages = self._detector.run(None, {self._name: fit(rgb, self._side)})
        flat = [stage[0].reshape(stage.shape[1], -1) for stage in stages]
        blocks = [normalise_block(block) for stage in flat for block in (stage.mean(axis=1), stage.std(axis=1))]
        own = np.concatenate(blocks).astype(np.float16)
        return (np.concatenate([found[0], own]), found[1]) if isinstance(found, tuple) else np.concatenate([found, own])

    def close(self) -> None:
        """Let the models go."""
        super().close()
        self._detector = None


def _fix_input(model: Any) -> int:
    """Give the input the shape of one square picture; return its side, `SIDE` where the network takes any."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    side = int(dims[2].dim_value) if len(dims) == 4 and dims[2].dim_value else SIDE
    for dim, value in zip(dims, (1, 3, side, side), strict=False):
        dim.dim_value = value
    return side


def find_stages(model: Any) -> list[str]:
    """Return the outputs of a backbone's stages, the largest first: of each side the last before a smaller one comes.

    `model` is an ONNX ModelProto whose input is a square of fixed side. What is larger than what was there before belongs to
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
