"""A long run of pictures: memory over time, and what befalls it when workers are killed, hang or eat memory.

    python benchmarks/endurance.py PICTURES --count 20000 --plot memory.png
    python benchmarks/endurance.py PICTURES --count 2000 --trouble

PICTURES is a folder of pictures; of them `--count` are made that differ in bytes, cut and size. With --trouble workers are
killed (SIGKILL) and stopped (SIGSTOP: they hang) while they work; a low --memory ends those that take more. Prints Markdown.
"""

import argparse
import csv
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 1.0
MAKE = """
import random, sys
from pathlib import Path
from PIL import Image
chance = random.Random(0)
sources = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
for number in range(int(sys.argv[3])):
    with Image.open(sources[number % len(sources)]) as source:
        picture = source.convert("RGB")
    width, height = picture.size
    left, top = chance.randrange(width // 5 + 1), chance.randrange(height // 5 + 1)
    picture = picture.crop((left, top, width - chance.randrange(width // 5 + 1), height - chance.randrange(height // 5 + 1)))
    scale = chance.uniform(0.5, 2)
    picture = picture.resize((max(8, int(picture.width * scale)), max(8, int(picture.height * scale))))
    picture.save(Path(sys.argv[2]) / f"{number:06d}.jpg", quality=chance.randrange(60, 95))
"""
SETTINGS = "stages = [{stages}]\n[workers]\nrecycle = {recycle}\npicture_seconds = {silence}\nmemory_mb = {memory}\n"


@dataclass
class Watched:
    """Megabytes over time: of the run itself, and of each of its workers."""

    seconds: list[float] = field(default_factory=list)
    parent: list[float] = field(default_factory=list)
    workers: list[list[float]] = field(default_factory=list)


def watch(process: subprocess.Popen[bytes], trouble: bool) -> tuple[Watched, list[str]]:
    """Return the memory of a run and its workers until it ends, and what was done to them."""
    watched, done, seen = Watched(), [], psutil.Process(process.pid)
    chance, start = random.Random(1), time.monotonic()
    due = start + 10
    while process.poll() is None:
        try:
            children = [child for child in seen.children() if "weibotag.runtime.worker" in " ".join(child.cmdline())]
            watched.parent.append(seen.memory_info().rss / 2**20)
            watched.workers.append([child.memory_info().rss / 2**20 for child in children])
            watched.seconds.append(time.monotonic() - start)
            if trouble and children and time.monotonic() > due:
                due = time.monotonic() + 15
                victim, what = chance.choice(children), ("killed", "hung")[len(done) % 2]
                victim.send_signal(signal.SIGKILL if what == "killed" else signal.SIGSTOP)
                done.append(what)
        except psutil.Error:
            continue
        time.sleep(SECONDS)
    return watched, done


def draw_plot(watched: Watched, path: Path) -> None:
    """Draw memory over time as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4))
    axes.plot(watched.seconds, watched.parent, label="the run itself")
    axes.plot(watched.seconds, [max(sizes, default=0) for sizes in watched.workers], label="largest worker")
    axes.plot(watched.seconds, [sum(sizes) for sizes in watched.workers], label="all workers", alpha=0.5)
    axes.set(xlabel="seconds", ylabel="MB", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def describe(name: str, series: list[float]) -> str:
    """Return a row: the median of each fifth of the run, and the peak."""
    if not series:
        return f"| {name} | no sample |"
    fifths = [sorted(series[len(series) * n // 5 : max(1, len(series) * (n + 1) // 5)]) for n in range(5)]
    medians = " | ".join(f"{part[len(part) // 2]:,.0f}" if part else "" for part in fifths)
    return f"| {name} | {medians} | {max(series):,.0f} |"


def lay_out(folder: Path, asked: argparse.Namespace) -> None:
    """Make pictures, posts that name them, and the settings that were asked for."""
    (folder / "pictures").mkdir()
    make = [sys.executable, "-c", MAKE, str(asked.pictures), str(folder / "pictures"), str(asked.count)]
    subprocess.run(make, check=True)
    with (folder / "posts.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["post_id", "images"])
        rows.writerows([number, f"pictures/{number:06d}.jpg"] for number in range(asked.count))
    stages = ", ".join(f'"{stage}"' for stage in asked.stages.split(","))
    (folder / "long.toml").write_text(
        SETTINGS.format(stages=stages, recycle=asked.recycle, silence=asked.silence, memory=asked.memory)
    )


def main() -> int:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--stages", default="ocr,faces,embed")
    parser.add_argument("--recycle", type=int, default=50)
    parser.add_argument("--memory", type=int, default=4000, help="MB that a worker may take")
    parser.add_argument("--silence", type=float, default=60, help="seconds without a sign of life")
    parser.add_argument("--trouble", action="store_true", help="kill and stop workers on the way")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lay_out(folder, asked)
        out = folder / "wordings.parquet"
        wordings = ["wordings", "posts.csv", "-o", str(out), "-p", "long.toml", "--quiet", "--json"]
        start = time.perf_counter()
        with (folder / "summary.json").open("wb") as summary_file:
            process = subprocess.Popen(
                [sys.executable, "-m", "weibotag", *wordings],
                cwd=folder,
                stdout=summary_file,
                env={**os.environ, "WEIBOTAG_STORE": str(folder / "store"), "PYTHONPATH": str(ROOT)},
            )
            watched, done = watch(process, asked.trouble)
        seconds = time.perf_counter() - start
        import pyarrow.parquet as pq

        table = pq.read_table(out) if out.exists() else None
        summary = json.loads((folder / "summary.json").read_text() or "{}")
    print(
        f"{asked.count:,} pictures ({asked.stages}), {seconds:,.0f} s, exit {process.returncode}; {date.today()}, ", end=""
    )
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print("| MB | 1st fifth | 2nd | 3rd | 4th | 5th | peak |\n|---|---|---|---|---|---|---|")
    print(describe("the run itself", watched.parent))
    print(describe("largest worker", [max(sizes, default=0.0) for sizes in watched.workers]))
    if table is not None:
        print(f"\n{len(table):,} rows, {len(table) - table['wordings_error'].null_count:,} with a reason")
    if asked.trouble:
        print(f"workers killed: {done.count('killed')}, made to hang: {done.count('hung')}")
    if "pictures" in summary:
        print(f"setbacks in the receipt: {summary['pictures']['setbacks']}")
        for line in summary["pictures"]["first_setbacks"]:
            print(f"- {line.replace(str(folder), '')}")
    if asked.plot:
        draw_plot(watched, asked.plot)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
