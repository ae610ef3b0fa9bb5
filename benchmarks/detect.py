"""The detect stage against a plain `predict` loop of ultralytics, on the same weights and pictures.

    python benchmarks/detect.py PHOTOS --model yolo11n.onnx [--pictures 400]

The loop runs as its users run it: one process, the library's defaults. The stage runs as a run does: as many processes as
cores, one thread each. Both read the files themselves, have their networks open before the clock starts, and take turns.
Printed are pictures a second and, for boxes that score above 0.5, the share that the other finds too: same class, IoU above
0.9.
"""

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

Box = tuple[str, float, tuple[float, float, float, float]]
ROUNDS = 10
PART = 32
SURE = 0.5
SAME = 0.9
MIN_SCORE = 0.25


def open_loop(model: str) -> Callable[[list[str]], list[list[Box]]]:
    """Return a reader that calls `predict` file by file, with the library's defaults."""
    from ultralytics import YOLO

    yolo: Any = YOLO(model, task="detect")

    def read(paths: list[str]) -> list[list[Box]]:
        answers = []
        for path in paths:
            boxes = yolo.predict(path, verbose=False)[0].boxes
            rows = zip(boxes.cls.tolist(), boxes.conf.tolist(), boxes.xyxy.tolist(), strict=True)
            answers.append([(yolo.names[int(number)], score, tuple(box)) for number, score, box in rows])
        return answers

    return read


def open_stage(model: str) -> Callable[[list[str]], list[list[Box]]]:
    """Return a reader that works through files as a worker of a run does."""
    from weibotag.vision.detect import Detect
    from weibotag.vision.media.pictures import MediaLimits, frames_table, read_media

    config = Detect.Config(backend="ultralytics", model=model, min_score=MIN_SCORE, allow_pickle=model.endswith(".pt"))
    stage = Detect(config)
    stage.open(threads=1)
    limits = MediaLimits(max_frames=1)

    def read(paths: list[str]) -> list[list[Box]]:
        answers: list[list[Box]] = []
        for start in range(0, len(paths), PART):
            frames = [read_media(Path(path).read_bytes(), path, limits)[1][0] for path in paths[start : start + PART]]
            for row in stage.process(frames_table(frames))["detect_objects"].to_pylist():
                boxes = [(one["label"], one["score"], *one["box"]) for one in row or ()]
                answers.append([(label, score, (x, y, x + w, y + h)) for label, score, x, y, w, h in boxes])
        return answers

    return read


def serve(reader: Callable[[str], Callable[[list[str]], Any]], model: str, connection: Connection) -> None:
    """Open a reader; answer lists of paths with their boxes and the process's memory in MB, until None comes."""
    read = reader(model)
    memory = psutil.Process().memory_full_info
    while (paths := connection.recv()) is not None:
        answers = read(paths)
        connection.send((answers, memory().uss / 2**20, memory().rss / 2**20))


class Crew:
    """Processes with one reader each that share the pictures."""

    def __init__(self, reader: Callable[[str], Any], model: str, processes: int) -> None:
        self.seconds, self.boxes, self.own_memory, self.memory = 0.0, dict[str, list[Box]](), 0.0, 0.0
        self.ends: list[Connection] = []
        context = get_context("spawn")
        for _ in range(processes):
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(reader, model, theirs), daemon=True).start()
            self.ends.append(ours)

    def read(self, paths: list[str]) -> None:
        """Work through the pictures, and keep the boxes and the time it took."""
        start = time.perf_counter()
        shares = [paths[place :: len(self.ends)] for place in range(len(self.ends))]
        for end, share in zip(self.ends, shares, strict=True):
            end.send(share)
        for end, share in zip(self.ends, shares, strict=True):
            answers, own_memory, memory = end.recv()
            self.boxes |= dict(zip(share, answers, strict=True))
            self.own_memory, self.memory = max(self.own_memory, own_memory), max(self.memory, memory)
        self.seconds += time.perf_counter() - start

    def close(self) -> None:
        """Let the processes end."""
        for end in self.ends:
            end.send(None)


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the shared area of two boxes (x1 y1 x2 y2) over the area of both, 0 to 1."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return 0.0
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return across * down / (both - across * down)


def share_found(boxes: dict[str, list[Box]], by: dict[str, list[Box]]) -> tuple[int, float]:
    """Return how many sure boxes there are, and the share of them that `by` has too."""
    found = [
        any(label == other and overlap(box, place) > SAME for other, _, place in by[path])
        for path, some in boxes.items()
        for label, score, box in some
        if score > SURE
    ]
    return len(found), float(np.mean(found)) if found else 1.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder of JPEG pictures")
    parser.add_argument("--model", required=True, help=".onnx or .pt of a YOLO")
    parser.add_argument("--pictures", type=int, default=400, help="how many, drawn at random (default: 400)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    # The library would otherwise install what it thinks is missing, in the middle of a measurement.
    os.environ["YOLO_AUTOINSTALL"] = "false"
    model = str(Path(options.model).resolve())
    paths = sorted(str(path.resolve()) for path in options.photos.rglob("*.jp*g"))
    paths = random.Random(0).sample(paths, min(options.pictures, len(paths)))
    cores = len(os.sched_getaffinity(0))
    loop, stage = Crew(open_loop, model, 1), Crew(open_stage, model, cores)
    for crew in (loop, stage):
        crew.read(paths[:1] * cores)
        crew.seconds, crew.boxes = 0.0, {}
    step = -(-len(paths) // ROUNDS)
    ratios = []
    for number, start in enumerate(range(0, len(paths), step)):
        before = loop.seconds, stage.seconds
        for crew in (loop, stage) if number % 2 else (stage, loop):
            crew.read(paths[start : start + step])
        ratios.append((loop.seconds - before[0]) / (stage.seconds - before[1]))
    sure, found = share_found(loop.boxes, stage.boxes)
    _, found_back = share_found(stage.boxes, loop.boxes)
    table = {
        "date": date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {cores} cores",
        "packages": {name: version(name) for name in ("ultralytics", "torch", "onnxruntime")},
        "model": options.model.rpartition("/")[2],
        "pictures": len(paths),
        "loop_pictures_per_second": round(len(paths) / loop.seconds, 1),
        "stage_pictures_per_second": round(len(paths) / stage.seconds, 1),
        "ratio": round(loop.seconds / stage.seconds, 2),
        "ratio_of_rounds": [round(value, 2) for value in (min(ratios), float(np.median(ratios)), max(ratios))],
        "boxes_above_0.5": sure,
        "share_also_found_by_stage": round(found, 4),
        "share_also_found_by_loop": round(found_back, 4),
        "loop_memory_mb": {"own": round(loop.own_memory), "resident": round(loop.memory)},
        "stage_memory_mb": {"own": round(stage.own_memory), "resident": round(stage.memory)},
    }
    for crew in (loop, stage):
        crew.close()
    for name, value in table.items():
        print(f"{name}: {value}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
