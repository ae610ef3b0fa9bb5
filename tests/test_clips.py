"""Clips to frames: every scene, upright, at a bounded cost; a damaged clip gives what is sound, or a reason."""

import hashlib
import io
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import damaged_media
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from weibotag.vision.media import clips
from weibotag.vision.media.formats import find_clip
from weibotag.vision.media.pictures import Frame, MediaLimits, read_file

VIDEOS = Path(os.environ.get("WEIBOTAG_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "videos"
LIMITS = MediaLimits()
SIZE = (96, 64)
COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 40),
    "blue": (30, 40, 200),
    "yellow": (210, 200, 40),
    "grey": (120, 120, 120),
}
# Container, codec, options: what each of them needs to be quick.
KINDS = {
    "MP4": ("mp4", "libx264", {"preset": "ultrafast"}),
    "MOV": ("mov", "mpeg4", {"bf": "2"}),
    "3GP": ("3gp", "mpeg4", {}),
    "MATROSKA": ("matroska", "libx264", {"preset": "veryfast"}),
    "WEBM": ("webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "FLV": ("flv", "flv", {}),
    "AVI": ("avi", "mpeg4", {}),
    "TS": ("mpegts", "libx264", {"preset": "ultrafast"}),
    "MPEG": ("mpeg", "mpeg1video", {}),
    "OGG": ("ogg", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "WMV": ("asf", "wmv2", {}),
}


def scene(colour: str, shift: int = 0) -> Image.Image:
    """A picture of one colour with dark and light stripes, which move with `shift`, and grain."""
    stripes = ((np.arange(SIZE[0]) + shift) // 12 % 2 * 60 - 30)[None, :, None]
    grain = np.random.default_rng(shift).normal(0, 12, (SIZE[1], SIZE[0], 1))
    return Image.fromarray(np.clip(np.array(COLOURS[colour]) + stripes + grain, 0, 255).astype(np.uint8))


def colour_of(frame: Frame) -> str:
    mean = frame.rgb.reshape(-1, 3).mean(axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


def look(data: bytes, tmp_path: Path, limits: MediaLimits = LIMITS) -> tuple[list[dict], list[Frame]]:
    path = tmp_path / "clip"
    path.write_bytes(data)
    found = read_file(path, hashlib.sha256(data).hexdigest(), limits)
    assert found is not None
    return found


def reason_of(data: bytes, tmp_path: Path, limits: MediaLimits = LIMITS) -> str:
    rows, frames = look(data, tmp_path, limits)
    assert len(rows) == 1 and not frames
    return rows[0]["media_error"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_scene_between_hard_cuts_gives_a_frame(kind: str, tmp_path: Path) -> None:
    container, codec, options = KINDS[kind]
    order = ["red", "green", "blue", "yellow"]
    frames = [scene(colour, shift) for colour in order for shift in range(25)]
    rows, found = look(damaged_media.film(frames, container, codec, 25, **options), tmp_path)
    assert [row["format"] for row in rows] == [kind] * 4
    assert [colour_of(frame) for frame in found] == order
    assert [row["time_ms"] // 1000 for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert row["frame"] == pytest.approx(row["time_ms"] * 25 / 1000, abs=1)
        assert (row["width"], row["height"]) == SIZE


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(COLOURS)), min_size=1, max_size=8),
    st.integers(1, 6),
    st.sampled_from(["mp4", "avi", "mpegts"]),
)
def test_frames_are_few_in_order_and_the_same_every_time(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], count: int, container: str
) -> None:
    place = tmp_path_factory.mktemp("clips")
    frames = [scene(colour, shift) for colour in order for shift in range(10)]
    data = damaged_media.film(frames, container)
    limits = MediaLimits(max_frames=count)
    rows, found = look(data, place, limits)
    assert 1 <= len(found) <= count
    assert [row["media_id"] for row in rows] == [frame.media_id for frame in found]
    assert len({row["media_id"] for row in rows}) == len(rows)
    assert all(one["time_ms"] < other["time_ms"] for one, other in pairwise(rows))
    assert rows[0]["time_ms"] >= 0 and rows[-1]["time_ms"] < len(frames) * 100
    for row, frame in zip(rows, found, strict=True):
        assert colour_of(frame) == order[min(row["time_ms"] // 1000, len(order) - 1)]
    again = look(data, place, limits)
    assert again[0] == rows
    assert all(np.array_equal(one.rgb, other.rgb) for one, other in zip(found, again[1], strict=True))


def test_black_before_a_clip_and_after_it_is_not_shown(tmp_path: Path) -> None:
    black = Image.new("RGB", SIZE)
    fade = [Image.blend(black, scene("red"), share / 10) for share in range(10)]
    frames = [black] * 20 + fade + [scene("red", shift) for shift in range(60)] + [black] * 10
    _, found = look(damaged_media.film(frames), tmp_path)
    assert {colour_of(frame) for frame in found} == {"red"}
    assert max(frame.rgb.mean() for frame in found) > 80
    assert len(look(damaged_media.film([black] * 10), tmp_path)[1]) == 1


def test_a_clip_that_hardly_moves_and_one_of_one_frame_give_one(tmp_path: Path) -> None:
    assert len(look(damaged_media.film([scene("red").resize((480, 320))] * 50), tmp_path)[1]) == 1
    rows, found = look(damaged_media.film([scene("red")]), tmp_path)
    assert [(row["media_id"], row["frame"], row["time_ms"]) for row in rows] == [(rows[0]["file_id"], 0, 0)]
    assert colour_of(found[0]) == "red"


def test_times_of_a_clip_of_varying_rate_are_those_of_its_frames(tmp_path: Path) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as clip:
        stream = clip.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for colour, time in (("red", 0), ("green", 40), ("blue", 5000), ("yellow", 5033)):
            frame = av.VideoFrame.from_image(scene(colour))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode())
    rows, found = look(out.getvalue(), tmp_path)
    assert {(colour_of(frame), row["time_ms"]) for row, frame in zip(rows, found, strict=True)} <= {
        ("red", 0),
        ("green", 40),
        ("blue", 5000),
        ("yellow", 5033),
    }
    assert {"red", "blue"} <= {colour_of(frame) for frame in found}


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_clip_that_was_held_sideways_is_turned_upright(turn: int, tmp_path: Path) -> None:
    upright = Image.new("RGB", (64, 96), "white")
    upright.paste((200, 30, 30), (0, 0, 32, 24))
    # A phone stores what its sensor saw, and the turn, clockwise, that makes it upright: a matrix in the track's header.
    stored = upright.rotate(turn, expand=True)
    data = bytearray(damaged_media.film([stored] * 5, qmin="2", qmax="2"))
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", *(part << 16 for part in (cos, sin, 0, -sin, cos, 0, 0, 0)), 1 << 30)
    rows, frames = look(bytes(data), tmp_path)
    assert (rows[0]["width"], rows[0]["height"]) == upright.size
    assert np.abs(frames[0].rgb.astype(int) - np.asarray(upright, int)).mean() < 6


def count_packets(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many packets are demuxed and decoded for a clip."""
    packets = 0
    read, find = clips.read_packets, clips.find_key

    def count_read(*arguments: Any) -> Iterator[Any]:
        nonlocal packets
        for packet in read(*arguments):
            packets += 1
            yield packet

    def count_find(*arguments: Any) -> int | None:
        nonlocal packets
        packets += 1
        return find(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(clips, "read_packets", count_read)
        patch.setattr(clips, "find_key", count_find)
        assert look(data, tmp_path)[1]
    return packets


@pytest.mark.parametrize("key_frames", ["12", "5000"], ids=["often", "once"])
def test_a_long_clip_costs_no_more_than_a_short_one(
    key_frames: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = {colour: scene(colour) for colour in COLOURS}
    order = sorted(scenes)

    def film(seconds: int) -> bytes:
        shown = (scenes[order[number // 20 % len(order)]] for number in range(seconds * 10))
        return damaged_media.film(shown, "matroska", "mpeg4", 10, g=key_frames, sc_threshold="1000000000")

    monkeypatch.setattr(clips, "WATCHED_FRAMES", 100)
    short, long = (count_packets(film(seconds), tmp_path, monkeypatch) for seconds in (10, 400))
    assert short <= 140 and long <= 160
    if key_frames == "12":
        assert long < short


def test_a_clip_that_does_not_say_its_length_is_seen_to_its_end(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with av.open(pipe, "w", format="matroska") as clip:
        stream = clip.add_stream("mpeg4", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for colour in ("red", "green", "blue"):
            for shift in range(40):
                clip.mux(stream.encode(av.VideoFrame.from_image(scene(colour, shift))))
        clip.mux(stream.encode())
    frames = look(bytes(pipe.data), tmp_path)[1]
    assert {colour_of(frame) for frame in frames} == {"red", "green", "blue"}


def film_colours(container: str = "mp4", codec: str = "mpeg4") -> bytes:
    """Return three seconds, one colour each, with a key frame every half second and frames of even quality."""
    frames = (scene(colour, shift) for colour in ("red", "green", "blue") for shift in range(10))
    return damaged_media.film(frames, container, codec, g="5", qmin="4", qmax="4")


FILM = film_colours()


def test_what_is_sound_of_a_damaged_clip_is_used(tmp_path: Path) -> None:
    for container in ("matroska", "avi", "mpegts", "flv"):
        data = film_colours(container, "flv" if container == "flv" else "mpeg4")
        cut = look(data[: len(data) * 2 // 5], tmp_path)[1]
        assert {colour_of(frame) for frame in cut} >= {"red"}, container
        assert "blue" not in {colour_of(frame) for frame in cut}, container
    place = FILM.index(b"mdat") + (FILM.index(b"moov") - FILM.index(b"mdat")) // 2
    noisy = FILM[: place - 400] + np.random.default_rng(1).bytes(800) + FILM[place + 400 :]
    assert {colour_of(frame) for frame in look(noisy, tmp_path)[1]} >= {"red", "blue"}


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_frames_that_damage_reaches_are_not_shown(codec: str, tmp_path: Path) -> None:
    shifts = {colour: [scene(colour, shift) for shift in range(30)] for colour in ("red", "green")}
    data = damaged_media.film(shifts["red"] + shifts["green"], "mp4", codec, qmin="4", qmax="4", g="60", sc_threshold="1000")
    start, end = data.index(b"mdat") + 4, data.rindex(b"moov")
    for seed in range(8):
        rng = np.random.default_rng(seed)
        place = int(rng.integers(start + (end - start) // 4, end - 400))
        _, frames = look(data[:place] + rng.bytes(200) + data[place + 200 :], tmp_path, MediaLimits(max_frames=16))
        sound = {frame.media_id.partition("#")[2] or "0": frame.rgb for frame in frames}
        for number, pixels in sound.items():
            true = np.asarray((shifts["red"] + shifts["green"])[int(number)], int)
            assert np.abs(pixels.astype(int) - true).mean() < 12, (seed, number)
        assert sound


def test_a_transport_stream_is_seen_from_its_first_frame(tmp_path: Path) -> None:
    frames = [scene(colour, shift).resize((480, 320)) for colour in ("red", "green") for shift in range(40)]
    data = damaged_media.film(frames, "mpegts", "libx264", 10, g="500", sc_threshold="0", preset="veryfast")
    assert {colour_of(frame) for frame in look(data, tmp_path)[1]} == {"red", "green"}


def test_a_clip_without_a_sound_frame_gives_a_reason(tmp_path: Path) -> None:
    cases = {
        "no index": (FILM[: FILM.index(b"moov")], "damaged or truncated MP4: Invalid data found"),
        "only a start": (FILM[:32], "damaged or truncated MP4: Invalid data found"),
        "no pictures": (damaged_media.hum(), "no picture in this MP4 file: sound only"),
        "no streams": (FILM.replace(b"trak", b"free"), "no picture in this MP4 file: no video stream"),
        "frames gone": (
            FILM[:48] + bytes(FILM.index(b"moov") - 52) + FILM[FILM.index(b"moov") - 4 :],
            "damaged MP4: none of",
        ),
        "codec unknown": (
            FILM.replace(b"mp4v", b"zzzz").replace(b"esds", b"free"),
            "MP4 with a video codec that PyAV can't decode",
        ),
        "a text": (b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", "not a picture: looks like text"),
        "a list": (b"ffconcat version 1.0\nfile /etc/hostname\n", "not a picture: looks like text"),
    }
    for name, (data, reason) in cases.items():
        assert reason_of(data, tmp_path).startswith(reason), name


def test_cover_pictures_are_no_clip(tmp_path: Path) -> None:
    out = io.BytesIO()
    with av.open(io.BytesIO(damaged_media.hum()), "r") as source, av.open(out, "w", format="mp4") as target:
        sound = target.add_stream_from_template(source.streams.audio[0])
        cover = target.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = *SIZE, "rgb24"
        cover.disposition = Disposition.attached_pic
        target.mux(cover.encode(av.VideoFrame.from_image(scene("red"))))
        target.mux(cover.encode())
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = sound
                target.mux(packet)
    assert reason_of(out.getvalue(), tmp_path) == "no picture in this MP4 file: sound only"


def test_the_pixel_limit_is_read_from_the_header(tmp_path: Path) -> None:
    limit = MediaLimits(max_pixels=SIZE[0] * SIZE[1])
    assert reason_of(FILM, tmp_path, limit) == "too many pixels: 96 x 64, the limit is 6,144"


def test_ffmpeg_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(20):
        rng = damaged_media.random.Random(seed)
        data = bytearray(FILM)
        for _ in range(20):
            data[rng.randrange(12, len(data))] = rng.randrange(256)
        rows, frames = look(bytes(data[: rng.randrange(len(data) // 2, len(data) + 1)]), tmp_path)
        assert frames or rows[0]["media_error"]
    assert capfd.readouterr() == ("", "")


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\0\0\0\x18ftypisom", b"\x1aE\xdf\xa3", b"FLV\x01", b"RIFF\0\0\0\0AVI "])
)
def test_arbitrary_bytes_never_raise(tmp_path_factory: pytest.TempPathFactory, rest: bytes, magic: bytes) -> None:
    rows, frames = look(magic + rest, tmp_path_factory.mktemp("bytes"))
    assert frames or rows[0]["media_error"]


def test_containers_are_known_by_their_bytes() -> None:
    heads = {
        b"\0\0\0\x14ftypqt  ": "MOV",
        b"\0\0\0\x08wide\0\0\0\0mdat": "MOV",
        b"\0\0\0\x18ftypmp42\0\0\0\0isommp42": "MP4",
        b"\0\0\0\x18ftyp3gp5": "3GP",
        b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": None,
        b"\0\0\0\x18ftypavif\0\0\0\0": None,
        (b"\x47" + bytes(187)) * 5: "TS",
        (bytes(4) + b"\x47" + bytes(187)) * 5: "TS",
        b"GIF89a" + bytes(900): None,
        b"": None,
    }
    assert {head: find_clip(head) for head in heads} == heads


def test_real_clips_give_frames() -> None:
    if not VIDEOS.is_dir():
        pytest.skip(f"no clips in {VIDEOS}")
    for path in sorted(path for path in VIDEOS.rglob("*") if path.suffix in {".mkv", ".mp4", ".gif"}):
        rows, frames = read_file(path, hashlib.sha256(path.read_bytes()).hexdigest(), LIMITS) or ([], [])
        assert 2 <= len(frames) <= LIMITS.max_frames, (path, rows)
        assert all(frame.rgb.std() > 10 for frame in frames)
