"""MP4 headers that promise more frames than memory holds are refused before any library reads them."""

import hashlib
import struct
from io import BytesIO
from pathlib import Path

import pytest

from weibotag.vision.media import movie_tables
from weibotag.vision.media.formats import NotAPictureError
from weibotag.vision.media.movie_tables import MOST_SAMPLES, choose_options, read_tracks
from weibotag.vision.media.pictures import MediaLimits, read_file

MANY = 50_000_000


def box(name: str, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name.encode() + body


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def table(name: str, *values: int) -> bytes:
    """A box of version and flags 0, then numbers."""
    return box(name, numbers(0, *values))


def track(*tables: bytes, kind: str = "vide", edits: int = 0) -> bytes:
    handler = box("hdlr", numbers(0, 0), kind.encode(), bytes(12))
    inner = box("mdia", handler, box("minf", box("stbl", *tables)))
    return box("trak", *([box("edts", table("elst", edits))] if edits else []), inner)


def film(*parts: bytes) -> bytes:
    return box("ftyp", b"isom", numbers(512), b"isom") + b"".join(parts)


RAW_SOUND = track(table("stsz", 2, MANY), table("stts", 1, MANY, 1), kind="soun")
REFUSED = {
    "sizes": film(box("moov", track(table("stsz", 1, MANY)))),
    "compact sizes": film(box("moov", track(table("stz2", 8, MANY)))),
    "times": film(box("moov", track(table("stts", 2, MANY // 2, 512, MANY // 2, 256)))),
    "shifts": film(box("moov", track(table("ctts", 1, MANY, 0)))),
    "fragments": film(*(box("moof", box("traf", table("trun", MANY // 10))) for _ in range(10))),
    "fragments of no track": film(box("moof", table("trun", MANY))),
    "two tracks": film(box("moov", *[track(table("stsz", 1, MANY // 2))] * 2)),
    "frames of sound": film(box("moov", track(table("stsz", 400, MANY), table("stts", 1, MANY, 1024), kind="soun"))),
    "a track without a kind": film(box("moov", box("trak", table("stsz", 1, MANY)))),
    "a long box": film(struct.pack(">I4sQ", 1, b"moov", 2**40) + track(table("stsz", 1, MANY))),
    "a box to the end": film(struct.pack(">I4s", 0, b"moov") + track(table("stsz", 1, MANY))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_that_promises_too_much_is_the_reason(name: str, tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(REFUSED[name])
    found = read_file(tmp_path / "clip", hashlib.sha256(REFUSED[name]).hexdigest(), MediaLimits())
    assert found is not None and not found.frames
    reason = found.rows[0]["media_error"]
    assert reason == f"too many frames: its header promises {MANY:,}, the limit is {MOST_SAMPLES:,}", reason


@pytest.mark.parametrize(
    ("edits", "options"),
    [(0, {}), (1, {}), (50, {}), (1000, {"ignore_editlist": "1"}), (2**32 - 1, {"ignore_editlist": "1"})],
)
def test_edits_that_multiply_frames_are_ignored(edits: int, options: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(film(box("moov", track(table("stsz", 1, 10_000), edits=edits), RAW_SOUND)))
    assert choose_options(tmp_path / "clip") == options


def test_headers_that_hide_their_counts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip").write_bytes(film(box("moov", box("cmov", b"zlib"))))
    with pytest.raises(NotAPictureError, match="compressed"):
        choose_options(tmp_path / "clip")
    monkeypatch.setattr(movie_tables, "MOST_BOXES", 100)
    (tmp_path / "clip").write_bytes(film(*[box("moof")] * 100))
    with pytest.raises(NotAPictureError, match="too many boxes: the limit is 100"):
        choose_options(tmp_path / "clip")


def test_boxes_in_boxes_end_with_the_outer_one() -> None:
    inner = struct.pack(">I4s", 2**31, b"trak") + table("stsz", 1, 7)
    data = film(box("moov", inner), table("stsz", 1, 3))
    assert [one.samples for one in read_tracks(BytesIO(data), len(data))] == [3, 7]
