"""Bytes to RGB frames: what is a picture is found from the bytes, and what is none becomes a reason."""

from __future__ import annotations

import hashlib
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from weibotag.schema import arrow_schema

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FRAME_PIXELS = 4096 * 4096
# Data that ends too early leaves the rest of a JPEG at zero, which is this grey.
ZERO_GREY = 128
ANIMATED = frozenset({"GIF", "WEBP", "PNG"})
SAMPLES = 32
GOLDEN = (5**0.5 - 1) / 2
THUMBNAIL = (24, 24)
# Root mean square difference of grey thumbnails, 0 to 255, below which two frames show the same: dithering gives < 1.
DIFFERENT = 3.0
# An animation is watched until one of these is spent, so that ten thousand frames cost no more than a long clip.
WATCHED_FRAMES = 2000
WATCHED_PIXELS = 100_000_000
LONGEST_MS = 2**31 - 1
EXIF_ORIENTATION = 0x0112
# What Pillow raises on damaged later frames and EXIF blocks, which leave the first picture usable.
DAMAGE = (EOFError, OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM clip"),
    (b"FLV", "a Flash clip"),
)
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
HTML = re.compile(rb"<(!doctype html|html|head|body|script|meta|title)\b", re.IGNORECASE)
WEB_ADDRESS = re.compile(r"^(https?|ftp):/", re.IGNORECASE)


@dataclass(frozen=True)
class MediaLimits:
    """What is refused: files above `max_bytes`, pictures of `max_pixels` or more; and how many frames a file gives."""

    max_bytes: int = 50_000_000
    max_pixels: int = 50_000_000
    max_frames: int = 3


@dataclass(frozen=True)
class Frame:
    """One picture: `rgb` is uint8 (height, width, 3)."""

    media_id: str
    rgb: np.ndarray


class NotAPictureError(Exception):
    """Why bytes give no picture, in one line; it never leaves this file."""


def hash_file(path: Path, limits: MediaLimits) -> tuple[str | None, str | None]:
    """Return (sha256 of the file's bytes, None), or (None, why it could not be read)."""
    if WEB_ADDRESS.match(str(path)):
        return None, "a web address: download it first"
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            return None, "a folder, not a file"
        if not stat.S_ISREG(state.st_mode):
            return None, "not a regular file"
        if state.st_size == 0:
            return None, "an empty file (0 bytes)"
        if state.st_size > limits.max_bytes:
            return None, too_large(state.st_size, limits)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), None
    except FileNotFoundError:
        return None, "no such file"
    except OSError as error:
        return None, (error.strerror or str(error)).lower()
    except ValueError as error:
        return None, f"not a usable path: {error}"


def read_media(data: bytes, file_id: str, limits: MediaLimits) -> tuple[list[dict[str, Any]], list[Frame]]:
    """Return rows of schema `media` and the frames of a file's bytes; a bad file is one row with a reason, no frame.

    EXIF rotation is applied, transparency put on white, every mode brought to 8-bit RGB. A picture of more than 16.8
    megapixels (4096 x 4096) is reduced to that area; `width` and `height` are those of the frame's pixels, so that
    boxes fit. An animation gives its first frame and those that differ most from it and from each other; of a TIFF the
    first page is read.
    """
    kind = None
    try:
        kind = find_format(data)
        return decode(data, kind, file_id, limits)
    except NotAPictureError as error:
        reason = str(error)
    # Pillow's decoders raise anything on damaged bytes; whatever it is, it becomes the reason in the row.
    except Exception as error:  # noqa: BLE001
        reason = damage_reason(data, kind, error)
    row = media_row(file_id, 0, None, kind, None)
    return [row | {"media_error": reason}], []


def frames_table(frames: list[Frame]) -> pa.Table:
    """Return a table of schema `frames`."""
    columns = {
        "media_id": [frame.media_id for frame in frames],
        "width": [frame.rgb.shape[1] for frame in frames],
        "height": [frame.rgb.shape[0] for frame in frames],
        "rgb": [np.ascontiguousarray(frame.rgb).tobytes() for frame in frames],
    }
    return pa.table(columns, schema=arrow_schema("frames"))


def frame_pixels(table: pa.Table, row: int) -> np.ndarray:
    """Return the pixels of a row of schema `frames`: uint8 (height, width, 3), read-only, not copied."""
    height, width = table["height"][row].as_py(), table["width"][row].as_py()
    return np.frombuffer(table["rgb"][row].as_buffer(), np.uint8).reshape(height, width, 3)


def too_large(size: int, limits: MediaLimits) -> str:
    """Return the reason for a file of too many bytes."""
    return f"too large: {size:,} bytes, the limit is {limits.max_bytes:,}"


def find_format(data: bytes) -> str:
    """Return the Pillow name of the format that the first bytes say; raises NotAPictureError for everything else."""
    for magic, kind in MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return find_brand(data)
    if not data:
        raise NotAPictureError("an empty file (0 bytes)")
    for magic, name in OTHERS:
        if data.startswith(magic):
            raise NotAPictureError(f"not a picture: looks like {name}")
    raise NotAPictureError(name_text(data[:2048]))


def find_brand(data: bytes) -> str:
    """Return AVIF for an ISO file that says so; raises NotAPictureError for HEIC and clips."""
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, min(int.from_bytes(data[:4]), 256), 4))}
    if brands & {b"avif", b"avis"}:
        from PIL import features

        if features.check("avif"):
            return "AVIF"
        raise NotAPictureError("AVIF, which this Pillow can't read: convert it to JPEG, or install a newer Pillow")
    if brands & HEIF_BRANDS:
        raise NotAPictureError("HEIC, which Pillow can't read: convert it to JPEG")
    raise NotAPictureError("not a picture: looks like an MP4 or MOV clip")


def name_text(head: bytes) -> str:
    """Return the reason for bytes that are no known binary format, by what the text in them looks like."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"<svg" in start and start.startswith(b"<"):
        return "SVG, a drawing without pixels: convert it to PNG"
    if HTML.search(start) and start.startswith(b"<"):
        return "not a picture: looks like HTML"
    # A cut multi-byte letter at the end of the head is no reason to call a text binary.
    letters = start.decode("utf-8", errors="ignore")
    if len(letters.encode()) < len(start) - 3 or not start or any(ord(letter) < 9 for letter in letters):
        return f"not a picture: first bytes {head[:8].hex(' ')}"
    if start.startswith(b"<?xml"):
        return "not a picture: looks like XML"
    if start.startswith((b"{", b"[")):
        return "not a picture: looks like JSON"
    return "not a picture: looks like text"


def damage_reason(data: bytes, kind: str | None, error: Exception) -> str:
    """Return the reason for a file whose decoder gave up: `truncated` where its end is missing, else `damaged`."""
    message = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
    ends = {
        "PNG": b"IEND" in data[-64:],
        "GIF": data.rstrip(b"\0").endswith(b";"),
        "WEBP": len(data) >= int.from_bytes(data[4:8], "little") + 8,
    }
    cut = "truncated" in message.lower() or not ends.get(str(kind), True)
    return f"{'truncated' if cut else 'damaged'} {kind}: {message}"


def decode(data: bytes, kind: str, file_id: str, limits: MediaLimits) -> tuple[list[dict[str, Any]], list[Frame]]:
    """Return rows and frames of a picture of format `kind`; raises NotAPictureError, or whatever Pillow raises."""
    if len(data) > limits.max_bytes:
        raise NotAPictureError(too_large(len(data), limits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_image(data, kind, limits) as image:
            image.load()
            if kind == "JPEG" and ends_grey(image) and is_padded(data, image):
                raise NotAPictureError("truncated JPEG: its data ends before its picture does")
            first = turn_upright(to_rgb(image), image)
            # A GIF says only by its later frames that it has some; the others say so in their header.
            animated = kind == "GIF" or (kind in ANIMATED and getattr(image, "is_animated", False))
        chosen = choose_frames(data, kind, limits) if animated and limits.max_frames > 1 else {}
    rows, frames = [], []
    for number, (time_ms, rgb) in {0: (0, first), **chosen}.items():
        pixels = np.asarray(shrink(rgb))
        row = media_row(file_id, number, time_ms, kind, pixels)
        rows.append(row)
        frames.append(Frame(row["media_id"], pixels))
    return rows, frames


def media_row(file_id: str, number: int, time_ms: int | None, kind: str | None, pixels: np.ndarray | None) -> dict[str, Any]:
    """Return a row of schema `media` for frame `number` of a file."""
    return {
        "file_id": file_id,
        "media_id": f"{file_id}#{number}" if number else file_id,
        "frame": number,
        "time_ms": time_ms,
        "format": kind,
        "width": None if pixels is None else pixels.shape[1],
        "height": None if pixels is None else pixels.shape[0],
        "media_error": None,
    }


def open_image(data: bytes, kind: str, limits: MediaLimits) -> ImageFile:
    """Return a Pillow image whose header says that it is small enough; nothing is decoded yet."""
    from PIL import Image, ImageFile

    # Other libraries of the same process switch this on, and pictures that are half grey pass for whole ones.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(BytesIO(data), formats=[kind])
    except Image.DecompressionBombError as error:
        raise NotAPictureError(f"too many pixels: the limit is {limits.max_pixels:,}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError("its header can't be read") from error
    check_pixels(image.size, limits)
    return image


def check_pixels(size: tuple[int, int], limits: MediaLimits) -> None:
    """Raise NotAPictureError for a size of too many pixels."""
    if size[0] * size[1] >= limits.max_pixels:
        raise NotAPictureError(f"too many pixels: {size[0]} x {size[1]}, the limit is {limits.max_pixels:,}")


def ends_grey(image: Image) -> bool:
    """Say whether the last block of a decoded JPEG is the grey of missing data."""
    width, height = image.size
    corner = np.asarray(image.crop((max(0, width - 8), max(0, height - 8), width, height)))
    return bool((np.abs(corner.astype(np.int16) - ZERO_GREY) <= 1).all())


def is_padded(data: bytes, image: Image) -> bool:
    """Say whether a JPEG's data ended too early: more data before its end mark would then change the picture."""
    from PIL import Image as pillow

    end = data.rfind(b"\xff\xd9")
    longer = data[:end] + b"\x5a\xc3\x96\x3c" * 256 + data[end:]
    with pillow.open(BytesIO(longer), formats=["JPEG"]) as other:
        other.load()
        return not np.array_equal(np.asarray(image), np.asarray(other))


def to_rgb(image: Image) -> Image:
    """Return a decoded picture of any mode as 8-bit RGB, what is transparent on white."""
    from PIL import Image as pillow
    from PIL import ImageChops

    if image.mode == "F" or image.mode.startswith("I"):
        return pillow.fromarray(scale_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG for one of Adobe's, whose ink values are stored inverted.
        return ImageChops.invert(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    ground = pillow.new("RGB", layer.size, "white")
    ground.paste(layer, mask=layer.getchannel("A"))
    return ground


def scale_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Return grey values as uint8: 16-bit ones by their high byte, wider and real ones stretched from least to most."""
    if values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    real = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
    least, most = float(real.min()), float(real.max())
    return ((real - least) * (255.0 / (most - least) if most > least else 0.0)).astype(np.uint8)


def turn_upright(rgb: Image, image: Image) -> Image:
    """Return `rgb` turned as the EXIF block of `image` says; a broken block turns nothing."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except DAMAGE:
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


def shrink(rgb: Image) -> Image:
    """Return a picture of at most `FRAME_PIXELS` pixels, its sides in proportion."""
    from PIL.Image import Resampling

    ratio = (FRAME_PIXELS / (rgb.width * rgb.height)) ** 0.5
    if ratio >= 1:
        return rgb
    return rgb.resize((max(1, int(rgb.width * ratio)), max(1, int(rgb.height * ratio))), Resampling.BOX)


def choose_frames(data: bytes, kind: str, limits: MediaLimits) -> dict[int, tuple[int, Image]]:
    """Return {frame number: (time in ms, picture)} of the later frames that are worth a look, in time order."""
    samples = sample_frames(data, kind, limits)
    picked = pick_different([grey for _, _, grey in samples], limits.max_frames)
    times = {samples[place][0]: samples[place][1] for place in picked}
    times.pop(0, None)
    if not times:
        return {}
    return {
        number: (time_ms, to_rgb(image))
        for number, time_ms, image in watch_frames(data, kind, limits, max(times))
        if number in times
    }


def sample_frames(data: bytes, kind: str, limits: MediaLimits) -> list[tuple[int, int, np.ndarray]]:
    """Return (frame number, time in ms, grey thumbnail) of at most `SAMPLES` frames, evenly over the animation.

    How many frames there are is known only at the end. Multiples of the golden ratio spread evenly over 0 to 1 wherever
    one stops, so the frames of the least ones are kept: no blinking falls into step with them. The first is always one.
    """
    from PIL.Image import Resampling

    samples: list[tuple[float, int, int, np.ndarray]] = []
    for number, time_ms, image in watch_frames(data, kind, limits, WATCHED_FRAMES - 1):
        rank = number * GOLDEN % 1
        if len(samples) == SAMPLES:
            last = max(range(SAMPLES), key=lambda place: samples[place][0])
            if rank > samples[last][0]:
                continue
            del samples[last]
        grey = to_rgb(image).convert("L").resize(THUMBNAIL, Resampling.BOX)
        samples.append((rank, number, time_ms, np.asarray(grey, np.float32)))
    return [(number, time_ms, grey) for _, number, time_ms, grey in samples]


def watch_frames(data: bytes, kind: str, limits: MediaLimits, last: int) -> Iterator[tuple[int, int, Image]]:
    """Yield (frame number, time in ms, picture) up to frame `last`, until frames end, are damaged, or cost too much.

    The picture is Pillow's own and changes with the next frame.
    """
    time_ms, pixels = 0.0, 0
    with open_image(data, kind, limits) as image:
        for number in range(last + 1):
            try:
                image.seek(number)
                check_pixels(image.size, limits)
                image.load()
            except (*DAMAGE, NotAPictureError):
                return
            yield number, min(int(time_ms), LONGEST_MS), image
            time_ms += image.info.get("duration") or 0
            pixels += image.size[0] * image.size[1]
            if pixels > WATCHED_PIXELS:
                return


def pick_different(greys: list[np.ndarray], count: int) -> list[int]:
    """Return the places of the first picture and of those farthest from all picked before it, `count` at most."""
    stack = np.stack(greys)
    picked = [0]
    distance = differ(stack, stack[0])
    while len(picked) < count and distance.max() >= DIFFERENT:
        farthest = int(distance.argmax())
        picked.append(farthest)
        distance = np.minimum(distance, differ(stack, stack[farthest]))
    return picked


def differ(stack: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Return the root mean square difference of each picture of `stack` (n, height, width) from `grey`, shape (n,)."""
    return np.sqrt(np.square(stack - grey).mean(axis=(1, 2)))
