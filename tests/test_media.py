"""Files to frames: every file is a frame or a reason, whatever is in it."""

import hashlib
import os
import subprocess
import sys
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import damaged_media
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

from weibotag.core.schema import arrow_schema
from weibotag.extraction.jobs import media_fingerprint
from weibotag.vision.media.pictures import (
    ELSEWHERE,
    WATCHED_FRAMES,
    Frame,
    MediaLimits,
    MediaRow,
    frame_pixels,
    frames_table,
    hash_file,
    read_file,
    read_media,
)

LIMITS = MediaLimits()
MEDIA_COLUMNS = set(arrow_schema("media").names)


def read_one(data: bytes) -> np.ndarray:
    rows, frames = read_media(data, "id", LIMITS)
    assert rows[0]["media_error"] is None
    return frames[0].rgb


def reason_of(data: bytes, limits: MediaLimits = LIMITS) -> str:
    rows, frames = read_media(data, "id", limits)
    assert len(rows) == 1 and not frames
    assert rows[0]["width"] is None and rows[0]["media_id"] == "id"
    return rows[0]["media_error"]


def check_account(rows: list[MediaRow], frames: list[Frame], limits: MediaLimits = LIMITS, file_id: str = "id") -> None:
    assert rows and all(set(row) == MEDIA_COLUMNS for row in rows)
    if rows[0]["media_error"] is not None:
        assert len(rows) == 1 and not frames
        assert rows[0]["media_error"].strip() and "\n" not in rows[0]["media_error"]
        return
    assert 1 <= len(frames) <= limits.max_frames
    assert [row["media_id"] for row in rows] == [frame.media_id for frame in frames]
    assert [row["frame"] for row in rows] == sorted({row["frame"] for row in rows})
    for row, frame in zip(rows, frames, strict=True):
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb.shape == (row["height"], row["width"], 3)
        assert row["media_id"] == (f"{file_id}#{row['frame']}" if row["frame"] else file_id)


def test_damaged_files_give_a_frame_or_a_reason(tmp_path: Path) -> None:
    paths = damaged_media.make(tmp_path, 300, seed=7)
    frames_seen = 0
    for path in paths:
        kind = path.name.split("-", 1)[1]
        file_id, reason = hash_file(path, LIMITS)
        assert (file_id is None) != (reason is None)
        if kind in {"folder.jpg", "missing.jpg", "empty.jpg"}:
            assert reason
            continue
        rows, frames = read_file(path, str(file_id), LIMITS) or ([], [])
        check_account(rows, frames, file_id=str(file_id))
        frames_seen += len(frames)
        if kind in damaged_media.SOUND:
            assert frames, (path.name, rows)
        if kind in {"page.jpg", "page.mp4", "sound.mp4", "answer.png", "bomb.png", "bomb.gif", "cut-progressive.jpg"}:
            assert not frames, path.name
    assert frames_seen > len(paths) // 4


def test_damaged_files_are_the_same_for_a_seed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = (damaged_media.make(tmp_path / name, 80, seed=3) for name in ("one", "two"))
    assert [path.read_bytes() for path in one if path.is_file()] == [path.read_bytes() for path in two if path.is_file()]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFFxxxxWEBP"]),
    st.binary(),
)
def test_arbitrary_bytes_never_raise(magic: bytes, rest: bytes) -> None:
    check_account(*read_media(magic + rest, "id", LIMITS))


SOUND_FILES = {
    kind: damaged_media.encode(damaged_media.draw_scene(damaged_media.random.Random(1), (48, 40)), kind)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
}


SOUND_CLIP = damaged_media.film_scenes(damaged_media.random.Random(1))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SOUND_FILES)), st.data())
def test_overwritten_bytes_never_raise(kind: str, data: st.DataObject) -> None:
    sound = bytearray(SOUND_FILES[kind])
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(sound) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    ):
        sound[place] = value
    check_account(*read_media(bytes(sound), "id", LIMITS))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_cut_picture_is_refused(kind: str) -> None:
    data = damaged_media.encode(damaged_media.draw_scene(damaged_media.random.Random(5)), kind)
    for share in (0.3, 0.6, 0.9):
        assert kind in reason_of(data[: int(len(data) * share)])
    assert "truncated" in reason_of(data[: len(data) // 2])


def test_a_cut_jpeg_with_an_end_mark_is_refused_and_a_grey_one_is_not() -> None:
    scene = damaged_media.draw_scene(damaged_media.random.Random(5))
    data = damaged_media.encode(scene, "JPEG")
    assert reason_of(data[: len(data) // 2] + b"\xff\xd9").startswith("damaged or truncated JPEG")
    scene.paste((128, 128, 128), (0, 40, *scene.size))
    assert read_one(damaged_media.encode(scene, "JPEG"))[-1, -1].tolist() == [128, 128, 128]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 95}], ids=str)
def test_a_jpeg_that_lacks_its_end_mark_alone_is_read(options: dict[str, bool]) -> None:
    data = damaged_media.encode(damaged_media.draw_scene(damaged_media.random.Random(5)), "JPEG", **options)
    whole = read_one(data)
    for sound in (data[:-1], data[:-2], data[:-2] + bytes(2), data[:-2] + bytes(4000), data + bytes(4000)):
        assert np.array_equal(read_one(sound), whole)
    for lost in (40, len(data) // 3):
        for tail in (0, 2, 4000):
            assert reason_of(data[:-lost] + bytes(tail)).startswith("damaged or truncated JPEG")


def test_truncated_pictures_are_refused_even_where_another_library_allows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = SOUND_FILES["JPEG"]
    assert reason_of(data[: len(data) // 2]).startswith("damaged or truncated JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file (0 bytes)"),
        (damaged_media.HTML, "not a picture: looks like HTML"),
        (b"\xef\xbb\xbf  \n<html>", "not a picture: looks like HTML"),
        (damaged_media.JSON, "not a picture: looks like JSON"),
        ("图片已过期".encode(), "not a picture: looks like text"),
        (b"<?xml version='1.0'?><Error/>", "not a picture: looks like XML"),
        (b"\x00\x01\x02\x03", "not a picture: first bytes 00 01 02 03"),
        (b"%PDF-1.7 ...", "not a picture: looks like PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG, a drawing without pixels: convert it to PNG"),
    ],
)
def test_what_is_no_picture_says_what_it_looks_like(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_the_pixel_limit_is_read_from_the_header() -> None:
    assert reason_of(damaged_media.png_header(10_000, 5_000)) == "too many pixels: 10000 x 5000, the limit is 50,000,000"
    assert "too many pixels" in reason_of(damaged_media.png_header(2_000_000, 2_000_000))
    assert "too many pixels" in reason_of(damaged_media.gif_header(60_000, 60_000))
    small = MediaLimits(max_pixels=48 * 40)
    assert "too many pixels: 48 x 40" in reason_of(SOUND_FILES["PNG"], small)
    assert len(read_media(SOUND_FILES["PNG"], "id", MediaLimits(max_pixels=48 * 40 + 1))[1]) == 1


def test_the_byte_limit_holds_for_files_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(SOUND_FILES["PNG"])
    limits = MediaLimits(max_bytes=100)
    assert "too large" in str(hash_file(path, limits)[1])
    assert "too large" in reason_of(SOUND_FILES["PNG"], limits)


def test_hash_file_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    cases = {
        tmp_path / "gone.jpg": "no such file",
        tmp_path / "empty.jpg": "an empty file (0 bytes)",
        tmp_path: "a folder, not a file",
        tmp_path / "pipe.jpg": "not a regular file",
        tmp_path / ("a" * 5000): "file name too long",
        tmp_path / "a\0b.jpg": "not a usable path: embedded null byte",
        Path("https://example.com/a.jpg"): ELSEWHERE,
        Path("HTTP://example.com/a.jpg"): ELSEWHERE,
    }
    for path, reason in cases.items():
        file_id, found = hash_file(path, LIMITS)
        assert file_id is None
        assert str(found).startswith(reason), path


def test_hash_file_is_the_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_file(tmp_path / "a", LIMITS) == (expected, None)


def colours(*names: str) -> list[Image.Image]:
    return [Image.new("RGB", (60, 40), name) for name in names]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_frames_that_differ_in_time_order(kind: str) -> None:
    frames = colours("black", "#060606", "white", "#060606", "#404040", "white", "#808080")
    rows, found = read_media(damaged_media.animate(frames, kind, duration=50), "id", LIMITS)
    check_account(rows, found)
    assert [(row["frame"], row["time_ms"]) for row in rows] == [(3, 150), (4, 200), (5, 250), (6, 300)]
    assert [int(frame.rgb.mean()) for frame in found] == pytest.approx([6, 64, 255, 128], abs=4)


def test_the_first_frame_has_the_name_of_its_file() -> None:
    rows, _ = read_media(damaged_media.animate(colours("black", "white")), "id", LIMITS)
    assert [row["media_id"] for row in rows] == ["id", "id#1"]


def test_an_animation_that_hardly_moves_is_one_frame() -> None:
    frames = colours("#404040", "#414141", "#404040", "#424242")
    assert len(read_media(damaged_media.animate(frames), "id", LIMITS)[1]) == 1


def test_max_frames_is_kept() -> None:
    data = damaged_media.animate(colours("black", "white", "#808080", "#404040"))
    assert [len(read_media(data, "id", MediaLimits(max_frames=count))[1]) for count in (1, 2, 4)] == [1, 2, 4]


def test_a_moving_picture_with_broken_later_frames_keeps_the_sound_ones() -> None:
    scenes = [damaged_media.draw_scene(damaged_media.random.Random(seed)) for seed in range(5)]
    data = damaged_media.animate(scenes)
    rows, frames = read_media(data[: int(len(data) * 0.7)], "id", LIMITS)
    check_account(rows, frames)
    assert len(frames) >= 2


def test_a_very_long_animation_is_watched_in_part() -> None:
    whole = damaged_media.animate([*colours("black"), *colours("white")], duration=10)
    start = whole.index(b"\x21\xf9")
    many = whole[:start] + whole[start:-1] * 5000 + b";"
    rows, frames = read_media(many, "id", LIMITS)
    check_account(rows, frames)
    assert len(frames) == 2 and rows[1]["frame"] < WATCHED_FRAMES


def test_large_pictures_are_reduced_and_long_ones_stay_readable() -> None:
    large = damaged_media.encode(Image.new("L", (6000, 5000)), "PNG")
    rows, frames = read_media(large, "id", LIMITS)
    assert frames[0].rgb.shape == (rows[0]["height"], rows[0]["width"], 3)
    assert rows[0]["width"] * rows[0]["height"] <= 4096 * 4096
    assert rows[0]["width"] / rows[0]["height"] == pytest.approx(1.2, abs=0.01)
    assert read_one(damaged_media.encode(Image.new("L", (700, 9000)), "PNG")).shape == (9000, 700, 3)


def test_what_a_file_is_its_bytes_say(tmp_path: Path) -> None:
    names = {"clip.jpg": SOUND_CLIP, "moving.mp4": SOUND_FILES["GIF"], "picture.mp4": SOUND_FILES["PNG"]}
    for name, data in names.items():
        path = tmp_path / name
        path.write_bytes(data)
        rows, frames = read_file(path, hashlib.sha256(data).hexdigest(), LIMITS) or ([], [])
        assert frames, rows
    assert rows[0]["format"] == "PNG" and rows[0]["time_ms"] is None


def test_a_gif_of_the_letter_that_marks_transport_streams_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    image = image.convert("P")
    image.putpalette(b"GGG" * 256)
    path.write_bytes(damaged_media.encode(image, "GIF", optimize=False))
    assert path.read_bytes()[::188].startswith(b"GGGG")
    rows, frames = read_file(path, str(hash_file(path, LIMITS)[0]), LIMITS) or ([], [])
    assert rows[0]["format"] == "GIF" and len(frames) == 1


@pytest.mark.parametrize("data", [SOUND_FILES["PNG"], SOUND_CLIP], ids=["picture", "clip"])
def test_a_file_that_is_no_longer_what_was_hashed_is_left_alone(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    file_id = str(hash_file(path, LIMITS)[0])
    assert read_file(path, file_id, LIMITS) is not None
    path.write_bytes(data + b"\0")
    assert read_file(path, file_id, LIMITS) is None
    path.unlink()
    assert read_file(path, file_id, LIMITS) is None


def test_clips_may_be_larger_than_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(SOUND_CLIP)
    assert hash_file(path, MediaLimits(max_bytes=100))[1] is None
    assert "too large" in str(hash_file(path, MediaLimits(max_clip_bytes=100))[1])


def test_frames_go_through_a_table_and_back() -> None:
    frames = [
        Frame("a", np.arange(24, dtype=np.uint8).reshape(2, 4, 3)),
        Frame("b", np.asfortranarray(np.arange(27, dtype=np.uint8).reshape(3, 3, 3))),
    ]
    table = frames_table(frames)
    assert table.schema == arrow_schema("frames")
    for row, frame in enumerate(frames):
        assert np.array_equal(frame_pixels(table, row), frame.rgb)
    assert len(frames_table([])) == 0


def test_avif_is_read_or_named() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    out = BytesIO()
    Image.new("RGB", (32, 24), "red").save(out, "AVIF")
    assert read_one(out.getvalue()).shape == (24, 32, 3)


# 64 x 48, red, its left half blue; no encoder is at hand where tests run.
HEIC = b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAA"
    "AERAAAEAAQAAAAABoQABAAAAAAAAACQAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADd"
    "aXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAA"
    "AwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xh"
    "cAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAACxtZGF0AAAA"
    "ICgBrxmA70mlv//nuUR8437+wsheF2Lx/0BV58Y8DbW8"
)


def test_heic_is_read_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr("weibotag.vision.media.formats.find_spec", lambda name: None)
        assert reason_of(HEIC) == "HEIC needs: pip install 'weibotag[heic]'; or convert it to JPEG"
        named = media_fingerprint(LIMITS)
    pytest.importorskip("pi_heif", reason="needs the extra heic")
    pixels = read_one(HEIC).astype(int)
    assert pixels.shape == (48, 64, 3) and pixels[24, 10, 2] > 150 > 100 > pixels[24, 50, 2]
    assert reason_of(HEIC[:-40]).startswith("damaged or truncated HEIF")
    assert media_fingerprint(LIMITS) != named


def test_libtiff_says_nothing(tmp_path: Path) -> None:
    """In a process of its own: what native code writes goes past Python, and is silenced for good."""
    code = """
import random, damaged_media
from weibotag.vision.media.pictures import MediaLimits, read_media
for rng in map(random.Random, range(30)):
    picture = damaged_media.draw_scene(rng)
    for form in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"):
        data = bytearray(damaged_media.encode(picture, "TIFF", compression=form))
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(8, len(data))] = rng.randrange(256)
        found = read_media(bytes(data), "id", MediaLimits())
        assert found.frames or found.rows[0]["media_error"]
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
