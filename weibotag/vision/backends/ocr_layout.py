"""How pictures are searched for text, whole or in overlapping tiles, and how the lines found there are put in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt

import numpy as np

from weibotag.vision.backend import Line

# The networks in the rapidocr wheel that find and read text.
DETECTOR = "PP-OCRv6_det_small.onnx"
RECOGNISER = "PP-OCRv6_rec_small.onnx"
SMALLEST = 8
SMALL = 400
ENLARGE = 2.0
PAGE = 1.5
LONG = 2.5
TILE = 2.0
CLOSER = 1.35
WIDEST = 30_000
# Boxes lower than this, in the pixels that are searched, hold letters of ten pixels: the least that is found reliably.
LOW = 13.0
LOW_SHARE = 0.05
# How much higher than wide a box is whose line runs down or up.
COLUMN = 1.5


@dataclass(frozen=True)
class View:
    """One look at a picture: rows `top` to `bottom`, searched at `scale`.

    `near`: the scale of a second search, for where the first finds small text; 0 where that would not show more.
    """

    top: int
    bottom: int
    scale: float
    near: float


@dataclass(frozen=True)
class Found:
    """Text found in a picture: corners (n, 4, 2), clockwise from top left, in its pixels; whether much of it is small.

    `read`: text and score of each line, where it was read as it was found.
    """

    corners: np.ndarray
    small: bool
    read: Sequence[tuple[str, float]] = ()


# The xs and the ys of a thing's corners, and its lines in order.
Placed = tuple[np.ndarray, np.ndarray, list[Line]]
# Pictures, and at which scale each is searched, to what is found in each.
Search = Callable[[Sequence[np.ndarray], Sequence[float]], list[Found]]


def search_pictures(pictures: Sequence[np.ndarray], max_side: int, search: Search) -> list[list[Line]]:
    """Return the lines of each picture, without doubles; one that was not read yet has no text, and its area as a score."""
    plans = [plan_views(rgb.shape[1], rgb.shape[0], max_side) for rgb in pictures]
    views = [(place, view) for place, plan in enumerate(plans) for view in plan]
    parts = [pictures[place][view.top : view.bottom] for place, view in views]
    seen = search(parts, [view.scale for _, view in views])
    small = [at for at, (_, view) in enumerate(views) if seen[at].small and view.near]
    nearer = search([parts[at] for at in small], [views[at][1].near for at in small])
    for at, found in zip(small, nearer, strict=True):
        seen[at] = found
    lines: list[list[Line]] = [[] for _ in pictures]
    for (place, view), found in zip(views, seen, strict=True):
        for at, corners in enumerate(found.corners + np.array([0, view.top])):
            if not is_cut(corners[:, 1], view, len(pictures[place])):
                text, score = found.read[at] if found.read else ("", prod(side_lengths(corners)))
                lines[place].append(Line(text, score, tuple(corners.ravel().tolist())))
    return [drop_doubles(some) if len(plan) > 1 else some for some, plan in zip(lines, plans, strict=True)]


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
    scale = min(max(1.0, first), round(first * longest) / longest)
    return View(top, bottom, scale, near if near >= CLOSER * first else 0.0)


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


def side_lengths(corners: np.ndarray) -> tuple[float, float]:
    """Return how long and how high a line with these corners (4, 2) is."""
    sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)
    return float(max(sides[0], sides[2])), float(max(sides[1], sides[3]))


def drop_doubles(lines: list[Line]) -> list[Line]:
    """Return the lines without those that two tiles both saw; of two, the one with the higher score stays."""
    kept: list[Line] = []
    for line in sorted(lines, key=lambda line: (-line.score, line.box)):
        if all(share_area(line, other) < 0.5 for other in kept):
            kept.append(line)
    return kept


def share_area(one: Line, other: Line) -> float:
    """Return the shared area of two lines' upright rectangles over the smaller of both, 0 to 1."""
    left, top, right, bottom = bounds(one)
    left2, top2, right2, bottom2 = bounds(other)
    across = min(right, right2) - max(left, left2)
    down = min(bottom, bottom2) - max(top, top2)
    smaller = min((right - left) * (bottom - top), (right2 - left2) * (bottom2 - top2))
    return across * down / smaller if across > 0 and down > 0 and smaller > 0 else 0.0


def bounds(line: Line) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of a line's box."""
    xs, ys = line.box[0::2], line.box[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def order_lines(lines: list[Line]) -> list[Line]:
    """Return the lines in reading order, boxes to a hundredth: rows from top to bottom, in a row from left to right.

    Columns that stand side by side are one thing in their row, read from right to left; from left to right where they run
    upwards. A picture most of whose rows stand on their heads is read from its other end.
    """
    lines = [replace(line, box=tuple(np.round(line.box, 2).tolist())) for line in lines]
    rows = [line for line in lines if not is_column(line)]
    over = -1 if sum(len(line.text) if line.box[2] > line.box[0] else -len(line.text) for line in rows) < 0 else 1
    placed: list[Placed] = [(*(over * np.array(line.box).reshape(4, 2)).T, [line]) for line in rows]
    for up in (False, True):
        columns = [line for line in lines if is_column(line) and runs_up(line) == up]
        for block in side_by_side(columns):
            corners = [np.array(line.box).reshape(4, 2) for line in block]
            # Turned so that the columns are rows: what was on the right is above, or what was on the left.
            turned = [(box[:, 1], box[:, 0], [line]) for box, line in zip(corners, block, strict=True)]
            text = in_rows([(-xs, ys, line) if up else (xs, -ys, line) for xs, ys, line in turned])
            placed.append((*(over * np.concatenate(corners)).T, text))
    return in_rows(placed)


def in_rows(placed: "list[Placed]") -> list[Line]:
    """Return the lines of things that stand at xs and ys: things whose middles are as high are a row, from left to right."""
    rows: list[list[tuple[float, float, float, list[Line]]]] = []
    things = [(float(ys.min()), float(ys.max()), float(xs.min()), lines) for xs, ys, lines in placed]
    for top, bottom, left, lines in sorted(things, key=lambda thing: (thing[0] + thing[1], thing[2])):
        if rows:
            first_top, first_bottom, _, _ = rows[-1][0]
            reach = min(bottom - top, first_bottom - first_top) / 2
            if (top + bottom) / 2 - (first_top + first_bottom) / 2 < reach:
                rows[-1].append((top, bottom, left, lines))
                continue
        rows.append([(top, bottom, left, lines)])
    return [line for row in rows for thing in sorted(row, key=lambda thing: thing[2]) for line in thing[3]]


def is_column(line: Line) -> bool:
    """Say whether a line runs down or up: its box is much higher than wide, or begins with an edge that runs up."""
    across, down = side_lengths(np.reshape(line.box, (4, 2)))
    return runs_up(line) or down >= COLUMN * across


def runs_up(line: Line) -> bool:
    """Say whether a line's box begins with its long edge, which runs up."""
    left, bottom, right, top = line.box[:4]
    return bottom - top > abs(right - left)


def side_by_side(columns: list[Line]) -> list[list[Line]]:
    """Return columns in blocks: each stands beside another of its block for half of the shorter's height."""
    blocks: list[list[Line]] = []
    for line in sorted(columns, key=bounds):
        _, top, _, bottom = bounds(line)
        block = [line]
        for other in blocks:
            spans = [(other_top, other_bottom) for _, other_top, _, other_bottom in map(bounds, other)]
            if any(min(bottom, end) - max(top, start) >= min(bottom - top, end - start) / 2 for start, end in spans):
                block += other
        blocks = [other for other in blocks if other[0] not in block] + [block]
    return blocks
