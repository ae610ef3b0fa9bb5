"""PP-OCRv6 small, the networks of the rapidocr wheel: found at a size that fits the picture, read in batches by width.

The steps and their constants are those of PP-OCR (arXiv:2009.09941) and of differentiable binarisation (arXiv:1911.08947)
where nothing else is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod, sqrt
from pathlib import Path

import numpy as np

from weibotag.vision.backends.ocr_lines import Line, drop_doubles, order_lines
from weibotag.vision.backends.ocr_networks import (
    Network,
    best_path,
    check_engine,
    in_batches,
    load_recogniser,
    network_errors,
    normalise,
    open_network,
)
from weibotag.vision.backends.onnx_session import choose_providers
from weibotag.vision.weights.catalogue import find_model

DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
TURNER = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"
# How the detector was trained. (The rapidocr library gives it the other networks' 0.5; it finds less so.)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# Planning
SMALLEST = 8
SMALL = 400
ENLARGE = 2.0
PAGE = 1.5
LONG = 2.5
TILE = 2.0
CLOSER = 1.35
WIDEST = 30_000
# Finding
SMALLEST_BOX = 6
TEXT, SURE_BOX, GROW = 0.3, 0.5, 1.6
MOST_BOXES = 1000
# Boxes lower than this, in the pixels that are searched, hold letters of ten pixels: the least that is found reliably.
LOW = 13.0
LOW_SHARE = 0.05
# Reading
HIGH = 48
SQUEEZE = 0.625
SURE = 0.95
BUCKET = 32
LONGEST = 6400
TURN_WIDTH, TURN_SURE = 192, 0.9
# Pixels of a batch. On a CPU a batch of found pictures takes longer than they do one by one, and lines gain little.
CPU_BATCHES = (1, 8 * HIGH * 320)
GPU_BATCHES = (8 * 640 * 960, 64 * HIGH * 320)


@dataclass(frozen=True)
class View:
    """One look at a picture: rows `top` to `bottom`, times `scale`, searched at `side` pixels on the long side at most.

    `near`: the scale of a second search, for where the first finds small text; 0 where that would not show more.
    """

    top: int
    bottom: int
    scale: float
    side: int
    near: float


@dataclass(frozen=True)
class Found:
    """Text found in a picture: corners (n, 4, 2), clockwise from top left, in its pixels; whether much of it is small."""

    corners: np.ndarray
    small: bool


class RapidOcr:
    """Text lines of many pictures at a time.

    `max_side`: long side that a 3:2 page is first searched at, pixels; `engine`: onnxruntime, openvino, or auto, which is
    onnxruntime; `angle`: lines that stand on their heads are turned; `device`: auto, cpu or cuda.
    """

    def __init__(self, max_side: int = 800, engine: str = "auto", angle: bool = False, device: str = "auto") -> None:
        self.max_side = max_side
        self.engine = engine
        self.angle = angle
        self.device = device
        self.errors: tuple[type[Exception], ...] = ()
        self._networks: dict[str, Network] = {}
        self._letters: list[str] = []
        self._batches = CPU_BATCHES

    def weights(self) -> list[Path]:
        """Return the files of the networks; RequestError when one, or the engine, is absent."""
        check_engine(self.engine)
        return [find_model(name) for name in ((DETECTOR, RECOGNISER, TURNER) if self.angle else (DETECTOR, RECOGNISER))]

    def open(self, threads: int = 1) -> None:
        """Load the networks, to run on `threads` threads."""
        import cv2

        cv2.setNumThreads(threads)
        finder, reader, *turner = self.weights()
        recogniser, self._letters = load_recogniser(reader)
        models: dict[str, Path | bytes] = dict(zip(("find", "read", "turn"), (finder, recogniser, *turner), strict=False))
        self._networks = {name: open_network(model, self.engine, threads, self.device) for name, model in models.items()}
        on_gpu = self.engine != "openvino" and "CUDAExecutionProvider" in choose_providers(self.device)
        self._batches = GPU_BATCHES if on_gpu else CPU_BATCHES
        self.errors = (cv2.error, *network_errors(self.engine))
        self.look([np.full((48, 96, 3), 255, np.uint8)])

    def look(self, pictures: Sequence[np.ndarray]) -> list[list[Line]]:
        """Return the lines of each picture, uint8 RGB (height, width, 3), in reading order; may raise `errors`."""
        found = self._find(pictures)
        read = iter(
            self._read([(rgb, start_at_text(box)) for rgb, boxes in zip(pictures, found, strict=True) for box in boxes])
        )
        answers = []
        for boxes in found:
            lines = [(box.round(2).ravel().tolist(), *next(read)) for box in boxes]
            answers.append(order_lines([Line(text, round(score, 4), tuple(box)) for box, text, score in lines if text]))
        return answers

    def close(self) -> None:
        """Let the networks go."""
        self._networks = {}

    def _find(self, pictures: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """Return the corners (4, 2) of each line of text in each picture."""
        plans = [plan_views(rgb.shape[1], rgb.shape[0], self.max_side) for rgb in pictures]
        views = [(place, view) for place, plan in enumerate(plans) for view in plan]
        parts = [pictures[place][view.top : view.bottom] for place, view in views]
        seen = self._search(
            parts, [min(view.scale, view.side / max(part.shape)) for (_, view), part in zip(views, parts, strict=True)]
        )
        small = [at for at, (_, view) in enumerate(views) if seen[at].small and view.near]
        for at, nearer in zip(
            small, self._search([parts[at] for at in small], [views[at][1].near for at in small]), strict=True
        ):
            seen[at] = nearer
        found: list[list[np.ndarray]] = [[] for _ in pictures]
        for (place, view), one in zip(views, seen, strict=True):
            boxes = one.corners + np.array([0, view.top])
            found[place] += [box for box in boxes if not is_cut(box[:, 1], view, len(pictures[place]))]
        return [drop_smaller(boxes) if len(plan) > 1 else boxes for boxes, plan in zip(found, plans, strict=True)]

    def _search(self, parts: list[np.ndarray], scales: list[float]) -> list[Found]:
        scaled = [resize(part, scale) for part, scale in zip(parts, scales, strict=True)]
        maps = self._run("find", scaled, MEAN, DEVIATION, self._batches[0])
        return [find_text(text[0][0], part.shape) for text, part in zip(maps, parts, strict=True)]

    def _read(self, spots: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[str, float]]:
        """Return the text and score of each line, given as a picture and its corners there.

        Lines are read narrowed, which takes that much less time; those that are then in doubt, once more at full width.
        """
        if self.angle:
            spots = self._turn(spots)
        read = self._read_at(spots, SQUEEZE)
        doubtful = [at for at, (_, score) in enumerate(read) if score < SURE]
        for at, better in zip(doubtful, self._read_at([spots[at] for at in doubtful], 1.0), strict=True):
            read[at] = max(read[at], better, key=lambda answer: answer[1])
        return read

    def _read_at(self, spots: list[tuple[np.ndarray, np.ndarray]], squeeze: float) -> list[tuple[str, float]]:
        strips = [cut_line(picture, corners, squeeze) for picture, corners in spots]
        steps = self._run("read", strips, HALF, HALF, self._batches[1])
        return [best_path(probability, number, self._letters) for probability, number in steps]

    def _turn(self, spots: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
        strips = [cut_line(picture, corners, 1.0, TURN_WIDTH) for picture, corners in spots]
        sides = self._run("turn", strips, HALF, HALF, self._batches[1])
        turned = [side[0][1] > TURN_SURE for side in sides]
        return [(part, np.roll(spot, 2, 0) if over else spot) for (part, spot), over in zip(spots, turned, strict=True)]

    def _run(
        self, network: str, pictures: list[np.ndarray], mean: Sequence[float], deviation: Sequence[float], pixels: int
    ) -> list[list[np.ndarray]]:
        """Return the network's outputs for each picture: those of one shape go through it together."""
        outputs: list[list[np.ndarray]] = [[] for _ in pictures]
        for places in in_batches(pictures, pixels):
            batch = normalise([pictures[place] for place in places], mean, deviation)
            for whole in self._networks[network](batch):
                for place, output in zip(places, whole, strict=True):
                    outputs[place].append(output)
        return outputs


def plan_views(width: int, height: int, max_side: int) -> list[View]:
    """Return how a picture is looked at: whole, or where it is tall (a poster, a long screenshot) in overlapping tiles.

    A small one is enlarged; none is searched at more pixels than a 3:2 page with a long side of `max_side` has, unless small
    text asks for a nearer look. One that is too thin for text is not looked at.
    """
    if min(width, height) < SMALLEST:
        return []
    tall = height > LONG * width and height > max_side
    rows = tile_rows(height, max(max_side, round(TILE * width))) if tall else [(0, height)]
    return [plan_view(width, top, bottom, max_side) for top, bottom in rows]


def plan_view(width: int, top: int, bottom: int, max_side: int) -> View:
    """Return how the rows `top` to `bottom` of a picture are looked at."""
    longest = max(width, bottom - top)
    page = max_side / sqrt(PAGE * width * (bottom - top))
    first = min(page, max(1.0, min(ENLARGE, SMALL / longest)), WIDEST / longest)
    near = min(2 * first, max(1.0, page), WIDEST / longest)
    return View(top, bottom, max(1.0, first), round(first * longest), near if near >= CLOSER * first else 0.0)


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


def drop_smaller(boxes: list[np.ndarray]) -> list[np.ndarray]:
    """Return the boxes without those that two tiles both saw; of two, the larger stays."""
    lines = [Line("", prod(side_lengths(box)), tuple(box.ravel())) for box in boxes]
    return [np.reshape(line.box, (4, 2)) for line in drop_doubles(lines)]


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
    return np.roll(corners, -1, 0) if down >= 1.5 * across else corners


def side_lengths(corners: np.ndarray) -> tuple[float, float]:
    """Return how long and how high a line with these corners (4, 2) is."""
    sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)
    return float(max(sides[0], sides[2])), float(max(sides[1], sides[3]))


def cut_line(picture: np.ndarray, corners: np.ndarray, squeeze: float, room: int | None = None) -> np.ndarray:
    """Return a line of a picture as uint8 (48, width, 3), set straight, its width times `squeeze`, grey to its right.

    `corners` (4, 2) start where the text does. The width is the next multiple of 32, or `room`.
    """
    import cv2

    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    region = picture[low[1] : high[1], low[0] : high[0]]
    corners = corners - low
    if max(region.shape) > WIDEST:
        shrink = WIDEST / max(region.shape)
        region = cv2.resize(region, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        corners = corners * shrink
    across, down = side_lengths(corners)
    width = min(room or LONGEST, max(8, ceil(across / down * HIGH * squeeze)))
    # Large letters are set straight at about their own size and then reduced: OpenCV's warp skips pixels.
    times = max(1, round(down / HIGH / 1.25))
    target = np.array([(0, 0), (width, 0), (width, HIGH), (0, HIGH)], np.float32) * times
    warp = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    size = (width * times, HIGH * times)
    line = cv2.warpPerspective(region, warp, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    strip = np.full((HIGH, room or ceil(width / BUCKET) * BUCKET, 3), 127, np.uint8)
    strip[:, :width] = line if times == 1 else cv2.resize(line, (width, HIGH), interpolation=cv2.INTER_AREA)
    return strip
