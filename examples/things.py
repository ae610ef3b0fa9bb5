"""The things in the pictures.

Each fills a square of 100 x 100 units (some run on beyond it, as a horizon does), in a main colour
and a second one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

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


def phone(pen: Pen, main: str, second: str) -> None:
    """Draw a phone with a grid of apps."""
    pen.rect(26, 4, 74, 96, shade(main, 0.6), 8)
    pen.rect(28, 6, 72, 94, main, 7)
    pen.rect(42, 9, 58, 12, "#101014", 1.5)
    for row in range(4):
        for column in range(3):
            colour = (second, shade(second, 1.5), shade(second, 0.7))[(row + column) % 3]
            pen.rect(33 + 12 * column, 18 + 13 * row, 42 + 12 * column, 27 + 13 * row, colour, 2)
    pen.rect(33, 78, 67, 88, shade(main, 1.3), 4)


def laptop(pen: Pen, main: str, second: str) -> None:
    """Draw an open laptop."""
    pen.rect(16, 16, 84, 66, shade(main, 0.7), 3)
    pen.rect(19, 19, 81, 62, second, 1)
    for row, end in enumerate((52, 64, 44, 58)):
        pen.line([(26, 28 + 8 * row), (end, 28 + 8 * row)], shade(second, 1.6), 2)
    pen.poly([(16, 67), (84, 67), (98, 84), (2, 84)], main)
    for row in range(3):
        pen.line([(18 - 3 * row, 70 + 3 * row), (82 + 3 * row, 70 + 3 * row)], shade(main, 0.6), 1.6)
    pen.poly([(40, 79), (60, 79), (62, 83), (38, 83)], shade(main, 0.8))


def headphones(pen: Pen, main: str, second: str) -> None:
    """Draw headphones."""
    pen.arc(50, 50, 34, 36, 180, 360, main, 7)
    for x in (10, 74):
        pen.rect(x, 46, x + 16, 86, main, 8)
    pen.rect(24, 50, 31, 82, second, 3)
    pen.rect(69, 50, 76, 82, second, 3)
    pen.arc(50, 50, 34, 36, 250, 290, second, 3)


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


def cake(pen: Pen, main: str, second: str) -> None:
    """Draw a cake on a plate; main is the cream and second the sponge."""
    pen.oval(4, 78, 96, 94, "#e9e4dc")
    pen.rect(16, 36, 84, 86, second, 6)
    pen.rect(16, 56, 84, 63, main)
    pen.rect(16, 30, 84, 46, main, 7)
    for step in range(6):
        drop = 50 + 5 * (step % 3)
        pen.rect(18 + 11 * step, 38, 26 + 11 * step, drop, main, 4)
    for x in (30, 50, 70):
        pen.oval(x - 8, 22, x + 8, 36, shade(main, 1.5))
        pen.oval(x - 6, 10, x + 6, 24, "#d92344")
        pen.arc(x + 8, 10, 8, 8, 180, 240, "#47702f", 1)


def hotpot(pen: Pen, main: str, second: str) -> None:
    """Draw a pot with two soups, seen from above."""
    pen.rect(-2, 44, 102, 56, "#5d6168", 6)
    pen.oval(6, 6, 94, 94, "#8d939c")
    pen.oval(11, 11, 89, 89, second)
    pen.half(11, 11, 89, 89, main)
    pen.oval(30.5, 11, 69.5, 50, main)
    pen.oval(30.5, 50, 69.5, 89, second)
    pen.arc(50, 30.5, 19.5, 19.5, -90, 90, "#8d939c", 2.5)
    pen.arc(50, 69.5, 19.5, 19.5, 90, 270, "#8d939c", 2.5)
    for x, y in ((26, 40), (36, 58), (24, 64), (48, 24), (52, 38)):
        pen.line([(x, y), (x + 7, y - 5)], "#ff5a36", 3)
        pen.oval(x + 2, y + 4, x + 6, y + 8, "#5a2b12")
    for x, y in ((72, 44), (60, 70), (78, 60)):
        pen.oval(x - 5, y - 4, x + 5, y + 4, "#f7f0dc", "#c9ae7b", 1)
        pen.line([(x - 8, y + 8), (x - 2, y + 7)], "#4d9a4a", 2)


def coffee(pen: Pen, main: str, second: str) -> None:
    """Draw a cup of coffee that steams."""
    pen.oval(6, 80, 86, 94, shade(main, 0.85))
    pen.oval(66, 46, 94, 74, None, main, 6)
    pen.poly([(14, 42), (78, 42), (70, 84), (22, 84)], main)
    pen.oval(14, 34, 78, 50, main)
    pen.oval(18, 36, 74, 48, second)
    pen.poly([(36, 41), (46, 46), (56, 41)], "#f4e3c8")
    pen.oval(36, 38, 46, 43, "#f4e3c8")
    pen.oval(46, 38, 56, 43, "#f4e3c8")
    for x in (34, 46, 58):
        pen.arc(x, 24, 3, 5, 90, 270, "#c9c2b8", 2)
        pen.arc(x, 14, 3, 5, -90, 90, "#c9c2b8", 2)


def lipstick(pen: Pen, main: str, second: str) -> None:
    """Draw a lipstick; main is its colour and second the tube."""
    pen.rect(34, 60, 66, 96, second, 3)
    pen.rect(37, 46, 63, 62, "#d9b25f", 1)
    pen.poly([(40, 46), (40, 22), (52, 8), (60, 8), (60, 46)], main)
    pen.poly([(40, 22), (52, 8), (60, 8), (46, 26)], shade(main, 1.25))
    pen.rect(39, 64, 42, 92, shade(second, 1.4))


def bottle(pen: Pen, main: str, second: str) -> None:
    """Draw a pump bottle of lotion with a drop."""
    pen.rect(22, 36, 66, 96, main, 8)
    pen.rect(28, 54, 60, 80, "#ffffff", 2)
    pen.line([(32, 62), (56, 62)], second, 1.5)
    pen.line([(32, 69), (48, 69)], second, 1.5)
    pen.rect(36, 24, 52, 37, second, 2)
    pen.rect(41, 12, 47, 25, second)
    pen.line([(66, 12), (40, 12)], second, 5)
    pen.poly([(80, 40), (72, 56), (88, 56)], shade(main, 0.8))
    pen.oval(71.5, 50, 88.5, 66, shade(main, 0.8))


def palette(pen: Pen, main: str, second: str) -> None:
    """Draw an eye-shadow palette with a brush; main gives the shadows."""
    pen.rect(6, 20, 94, 80, second, 5)
    for row in range(2):
        for column in range(4):
            colour = shade(main, 0.45 + 0.16 * (row * 4 + column))
            x, y = 11 + 20.5 * column, 26 + 26 * row
            pen.rect(x, y, x + 17, y + 22, colour, 3)
    pen.line([(14, 92), (70, 92)], shade(second, 0.7), 4)
    pen.rect(70, 88.5, 80, 95.5, "#cfcfcf")
    pen.poly([(80, 88), (94, 85), (98, 92), (94, 99), (80, 96)], shade(main, 0.6))


def dress(pen: Pen, main: str, second: str) -> None:
    """Draw a dress with dots; second is its belt."""
    pen.line([(40, 8), (40, 22)], main, 3)
    pen.line([(60, 8), (60, 22)], main, 3)
    pen.poly([(35, 20), (44, 24), (50, 26), (56, 24), (65, 20), (62, 46), (38, 46)], main)
    pen.poly([(38, 46), (62, 46), (84, 92), (68, 95), (50, 93), (32, 95), (16, 92)], main)
    pen.rect(37.5, 43, 62.5, 49, second)
    for x, y in (
        (46, 34),
        (56, 34),
        (44, 58),
        (56, 60),
        (36, 72),
        (50, 74),
        (64, 72),
        (30, 86),
        (44, 87),
        (58, 87),
        (72, 86),
    ):
        pen.oval(x - 2, y - 2, x + 2, y + 2, shade(main, 1.6))


def shoe(pen: Pen, main: str, second: str) -> None:
    """Draw a sports shoe."""
    pen.poly([(8, 34), (14, 30), (24, 40), (36, 38), (44, 30), (66, 52), (90, 58), (97, 70), (97, 76), (6, 76)], main)
    pen.rect(4, 72, 98, 84, "#ffffff", 5, second, 1)
    pen.poly([(97, 70), (90, 58), (78, 55), (80, 73)], shade(main, 0.8))
    for step in range(4):
        x, y = 44 + 6 * step, 36 + 5.5 * step
        pen.line([(x, y), (x - 8, y + 6)], "#ffffff", 2.4)
    pen.line([(16, 66), (36, 52), (44, 66), (60, 60)], second, 4)
    pen.rect(8, 34, 14, 72, second, 2)


def bag(pen: Pen, main: str, second: str) -> None:
    """Draw a handbag."""
    pen.arc(50, 42, 22, 32, 180, 360, shade(main, 0.7), 5)
    pen.poly([(16, 40), (84, 40), (94, 90), (6, 90)], main)
    pen.poly([(16, 40), (84, 40), (80, 60), (50, 68), (20, 60)], shade(main, 0.8))
    pen.rect(44, 60, 56, 74, second, 3)
    pen.line([(10, 84), (90, 84)], shade(main, 1.3), 1)


def books(pen: Pen, main: str, second: str) -> None:
    """Draw a pile of books with one leaning on it."""
    for step, (colour, left, right) in enumerate(
        (
            (main, 8, 70),
            (second, 14, 74),
            (shade(main, 1.4), 6, 66),
            (shade(second, 0.7), 12, 72),
        )
    ):
        y = 80 - 14 * step
        pen.rect(left, y, right, y + 13, colour, 2)
        pen.rect(right - 6, y + 2, right + 1, y + 11, "#fbf7ea")
        pen.line([(left + 5, y + 2), (left + 5, y + 11)], "#fbf7ea", 1.2)
    pen.poly([(76, 34), (88, 32), (98, 92), (86, 93)], shade(second, 1.3))
    pen.line([(80, 44), (87, 43)], "#fbf7ea", 2)


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
