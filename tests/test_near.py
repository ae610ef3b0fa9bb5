"""Prints of pictures: reposts that were resized or saved anew look the same, other captions and other pictures don't."""

import random
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from weibotag.vision.media.near_duplicates import CANDIDATES, MOST_BITS, Prints, look_same, take_print


def paint(seed: int, size: tuple[int, int] = (480, 360)) -> Image.Image:
    """A made-up photo: shapes of many sizes and colours, softened."""
    chance = random.Random(seed)
    picture = Image.new("RGB", size, tuple(chance.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(25):
        x, y = chance.randrange(size[0]), chance.randrange(size[1])
        reach = chance.randrange(10, 120)
        colour = tuple(chance.randrange(256) for _ in range(3))
        (pen.ellipse if chance.random() < 0.5 else pen.rectangle)((x, y, x + reach, y + reach), fill=colour)
    return picture.filter(ImageFilter.GaussianBlur(2))


def write_on(picture: Image.Image, text: str) -> Image.Image:
    written = picture.copy()
    ImageDraw.Draw(written).text(
        (40, 290), text, fill="white", stroke_width=2, stroke_fill="black", font=ImageFont.load_default(32)
    )
    return written


def save_anew(picture: Image.Image, scale: float, quality: int) -> Image.Image:
    smaller = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    buffer = BytesIO()
    smaller.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def print_of(picture: Image.Image):  # noqa: ANN201
    return take_print(np.asarray(picture))


@pytest.mark.parametrize(("scale", "quality"), [(1, 90), (1, 40), (0.5, 75), (0.75, 60), (1.5, 85)])
def test_a_picture_saved_anew_looks_the_same(scale: float, quality: int) -> None:
    for seed in range(8):
        one, other = print_of(paint(seed)), print_of(save_anew(paint(seed), scale, quality))
        assert (one.hash ^ other.hash).bit_count() <= MOST_BITS
        assert look_same(one, other)
        assert look_same(other, one)


def test_the_same_template_with_another_text_does_not() -> None:
    for seed in range(8):
        one, other = (print_of(write_on(paint(seed), text)) for text in ("SALE 50% TODAY", "new phone arrived"))
        assert not look_same(one, other)
        assert not look_same(one, print_of(paint(seed)))


def test_other_pictures_are_far_apart() -> None:
    prints = [print_of(paint(seed)) for seed in range(20)]
    pairs = [(one, other) for place, one in enumerate(prints) for other in prints[:place]]
    assert sum((one.hash ^ other.hash).bit_count() <= MOST_BITS for one, other in pairs) <= 1
    assert not any(look_same(one, other) for one, other in pairs)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (64, 64)])
def test_any_size_has_a_print(size: tuple[int, int]) -> None:
    one = print_of(Image.new("RGB", size, "black"))
    assert len(one.thumbnail) == 64 * 64
    assert look_same(one, one)


def test_a_stretched_picture_is_another() -> None:
    one = paint(1)
    assert not look_same(print_of(one), print_of(one.resize((480, 480))))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60), st.integers(0, 2**64 - 1))
def test_the_nearest_hashes_are_found_in_order(hashes: list[int], asked: int) -> None:
    ids = [str(number) for number in range(len(hashes))]
    prints = Prints(ids[:1], hashes[:1])
    for file_id, hash_ in zip(ids[1:], hashes[1:], strict=True):
        prints.add(file_id, hash_)
    apart = [(value ^ asked).bit_count() for value in hashes]
    near = sorted((bits, place) for place, bits in enumerate(apart) if bits <= MOST_BITS)[:CANDIDATES]
    assert prints.find(asked) == [ids[place] for _, place in near]
    assert asked not in hashes or ids[hashes.index(asked)] == prints.find(asked)[0]
