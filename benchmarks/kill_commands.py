"""Kill every command that writes at random moments, run the same command again, compare with an undisturbed run.

Example: python benchmarks/kill_commands.py --count 200 --seed 1

Inputs are small and made anew. Half of the kills begin in a folder with an older output. What must hold: after the kill the
older output is there as it was, or the whole new one; after the second run all files have the bytes of an undisturbed run
(of JSON, what does not say how long something took), and nothing is left beside them. Exit 1 otherwise.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kill import finish, is_gone, start
from PIL import Image, ImageDraw, ImageFont

TAXONOMY = "id,parent_id,name,aliases,keywords\nfood,,美食,,\ncake,food,蛋糕,甜品,\ncar,,汽车,,\nphone,,手机,,\n"
TEXTS = {"cake": "今天的蛋糕真好吃 甜品 {}", "car": "新买的汽车 开去兜风 {}", "phone": "新手机拍照很清楚 {}"}
PICTURES = "SALE 2026", "CAKE", "CAR 500"
# Every file and folder that commands themselves keep for the next run.
KEPT = ("store", ".run", ".lock", ".size")
# What says how long something took, or what was measured.
MEASURED = ("seconds", "seconds_per_stage", "microseconds", "tried", "pictures", "frames_per_stage", "training", "out")
# What a reviewer adds to the proposals of the audit.
REVIEWED = "yes,merge,phone,car,,,,0.9,,\n"
PIPELINE = 'stages = ["ocr"]\n[workers]\ncount = 1\npart_files = 2\n[ocr]\nmax_side = 320\n'

TAG, TRAIN = ("tag", "{in}/posts.csv", "-p", "{in}/small.toml"), ("train", "{in}/posts.csv", "-t", "{in}/tree.csv")
SMALL = ("-p", "{in}/small.toml", "--tune-seconds", "0")
WORDINGS = ("--wordings", "{in}/wordings.parquet")
# Each command with what it writes last; {in} has inputs, among them what commands before wrote, and {out} is where it works.
COMMANDS: dict[str, tuple[str, ...]] = {
    "ocr": ("ocr", "{in}/posts.csv", "-p", "{in}/small.toml", "-o", "{out}/ocr.parquet"),
    "embed": ("embed", "{in}/posts.csv", "--workers", "1", "-o", "{out}/vectors.parquet"),
    "wordings": ("wordings", "{in}/posts.csv", "-p", "{in}/small.toml", "-o", "{out}/wordings.parquet"),
    "tag rules": (*TAG, "-t", "{in}/tree.csv", "-o", "{out}/tags.csv"),
    "train fast": (*TRAIN, *SMALL, "--tagger", "fast", "-o", "{out}/model"),
    "train linear": (*TRAIN, *SMALL, "--tagger", "linear", "-o", "{out}/linear"),
    "tag model": (*TAG, "-m", "{in}/model", "-o", "{out}/tags.parquet"),
    "keywords extract": ("keywords", "extract", "{in}/posts.csv", *WORDINGS, "-o", "{out}/keywords.csv"),
    "keywords cluster": (
        *("keywords", "cluster", "{in}/keywords.csv", "--posts", "{in}/posts.csv", "--size", "4"),
        *("-o", "{out}/clusters.csv"),
    ),
    "keywords map train": (
        *("keywords", "map", "train", "{in}/posts.csv", *WORDINGS, "--keywords", "{in}/keywords.csv", "-o", "{out}/map"),
    ),
    "keywords map": ("keywords", "map", "{in}/posts.csv", *WORDINGS, "-m", "{in}/map", "-o", "{out}/mapped.jsonl"),
    "codes fit": ("codes", "fit", "{in}/vectors.parquet", "--levels", "2", "--size", "2", "-o", "{out}/codes.safetensors"),
    "codes apply": ("codes", "apply", "{in}/vectors.parquet", "-m", "{in}/codes.safetensors", "-o", "{out}/codes.parquet"),
    "keywords export": (
        *("keywords", "export", "{in}/tags.parquet", "--dictionary", "{out}/numbers.parquet", "-o", "{out}/features.libffm"),
    ),
    "export": ("export", "{in}/tags.parquet", "-o", "{out}/exported.jsonl"),
    "taxonomy audit": ("taxonomy", "audit", "{in}/posts.csv", "-t", "{in}/tree.csv", "-o", "{out}/audit"),
    "taxonomy apply": (
        *("taxonomy", "apply", "{in}/audit", "{in}/posts.csv", "-t", "{in}/tree.csv", "--accept", "all"),
        *("-o", "{out}/applied"),
    ),
}
# These need a network to be trained first, which takes a minute.
CASCADE = {
    "train cascade": (*TRAIN, *SMALL, "--tagger", "cascade", "--minutes", "0", "-o", "{out}/cascade"),
    "plan": ("plan", "{in}/posts.csv", "-p", "{in}/small.toml", "-m", "{in}/cascade", "-o", "{out}/plan.json"),
}


@dataclass(frozen=True)
class Case:
    """A command with its inputs, the seconds of an undisturbed run, and what that wrote."""

    words: tuple[str, ...]
    inputs: Path
    seconds: float
    wrote: dict[str, str]

    def run(self, place: Path) -> list[str]:
        """Return the command that works in a folder."""
        return fill(self.words, self.inputs, place)


def fill(words: tuple[str, ...], inputs: Path, place: Path) -> list[str]:
    """Return the command line of a command, with a store in its folder where it has one."""
    named = [word.replace("{in}", str(inputs)).replace("{out}", str(place)) for word in words]
    own = ["--store", str(place / "store")] if words[0] in ("ocr", "embed", "wordings", "tag", "train", "plan") else []
    return [sys.executable, "-m", "weibotag", *named, *own, "--quiet"]


def make_inputs(folder: Path) -> None:
    """Write posts, pictures, a taxonomy and a pipeline."""
    folder.mkdir()
    for number, text in enumerate(PICTURES):
        picture = Image.new("RGB", (320, 160), "white")
        ImageDraw.Draw(picture).text((20, 50), text, fill="black", font=ImageFont.load_default(48))
        picture.save(folder / f"{number}.png")
    rows = ["post_id,text,tags,channel,images"]
    for number in range(120):
        tag, text = list(TEXTS.items())[number % 3]
        rows.append(f"p{number},{text.format(number % 7)},{tag},c{number % 2},{number % 3}.png")
    (folder / "posts.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "tree.csv").write_text(TAXONOMY, encoding="utf-8")
    (folder / "small.toml").write_text(PIPELINE, encoding="utf-8")


def read(place: Path) -> dict[str, str]:
    """Return the digests of all files in a folder that are output, by path."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_file() and not any(part.endswith(KEPT) for part in name.split("/")):
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.dumps(strip(json.loads(data)), sort_keys=True).encode()
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def strip(said: object) -> object:
    """Return what JSON says but for what was measured; of a plan only which figures it has."""
    if isinstance(said, list):
        return [strip(one) for one in said]
    if not isinstance(said, dict):
        return said
    if "curve" in said:
        return sorted(said)
    return {key: strip(value) for key, value in said.items() if key not in MEASURED}


def prepare(names: list[str], folder: Path) -> Iterator[tuple[str, Case]]:
    """Run commands undisturbed, one after the other; what they write is there for those that follow."""
    inputs = folder / "inputs"
    make_inputs(inputs)
    for name in names:
        words, place = (COMMANDS | CASCADE)[name], folder / f"undisturbed {name}"
        place.mkdir()
        finish(fill(words, inputs, place))
        again = finish(fill(words, inputs, place))
        wrote = read(place)
        for path in place.iterdir():
            if not path.name.endswith(KEPT):
                (shutil.copytree if path.is_dir() else shutil.copy)(path, inputs / path.name)
        if name == "taxonomy audit":
            with (inputs / "audit" / "proposals.csv").open("a", encoding="utf-8") as file:
                file.write(REVIEWED)
        yield name, Case(words, inputs, again, wrote)


def kill_once(case: Case, place: Path, chance: random.Random) -> str | None:
    """Kill a run in a folder, run it again; return what is wrong with what is there."""
    older = chance.random() < 0.5
    place.mkdir()
    if older:
        finish(case.run(place))
    before = read(place)
    child = start(case.run(place))
    try:
        child.communicate(timeout=chance.uniform(0.2, 1.1) * case.seconds)
    except Exception:  # noqa: BLE001 - it is still running
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    between = {name: digest for name, digest in read(place).items() if not is_left(name)}
    strange = [name for name, digest in between.items() if digest not in (before.get(name), case.wrote.get(name))]
    if strange:
        return f"after the kill {strange[0]} is neither the older nor the new one"
    finish(case.run(place))
    found = read(place)
    wrong = sorted(name for name in found.keys() | case.wrote.keys() if found.get(name) != case.wrote.get(name))
    if wrong:
        return f"after the second run {wrong[0]} is {'another' if wrong[0] in found else 'absent'}"
    return None if is_gone(child.pid) else "a process was left behind"


def is_left(name: str) -> bool:
    """Return whether a path is of what a kill leaves, which the next run removes."""
    return any(part.startswith(".") and part.endswith((".tmp", ".old")) for part in name.split("/"))


def main() -> int:
    """Read the arguments, kill, print a row for each command and each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="kills over all commands")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="commands joined by commas; those before, whose output they read, run undisturbed")
    parser.add_argument("--cascade", action="store_true", help="also train a cascade, and plan with it")
    arguments = parser.parse_args()
    names = [*COMMANDS, *(CASCADE if arguments.cascade else ())]
    chosen = arguments.only.split(",") if arguments.only else names
    chance, faults, begun = random.Random(arguments.seed), 0, time.monotonic()
    kills: dict[str, int] = dict.fromkeys(chosen, 0)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        cases = dict(prepare(names, folder))
        for number in range(arguments.count):
            name = chosen[number % len(chosen)]
            fault = kill_once(cases[name], folder / f"kill {number}", random.Random(chance.random()))
            kills[name] += 1
            if fault is not None:
                faults += 1
                print(f"kill {number} (seed {arguments.seed}), {name}: {fault}", flush=True)
            shutil.rmtree(folder / f"kill {number}")
    for name, count in kills.items():
        print(f"{name:<20} {count:>4} kills, undisturbed {cases[name].seconds:5.1f} s")
    print(f"{sum(kills.values())} kills, {faults} faults, {time.monotonic() - begun:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
