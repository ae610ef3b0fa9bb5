"""What a file is: its first bytes say so, whatever its name is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec

MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
OTHERS = {b"%PDF": "PDF", b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "gzip"}
TEXTS = {b"<?xml": "XML", b"{": "JSON", b"[": "JSON"}
CLIPS = {
    b"FLV\x01": "FLV",
    b"OggS\0": "OGG",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "WMV",
    b"\0\0\1\xba": "MPEG",
    b".RMF": "RM",
}
# QuickTime files from before `ftyp` start with one of the others.
MOVIE_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
# Sync byte, packet length and its place in the packet: broadcast and Blu-ray transport streams.
TRANSPORT = 0x47
PACKETS = ((188, 0), (192, 4))
STILL_BRANDS = frozenset({b"avif", b"avis"})
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
HTML = re.compile(rb"<(!doctype html|html|head|body|script|meta|title)\b", re.IGNORECASE)
# Bytes of a file's start that are enough for all of this.
HEAD_BYTES = 4096


# Scans of a JPEG: encoders make 10 to 20, and each may take as long as the whole picture: 3 ns a pixel.
MOST_SCANS, USUAL_SCANS = 100, 20
SCANNED_PIXELS = 1_000_000_000
SCAN = b"\xff\xda"
# A marker within the data of a scan, where FF00 stands for FF and FFD0 to FFD7 are no ends.
MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


class NotAPictureError(Exception):
    """Why bytes give no picture, in one line; the rooms that read media never let it out."""


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raise NotAPictureError for a size (width, height) of `max_pixels` or more."""
    if size[0] * size[1] >= max_pixels:
        raise NotAPictureError(f"too many pixels: {size[0]} x {size[1]}, the limit is {max_pixels:,}")


def check_scans(data: bytes, size: tuple[int, int]) -> None:
    """Raise NotAPictureError for a JPEG of too many scans for its size; what comes after its end does not count."""
    most = min(MOST_SCANS, max(USUAL_SCANS, SCANNED_PIXELS // max(1, size[0] * size[1])))
    # Thumbnails, and clips behind the picture, have these bytes too, but most files have too few to look nearer.
    if data.count(SCAN) <= most:
        return
    place, scans = 2, 0
    while found := MARKER.search(data, place):
        marker = data[found.end() - 1]
        if marker == 0xD9:
            return
        scans += marker == SCAN[1]
        if scans > most:
            raise NotAPictureError(f"too many scans: of so large a picture the limit is {most}")
        # A marker's length counts itself; those without one are followed by the next marker.
        alone = marker in (0x01, 0xD8)
        place = found.end() + (0 if alone else int.from_bytes(data[found.end() : found.end() + 2]))


def find_clip(head: bytes) -> str | None:
    """Return the container that the first bytes say (MP4, MOV, 3GP, MATROSKA, WEBM, AVI, TS …); None for no clip."""
    # Before transport streams, which say so by a letter at every 188th byte: it is also the first one of a GIF.
    if name_start(head, MAGIC):
        return None
    if kind := name_start(head, CLIPS):
        return kind
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "WEBM" if b"webm" in head[:64] else "MATROSKA"
    if any(head[place : place + 4 * length : length].count(TRANSPORT) >= 3 for length, place in PACKETS):
        return "TS"
    if head[4:8] not in MOVIE_BOXES or find_brands(head) & (STILL_BRANDS | HEIF_BRANDS):
        return None
    if head[4:8] != b"ftyp" or head[8:12] == b"qt  ":
        return "MOV"
    return "3GP" if head[8:10] == b"3g" else "MP4"


def find_brands(head: bytes) -> set[bytes]:
    """Return the brands that an ISO file (MP4, AVIF, HEIC) says it has; none for other files."""
    if head[4:8] != b"ftyp":
        return set()
    return {head[8:12], *(head[start : start + 4] for start in range(16, min(int.from_bytes(head[:4]), 256), 4))}


def find_picture(head: bytes) -> str:
    """Return the Pillow name of the format that the first bytes say; raises NotAPictureError for everything else."""
    if kind := name_start(head, MAGIC):
        return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    brands = find_brands(head)
    if brands & STILL_BRANDS:
        from PIL import features

        if features.check("avif"):
            return "AVIF"
        raise NotAPictureError("AVIF, which this Pillow can't read: convert it to JPEG, or install a newer Pillow")
    if brands & HEIF_BRANDS:
        if reads_heic():
            return "HEIF"
        raise NotAPictureError("HEIC needs: pip install 'weibotag[heic]'; or convert it to JPEG")
    raise NotAPictureError(explain_other(head[:2048]))


def reads_heic() -> bool:
    """Tell whether the library of the extra `heic` is installed."""
    return find_spec("pi_heif") is not None


def name_kind(head: bytes) -> str | None:
    """Return which picture or clip the first bytes say, whether it can be read here or not; None for anything else."""
    brands = find_brands(head)
    still = "AVIF" if brands & STILL_BRANDS else "HEIC" if brands & HEIF_BRANDS else None
    return find_clip(head) or name_start(head, MAGIC) or ("WEBP" if head[8:12] == b"WEBP" else still)


def is_media(head: bytes) -> bool:
    """Tell whether the first bytes are those of a picture or a clip; texts, which have no NUL, never are."""
    return b"\0" in head and name_kind(head) is not None


def name_start(head: bytes, kinds: Mapping[bytes, str]) -> str | None:
    """Return the kind whose mark the bytes begin with, or None."""
    return next((kind for mark, kind in kinds.items() if head.startswith(mark)), None)


def explain_other(head: bytes) -> str:
    """Return the reason for bytes that are no picture, by what they look like."""
    if not head:
        return "an empty file (0 bytes)"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"<svg" in start and start.startswith(b"<"):
        return "SVG, a drawing without pixels: convert it to PNG"
    kind = name_start(head, OTHERS) or ("HTML" if HTML.search(start) and start.startswith(b"<") else None)
    # A cut multi-byte letter at the end of the head is no reason to call a text binary.
    letters = start.decode("utf-8", errors="ignore")
    binary = not start or len(letters.encode()) < len(start) - 3 or any(ord(letter) < 9 for letter in letters)
    if kind is None and binary:
        return f"not a picture: first bytes {head[:8].hex(' ')}"
    return f"not a picture: looks like {kind or name_start(start, TEXTS) or 'text'}"
