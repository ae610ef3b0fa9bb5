"""Pixels of pictures as they should be seen: orientation, colour modes, what is transparent, depths."""

import damaged_media
import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from weibotag.vision.media.pictures import MediaLimits, read_media

LIMITS = MediaLimits()


def read_one(data: bytes) -> np.ndarray:
    rows, frames = read_media(data, "id", LIMITS)
    assert rows[0]["media_error"] is None
    return frames[0].rgb


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (64, 32), "white")
    ImageDraw.Draw(upright).rectangle((0, 0, 15, 15), fill="red")
    moves = Image.Transpose
    inverse = {
        2: moves.FLIP_LEFT_RIGHT,
        3: moves.ROTATE_180,
        4: moves.FLIP_TOP_BOTTOM,
        5: moves.TRANSPOSE,
        6: moves.ROTATE_90,
        7: moves.TRANSVERSE,
        8: moves.ROTATE_270,
    }
    stored = upright.transpose(inverse[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[damaged_media.ORIENTATION] = orientation
    pixels = read_one(damaged_media.encode(stored, "JPEG", exif=exif, quality=95, subsampling=0))
    assert pixels.shape == (32, 64, 3)
    assert np.abs(pixels.astype(int) - np.asarray(upright, int)).mean() < 2


def test_broken_exif_leaves_the_picture() -> None:
    data = damaged_media.encode(Image.new("RGB", (20, 10), "blue"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert read_one(data).shape == (10, 20, 3)


def test_modes_come_out_as_rgb() -> None:
    red, half = (200, 30, 40), Image.new("RGBA", (8, 8), (200, 30, 40, 0))
    base = Image.new("RGB", (8, 8), red)
    cases = {
        "transparent is white": (damaged_media.encode(half, "PNG"), (255, 255, 255)),
        "grey and alpha": (damaged_media.encode(Image.new("LA", (8, 8), (10, 0)), "PNG"), (255, 255, 255)),
        "palette": (damaged_media.encode(base.quantize(4), "PNG"), red),
        "one bit": (damaged_media.encode(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255)),
        "16-bit grey": (damaged_media.encode(Image.fromarray(np.full((8, 8), 0x8000, np.uint16)), "PNG"), (128,) * 3),
        "16-bit TIFF": (damaged_media.encode(Image.fromarray(np.full((8, 8), 0x4000, np.uint16)), "TIFF"), (64,) * 3),
        "cmyk": (damaged_media.encode(base.convert("CMYK"), "JPEG", quality=95), red),
        "cmyk tiff": (damaged_media.encode(base.convert("CMYK"), "TIFF"), red),
        "ycbcr tiff": (damaged_media.encode(base.convert("YCbCr"), "TIFF"), red),
    }
    for name, (data, expected) in cases.items():
        assert np.abs(read_one(data).reshape(-1, 3).mean(axis=0) - expected).max() < 4, name


@pytest.mark.parametrize(
    ("print_", "under", "ground"),
    [
        ("white", (255, 255, 255, 0), 0),
        ("#fffdd0", (0, 0, 0, 0), 0),
        ("yellow", (0, 0, 0, 0), 0),
        ("white", (0, 0, 0, 40), 0),
        ("black", (0, 0, 0, 0), 255),
        ("red", (255, 255, 255, 0), 255),
        ("half", (0, 0, 0, 0), 128),
    ],
)
def test_a_transparent_picture_is_put_on_the_ground_that_shows_it(
    print_: str, under: tuple[int, int, int, int], ground: int
) -> None:
    layer = Image.new("RGBA", (90, 60), under)
    for at in range(5):
        colour = ("white", "black")[at % 2] if print_ == "half" else print_
        layer.paste(Image.new("RGBA", (6, 40), colour), (10 + 14 * at, 10))
    layers = {"RGBA": layer, "LA": layer.convert("LA")} if print_ != "red" else {"RGBA": layer}
    files = [damaged_media.encode(one, "PNG") for one in layers.values()]
    files.append(damaged_media.encode(layer, "WEBP", lossless=True, exact=True))
    for data in files:
        assert read_one(data)[0, 0].tolist() == [ground] * 3
    opaque = layer.convert("RGB")
    assert np.array_equal(read_one(damaged_media.encode(opaque, "PNG")), np.asarray(opaque))


def test_sixteen_bits_and_palettes_say_what_is_transparent() -> None:
    values = np.full((60, 90), 60_000, np.uint16)
    values[10:50, 20:60:8] = 65_535
    wide = damaged_media.encode(Image.fromarray(values), "PNG", transparency=60_000)
    table = Image.fromarray((values > 60_000).astype(np.uint8), "P")
    table.putpalette([255, 0, 0, 255, 255, 255])
    for data in (wide, damaged_media.encode(table, "PNG", transparency=0)):
        pixels = read_one(data)
        assert pixels[0, 0].tolist() == [0, 0, 0] and pixels[20, 20].tolist() == [255, 255, 255]


def test_cmyk_without_adobe_mark_is_not_inverted() -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = damaged_media.encode(ink, "JPEG", quality=95)
    mark = data.index(b"\xff\xee")
    length = int.from_bytes(data[mark + 2 : mark + 4], "big") + 2
    plain = data[:mark] + data[mark + length :]
    adobe, other = read_one(data)[8, 8], read_one(plain)[8, 8]
    assert adobe[0] > 240 and adobe[1] < 15
    assert not np.array_equal(adobe, other)


def test_lab_is_converted() -> None:
    if not features.check("littlecms2"):
        pytest.skip("this Pillow has no littlecms2")
    pixels = read_one(damaged_media.encode(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF"))
    assert pixels.min() > 240


def test_wide_values_are_scaled_not_clipped() -> None:
    values = np.linspace(-3.0, 1000.0, 64, dtype=np.float32).reshape(8, 8)
    pixels = read_one(damaged_media.encode(Image.fromarray(values), "TIFF"))
    assert pixels.min() == 0 and pixels.max() == 255 and len(np.unique(pixels)) > 50
