"""Damage the store, or a run folder, before or while posts are tagged: the right tags, or a reason and exit 1.

Example: python benchmarks/fuzz_store.py --count 90

Pictures (some with two frames) are drawn, looked at and trained on once. Each trial then tags the same posts over a copy of
that store in which something was changed. A trial fails where a run ends with exit 0 and other bytes than those of an
undisturbed one, where a row differs and does not say why, or where the same command, given again, does not end right.
"""

import atexit
import csv
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from fuzzing import Outcome, Trial, faults, main, run
from PIL import Image, ImageDraw, ImageFont

SECONDS, MEGABYTES = 120.0, 3_000.0
# About what a run takes that has to look at everything again.
BUSY_SECONDS = 12.0
TAGS = {
    "cake": ("蛋糕", "pink", "CAKE"),
    "car": ("汽车", "navy", "CAR"),
    "tea": ("茶", "green", "TEA"),
    "cat": ("猫", "gold", "CAT"),
}
COPIES = 12
SETTINGS = "[workers]\ncount = 1\npart_files = 9\n[ocr]\nmax_side = 320\n"
TAG = ("-m", "model", "-p", "small.toml", "--store", "store", "--quiet")


def draw(path: Path, colour: str, word: str, number: int) -> None:
    """Draw a word on a coloured ground, in every fifth file on two frames."""
    frames = []
    for frame in range(1 + (number % 5 == 0)):
        picture = Image.new("RGB", (160, 120), colour)
        ink = ImageDraw.Draw(picture)
        ink.text((8 + number % 7, 20), f"{word} {frame or number}", fill="white", font=ImageFont.load_default(28))
        ink.rectangle((10 + 5 * (number % 9), 80, 60, 110), fill=(number * 7 % 256, frame * 99, 90))
        frames.append(picture)
    frames[0].save(
        path, save_all=len(frames) > 1, append_images=frames[1:], **({"duration": 400} if len(frames) > 1 else {})
    )


@cache
def prepare() -> Path:
    """Return a folder with posts, pictures, a model, a store that knows all pictures, and the right answer."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    posts = [("post_id", "text", "images", "tags")]
    for number in range(4 * COPIES):
        tag, (name, colour, word) = list(TAGS.items())[number % 4]
        file = f"{number:02}.{'gif' if number % 5 == 0 else 'png'}"
        draw(folder / file, colour, word, number)
        posts.append((f"p{number}", f"{name}真好" if number % 3 == 0 else "今天", file, tag))
    with (folder / "posts.csv").open("w", encoding="utf-8", newline="") as file_of_posts:
        csv.writer(file_of_posts).writerows(posts)
    rows = [("id", "parent_id", "name"), *((tag, "", name) for tag, (name, _, _) in TAGS.items())]
    (folder / "tree.csv").write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8")
    (folder / "small.toml").write_text(SETTINGS, encoding="utf-8")
    train = ("train", "posts.csv", "-t", "tree.csv", "-o", "model", "-p", "small.toml", "--store", "store")
    for command in (
        (*train, "--tagger", "fast", "--tune-seconds", "0", "--quiet"),
        ("tag", "posts.csv", "-o", "out.csv", *TAG),
    ):
        done = run(command, folder, 300)
        if done.code:
            sys.exit(f"{' '.join(command)}: exit {done.code}: {done.stderr}")
    return folder


def copy(folder: Path) -> None:
    """Make a working copy of what was prepared, without its answer."""
    shutil.copytree(prepare(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("out.csv*"))


def judge(folder: Path, outcome: Outcome) -> list[str]:
    """Return what is wrong with a run over damage, and with the same command given again."""
    wrong = list(faults(outcome, SECONDS, MEGABYTES)) + compare(folder, outcome)
    again = run(("tag", "posts.csv", "-o", "out.csv", *TAG), folder, SECONDS)
    if again.code or read(folder) != read(prepare()):
        wrong.append(f"again: exit {again.code}, {again.stderr.strip()[-200:] or 'other tags'}")
    return wrong


def compare(folder: Path, outcome: Outcome) -> list[str]:
    """Return how a run's answer departs from the right one without saying why."""
    if outcome.code not in (0, 1) or not (folder / "out.csv").exists():
        return [] if outcome.code else ["exit 0 without an answer"]
    if outcome.code == 0:
        return [] if read(folder) == read(prepare()) else [f"exit 0 with other tags: {outcome.stderr.strip()[-200:]}"]
    mine, right = table(folder), table(prepare())
    if mine.keys() != right.keys():
        return ["rows are lacking"]
    silent = [post for post, row in mine.items() if row != right[post] and not row["error"]]
    return [f"{len(silent)} rows differ without a reason"] if silent else []


def read(folder: Path) -> bytes:
    """Return the bytes of an answer."""
    return (folder / "out.csv").read_bytes()


def table(folder: Path) -> dict[str, dict[str, str]]:
    """Return the rows of an answer by post."""
    with (folder / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        return {row["post_id"]: row for row in csv.DictReader(file)}


Damage = Callable[[random.Random, Path], None]


def parts(folder: Path) -> list[Path]:
    """Return the files of a store or a run that damage is done to."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".parquet", ".json", ".csv"))


def flip(chance: random.Random, folder: Path) -> None:
    """Change one byte, with the same chance of every byte of every file, or of every file."""
    files = [path for path in parts(folder) if path.stat().st_size]
    weights = [path.stat().st_size for path in files] if chance.random() < 0.5 else None
    if files:
        path = chance.choices(files, weights)[0]
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)


def cut(chance: random.Random, folder: Path) -> None:
    """Cut a file off, sometimes to nothing."""
    if files := parts(folder):
        path = chance.choice(files)
        with path.open("r+b") as file:
            file.truncate(chance.choice((0, chance.randrange(1 + path.stat().st_size))))


def remove(chance: random.Random, folder: Path) -> None:
    """Delete a file, a folder of a stage, or everything."""
    folders = [path for path in folder.iterdir() if path.is_dir()]
    match chance.randrange(5):
        case 0:
            shutil.rmtree(folder, ignore_errors=True)
        case 1 | 2 if folders:
            shutil.rmtree(chance.choice(folders), ignore_errors=True)
        case _ if files := parts(folder):
            chance.choice(files).unlink(missing_ok=True)


def swap(chance: random.Random, folder: Path) -> None:
    """Put a part in the place of another one."""
    files = [path for path in parts(folder) if path.suffix == ".parquet"]
    if len(files) > 1:
        one, other = chance.sample(files, 2)
        shutil.copyfile(one, other)


def before(damage: Damage) -> Trial:
    """Return the trial that tags over a damaged store."""

    def trial(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
        copy(folder)
        damage(chance, folder / "store")
        outcome = run(("tag", "posts.csv", "-o", "out.csv", *TAG), folder, SECONDS)
        return outcome, judge(folder, outcome)

    return trial


def meanwhile(where: str) -> Trial:
    """Return the trial that damages the store, or the run folder, while posts are tagged; half of the stores are empty."""

    def trial(chance: random.Random, folder: Path) -> tuple[Outcome, list[str]]:
        copy(folder)
        if empty := chance.random() < 0.5:
            shutil.rmtree(folder / "store")

        def strike() -> None:
            try:
                chance.choice((flip, flip, cut, remove, swap))(chance, folder / where)
            except OSError:
                # What was to be damaged is gone by now, or not there yet.
                return

        strikes = [threading.Timer(chance.uniform(0.5, BUSY_SECONDS / (1 if empty else 3)), strike) for _ in range(3)]
        for timer in strikes:
            timer.start()
        outcome = run(("tag", "posts.csv", "-o", "out.csv", *TAG), folder, SECONDS)
        for timer in strikes:
            timer.cancel()
            timer.join()
        return outcome, judge(folder, outcome)

    return trial


KINDS = {
    "changed": before(flip),
    "cut": before(cut),
    "removed": before(remove),
    "swapped": before(swap),
    "meanwhile": meanwhile("store"),
    "run": meanwhile("out.csv.run"),
}

if __name__ == "__main__":
    main(KINDS, __doc__)
