"""A pen that draws shapes and Chinese text on a picture, in units of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import ImageColor, ImageDraw, ImageFont

SMOOTH = 2  # everything is drawn this much larger and then reduced
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Face:
    """A font file, and the face to take from it if it is a collection."""

    path: str
    index: int = 0

    def at(self, size: float) -> ImageFont.FreeTypeFont:
        """Give the face in one size."""
        return ImageFont.truetype(self.path, max(6, round(size)), index=self.index)

    def knows_chinese(self) -> bool:
        """Tell whether the face has Chinese characters of its own."""
        try:
            font = self.at(24)
        except OSError:  # not a font that can be read
            return False
        masks = {bytes(font.getmask(char)) for char in "口红汽\uffff"}
        return len(masks) == 4


def shade(colour: str, factor: float) -> str:
    """Make a colour darker (factor below 1) or lighter (above 1)."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    if factor <= 1:
        parts = [part * factor for part in (red, green, blue)]
    else:
        parts = [part + (255 - part) * (factor - 1) for part in (red, green, blue)]
    return "#" + "".join(f"{min(255, round(part)):02x}" for part in parts)


@dataclass(frozen=True)
class Pen:
    """Draws on an image in units of its own, from an origin of its own."""

    draw: ImageDraw.ImageDraw
    face: Face
    x: float = 0
    y: float = 0
    unit: float = SMOOTH
    flip: bool = False

    def square(self, x: float, y: float, size: float, *, flip: bool = False) -> Pen:
        """Give a pen whose 100 x 100 units fill a square of this pen's units."""
        unit = self.unit * size / 100
        return replace(self, x=self.x + x * self.unit, y=self.y + y * self.unit, unit=unit, flip=flip)

    def _to(self, points: Points) -> list[tuple[float, float]]:
        return [(self.x + (100 - x if self.flip else x) * self.unit, self.y + y * self.unit) for x, y in points]

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> list[float]:
        (ax, ay), (bx, by) = self._to([(x0, y0), (x1, y1)])
        return [min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)]

    def rect(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: str | None,
        radius: float = 0,
        line: str | None = None,
        width: float = 1,
    ) -> None:
        """Draw a rectangle, with round corners if `radius` is given."""
        self.draw.rounded_rectangle(
            self._box(x0, y0, x1, y1),
            radius * self.unit,
            fill,
            line,
            max(1, round(width * self.unit)),
        )

    def oval(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: str | None,
        line: str | None = None,
        width: float = 1,
    ) -> None:
        """Draw an ellipse that fills a box."""
        self.draw.ellipse(self._box(x0, y0, x1, y1), fill, line, max(1, round(width * self.unit)))

    def half(self, x0: float, y0: float, x1: float, y1: float, fill: str) -> None:
        """Draw the left half of a filled ellipse."""
        start = -90 if self.flip else 90
        self.draw.pieslice(self._box(x0, y0, x1, y1), start, start + 180, fill)

    def poly(self, points: Points, fill: str) -> None:
        """Draw a filled polygon."""
        self.draw.polygon(self._to(points), fill)

    def line(self, points: Points, fill: str, width: float) -> None:
        """Draw a line with round joints and ends."""
        wide = max(1, round(width * self.unit))
        where = self._to(points)
        self.draw.line(where, fill, wide, joint="curve")
        for x, y in (where[0], where[-1]):
            self.draw.ellipse((x - wide / 2, y - wide / 2, x + wide / 2, y + wide / 2), fill)

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        end: float,
        fill: str,
        width: float,
    ) -> None:
        """Draw a part of an ellipse around (x, y); angles in degrees, clockwise."""
        angles = [math.radians(start + (end - start) * step / 40) for step in range(41)]
        self.line([(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles], fill, width)

    def width(self, text: str, size: float) -> float:
        """Measure a text, in this pen's units."""
        return self.face.at(size * self.unit).getlength(text) / self.unit

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        fill: str,
        anchor: str = "la",
        room: float = 0,
        bold: bool = False,
    ) -> float:
        """Write one line of text, smaller if `room` is too narrow; give its size."""
        if room:
            size = min(size, size * room / max(1.0, self.width(text, size)))
        font = self.face.at(size * self.unit)
        stroke = max(1, round(size * self.unit / 60)) if bold else 0
        self.draw.text(self._to([(x, y)])[0], text, fill, font, anchor, stroke_width=stroke, stroke_fill=fill)
        return size
