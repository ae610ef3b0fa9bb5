"""How many frames an MP4 says it has: its header may promise more of them than memory holds, in a kilobyte.

The demuxer makes an entry of some 40 bytes for each sample that a header counts (ISO/IEC 14496-12: `stsz`, `stts`, `trun`),
and again for each edit (`elst`) that shows it, before anything is decoded. Here the counts are read alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from struct import unpack
from typing import BinaryIO

import numpy as np

from weibotag.vision.media.formats import NotAPictureError

# Boxes that hold boxes; their tables are those of a track (trak, traf) or of the file.
HOLDERS = frozenset(b"moov trak mdia minf stbl edts moof traf mvex udta".split())
TRACKS = frozenset({b"trak", b"traf"})
# What all tracks may have together: 23 hours of 60 frames a second, 200 MB of index.
MOST_SAMPLES = 5_000_000
# A clip of two hours in the smallest fragments has 100,000.
MOST_BOXES = 1_000_000


@dataclass
class Track:
    """What the tables of a track count."""

    samples: int = 0
    edits: int = 0
    sound: bool = False
    # Of raw sound each value is a sample, and the demuxer makes entries of a thousand.
    single: bool = False


def choose_options(path: Path) -> dict[str, str]:
    """Return options of FFmpeg's demuxer `mov` for a file: none for a usual one, to ignore edits that multiply its frames.

    Raises NotAPictureError for a file that promises more samples than `MOST_SAMPLES`.
    """
    with path.open("rb") as file:
        tracks = [track for track in read_tracks(file, path.stat().st_size) if not (track.sound and track.single)]
    samples = sum(track.samples for track in tracks)
    if samples > MOST_SAMPLES:
        raise NotAPictureError(f"too many frames: its header promises {samples:,}, the limit is {MOST_SAMPLES:,}")
    edited = sum(track.samples * max(1, track.edits) for track in tracks)
    return {"ignore_editlist": "1"} if edited > MOST_SAMPLES else {}


def read_tracks(file: BinaryIO, size: int) -> list[Track]:
    """Return what the tracks of a file of `size` bytes count; what lies outside of any track is the first one's."""
    tracks = [Track()]
    ends = [(size, tracks[0])]
    boxes = 0
    while ends:
        end, track = ends[-1]
        start = file.tell()
        head = file.read(8)
        if start + 8 > end or len(head) < 8:
            file.seek(ends.pop()[0])
            continue
        boxes += 1
        if boxes > MOST_BOXES:
            raise NotAPictureError(f"too many boxes: the limit is {MOST_BOXES:,}")
        length, name = unpack(">I4s", head)
        if length == 1:
            length = int.from_bytes(file.read(8))
        stop = end if length == 0 else min(end, start + max(8, length))
        if name in HOLDERS:
            if name in TRACKS:
                tracks.append(Track())
            ends.append((stop, tracks[-1] if name in TRACKS else track))
            continue
        count(name, file, stop, track)
        file.seek(stop)
    return tracks


def count(name: bytes, file: BinaryIO, stop: int, track: Track) -> None:
    """Add what a box counts to its track; `file` is at the box's body, which ends at `stop`."""
    match name:
        case b"stsz" | b"stz2":
            track.samples = max(track.samples, int.from_bytes(file.read(12)[8:]))
        case b"trun":
            track.samples += int.from_bytes(file.read(8)[4:])
        case b"elst":
            track.edits += int.from_bytes(file.read(8)[4:])
        case b"hdlr":
            track.sound = file.read(12)[8:] == b"soun"
        case b"stts" | b"ctts":
            number = min(int.from_bytes(file.read(8)[4:]), (stop - file.tell()) // 8, MOST_SAMPLES)
            # Rows of (samples, duration of each), as far as they are there.
            body = file.read(8 * max(0, number))
            runs = np.frombuffer(body[: len(body) // 8 * 8], ">u4").reshape(-1, 2)
            track.samples = max(track.samples, int(runs[:, 0].sum(dtype=np.int64)))
            track.single |= name == b"stts" and len(runs) == 1 and bool(runs[0, 1] == 1)
        case b"cmov":
            raise NotAPictureError("its header is compressed, as QuickTime of before 2000 did it: convert it to H.264")
