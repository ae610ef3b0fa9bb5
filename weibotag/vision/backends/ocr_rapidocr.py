"""PP-OCRv6 small, the networks of the rapidocr wheel: found at a size that fits the picture, read in batches by width.

The steps and their constants are those of PP-OCR (arXiv:2009.09941) and of differentiable binarisation (arXiv:1911.08947)
where nothing else is said.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from weibotag.core.errors import MissingExtraError
from weibotag.vision.backend import Backend, Line
from weibotag.vision.backends.ocr_layout import (
    COLUMN,
    DETECTOR,
    LOW,
    LOW_SHARE,
    RECOGNISER,
    WIDEST,
    Found,
    order_lines,
    search_pictures,
    side_lengths,
)
from weibotag.vision.backends.onnx_session import GPU, Network, choose_providers, open_network, session_errors, set_outputs
from weibotag.vision.weights.catalogue import find_model

# How the detector was trained. (The rapidocr library gives it the other networks' 0.5; it finds less so.)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# Finding
SMALLEST_BOX = 6
TEXT, SURE_BOX, GROW = 0.3, 0.5, 1.6
MOST_BOXES = 1000
# Reading
HIGH = 48
SQUEEZE = 0.625
SURE = 0.95
# A line below the first is read from its other end, too, and taken so where it has the second, and letters enough. Of 250
# lines of photos and prints 49 were below .8: turned, two read well, and they did stand on their heads; noise had up to .82.
DOUBTED, WELL = 0.85, 0.9
BUCKET = 32
LONGEST = 6400
# Pixels of a batch. On a CPU a batch of found pictures takes longer than they do one by one, and lines gain little.
CPU_BATCHES = (1, 8 * HIGH * 320)
GPU_BATCHES = (8 * 640 * 960, 64 * HIGH * 320)


class Spot(NamedTuple):
    """A line: a picture, uint8 RGB (height, width, 3), and corners (4, 2) in it, clockwise from where the text begins."""

    rgb: np.ndarray
    corners: np.ndarray


class Reading(NamedTuple):
    """What a line says, its score, 0 to 1, and whether it was read from the other end of its spot."""

    text: str
    score: float
    turned: bool = False


@dataclass(frozen=True)
class LineReader:
    """Reads lines; `batch`: pixels that go through the network together."""

    network: Network
    letters: Sequence[str]
    batch: int

    @classmethod
    def open(cls, model: Path, batch: int, engine: str, threads: int, device: str) -> "LineReader":
        """Load the recogniser of the file `model`."""
        network, letters = load_recogniser(model)
        return cls(open_engine(network, engine, threads, device), letters, batch)

    def read(self, spots: Sequence[Spot]) -> list[Reading]:
        """Return what each line says.

        Lines are read narrowed, which takes that much less time; those that are then in doubt, once more at full width; and
        from the other end, where all lines are tried of a picture most of whose letters read well so.
        """
        read = self.read_at(spots, SQUEEZE)
        doubtful = [at for at, (_, score) in enumerate(read) if score < SURE]
        for at, better in zip(doubtful, self.read_at([spots[at] for at in doubtful], 1.0), strict=True):
            read[at] = max(read[at], better, key=lambda answer: answer[1])
        best = [Reading(*line) for line in read]
        self._turn(spots, best, [at for at, line in enumerate(best) if line.score < DOUBTED], WELL)
        balance: dict[int, int] = defaultdict(int)
        for spot, line in zip(spots, best, strict=True):
            if line.score >= WELL:
                balance[id(spot.rgb)] += len(line.text) if line.turned else -len(line.text)
        over = [at for at, spot in enumerate(spots) if balance[id(spot.rgb)] > 0 and not best[at].turned]
        self._turn(spots, best, over, 0)
        return best

    def _turn(self, spots: Sequence[Spot], best: list[Reading], places: list[int], least: float) -> None:
        over = [Spot(spots[at].rgb, np.roll(spots[at].corners, 2, 0)) for at in places]
        for at, (text, score) in zip(places, self.read_at(over, 1.0), strict=True):
            if score > max(best[at].score, least) and (not least or len(text) > max(1, len(best[at].text) // 2)):
                best[at] = Reading(text, score, True)

    def read_at(self, spots: Sequence[Spot], squeeze: float) -> list[tuple[str, float]]:
        """Return the text and score of each line, read at `squeeze` times its width."""
        steps = run_batches(self.network, [cut_line(spot, squeeze) for spot in spots], self.batch)
        return [best_path(probability, number, self.letters) for probability, number in steps]


@dataclass
class RapidOcr(Backend[list[Line]]):
    """Text lines of many pictures at a time.

    `max_side`: long side that a 3:2 page is first searched at, pixels; `engine`: onnxruntime, openvino, or auto, which is
    onnxruntime; `device`: auto, cpu or cuda.
    """

    max_side: int = 800
    engine: str = "auto"
    device: str = "auto"

    def weights(self) -> list[Path]:
        """Return the files of the networks; RequestError when one is absent, MissingExtraError when the engine is."""
        if self.engine == "openvino" and find_spec("openvino") is None:
            raise MissingExtraError("ocr with engine openvino", "openvino")
        return [find_model(DETECTOR), find_model(RECOGNISER)]

    def open(self, threads: int = 1) -> None:
        """Load the networks, to run on `threads` threads."""
        import cv2

        cv2.setNumThreads(threads)
        finder, reader = self.weights()
        on_gpu = self.engine != "openvino" and GPU in choose_providers(self.device)
        self._find_batch, read_batch = GPU_BATCHES if on_gpu else CPU_BATCHES
        self._model = open_engine(finder, self.engine, threads, self.device)
        self._reader = LineReader.open(reader, read_batch, self.engine, threads, self.device)
        broken = (RuntimeError,) if self.engine == "openvino" else session_errors()
        self.errors = (cv2.error, *broken, MemoryError)
        self.look([np.full((48, 96, 3), 255, np.uint8)])

    def look(self, pictures: Sequence[np.ndarray]) -> list[list[Line]]:
        """Return the lines of each picture, uint8 RGB (height, width, 3), in reading order; may raise `errors`."""
        found = search_pictures(pictures, self.max_side, self._search)
        boxes = [(rgb, np.reshape(line.box, (4, 2))) for rgb, lines in zip(pictures, found, strict=True) for line in lines]
        spots = [Spot(rgb, start_at_text(box)) for rgb, box in boxes]
        read = iter(self._reader.read(spots))
        put = [[put_down(line.box, next(read)) for line in lines] for lines in found]
        return [order_lines([line for line in lines if line.text]) for lines in put]

    def _search(self, parts: Sequence[np.ndarray], scales: Sequence[float]) -> list[Found]:
        scaled = [resize(part, scale) for part, scale in zip(parts, scales, strict=True)]
        maps = run_batches(self._model, scaled, self._find_batch, MEAN, DEVIATION)
        return [find_text(text[0][0], part.shape) for text, part in zip(maps, parts, strict=True)]


def run_batches(
    network: Network,
    pictures: list[np.ndarray],
    most_pixels: int,
    mean: Sequence[float] = HALF,
    deviation: Sequence[float] = HALF,
) -> list[list[np.ndarray]]:
    """Return the network's outputs for each picture: those of one shape go through it together."""
    outputs: list[list[np.ndarray]] = [[] for _ in pictures]
    for places in in_batches(pictures, most_pixels):
        batch = normalise([pictures[place] for place in places], mean, deviation)
        for whole in network(batch):
            for place, output in zip(places, whole, strict=True):
                outputs[place].append(output)
    return outputs


def resize(part: np.ndarray, scale: float) -> np.ndarray:
    """Return a picture at about a scale, its sides multiples of 32 as the detector needs, of 64 where they are long."""
    import cv2

    size = []
    for length in (part.shape[1] * scale, part.shape[0] * scale):
        step = 32 if length < 512 else 64
        size.append(max(32, round(length / step) * step))
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def find_text(text: np.ndarray, shape: tuple[int, ...]) -> Found:
    """Return the boxes of text in a picture of a shape from the detector's map of it, float32 (height, width), 0 to 1."""
    import cv2

    mask = cv2.dilate((text > TEXT).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    found, lows, lengths = [], 0.0, 0.0
    for contour in contours[:MOST_BOXES]:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < 3 or mean_inside(text, cv2.boxPoints((centre, (width, height), angle))) < SURE_BOX:
            continue
        # The network marks the middle of a line; the line is larger by an offset of area times GROW over circumference.
        grown = width * height * GROW / (width + height)
        width, height = width + grown, height + grown
        lengths += max(width, height)
        lows += max(width, height) if min(width, height) < LOW else 0
        found.append(clockwise(cv2.boxPoints((centre, (width, height), angle))))
    if not found:
        return Found(np.zeros((0, 4, 2)), False)
    corners = np.stack(found).astype(np.float64) * (shape[1] / text.shape[1], shape[0] / text.shape[0])
    corners = corners.clip(0, (shape[1] - 1, shape[0] - 1))
    large = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).min(1) > SMALLEST_BOX
    return Found(corners[large], lows > LOW_SHARE * lengths)


def mean_inside(text: np.ndarray, corners: np.ndarray) -> float:
    """Return the mean of a map inside a box with these corners (4, 2)."""
    import cv2

    left, top = np.floor(corners.min(0)).clip(0).astype(int)
    right, bottom = np.ceil(corners.max(0)).astype(int) + 1
    part = text[top:bottom, left:right]
    mask = cv2.fillPoly(np.zeros(part.shape[:2], np.uint8), [(corners - (left, top)).astype(np.int32)], (1,))
    return cv2.mean(part, mask)[0]


def clockwise(corners: np.ndarray) -> np.ndarray:
    """Return the corners (4, 2) of a box from top left on: of the two on the left and the two on the right, the upper."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (pair[np.argsort(pair[:, 1], kind="stable")] for pair in (by_x[:2], by_x[2:]))
    return np.stack([left[0], right[0], right[1], left[1]])


def start_at_text(corners: np.ndarray) -> np.ndarray:
    """Return corners (4, 2) from the start of a line on: one that is much higher than wide runs upwards."""
    across, down = side_lengths(corners)
    return np.roll(corners, -1, 0) if down >= COLUMN * across else corners


def put_down(box: Sequence[float], read: Reading) -> Line:
    """Return what a box says; that of a line that was read from its other end begins where the text does."""
    turned = np.roll(start_at_text(np.reshape(box, (4, 2))), 2, 0)
    return Line(read.text, round(read.score, 4), tuple(turned.ravel().tolist() if read.turned else box))


def cut_line(spot: Spot, squeeze: float) -> np.ndarray:
    """Return a line of a picture as uint8 (48, width, 3), set straight, its width times `squeeze`, grey to its right.

    The width is the next multiple of 32.
    """
    import cv2

    picture, corners = spot
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    region = picture[low[1] : high[1], low[0] : high[0]]
    corners = corners - low
    if max(region.shape) > WIDEST:
        shrink = WIDEST / max(region.shape)
        region = cv2.resize(region, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        corners = corners * shrink
    across, down = side_lengths(corners)
    width = min(LONGEST, max(8, ceil(across / down * HIGH * squeeze)))
    # Large letters are set straight at about their own size and then reduced: OpenCV's warp skips pixels.
    times = max(1, round(down / HIGH / 1.25))
    target = np.array([(0, 0), (width, 0), (width, HIGH), (0, HIGH)], np.float32) * times
    warp = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    size = (width * times, HIGH * times)
    line = cv2.warpPerspective(region, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    strip = np.full((HIGH, ceil(width / BUCKET) * BUCKET, 3), 127, np.uint8)
    strip[:, :width] = line if times == 1 else cv2.resize(line, (width, HIGH), interpolation=cv2.INTER_AREA)
    return strip


def open_engine(model: Path | bytes, engine: str, threads: int, device: str) -> Network:
    """Return a call that takes a float32 batch (n, 3, height, width) and gives the network's outputs.

    `engine`: openvino (CPU only, always in float32), or auto or onnxruntime, whose CUDA is used where `device` allows.
    """
    if engine != "openvino":
        return open_network(model, threads, device)
    import openvino

    core = openvino.Core()
    # Where a CPU has bfloat16 it would be the default, and answers would depend on the machine.
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()

    def run(batch: np.ndarray) -> list[np.ndarray]:
        request.infer([batch])
        # The next call writes over the tensors.
        return [tensor.data.copy() for tensor in request.output_tensors]

    return run


def load_recogniser(path: Path) -> tuple[bytes, list[str]]:
    """Return a recogniser that gives the likeliest letter of each step, and the letters, of which the first is none.

    Its outputs are probabilities and numbers of letters, (n, steps, 1) each: of the whole alphabet's probabilities, 18,710
    a step, nothing else is used, and a GPU would take longer to hand them over than to reckon them.
    """
    import onnx

    model = onnx.load(path)
    graph = model.graph
    letters = next(entry.value for entry in model.metadata_props if entry.key == "character").splitlines()
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "one"))
    graph.node.append(onnx.helper.make_node("TopK", [graph.output[0].name, "one"], ["probability", "letter"], axis=2))
    set_outputs(graph, {"probability": int(onnx.TensorProto.FLOAT), "letter": int(onnx.TensorProto.INT64)})
    return model.SerializeToString(), ["", *letters, " "]


def in_batches(pictures: Sequence[np.ndarray], most_pixels: int) -> Iterator[list[int]]:
    """Yield the places of pictures of one shape, together no more than `most_pixels` unless one alone has more."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(pictures):
        alike.setdefault(picture.shape, []).append(place)
    for (height, width, _), places in alike.items():
        step = max(1, most_pixels // (height * width))
        for start in range(0, len(places), step):
            yield places[start : start + step]


def normalise(pictures: Sequence[np.ndarray], mean: Sequence[float], deviation: Sequence[float]) -> np.ndarray:
    """Return uint8 RGB pictures of one shape as a float32 batch (n, 3, height, width), channels BGR.

    `mean` and `deviation` are of B, G and R, 0 to 1.
    """
    batch = np.empty((len(pictures), 3, *pictures[0].shape[:2]), np.float32)
    for picture, planes in zip(pictures, batch, strict=True):
        for channel, plane in enumerate(planes):
            np.multiply(picture[:, :, 2 - channel], np.float32(1 / 255 / deviation[channel]), out=plane)
            plane -= np.float32(mean[channel] / deviation[channel])
    return batch


def best_path(probabilities: np.ndarray, numbers: np.ndarray, letters: Sequence[str]) -> tuple[str, float]:
    """Return the text of one line's steps and the mean probability of its letters (greedy CTC decoding; Graves 2006)."""
    probabilities, numbers = probabilities.ravel(), numbers.ravel()
    fresh = (numbers != 0) & np.append(True, numbers[1:] != numbers[:-1])
    text = "".join(letters[number] for number in numbers[fresh])
    return text.strip(), float(probabilities[fresh].mean()) if fresh.any() else 0.0
