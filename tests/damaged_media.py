"""A maker of damaged, odd and mis-named media files: real encoders, real damage, the same files for the same seed."""

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

HTML = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not Found</body></html>"
JSON = b'{"error": "expired", "code": 403}'
ORIENTATION = 0x0112


def draw_scene(rng: random.Random, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Return an RGB picture with gradients, shapes and noise, so that encoders have something to do."""
    width, height = size
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 60, (height, width, 3))
    ramp = np.linspace(0, 180, width)[None, :, None] + np.zeros((height, 1, 3))
    image = Image.fromarray((ramp + noise).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        left, top = rng.randrange(width), rng.randrange(height)
        colour = tuple(rng.randrange(256) for _ in range(3))
        draw.ellipse((left, top, left + width // 3, top + height // 3), fill=colour)
    return image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of a picture in a format of Pillow's."""
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def animate(frames: list[Image.Image], kind: str = "GIF", duration: int = 100) -> bytes:
    """Return the bytes of an animation."""
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=duration, loop=0)


def film(
    frames: Iterable[Image.Image], container: str = "mp4", codec: str = "mpeg4", rate: int = 10, **options: str
) -> bytes:
    """Return the bytes of a clip without sound; the same ones every time."""
    out = BytesIO()
    with av.open(out, "w", format=container, options={"fflags": "bitexact"}) as clip:
        stream = clip.add_stream(codec, rate=rate, options={"threads": "1", **options})
        assert isinstance(stream, VideoStream)
        for image in frames:
            if not stream.codec_context.is_open:
                stream.width, stream.height, stream.pix_fmt = *image.size, "yuv420p"
            clip.mux(stream.encode(av.VideoFrame.from_image(image)))
        clip.mux(stream.encode())
    return out.getvalue()


def hum(container: str = "mp4", codec: str = "aac") -> bytes:
    """Return the bytes of a file that holds a second of sound and nothing to see."""
    out = BytesIO()
    with av.open(out, "w", format=container, options={"fflags": "bitexact"}) as clip:
        stream = clip.add_stream(codec, rate=44100, layout="mono")
        assert isinstance(stream, AudioStream)
        wave = np.sin(np.arange(44032) * 0.05).astype(np.float32).reshape(1, -1)
        for place in range(0, wave.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, place : place + 1024]), "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, place, Fraction(1, 44100)
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode())
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG whose header promises width x height pixels and whose data are none."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def gif_header(width: int, height: int) -> bytes:
    """Return a whole one-pixel GIF whose screen is width x height pixels."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00\x3b"
    return b"GIF89a" + screen + b"\0\0\0\xff\xff\xff" + frame


def cut(data: bytes, rng: random.Random) -> bytes:
    """Return the data up to a random place after its magic bytes."""
    return data[: rng.randrange(12, len(data) - 1)]


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Return the data with one to eight bits turned over."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def rotate_by_exif(rng: random.Random) -> bytes:
    """Return a JPEG with one of the eight EXIF orientations."""
    exif = Image.Exif()
    exif[ORIENTATION] = rng.randint(1, 8)
    return encode(draw_scene(rng), "JPEG", exif=exif)


def make_palette(rng: random.Random) -> bytes:
    """Return a palette PNG, one of whose colours is transparent."""
    return encode(draw_scene(rng).quantize(64), "PNG", transparency=rng.randrange(64))


def make_16_bit(rng: random.Random) -> Image.Image:
    """Return a 16-bit grey picture that uses the whole range."""
    return Image.fromarray(np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64))


def spoil_middle(data: bytes, rng: random.Random) -> bytes:
    """Return the data with its last half full of nonsense: an animation whose later frames are broken."""
    middle = len(data) // 2
    return data[:middle] + rng.randbytes(len(data) - middle)


def film_scenes(rng: random.Random, container: str = "mp4") -> bytes:
    """Return a clip of five scenes, each of which starts with a key frame."""
    return film((scene for _ in range(5) for scene in [draw_scene(rng)] * 4), container, g="4", qmin="4", qmax="4")


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "cut.jpg": lambda rng: cut(encode(draw_scene(rng), "JPEG"), rng),
    "cut-with-end.jpg": lambda rng: cut(encode(draw_scene(rng), "JPEG"), rng) + b"\xff\xd9",
    "cut-progressive.jpg": lambda rng: cut(encode(draw_scene(rng), "JPEG", progressive=True), rng),
    "cut.png": lambda rng: cut(encode(draw_scene(rng), "PNG"), rng),
    "cut.gif": lambda rng: cut(encode(draw_scene(rng), "GIF"), rng),
    "cut.webp": lambda rng: cut(encode(draw_scene(rng), "WEBP"), rng),
    "cut.bmp": lambda rng: cut(encode(draw_scene(rng), "BMP"), rng),
    "cut.tiff": lambda rng: cut(encode(draw_scene(rng), "TIFF"), rng),
    "bits.jpg": lambda rng: flip_bits(encode(draw_scene(rng), "JPEG"), rng),
    "bits.png": lambda rng: flip_bits(encode(draw_scene(rng), "PNG"), rng),
    "bits.gif": lambda rng: flip_bits(animate([draw_scene(rng) for _ in range(3)]), rng),
    "bits.webp": lambda rng: flip_bits(encode(draw_scene(rng), "WEBP"), rng),
    "bits.bmp": lambda rng: flip_bits(encode(draw_scene(rng), "BMP"), rng),
    "bits.tiff": lambda rng: flip_bits(encode(draw_scene(rng), "TIFF", compression="tiff_lzw"), rng),
    "empty.jpg": lambda rng: b"",
    "page.jpg": lambda rng: HTML,
    "answer.png": lambda rng: JSON,
    "noise.jpg": lambda rng: rng.randbytes(400),
    "jpeg-named.png": lambda rng: encode(draw_scene(rng), "JPEG"),
    "png-named.jpg": lambda rng: encode(draw_scene(rng), "PNG"),
    "webp-named.gif": lambda rng: encode(draw_scene(rng), "WEBP"),
    "bomb.png": lambda rng: png_header(rng.randint(8000, 60000), rng.randint(8000, 60000)),
    "bomb.gif": lambda rng: gif_header(rng.randint(8000, 60000), rng.randint(8000, 60000)),
    "cmyk.jpg": lambda rng: encode(draw_scene(rng).convert("CMYK"), "JPEG"),
    "deep.png": lambda rng: encode(make_16_bit(rng), "PNG"),
    "deep.tiff": lambda rng: encode(make_16_bit(rng), "TIFF"),
    "grey.jpg": lambda rng: encode(draw_scene(rng).convert("L"), "JPEG"),
    "grey-alpha.png": lambda rng: encode(draw_scene(rng).convert("LA"), "PNG"),
    "palette.png": make_palette,
    "one-bit.png": lambda rng: encode(draw_scene(rng).convert("1"), "PNG"),
    "turned.jpg": rotate_by_exif,
    "moving.gif": lambda rng: animate([draw_scene(rng) for _ in range(6)]),
    "moving.webp": lambda rng: animate([draw_scene(rng) for _ in range(4)], "WEBP"),
    "moving.png": lambda rng: animate([draw_scene(rng) for _ in range(4)], "PNG"),
    "broken-later.gif": lambda rng: spoil_middle(animate([draw_scene(rng) for _ in range(6)]), rng),
    "moving.mp4": film_scenes,
    "moving.avi": lambda rng: film_scenes(rng, "avi"),
    "cut.mp4": lambda rng: cut(film_scenes(rng), rng),
    "cut.mkv": lambda rng: cut(film_scenes(rng, "matroska"), rng),
    "bits.mp4": lambda rng: flip_bits(film_scenes(rng), rng),
    "broken-later.avi": lambda rng: spoil_middle(film_scenes(rng, "avi"), rng),
    "sound.mp4": lambda rng: hum(),
    "page.mp4": lambda rng: HTML,
    "thin.png": lambda rng: encode(draw_scene(rng, (3000, 1)), "PNG"),
    "dot.png": lambda rng: encode(Image.new("RGB", (1, 1), "red"), "PNG"),
}
SOUND = frozenset(
    name
    for name in KINDS
    if name.split(".")[0].split("-named")[0]
    in {
        "jpeg",
        "png",
        "webp",
        "cmyk",
        "deep",
        "grey",
        "grey-alpha",
        "palette",
        "one-bit",
        "turned",
        "moving",
        "thin",
        "dot",
    }
)


def make(folder: Path, count: int, seed: int) -> list[Path]:
    """Write `count` files under `folder`, all kinds in turn, and return their paths; some are folders, some missing."""
    rng = random.Random(seed)
    kinds = [*KINDS, "folder.jpg", "missing.jpg"]
    paths = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        path = folder / f"{number:05d}-{kind}"
        if kind == "folder.jpg":
            os.makedirs(path, exist_ok=True)
        elif kind != "missing.jpg":
            path.write_bytes(KINDS[kind](rng))
        paths.append(path)
    return paths
