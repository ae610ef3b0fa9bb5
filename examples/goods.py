"""Things to eat, to wear and to own, each in a square of 100 x 100 units, in a main colour and a second one."""

from __future__ import annotations

from pens import Pen, shade


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
