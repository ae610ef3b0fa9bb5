"""Draw the example pictures that pictures.json describes.

Usage: python draw_pictures.py [--font PATH] [--out FOLDER]

Nothing is random: the same definitions and the same font give the same files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pens import SMOOTH, Face, Pen, shade
from PIL import Image, ImageColor, ImageDraw
from things import THINGS

HERE = Path(__file__).resolve().parent
NO_FONT = "no font with Chinese characters found: install fonts-noto-cjk, or give --font PATH"


@dataclass(frozen=True)
class Picture:
    """One entry of pictures.json; what `lines` mean depends on `kind`."""

    name: str
    kind: str
    size: tuple[int, int]
    colours: tuple[str, str]
    lines: tuple[str, ...] = ()
    things: tuple[tuple[Any, ...], ...] = ()
    backdrop: str = "plain"
    frames: tuple[tuple[str, ...], ...] = ()


def find_face() -> Face | None:
    """Ask fontconfig for a face with Chinese characters.

    Its best match for a language may still lack the characters, hence the look at each answer.
    """
    for pattern in (":lang=zh", ":lang=zh-cn", "Noto Sans CJK SC", "WenQuanYi Micro Hei"):
        try:
            answer = subprocess.run(
                ["fc-match", "-f", "%{file}|%{index}", pattern],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        except (OSError, subprocess.CalledProcessError):
            return None
        path, _, index = answer.partition("|")
        face = Face(path, int(index or 0) & 0xFFFF)
        if path and face.knows_chinese():
            return face
    return None


def ink_on(colour: str) -> str:
    """Choose a text colour that is easy to read on a colour."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return "#222222" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "#ffffff"


def paint_backdrop(pen: Pen, picture: Picture) -> None:
    """Fill the picture with its first colour, in the way its backdrop says."""
    wide, high = picture.size
    colour, second = picture.colours
    pen.rect(0, 0, wide, high, colour)
    if picture.backdrop == "fade":
        for step in range(12):
            pen.rect(0, high * step / 12, wide, high, shade(colour, 1 + 0.06 * step))
    elif picture.backdrop == "table":
        pen.rect(0, high * 0.62, wide, high, second)
    elif picture.backdrop == "stripes":
        for x in range(-high, wide, 60):
            pen.poly([(x, high), (x + high, 0), (x + high + 24, 0), (x + 24, high)], shade(colour, 0.95))
    elif picture.backdrop == "dots":
        for y in range(20, high, 48):
            for x in range(20 + y % 96 // 4, wide, 48):
                pen.oval(x - 4, y - 4, x + 4, y + 4, shade(colour, 0.92))
    elif picture.backdrop == "tiles":
        for x in range(0, wide, 64):
            pen.line([(x, 0), (x, high)], shade(colour, 0.9), 2)
        for y in range(0, high, 64):
            pen.line([(0, y), (wide, y)], shade(colour, 0.9), 2)


def place_things(pen: Pen, picture: Picture) -> None:
    """Draw the things of a picture where they are said to be."""
    for thing, x, y, size, main, second, *flip in picture.things:
        THINGS[thing](pen.square(x, y, size, flip=bool(flip)), main, second)


def draw_scene(pen: Pen, picture: Picture) -> None:
    """Draw things only, without a word."""
    paint_backdrop(pen, picture)
    place_things(pen, picture)


def draw_poster(pen: Pen, picture: Picture) -> None:
    """Draw a poster: a headline, a second line, things, and small print in a band below."""
    paint_backdrop(pen, picture)
    wide, high = picture.size
    ink, band = ink_on(picture.colours[0]), picture.colours[1]
    headline, second, *small = picture.lines
    pen.rect(12, 12, wide - 12, high - 12, None, 6, band, 4)
    size = pen.text(wide / 2, high * 0.07, headline, wide / 6.5, ink, "ma", wide * 0.86, bold=True)
    pen.text(wide / 2, high * 0.09 + size * 1.25, second, wide / 13, ink, "ma", wide * 0.84)
    place_things(pen, picture)
    if small:
        step = max(24.0, wide / 17)
        top = high - 24 - step * 1.35 * len(small)
        pen.rect(12, top - step * 0.4, wide - 12, high - 12, band, 6)
        for row, text in enumerate(small):
            pen.text(wide / 2, top + row * step * 1.35, text, step, ink_on(band), "ma", wide * 0.84)


def draw_cover(pen: Pen, picture: Picture) -> None:
    """Draw a book: title, author, and lines about it."""
    paint_backdrop(pen, picture)
    wide, high = picture.size
    title, author, *rest = picture.lines
    ink = ink_on(picture.colours[0])
    pen.rect(0, 0, wide * 0.06, high, shade(picture.colours[0], 0.75))
    pen.rect(wide * 0.14, high * 0.1, wide * 0.92, high * 0.36, None, 0, picture.colours[1], 3)
    pen.text(wide * 0.53, high * 0.21, title, wide / 6, ink, "mm", wide * 0.7, bold=True)
    pen.text(wide * 0.53, high * 0.31, author, wide / 18, ink, "mm", wide * 0.7)
    place_things(pen, picture)
    for row, text in enumerate(reversed(rest)):
        y = high * 0.93 - row * wide / 12
        pen.text(wide * 0.53, y, text, wide / 19, ink, "mm", wide * 0.78)


def draw_chat(pen: Pen, picture: Picture) -> None:
    """Draw a chat: its title, then what the other (<) and the owner (>) wrote."""
    wide, high = picture.size
    bar, bubble = picture.colours
    unit = wide / 18
    pen.rect(0, 0, wide, high, "#ededed")
    pen.rect(0, 0, wide, unit * 2.2, bar)
    pen.text(wide / 2, unit * 1.1, picture.lines[0], unit, ink_on(bar), "mm", wide * 0.7)
    pen.line([(unit, unit * 1.1), (unit * 0.7, unit * 1.1)], ink_on(bar), 3)
    y = unit * 3
    for line in picture.lines[1:]:
        mine, text = line.startswith(">"), line[1:]
        length = min(pen.width(text, unit * 0.9), wide - unit * 5.2) + unit
        left = wide - unit * 2.6 - length if mine else unit * 2.6
        face_x = wide - unit * 2.2 if mine else unit * 0.5
        pen.rect(face_x, y, face_x + unit * 1.7, y + unit * 1.7, bar if mine else "#9fb3c8", 6)
        fill = bubble if mine else "#ffffff"
        pen.rect(left, y, left + length, y + unit * 1.7, fill, 8)
        pen.text(left + unit / 2, y + unit * 0.85, text, unit * 0.9, ink_on(fill), "lm", length - unit)
        y += unit * 2.3
    place_things(pen, picture)


def draw_list(pen: Pen, picture: Picture) -> None:
    """Draw a menu or a list: a title, then rows of a name and, after '|', a value."""
    paint_backdrop(pen, picture)
    wide, high = picture.size
    title, *rows = picture.lines
    ink, mark = ink_on(picture.colours[0]), picture.colours[1]
    top = wide * 0.2
    pen.rect(0, 0, wide, top * 0.8, mark)
    pen.text(wide / 2, top * 0.4, title, wide / 11, ink_on(mark), "mm", wide * 0.88, bold=True)
    step = (high - top - 12) / len(rows)
    size = min(step * 0.5, wide / 15)
    for row, line in enumerate(rows):
        name, _, value = line.partition("|")
        y = top + step * (row + 0.5)
        space = pen.width(value, size) if value else 0
        pen.text(wide * 0.07, y, name, size, ink, "lm", wide * 0.82 - space)
        pen.text(wide * 0.93, y, value, size, shade(mark, 0.85), "rm")
        pen.line([(wide * 0.07, y + step * 0.42), (wide * 0.93, y + step * 0.42)], shade(picture.colours[0], 0.88), 1)
    place_things(pen, picture)


def draw_app(pen: Pen, picture: Picture) -> None:
    """Draw a phone's screen: a title, one large figure, its caption, and tiles of name|value."""
    wide, high = picture.size
    ground, mark = picture.colours
    title, figure, caption, *tiles = picture.lines
    ink = ink_on(ground)
    pen.rect(0, 0, wide, high, ground)
    pen.text(wide * 0.06, wide * 0.03, "9:41", wide / 24, ink)
    pen.rect(wide * 0.86, wide * 0.04, wide * 0.94, wide * 0.07, None, 3, ink, 2)
    pen.text(wide / 2, wide * 0.15, title, wide / 16, ink, "mm", wide * 0.8)
    pen.rect(wide * 0.05, wide * 0.22, wide * 0.95, wide * 0.58, mark, 16)
    pen.text(wide / 2, wide * 0.37, figure, wide / 6.5, ink_on(mark), "mm", wide * 0.8, bold=True)
    pen.text(wide / 2, wide * 0.51, caption, wide / 20, ink_on(mark), "mm", wide * 0.8)
    step = wide * 0.19
    for place, tile in enumerate(tiles):
        name, _, value = tile.partition("|")
        x, y = wide * (0.05 + 0.46 * (place % 2)), wide * 0.63 + step * (place // 2)
        pen.rect(x, y, x + wide * 0.44, y + step * 0.88, shade(ground, 0.93), 10)
        pen.text(x + wide * 0.03, y + step * 0.24, name, wide / 24, ink, "lm", wide * 0.38)
        pen.text(x + wide * 0.03, y + step * 0.62, value, wide / 17, ink, "lm", wide * 0.38)
    place_things(pen, picture)


def draw_verse(pen: Pen, picture: Picture) -> None:
    """Draw lines of text in upright columns, from right to left."""
    paint_backdrop(pen, picture)
    wide, high = picture.size
    ink, mark = ink_on(picture.colours[0]), picture.colours[1]
    pen.rect(16, 16, wide - 16, high - 16, None, 0, mark, 2)
    gap = (wide - 72) / len(picture.lines)
    size = min(gap * 0.62, (high - 90) / max(len(line) for line in picture.lines) / 1.16)
    for column, line in enumerate(picture.lines):
        x = wide - 36 - gap * (column + 0.5)
        for row, char in enumerate(line):
            pen.text(x, 48 + size * 1.16 * (row + 0.5), char, size, ink, "mm", bold=column == 0)
    pen.rect(34, high - 70, 66, high - 38, "#b3261e", 4)
    place_things(pen, picture)


KINDS: dict[str, Callable[[Pen, Picture], None]] = {
    "scene": draw_scene,
    "poster": draw_poster,
    "cover": draw_cover,
    "chat": draw_chat,
    "list": draw_list,
    "app": draw_app,
    "verse": draw_verse,
}


def render(picture: Picture, face: Face) -> Image.Image:
    """Draw one picture (of a moving one: one frame)."""
    wide, high = picture.size
    large = Image.new("RGB", (wide * SMOOTH, high * SMOOTH), picture.colours[0])
    KINDS[picture.kind](Pen(ImageDraw.Draw(large), face), picture)
    return large.resize(picture.size, Image.Resampling.LANCZOS)


def save(picture: Picture, face: Face, path: Path) -> None:
    """Draw a picture and write it in the format its name asks for."""
    if picture.frames:
        frames = [render(replace(picture, lines=lines), face).quantize(64) for lines in picture.frames]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=900, loop=0)
        return
    image = render(picture, face)
    if path.suffix == ".png":
        image.quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)
    elif path.suffix == ".webp":
        image.save(path, quality=70, method=6)
    else:
        image.save(path, quality=72, optimize=True)


def read_pictures(path: Path) -> list[Picture]:
    """Read the definitions."""
    return [
        Picture(
            name=entry["name"],
            kind=entry["kind"],
            size=(entry["size"][0], entry["size"][1]),
            colours=(entry["colours"][0], entry["colours"][1]),
            lines=tuple(entry.get("lines", ())),
            things=tuple(tuple(thing) for thing in entry.get("things", ())),
            backdrop=entry.get("backdrop", "plain"),
            frames=tuple(tuple(lines) for lines in entry.get("frames", ())),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def main() -> int:
    """Draw every picture; give the exit status."""
    parser = argparse.ArgumentParser(description="Draw the example pictures.")
    parser.add_argument("--font", help="a font file with Chinese characters")
    parser.add_argument("--out", type=Path, default=HERE / "images", help="folder to write to")
    options = parser.parse_args()
    face = Face(options.font) if options.font else find_face()
    if face is None or not face.knows_chinese():
        print(NO_FONT, file=sys.stderr)
        return 1
    pictures = read_pictures(HERE / "pictures.json")
    options.out.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        save(picture, face, options.out / picture.name)
    print(f"{len(pictures)} pictures in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
