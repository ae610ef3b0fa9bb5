"""The things in the pictures.

Each fills a square of 100 x 100 units (some run on beyond it, as a horizon does), in a main colour
and a second one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from goods import bag, books, bottle, cake, coffee, dress, headphones, hotpot, laptop, lipstick, palette, phone, shoe
from pens import Pen, shade


def football(pen: Pen, main: str, second: str) -> None:
    """Draw a football."""

    def ring(radius: float, turn: float, x: float = 50, y: float = 50) -> list[tuple[float, float]]:
        angles = [math.radians(turn + 72 * step) for step in range(5)]
        return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]

    pen.oval(8, 8, 92, 92, main, second, 2)
    pen.poly(ring(14, -90), second)
    for inner, outer in zip(ring(14, -90), ring(28, -90), strict=True):
        pen.line([inner, outer], second, 1.5)
    for turn, (x, y) in zip(range(90, 450, 72), ring(32, -90), strict=True):
        pen.poly(ring(9, turn - 180 + 36, x, y), second)
    for x, y in ring(39, -54):
        pen.line([(50 + (x - 50) * 0.72, 50 + (y - 50) * 0.72), (x, y)], second, 1.5)


def basketball(pen: Pen, main: str, second: str) -> None:
    """Draw a basketball."""
    pen.oval(8, 8, 92, 92, main, second, 2)
    pen.line([(50, 9), (50, 91)], second, 2)
    pen.line([(9, 50), (91, 50)], second, 2)
    pen.arc(6, 50, 30, 37, -54, 54, second, 2)
    pen.arc(94, 50, 30, 37, 126, 234, second, 2)


def runner(pen: Pen, main: str, second: str) -> None:
    """Draw somebody who runs on a track."""
    pen.rect(-300, 78, 400, 400, second)
    for y in (84, 94, 108, 126):
        pen.line([(-300, y), (400, y)], "#ffffff", 1)
    pen.oval(54, 6, 70, 22, "#e0ac7e")
    pen.line([(58, 26), (48, 52)], main, 13)
    pen.line([(58, 28), (70, 42), (82, 34)], "#e0ac7e", 5)
    pen.line([(54, 28), (38, 34), (34, 48)], "#e0ac7e", 5)
    pen.line([(50, 54), (66, 62), (64, 80)], "#2b2f3a", 7)
    pen.line([(46, 54), (36, 70), (18, 70)], "#2b2f3a", 7)
    pen.line([(64, 81), (73, 81)], main, 5)
    pen.line([(17, 70), (15, 62)], main, 5)


def beach(pen: Pen, main: str, second: str) -> None:
    """Draw a beach with a palm; main is the sea and second the sand."""
    pen.oval(62, 10, 80, 28, "#ffd34d")
    pen.rect(-300, 46, 400, 74, main)
    pen.rect(-300, 46, 400, 49, shade(main, 1.4))
    pen.rect(-300, 70, 400, 75, "#ffffff")
    pen.rect(-300, 73, 400, 400, second)
    pen.line([(24, 86), (28, 62), (36, 38)], "#8a5a34", 5)
    for x, y in ((14, 26), (20, 46), (36, 16), (54, 26), (58, 44)):
        pen.poly([(36, 38), ((x + 36) / 2 - 3, (y + 38) / 2 - 9), (x, y + 6)], "#2f9e55")
    pen.oval(60, 84, 90, 90, shade(second, 0.85))
    pen.poly([(60, 76), (72, 60), (90, 72)], "#ef6461")
    pen.line([(75, 66), (80, 88)], "#ffffff", 2)


def town(pen: Pen, main: str, second: str) -> None:
    """Draw old houses by a canal; main is the roofs and second the water."""
    for x, y, wide in ((-34, 44, 40), (4, 34, 44), (52, 42, 46), (100, 36, 44)):
        pen.rect(x + 4, y, x + wide - 4, 80, "#f3eee2")
        pen.poly(
            [
                (x - 4, y + 2),
                (x + 4, y - 6),
                (x + 10, y - 16),
                (x + wide - 10, y - 16),
                (x + wide - 4, y - 6),
                (x + wide + 4, y + 2),
            ],
            main,
        )
        pen.rect(x + wide / 2 - 5, y + 14, x + wide / 2 + 5, y + 26, "#6b4a34")
        pen.line([(x + 9, y + 2), (x + 9, y + 9)], "#333333", 0.8)
        pen.oval(x + 5, y + 8, x + 13, y + 17, "#d7352b")
    pen.rect(-300, 80, 400, 400, second)
    pen.rect(-300, 78, 400, 81, "#a79f90")
    pen.poly([(26, 88), (74, 88), (66, 96), (34, 96)], "#5b4636")
    pen.arc(50, 88, 12, 9, 180, 360, "#3a2d24", 3)


def bed(pen: Pen, main: str, second: str) -> None:
    """Draw a hotel bed beside a lamp."""
    pen.rect(6, 24, 80, 64, second, 4)
    pen.rect(4, 56, 82, 82, "#ffffff", 4)
    pen.rect(4, 64, 82, 84, main, 3)
    pen.rect(12, 44, 40, 60, "#f7f4ee", 5, "#d8d2c5")
    pen.rect(46, 44, 74, 60, "#f7f4ee", 5, "#d8d2c5")
    pen.rect(86, 62, 99, 86, shade(second, 0.8))
    pen.poly([(88, 50), (97, 50), (100, 38), (85, 38)], "#ffe19a")
    pen.line([(92.5, 50), (92.5, 62)], "#555555", 1.5)
    pen.rect(8, 84, 13, 92, "#4a3b30")
    pen.rect(73, 84, 78, 92, "#4a3b30")


def car(pen: Pen, main: str, second: str, kind: str = "ev") -> None:
    """Draw a car from the side: an electric one, an SUV or a tuned one."""
    top, low = {"ev": (36, 66), "suv": (20, 66), "tuned": (42, 70)}[kind]
    cabin = {
        "ev": [(20, 52), (36, top), (62, top), (80, 52)],
        "suv": [(10, 46), (15, top), (66, top), (78, 46)],
        "tuned": [(24, 55), (42, top), (60, top), (76, 55)],
    }[kind]
    waist = cabin[0][1]
    pen.poly(cabin, main)
    pen.poly([(x + (50 - x) * 0.12, y + (4 if y == top else 0)) for x, y in cabin], "#bfe3f2")
    pen.rect(47, top, 50, waist, main)
    pen.rect(4, waist - 1, 97, low + 4, main, 7)
    pen.rect(90, waist + 4, 97, waist + 8, "#fff3b0", 2)
    pen.rect(4, waist + 4, 8, waist + 9, "#d7263d", 2)
    if kind == "suv":
        pen.line([(18, 16), (64, 16)], "#333333", 2)
        pen.rect(4, low, 97, low + 6, "#33363d", 3)
        pen.rect(0, 40, 5, 58, "#33363d", 2)
    if kind == "tuned":
        pen.line([(10, 55), (12, 44)], "#222222", 2)
        pen.line([(2, 42), (20, 44)], second, 4)
        pen.rect(6, low - 6, 95, low - 2, second)
        pen.line([(2, low + 4), (-6, low + 4)], "#888888", 3)
    if kind == "ev":
        pen.line([(8, 58), (-4, 62), (-6, 40)], second, 2)
        pen.rect(-16, 22, -2, 84, "#e8edf0", 3, second, 1.5)
        pen.poly([(-8, 30), (-14, 42), (-9, 42), (-11, 52), (-4, 38), (-9, 38)], second)
    wheel = 12 if kind == "suv" else 10
    for x in (24, 76):
        pen.oval(x - wheel, low + 4 - wheel, x + wheel, low + 4 + wheel, "#1d1f24")
        pen.oval(x - 5, low - 1, x + 5, low + 9, second if kind == "tuned" else "#c9ced6")


def cat(pen: Pen, main: str, second: str) -> None:
    """Draw a sitting cat."""
    pen.arc(78, 76, 16, 22, -80, 100, main, 7)
    pen.oval(26, 48, 76, 98, main)
    pen.oval(38, 62, 64, 98, second)
    pen.poly([(26, 30), (26, 4), (46, 18)], main)
    pen.poly([(76, 30), (76, 4), (56, 18)], main)
    pen.poly([(30, 22), (30, 11), (38, 18)], "#f0a6a0")
    pen.poly([(72, 22), (72, 11), (64, 18)], "#f0a6a0")
    pen.oval(24, 12, 78, 58, main)
    for x in (40, 62):
        pen.oval(x - 6, 28, x + 6, 40, "#e6e25a")
        pen.oval(x - 2, 28, x + 2, 40, "#1b1b1b")
    pen.poly([(48, 43), (54, 43), (51, 47)], "#e5787d")
    for step in (-3, 0, 3):
        pen.line([(44, 47), (20, 45 + 2 * step)], "#55504c", 0.7)
        pen.line([(58, 47), (82, 45 + 2 * step)], "#55504c", 0.7)


def dog(pen: Pen, main: str, second: str) -> None:
    """Draw a sitting dog with its tongue out."""
    pen.line([(72, 82), (92, 64)], main, 8)
    pen.oval(26, 50, 78, 100, main)
    pen.oval(40, 60, 64, 96, second)
    pen.oval(24, 8, 78, 58, main)
    pen.oval(12, 12, 34, 56, shade(main, 0.65))
    pen.oval(68, 12, 90, 56, shade(main, 0.65))
    pen.oval(36, 34, 66, 62, second)
    pen.rect(46, 52, 57, 70, "#ee6f7c", 5)
    pen.oval(44, 36, 58, 46, "#1f1a18")
    pen.arc(51, 46, 8, 8, 20, 160, "#1f1a18", 1.5)
    for x in (40, 62):
        pen.oval(x - 4, 24, x + 4, 33, "#1f1a18")
        pen.oval(x - 1, 25, x + 2, 28, "#ffffff")


def tank(pen: Pen, main: str, second: str) -> None:
    """Draw a fish tank; main is the water and second the fish."""
    pen.rect(4, 14, 96, 88, "#e3f4fa", 3, "#62717a", 2)
    pen.rect(6, 24, 94, 86, main)
    pen.rect(6, 76, 94, 86, "#c9a66b")
    for x in (16, 24, 80, 88):
        pen.arc(x, 64, 4, 14, 90, 270, "#2f8f4e", 2.5)
        pen.arc(x, 46, 3, 8, -90, 90, "#2f8f4e", 2.5)
    for x, y, big in ((34, 38, 1.0), (56, 56, 1.3), (66, 34, 0.8)):
        pen.poly([(x - 6 * big, y), (x - 14 * big, y - 6), (x - 14 * big, y + 6)], second)
        pen.oval(x - 8 * big, y - 5 * big, x + 9 * big, y + 5 * big, second)
        pen.oval(x + 4 * big, y - 2, x + 6 * big, y, "#111111")
    for x, y in ((48, 32), (50, 28), (78, 46), (44, 62)):
        pen.oval(x, y, x + 3, y + 3, None, "#ffffff", 0.6)


def shelf(pen: Pen, main: str, second: str) -> None:
    """Draw a shelf with boxes in order; second is the boxes."""
    pen.rect(6, 6, 94, 94, main, 2)
    for row in range(3):
        for column in range(3):
            x, y = 9 + 28 * column, 9 + 28 * row
            pen.rect(x, y, x + 26, y + 26, shade(main, 0.6))
            if (row + column) % 3 == 2:
                for step in range(4):
                    pen.rect(x + 2 + 6 * step, y + 6, x + 7 + 6 * step, y + 26, shade(second, 0.6 + 0.25 * step), 1)
            else:
                pen.rect(x + 2, y + 8, x + 24, y + 26, shade(second, 1.3 - 0.15 * row), 2)
                pen.rect(x + 9, y + 13, x + 17, y + 17, "#ffffff", 1)


def roller(pen: Pen, main: str, second: str) -> None:
    """Draw a wall half painted, with a roller and a ladder; main is the new paint."""
    pen.rect(-300, 0, 58, 40, main)
    pen.rect(-300, 38, 40, 52, main)
    pen.rect(46, 30, 92, 46, shade(main, 0.85), 4)
    pen.line([(92, 38), (97, 38), (97, 56), (70, 56), (70, 64)], "#777777", 2)
    pen.rect(66.5, 64, 73.5, 92, second, 3)
    pen.line([(12, 96), (24, 30)], second, 3)
    pen.line([(46, 96), (34, 30)], second, 3)
    for step in range(5):
        y = 40 + 12 * step
        pen.line([(22 - 2.2 * step, y), (36 + 2.2 * step, y)], second, 2.4)
    pen.rect(-300, 96, 400, 400, "#b89b7a")


def sofa(pen: Pen, main: str, second: str) -> None:
    """Draw a sofa; second is its cushions."""
    pen.rect(12, 28, 88, 70, shade(main, 0.85), 8)
    pen.rect(14, 54, 86, 76, main, 5)
    pen.line([(50, 56), (50, 75)], shade(main, 0.7), 1)
    pen.rect(2, 44, 18, 80, main, 7)
    pen.rect(82, 44, 98, 80, main, 7)
    pen.rect(22, 38, 42, 57, second, 4)
    pen.rect(60, 40, 78, 57, shade(second, 1.3), 4)
    for x in (12, 84):
        pen.rect(x, 80, x + 4, 90, "#4f3826")


Thing = Callable[[Pen, str, str], None]
THINGS: Mapping[str, Thing] = {
    function.__name__: function
    for function in (
        football,
        basketball,
        runner,
        beach,
        town,
        bed,
        phone,
        laptop,
        headphones,
        cake,
        hotpot,
        coffee,
        lipstick,
        bottle,
        palette,
        dress,
        shoe,
        bag,
        books,
        cat,
        dog,
        tank,
        shelf,
        roller,
        sofa,
    )
} | {kind: partial(car, kind=kind) for kind in ("ev", "suv", "tuned")}
