"""Whose face it is, as a vector: faces upright by their landmarks, through any ONNX model that takes 112 x 112 pixels."""

from pathlib import Path

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of
from weibotag.vision.backends.onnx_session import open_session
from weibotag.vision.weights.catalogue import at_hand, known_hash

NO_VECTORS = "none"
# Face models that are used where they are at hand, the better ones first.
SFACE = "face_recognition_sface_2021dec.onnx"
FACE_MODELS = ("w600k_r50.onnx", "w600k_mbf.onnx", SFACE, "mobilefacenet.onnx")
SIDE = 112
# Where eyes, nose and corners of the mouth stand in the pictures that face models are trained on: the template of ArcFace
# (Deng et al., 2019, https://arxiv.org/abs/1801.07698), left to right as seen, x + iy in pixels.
TEMPLATE = np.array([38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j, 70.7299 + 92.2041j])
# A face that must be enlarged more (one of about 20 pixels) is no longer like itself: at 2 times a face's cosine with the
# person's other pictures was 0.86, at 4 times 0.56, at 5 times 0.36.
LARGEST_ENLARGEMENT = 4.0
# Models are trained on (pixels - 127.5) / 128, some on / 127.5: their vectors' cosine with either is above 0.9999.
MIDDLE, RANGE = 127.5, 128.0
# What a model begins with that takes pixels from 0 to 255 and brings them to its range itself.
OWN_RANGE = frozenset({"Sub", "Mul", "Div"})


class FaceVectors:
    """Vectors of faces by the ONNX model in a file; RequestError when it does not take faces of 112 x 112 pixels.

    One face at a time: on a CPU a batch is no faster, and a vector stays a function of its own face to the last bit.
    """

    def __init__(self, path: Path, threads: int = 1, device: str = "auto") -> None:
        self._session = open_session(path, threads, device)
        takes = self._session.get_inputs()[0]
        if takes.shape[1:] != [3, SIDE, SIDE]:
            raise RequestError(f"{path}: takes shape {takes.shape}, a face model takes [1, 3, {SIDE}, {SIDE}]")
        self._name = takes.name
        self._type = np.float16 if takes.type == "tensor(float16)" else np.float32
        self._own_range = brings_own_range(path)

    def embed(self, rgb: np.ndarray, landmarks: tuple[float, ...]) -> tuple[float, ...] | None:
        """Return the unit vector (values of float16) of a face of a picture, uint8 RGB; None where the face is too small."""
        face = align(rgb, landmarks)
        if face is None:
            return None
        pixels = face.astype(np.float32) if self._own_range else (face - np.float32(MIDDLE)) / np.float32(RANGE)
        batch = pixels.transpose(2, 0, 1)[None].astype(self._type)
        vector = self._session.run(None, {self._name: batch})[0].ravel().astype(np.float32)
        length = np.linalg.norm(vector)
        return tuple((vector / length).astype(np.float16).tolist()) if length > 0 else None


def find_face_model() -> Path | None:
    """Return the best face model that is at hand, or None."""
    return next(filter(None, map(at_hand, FACE_MODELS)), None)


def brings_own_range(path: Path) -> bool:
    """Tell whether a model takes pixels from 0 to 255: SFace does, and one whose first step is arithmetic on its input."""
    import onnx

    # By its bytes, which the fingerprint names, not by its file's name.
    if sha256_of(path) == known_hash(SFACE):
        return True
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    pixels = next(given.name for given in graph.input if given.name not in weights)
    return any(pixels in node.input and node.op_type in OWN_RANGE for node in graph.node)


def align(rgb: np.ndarray, landmarks: tuple[float, ...]) -> np.ndarray | None:
    """Return a face upright in the middle of 112 x 112 pixels, uint8 RGB; None where it is too small for that.

    `landmarks`: x y of both eyes, the nose, both corners of the mouth, left to right as seen, pixels of the picture.
    """
    import cv2

    turn, shift = fit_similarity(np.array(landmarks).reshape(5, 2) @ (1, 1j))
    if not 0 < abs(turn) <= LARGEST_ENLARGEMENT:
        return None
    # A warp looks at four pixels for each of its own, so a large face is averaged down first.
    reduction = max(1, int(1 / abs(turn)))
    corners = (np.array([0, SIDE, SIDE * 1j, SIDE + SIDE * 1j]) - shift) / turn
    left, right = (int(np.clip(side, 0, rgb.shape[1])) for side in (corners.real.min(), corners.real.max() + reduction + 1))
    top, bottom = (int(np.clip(side, 0, rgb.shape[0])) for side in (corners.imag.min(), corners.imag.max() + reduction + 1))
    width, height = (right - left) // reduction, (bottom - top) // reduction
    if width < 1 or height < 1:
        return None
    part = rgb[top : top + height * reduction, left : left + width * reduction]
    small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA) if reduction > 1 else part
    # Pixels are counted from the middle of the first: that of a reduced picture lies between several.
    shift += turn * (left + top * 1j + (reduction - 1) / 2 * (1 + 1j))
    turn *= reduction
    warp = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    return cv2.warpAffine(small, warp, (SIDE, SIDE), flags=cv2.INTER_LINEAR)


def fit_similarity(points: np.ndarray) -> tuple[complex, complex]:
    """Return (turn, shift) that bring five points, x + iy, nearest to the template by `turn * point + shift`, least squares.

    `turn` is 0 where the points are all one. A similarity without reflection: Umeyama's (1991) problem in the plane, whose
    answer in complex numbers is that of a line through points.
    """
    middle, target = points.mean(), TEMPLATE.mean()
    spread = (abs(points - middle) ** 2).sum()
    turn = ((points - middle).conj() * (TEMPLATE - target)).sum() / spread if spread > 0 else 0j
    return complex(turn), complex(target - turn * middle)
