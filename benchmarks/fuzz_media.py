"""Damage pictures and clips in every way and have `weibotag faces` look at them, some hundred files a run.

Bytes are changed, cut, doubled and moved, lengths and dimensions made huge, checksums mended, other formats spliced in.
A run must end with exit code 0 within `SECONDS` and `MEGABYTES`, and each file must have rows with frames, or one row
with a reason of one short line. `--count 4` looks at 1,000 files of each of the ten kinds.
"""

import random
import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
from fuzzing import Outcome, Trial, faults, main, mutated, run
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from damaged_media import animate, draw_scene, encode, film, film_scenes, make_16_bit, rotate_by_exif

FILES, SEEDS = 250, 10
SECONDS, MEGABYTES = 120.0, 1500.0
CODES = frozenset({0})
REASON = 300
SETTINGS = 'stages = ["faces"]\n[workers]\npicture_seconds = 20\nmemory_mb = 1500\n'
Draw = Callable[[random.Random], bytes]
# Numbers that break sums: none, one, the signs' ends, and dimensions on either side of the limit of 50 megapixels.
EXTREMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 65535, 7000, 7100, 16384, 50_000_000)

DRAWN: dict[str, list[Draw]] = {
    "jpeg": [
        lambda rng: encode(draw_scene(rng), "JPEG", quality=rng.randint(20, 95), restart_marker_blocks=rng.choice((0, 4))),
        lambda rng: encode(draw_scene(rng).convert("CMYK"), "JPEG"),
        rotate_by_exif,
    ],
    "progressive": [lambda rng: encode(draw_scene(rng), "JPEG", progressive=True)],
    "png": [
        lambda rng: encode(draw_scene(rng), "PNG", compress_level=rng.randint(0, 9)),
        lambda rng: encode(draw_scene(rng).quantize(64), "PNG", transparency=3),
        lambda rng: encode(make_16_bit(rng), "PNG"),
        lambda rng: animate([draw_scene(rng) for _ in range(3)], "PNG"),
    ],
    "gif": [lambda rng: encode(draw_scene(rng), "GIF"), lambda rng: animate([draw_scene(rng) for _ in range(5)])],
    "webp": [
        lambda rng: encode(draw_scene(rng), "WEBP", lossless=rng.random() < 0.5),
        lambda rng: animate([draw_scene(rng) for _ in range(3)], "WEBP"),
    ],
    "bmp": [lambda rng: encode(draw_scene(rng), "BMP"), lambda rng: encode(draw_scene(rng).quantize(16), "BMP")],
    "tiff": [
        lambda rng: encode(
            draw_scene(rng), "TIFF", compression=rng.choice(("raw", "tiff_lzw", "jpeg", "tiff_adobe_deflate"))
        ),
        lambda rng: encode(draw_scene(rng).convert("1"), "TIFF", compression="group4"),
        lambda rng: encode(make_16_bit(rng), "TIFF"),
    ],
    "avif": [lambda rng: encode(draw_scene(rng), "AVIF", speed=10)],
    "mp4": [film_scenes, partial(film_scenes, container="mov")],
    "clips": [
        *(partial(film_scenes, container=name) for name in ("avi", "matroska", "mpegts")),
        lambda rng: film([scene for _ in range(4) for scene in [draw_scene(rng)] * 3], "flv", "flv1", g="3"),
    ],
}


def stretch(data: bytes, chance: random.Random) -> bytes:
    """Return bytes in which some numbers, most of them in the header, are extreme ones."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(max(1, min(len(changed) - 4, chance.choice((64, 512, len(changed))))))
        form = chance.choice((">I", "<I", ">H", "<H"))
        number = chance.choice(EXTREMES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
        changed[at : at + struct.calcsize(form)] = struct.pack(form, number)
    return bytes(changed)


def mend_checksums(data: bytes) -> bytes:
    """Return a PNG with the right checksum behind each chunk, so that what was changed is read; others as they are."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    mended, place = bytearray(data), 8
    while place + 12 <= len(mended):
        end = place + 8 + int.from_bytes(mended[place : place + 4])
        if end + 4 > len(mended):
            break
        mended[end : end + 4] = zlib.crc32(mended[place + 4 : end]).to_bytes(4)
        place = end + 4
    return bytes(mended)


def splice(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Return the start of one file with a piece of another behind it, many times over now and then."""
    piece = other[chance.randrange(len(other)) :][: chance.choice((16, 256, len(other)))]
    at = chance.randrange(4, len(data))
    return data[:at] + piece * chance.choice((1, 1, 1, 1000)) + (data[at:] if chance.random() < 0.5 else b"")


def damage(seeds: list[bytes], strangers: list[bytes], chance: random.Random) -> bytes:
    """Return one of `seeds`, damaged."""
    data = chance.choice(seeds)
    match chance.randrange(4):
        case 0:
            data = mutated(data, chance)
        case 1:
            data = stretch(data, chance)
        case 2:
            data = splice(data, chance.choice(seeds if chance.random() < 0.7 else strangers), chance)
        case _:
            data = mutated(stretch(data, chance), chance, 2)
    return mend_checksums(data) if chance.random() < 0.7 else data


def check_rows(names: list[str], out: Path) -> list[str]:
    """Return what is wrong with the rows of the files `names`."""
    found: dict[str, list[dict[str, object]]] = {name: [] for name in names}
    for row in pq.read_table(out, columns=["post_id", "frame", "width", "link_error", "media_error"]).to_pylist():
        found[row["post_id"]].append(row)
    wrong = []
    for name, rows in found.items():
        reasons = [str(row["link_error"] or row["media_error"]) for row in rows if row["width"] is None]
        if not rows:
            wrong.append(f"{name}: no row")
        elif reasons and (len(rows) > 1 or not 4 < len(reasons[0]) <= REASON or not reasons[0].isprintable()):
            wrong.append(f"{name}: {len(rows)} rows, reason {reasons[0][:100]!r}")
        elif reasons and "not looked at" in reasons[0]:
            # Its worker was stopped by the time, the memory or a crash: contained, and worth knowing.
            print(f"  {name}: {reasons[0]}", flush=True)
    return wrong


def look(kind: str, chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
    """Damage files of a kind, have them looked at, and return how that ended and what was wrong."""
    seeds = [chance.choice(DRAWN[kind])(chance) for _ in range(SEEDS)]
    buffer = BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, chance.choice(("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")))
    names = [f"{number:03d}.bin" for number in range(FILES)]
    for name in names:
        (folder / name).write_bytes(damage(seeds, [buffer.getvalue()], chance))
    (folder / "posts.csv").write_text("post_id,images\n" + "".join(f"{name},{name}\n" for name in names), encoding="utf-8")
    (folder / "look.toml").write_text(SETTINGS, encoding="utf-8")
    command = ("faces", "posts.csv", "-o", "out.parquet", "-p", "look.toml", "--store", "store", "--quiet")
    outcome = run(command, folder, SECONDS)
    wrong = list(faults(outcome, SECONDS, MEGABYTES, CODES))
    if outcome.stderr.strip() and "not tried again" not in outcome.stderr:
        wrong.append(f"stderr: {outcome.stderr.strip().splitlines()[0][:120]}")
    if outcome.code in CODES:
        wrong += check_rows(names, folder / "out.parquet")
    return outcome, wrong


KINDS: dict[str, Trial] = {kind: partial(look, kind) for kind in DRAWN}

if __name__ == "__main__":
    main(KINDS, __doc__)
