"""Files to RGB frames: what is a picture or a clip is found from the bytes, and what is none becomes a reason."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np
import pyarrow as pa

from weibotag.core.schema import arrow_schema
from weibotag.vision.media.clips import LONGEST_MS, Still, read_clip
from weibotag.vision.media.colours import to_rgb
from weibotag.vision.media.formats import HEAD_BYTES, NotAPictureError, check_pixels, check_scans, find_clip, find_picture
from weibotag.vision.media.scenes import THUMBNAIL, Sample, pick_samples

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FRAME_PIXELS = 4096 * 4096
# Data that ends too early leaves the rest of a JPEG at zero, which is this grey.
ZERO_GREY = 128
END, MORE = b"\xff\xd9", b"\x5a\xc3\x96\x3c" * 128
ANIMATED = frozenset({"GIF", "WEBP", "PNG"})
# An animation is watched until one of these is spent, so that ten thousand frames cost no more than a long clip.
WATCHED_FRAMES = 2000
WATCHED_PIXELS = 100_000_000
EXIF_ORIENTATION = 0x0112
# What Pillow raises on damaged later frames and EXIF blocks, which leave the first picture usable.
DAMAGE = (EOFError, OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)
WEB_ADDRESS = re.compile(r"^(https?|ftp):/", re.IGNORECASE)
# In bytes; what Linux takes. Resolving a longer path would take time and lead nowhere.
LONGEST_PATH = 4096
ELSEWHERE = "a web address: download it first, or (http, https) let --fetch DIR do it"
# The same for every such path, whatever lies there, or nothing.
OUTSIDE = "not opened: it lies outside the media root, which is the posts' folder unless --media-root names another"


@dataclass(frozen=True)
class MediaLimits:
    """Files of more than `max_bytes` (clips: `max_clip_bytes`) and frames of `max_pixels` or more are refused."""

    max_bytes: int = 50_000_000
    max_pixels: int = 50_000_000
    max_frames: int = 4
    max_clip_bytes: int = 1_000_000_000


@dataclass(frozen=True)
class Frame:
    """One picture: `rgb` is uint8 (height, width, 3)."""

    media_id: str
    rgb: np.ndarray


class MediaRow(TypedDict):
    """A row of schema `media`."""

    file_id: str
    media_id: str
    frame: int
    time_ms: int | None
    format: str | None
    width: int | None
    height: int | None
    media_error: str | None


class PictureFile(NamedTuple):
    """What a file gave: a row and a frame for each of its pictures; of a bad one a row with the reason and no frame."""

    rows: list[MediaRow]
    frames: list[Frame]


class MediaRoot:
    """The folder that pictures may lie in, or below."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = os.path.realpath(folder).rstrip(os.sep) + os.sep
        # Resolving is slow, and most folders hold many pictures.
        self._resolved: dict[str, str] = {}

    def holds(self, path: Path) -> bool:
        """Tell whether a path leads into the folder once its links and `..` are resolved.

        Raises OSError for a path that is too long, ValueError for one that no file can have.
        """
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        parent, name = os.path.split(path)
        if parent not in self._resolved:
            self._resolved[parent] = os.path.realpath(parent)
        place = os.path.join(self._resolved[parent], name)
        if name == os.pardir or os.path.islink(place):
            place = os.path.realpath(place)
        return place.startswith(self._folder)


def hash_file(path: Path, limits: MediaLimits, root: MediaRoot | None = None) -> tuple[str | None, str | None]:
    """Return (sha256 of the file's bytes, None), or (None, why it could not be read).

    With a `root`, nothing outside of that folder is opened, and the reason does not tell what is there.
    """
    if WEB_ADDRESS.match(str(path)):
        return None, ELSEWHERE
    try:
        if root is not None and not root.holds(path):
            return None, OUTSIDE
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            return None, "a folder, not a file"
        if not stat.S_ISREG(state.st_mode):
            return None, "not a regular file"
        if state.st_size == 0:
            return None, "an empty file (0 bytes)"
        with path.open("rb") as file:
            limit = limits.max_bytes if find_clip(file.read(HEAD_BYTES)) is None else limits.max_clip_bytes
            if state.st_size > limit:
                return None, too_large(state.st_size, limit)
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest(), None
    except FileNotFoundError:
        return None, "no such file"
    except OSError as error:
        return None, (error.strerror or str(error)).lower()
    except ValueError as error:
        return None, f"not a usable path: {error}"


def read_file(path: Path, file_id: str, limits: MediaLimits) -> PictureFile | None:
    """Return what a picture or clip gives; None when its sha256 is not `file_id` any more."""
    try:
        with path.open("rb") as file:
            clip = find_clip(file.read(HEAD_BYTES))
            file.seek(0)
            data = b"" if clip else file.read(limits.max_bytes + 1)
            found = hashlib.file_digest(file, "sha256") if clip else hashlib.sha256(data)
    except OSError:
        return None
    if found.hexdigest() != file_id:
        return None
    if clip is None:
        return read_media(data, file_id, limits)
    return _read_stills(file_id, clip, lambda: read_clip(path, clip, limits.max_frames, limits.max_pixels))


def read_media(data: bytes, file_id: str, limits: MediaLimits) -> PictureFile:
    """Return what a picture's bytes give.

    EXIF rotation is applied, what is transparent put on the ground that shows most, every mode brought to 8-bit RGB. A
    picture of more than 16.8 megapixels (4096 x 4096) is reduced to that area; `width` and `height` are those of the
    frame's pixels, so that boxes fit. Of an animation the frames that `scenes.pick_samples` picks are given, of a TIFF
    the first page.
    """
    try:
        kind = find_picture(data)
    except NotAPictureError as error:
        return PictureFile([_media_row(file_id, None, reason=str(error))], [])
    return _read_stills(file_id, kind, lambda: decode(data, kind, limits))


def _read_stills(file_id: str, kind: str, read: Callable[[], list[Still]]) -> PictureFile:
    try:
        stills = [(number, time_ms, shrink(pixels)) for number, time_ms, pixels in read()]
        rows = [_media_row(file_id, kind, still) for still in stills]
        return PictureFile(rows, [Frame(row["media_id"], still[2]) for row, still in zip(rows, stills, strict=True)])
    except NotAPictureError as error:
        reason = str(error)
    # Pillow's decoders raise anything on damaged bytes, PyAV what FFmpeg and its own reading of headers give.
    except Exception as error:  # noqa: BLE001
        message = getattr(error, "strerror", None) or str(error)
        last = (message.strip().splitlines() or [type(error).__name__])[-1]
        reason = f"damaged or truncated {kind}: {last}"[:200]
    return PictureFile([_media_row(file_id, kind, reason=reason)], [])


def _media_row(file_id: str, kind: str | None, still: Still | None = None, reason: str | None = None) -> MediaRow:
    number, time_ms, shape = (still[0], still[1], still[2].shape) if still else (0, None, (None, None))
    return {
        "file_id": file_id,
        "media_id": f"{file_id}#{number}" if number else file_id,
        "frame": number,
        "time_ms": time_ms,
        "format": kind,
        "width": shape[1],
        "height": shape[0],
        "media_error": reason,
    }


def frames_table(frames: Sequence[Frame]) -> pa.Table:
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


def too_large(size: int, limit: int) -> str:
    """Return the reason for a file of too many bytes."""
    return f"too large: {size:,} bytes, the limit is {limit:,}"


def decode(data: bytes, kind: str, limits: MediaLimits) -> list[Still]:
    """Return the frames of a picture of format `kind`; raises NotAPictureError, or whatever Pillow raises."""
    if len(data) > limits.max_bytes:
        raise NotAPictureError(too_large(len(data), limits.max_bytes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_jpeg(data, limits) if kind == "JPEG" else open_image(data, kind, limits) as image:
            image.load()
            # A GIF says only by its later frames that it has some; the others say so in their header.
            if kind != "GIF" and not (kind in ANIMATED and getattr(image, "is_animated", False)):
                return [(0, None, np.asarray(turn_upright(to_rgb(image), image)))]
        samples = pick_samples(watch_frames(data, kind, limits), limits.max_frames)
    return [(sample.number, sample.time_ms, np.asarray(sample.picture)) for sample in samples]


def open_image(data: bytes, kind: str, limits: MediaLimits) -> ImageFile:
    """Return a Pillow image whose header says that it is small enough; nothing is decoded yet."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    if kind == "TIFF":
        silence_libtiff()
    if kind == "HEIF":
        from pi_heif import register_heif_opener

        # One picture of a file, upright, on the thread that asks.
        register_heif_opener(thumbnails=False, decode_threads=1)
    # Other libraries of the same process switch this on, and pictures that are half grey pass for whole ones.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(BytesIO(data), formats=[kind])
    except Image.DecompressionBombError as error:
        raise NotAPictureError(f"too many pixels: the limit is {limits.max_pixels:,}") from error
    except UnidentifiedImageError as error:
        raise ValueError("its header can't be read") from error
    check_pixels(image.size, limits.max_pixels)
    if kind == "JPEG":
        check_scans(data, image.size)
    return image


@cache
def silence_libtiff() -> None:
    """Have Pillow's libtiff (on Linux) and log keep to themselves what they say of damaged files: Pillow raises it, too."""
    from PIL import _imaging  # noqa: F401 - the library is there once this is

    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
    try:
        loaded = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for path in {line.split(maxsplit=5)[5] for line in loaded.splitlines() if "/libtiff" in line}:
        library = ctypes.CDLL(path)
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)


def open_jpeg(data: bytes, limits: MediaLimits) -> ImageFile:
    """Return a decoded JPEG, also one that lacks nothing but its end mark; raises as `decode` where pixels are missing."""
    image, fault = open_image(data, "JPEG", limits), None
    try:
        image.load()
    except OSError as error:
        fault = error
    # Zeros in the mark's place, or in place of what was not written, would be read as pixels.
    kept = data.rstrip(b"\0")
    if fault or (len(kept) < len(data) - 1 and not kept.endswith(END)):
        # A last FF is half of a mark, or with a zero the last byte of the data.
        data = (kept + b"\0" if kept != data and kept.endswith(b"\xff") else kept.rstrip(b"\xff")) + END
        image = open_image(data, "JPEG", limits)
        image.load()
    elif not ends_grey(image):
        return image
    if is_padded(data, image):
        raise fault or NotAPictureError("damaged or truncated JPEG: its data ends before its picture does")
    return image


def ends_grey(image: Image) -> bool:
    """Say whether the last block of a decoded JPEG is the grey of missing data."""
    width, height = image.size
    corner = np.asarray(image.crop((max(0, width - 8), max(0, height - 8), width, height)))
    return bool((np.abs(corner.astype(np.int16) - ZERO_GREY) <= 1).all())


def is_padded(data: bytes, image: Image) -> bool:
    """Say whether a JPEG's data ended too early: more data before its end mark would then change the picture."""
    from PIL import Image as pillow

    end = data.rfind(END)
    # With each restart mark, which a decoder may be waiting for; after the last pixel all of this is passed over.
    more = b"".join(MORE + bytes((0xFF, 0xD0 + number)) for number in range(8)) + MORE
    longer = data[:end] + more + data[end:]
    with pillow.open(BytesIO(longer), formats=["JPEG"]) as other:
        other.load()
        return not np.array_equal(np.asarray(image), np.asarray(other))


def turn_upright(rgb: Image, image: Image) -> Image:
    """Return `rgb` turned as the EXIF block of `image` says; a broken block turns nothing."""
    from PIL.Image import Transpose as To

    # The orientations from 2 to 8.
    turns = (To.FLIP_LEFT_RIGHT, To.ROTATE_180, To.FLIP_TOP_BOTTOM, To.TRANSPOSE, To.ROTATE_270, To.TRANSVERSE, To.ROTATE_90)
    try:
        turn = dict(enumerate(turns, 2)).get(image.getexif().get(EXIF_ORIENTATION, 1))
    except DAMAGE:
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Return a picture of at most `FRAME_PIXELS` pixels, its sides in proportion; uint8 (height, width, 3)."""
    from PIL import Image

    height, width = pixels.shape[:2]
    ratio = (FRAME_PIXELS / (width * height)) ** 0.5
    if ratio >= 1:
        return pixels
    size = max(1, int(width * ratio)), max(1, int(height * ratio))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def watch_frames(data: bytes, kind: str, limits: MediaLimits) -> Iterator[Sample]:
    """Yield the frames of an animation, until they end, are damaged, or cost too much."""
    from PIL.Image import Resampling

    time_ms, pixels = 0.0, 0
    with open_image(data, kind, limits) as image:
        for number in range(WATCHED_FRAMES):
            try:
                image.seek(number)
                check_pixels(image.size, limits.max_pixels)
                rgb = to_rgb(image)
            except (*DAMAGE, NotAPictureError):
                return
            thumbnail = np.asarray(rgb.resize(THUMBNAIL, Resampling.BOX))
            yield Sample(number, min(int(time_ms), LONGEST_MS), thumbnail, rgb)
            time_ms += image.info.get("duration") or 0
            pixels += image.size[0] * image.size[1]
            if pixels > WATCHED_PIXELS:
                return
