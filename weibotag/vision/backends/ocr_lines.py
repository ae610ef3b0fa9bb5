"""Lines of text in a picture: what every OCR backend answers, without doubles and in reading order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line of text; score 0 to 1; box: x1 y1 … x4 y4 clockwise from top left, pixels of the picture."""

    text: str
    score: float
    box: tuple[float, ...]


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
    """Return the lines from top to bottom; those that stand side by side from left to right."""
    rows: list[list[tuple[float, float, float, Line]]] = []
    placed = [(top, bottom, left, line) for line in lines for left, top, _, bottom in [bounds(line)]]
    for top, bottom, left, line in sorted(placed, key=lambda place: (place[0] + place[1], place[2])):
        middle = (top + bottom) / 2
        if rows:
            first_top, first_bottom, _, _ = rows[-1][0]
            reach = min(bottom - top, first_bottom - first_top) / 2
            if middle - (first_top + first_bottom) / 2 < reach:
                rows[-1].append((top, bottom, left, line))
                continue
        rows.append([(top, bottom, left, line)])
    return [line for row in rows for _, _, _, line in sorted(row, key=lambda place: place[2])]
