"""Trainings that are killed at random moments against the same ones undisturbed.

    python benchmarks/resume.py --network concat --kills 5

A network is trained on made-up posts in a process of its own, then again with SIGKILL at random moments, each time begun
anew by the same call; with --pretrain it is pretrained. Prints when it was killed, both scores, and whether the files that
come out are the same to the byte; ends with 1 where the scores differ in their first three decimals.
"""

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from weibotag.features.post_arrays import PICTURE
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.training.dataset import Dataset, NetworkOptions, gold_matrix
from weibotag.training.network.loop import LOSSES
from weibotag.training.network.settings import Settings, TrainingRun

TAXONOMY = Taxonomy([Tag(name, None, name, (), (), line) for line, name in enumerate("甲乙丙丁", start=2)])
POSTS, WIDTH, EPOCHS = 1_200, 48, 12


def make_posts(seed: int) -> pa.Table:
    """Return posts whose tag the text tells for half of them, the picture for the others, with noise."""
    draw = np.random.default_rng(seed)
    looks = np.random.default_rng(0).normal(size=(len(TAXONOMY), WIDTH))
    rows: list[dict[str, Any]] = []
    for number in range(POSTS):
        tag = int(draw.integers(len(TAXONOMY)))
        shown = tag if number % 2 else int(draw.integers(len(TAXONOMY)))
        vector = (looks[shown] + 2 * draw.normal(size=WIDTH)).astype(np.float16)
        words = [TAXONOMY.ids[tag]] if number % 2 == 0 and draw.random() < 0.9 else []
        text = "".join([*(chr(0x4E00 + int(one)) for one in draw.integers(500, size=12)), *words])
        picture = {"media_id": "m", "width": 9, "height": 9, "vector": vector}
        rows.append({"post_id": str(number), "text": text, "vectors": [picture], "tags": [TAXONOMY.ids[tag]]})
    columns = {name: [row[name] for row in rows] for name in ("post_id", "text", "tags")}
    empty = {name: [""] * POSTS for name in ("author", "channel")}
    return pa.table({**columns, **empty, "vectors": pa.array([row["vectors"] for row in rows], pa.list_(PICTURE))})


def train(network: str, folder: Path, is_pretraining: bool) -> None:
    """Train in this process and write what came of it."""
    from weibotag.training.network.fit import train_fused
    from weibotag.training.network.pretraining import pretrain

    settings = Settings(epochs=EPOCHS, patience=EPOCHS, width=32)
    trained, held = make_posts(1), make_posts(2)
    run = TrainingRun(folder, device="cpu", quiet=True)
    if is_pretraining:
        score = pretrain([trained], [held], network, settings, run).figures["likelihood"]
    else:
        sides = [Dataset([table], gold_matrix([table], TAXONOMY)) for table in (trained, held)]
        score = train_fused(sides[0], sides[1], TAXONOMY, NetworkOptions(network), settings, run)[1].micro_f1
    (folder / "score.json").write_text(json.dumps(score))


def run(network: str, folder: Path, is_pretraining: bool, epochs: float) -> bool:
    """Train in another process, which is killed after so many epochs; return whether it ended by itself."""
    command = [sys.executable, __file__, "--network", network, "--child", str(folder)]
    process = subprocess.Popen([*command, *(["--pretrain"] if is_pretraining else [])])
    while process.poll() is None and count_epochs(folder) < int(epochs):
        time.sleep(0.01)
    if process.poll() is None and int(epochs) < EPOCHS:
        seconds = [float(row["seconds"]) for row in read_losses(folder)]
        time.sleep((epochs % 1) * max(seconds, default=1.0))
        process.send_signal(signal.SIGKILL)
    return process.wait() == 0


def read_losses(folder: Path) -> list[dict[str, str]]:
    """Return the epochs of a training so far."""
    if not (folder / LOSSES).exists():
        return []
    with (folder / LOSSES).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def count_epochs(folder: Path) -> int:
    """Return how many epochs of a training are done."""
    return len(read_losses(folder))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="concat")
    parser.add_argument("--pretrain", action="store_true")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train(options.network, options.child, options.pretrain)
        return 0
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        if not run(options.network, whole, options.pretrain, EPOCHS):
            raise SystemExit("the undisturbed training failed")
        draw = random.Random(options.seed)
        moments = sorted(draw.random() * (EPOCHS - 1) for _ in range(options.kills))
        print(f"{options.network}, SIGKILL after epochs", end="")
        for moment in moments:
            if run(options.network, killed, options.pretrain, moment):
                raise SystemExit("it was over before it was killed: give it more epochs")
            print(f" {moment:.1f} ({count_epochs(killed)} written)", end="", flush=True)
        print()
        run(options.network, killed, options.pretrain, EPOCHS)
        scores = [json.loads((folder / "score.json").read_text()) for folder in (whole, killed)]
        file = "body.safetensors" if options.pretrain else "network.onnx"
        same = (whole / file).read_bytes() == (killed / file).read_bytes()
    print(f"score undisturbed {scores[0]:.6f}, killed {scores[1]:.6f}; same bytes: {'yes' if same else 'no'}")
    return 0 if abs(scores[0] - scores[1]) < 5e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
