"""The main job, measured: quality of text alone against text and pictures, speed and memory of every step.

    python benchmarks/main_job.py POSTS.csv TAXONOMY.csv            # needs columns split (train, valid, test) and channel
    python benchmarks/main_job.py POSTS.csv TAXONOMY.csv --only speed --posts 1000000

Runs the product as a user does, in processes of its own, with a store of its own that starts empty. Prints Markdown.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WEIBO = ROOT / "taxonomies" / "weibo.csv"
SECTIONS = ("quality", "rules", "speed")
# Which channels of taxonomies/weibo.csv count as right for a channel of the labelled Weibo posts; all others are wrong.
CHANNELS = {"体育": {"体育", "健身", "电竞"}, "旅游": {"旅游"}, "科技": {"科技", "数码", "科普"}}
ROUNDS = 3
DRAW = """
import csv, random, sys, pyarrow as pa, pyarrow.parquet as pq
texts = [row["text"] for row in csv.DictReader(open(sys.argv[1], encoding="utf-8", newline=""))]
draw, count = random.Random(0), int(sys.argv[3])
ids = [str(5 * 10**18 + at) for at in range(count)]
pq.write_table(pa.table({"post_id": ids, "text": draw.choices(texts, k=count)}), sys.argv[2])
"""
BARE = """
import sys, time, fasttext, pyarrow.parquet as pq
network = fasttext.load_model(sys.argv[1])
lines = [" ".join(text.replace("\\n", " ")) for text in pq.read_table(sys.argv[2])["text"].to_pylist()]
start = time.perf_counter()
for line in lines:
    network.predict(line, k=5)
print(len(lines) / (time.perf_counter() - start))
"""


def run(arguments: list[str], store: Path) -> tuple[str, float, float]:
    """Run `weibotag` and return its stdout, wall seconds and peak memory of it and its children, MB."""
    with tempfile.TemporaryFile("w+") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "weibotag", *arguments],
            stdout=out,
            env={**os.environ, "WEIBOTAG_STORE": str(store), "PYTHONPATH": str(ROOT)},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        out.seek(0)
        if process.returncode:
            raise SystemExit(f"weibotag {' '.join(arguments)}: exit {process.returncode}")
        return out.read(), seconds, usage.ru_maxrss / 1024


# The posts are written anew elsewhere, with whole paths of their pictures.
ANYWHERE = ("--media-root", "/")


def read_rows(posts: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV of posts, with absolute picture paths."""
    with posts.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        names = [name for name in (row.get("images") or "").split(";") if name]
        row["images"] = ";".join(str(posts.resolve().parent / name) for name in names)
    return rows


def write_rows(rows: list[dict[str, str]], path: Path, without: tuple[str, ...]) -> None:
    """Write the rows to a CSV in which the columns `without` are empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, **{name: "" for name in without if name in row}} for row in rows)


def measure_quality(rows: list[dict[str, str]], taxonomy: Path, folder: Path, tune_seconds: int) -> None:
    """Train and tag with and without pictures, and with and without author and channel; print micro-F1 on test."""
    variants = {
        "text only": ("images", "author", "channel"),
        "text + wordings": ("author", "channel"),
        "text + author, channel": ("images",),
        "all": (),
    }
    store = folder / "store"
    sources = sorted({row.get("source") or "" for row in rows} - {""})
    table: list[list[str]] = []
    looks: dict[str, Any] = {}
    for name, without in variants.items():
        posts, model, out = folder / f"{name}.csv", folder / f"{name}.model", folder / f"{name}.parquet"
        write_rows(rows, posts, without)
        train = [
            "train",
            str(posts),
            "-t",
            str(taxonomy),
            "-o",
            str(model),
            "--tagger",
            "fast",
            "--where",
            "split = 'train'",
            *ANYWHERE,
        ]
        about = json.loads(
            run([*train, "--valid", "split = 'valid'", "--tune-seconds", str(tune_seconds), "--json"], store)[0]
        )
        tag = ["tag", str(posts), "-m", str(model), "-o", str(out), "--where", "split = 'test'", "--json", *ANYWHERE]
        summary, seconds, memory = run(tag, store)
        figures = []
        for where in ["split = 'test'", *(f"split = 'test' AND source = '{source}'" for source in sources)]:
            report = run(["evaluate", str(out), str(posts), "-t", str(taxonomy), "--where", where, "--json"], store)[0]
            figures.append(json.loads(report))
        first = figures[0]
        table.append(
            [
                name,
                *(f"{report['micro_f1']:.3f}" for report in figures),
                *(f"{first[key]:.3f}" for key in ("macro_f1", "leaf_p_at_1", "ece")),
                f"{about['seconds']:.0f} s",
            ]
        )
        if name == "text + wordings":
            looks = {"train": about, "tag": json.loads(summary), "seconds": seconds, "memory": memory, "command": tag}
    print("### Quality on split test: micro-F1 over all levels, fast tagger\n")
    print_table(["features", "all", *sources, "macro-F1", "leaf P@1", "ECE", "training"], table)
    print_looks(looks, store)


def print_looks(looks: dict[str, Any], store: Path) -> None:
    """Print what looking at the pictures cost, the first time and the second."""
    stages = looks["tag"]["seconds_per_stage"]
    frames = looks["tag"]["frames_per_stage"]
    total = sum(stages.values())
    print("\n### Looking at pictures (test split, empty store; one process per core, one thread each)\n")
    rows = [
        [name, f"{frames.get(name, max(frames.values(), default=0)) / seconds:,.1f}", f"{seconds / total:.1%}"]
        for name, seconds in stages.items()
        if seconds
    ]
    print_table(["stage", "pictures/s per process", "share of look time"], rows)
    first = looks["tag"]["seconds"]
    files = looks["tag"]["pictures"]["files"]
    shares = ", ".join(f"{name} {seconds / sum(first.values()):.1%}" for name, seconds in first.items())
    print(f"\nShare of the run's time per step: {shares}.")
    print(
        f"\n{files:,} pictures in {first['look']:.1f} s = {files / first['look']:.1f} pictures/s; "
        f"the whole run {looks['seconds']:.1f} s, peak memory of one process {looks['memory']:.0f} MB."
    )
    again = json.loads(run(looks["command"], store)[0])
    spent = again["seconds"]["find"] + again["seconds"]["look"]
    before = first["find"] + first["look"]
    print(
        f"\nSecond run over the same pictures: {again['pictures']['reused']:,} of {files:,} reused; finding and looking "
        f"{spent / files * 1000:.2f} ms a picture against {before / files * 1000:.1f} ms = {spent / before:.2%}; "
        f"whole run but reading posts {sum_but_read(again):.2f} s against {sum_but_read(looks['tag']):.1f} s = "
        f"{sum_but_read(again) / sum_but_read(looks['tag']):.2%}."
    )


def sum_but_read(summary: dict[str, Any]) -> float:
    """Return the seconds of a run without reading the posts."""
    return sum(seconds for name, seconds in summary["seconds"].items() if name != "read")


def measure_rules(rows: list[dict[str, str]], folder: Path) -> None:
    """Tag the Weibo rows by taxonomies/weibo.csv alone and print how often the top channel is right."""
    chosen = [row for row in rows if row.get("source") == "weibo" and row["channel"] in CHANNELS]
    if not chosen:
        print("\n(rules: no rows with source weibo and a channel among 体育, 旅游, 科技)")
        return
    posts, out = folder / "weibo.csv", folder / "weibo.jsonl"
    write_rows(chosen, posts, ("images", "channel", "author", "tags", "keywords"))
    seconds = run(["tag", str(posts), "-t", str(WEIBO), "-o", str(out), "--quiet"], folder / "store")[1]
    top = {}
    with out.open(encoding="utf-8") as file:
        for line in file:
            answer = json.loads(line)
            channels = [tag for tag in answer["tags"] if "/" not in tag["id"]]
            top[answer["post_id"]] = max(channels, key=lambda tag: tag["score"])["id"] if channels else None
    print("\n### Rules tagger with taxonomies/weibo.csv, no labels: top channel right\n")
    print("Counted as right: " + "; ".join(f"{ours} for {theirs}" for theirs, ours in show_channels().items()))
    print("A post without any tag counts as wrong.\n")
    table = []
    for split in ("train", "valid", "test"):
        own = [row for row in chosen if row["split"] == split]
        right = Counter(row["channel"] for row in own if top[row["post_id"]] in CHANNELS[row["channel"]])
        posts_of = Counter(row["channel"] for row in own)
        shares = [f"{right[channel] / max(1, posts_of[channel]):.1%}" for channel in CHANNELS]
        table.append([split, str(len(own)), f"{right.total() / max(1, len(own)):.1%}", *shares])
    print_table(["split", "posts", "all", *CHANNELS], table)
    print(f"\n{len(chosen):,} posts in {seconds:.1f} s, start included.")


def show_channels() -> dict[str, str]:
    """Return the mapping as text."""
    return {theirs: "、".join(sorted(ours)) for theirs, ours in CHANNELS.items()}


def measure_speed(rows: list[dict[str, str]], taxonomy: Path, folder: Path, count: int) -> None:
    """Tag text-only posts from Parquet to Parquet and print posts/s against a bare fastText loop, and peak memory."""
    texts = [row for row in rows if row["text"] and row.get("source", "weibo") == "weibo"] or rows
    store = folder / "store"
    labelled, model = folder / "labelled.csv", folder / "text.model"
    write_rows(texts, labelled, ("images", "author", "channel"))
    train = ["train", str(labelled), "-t", str(taxonomy), "-o", str(model), "--where", "split = 'train'"]
    run([*train, "--valid", "split = 'valid'", "--tagger", "fast", "--tune-seconds", "0", "--quiet"], store)
    peaks = {}
    for number in (count // 5, count):
        posts = folder / f"{number}.parquet"
        # Not in this process: a child's peak memory is at least what its parent held when it was made.
        subprocess.run([sys.executable, "-c", DRAW, str(labelled), str(posts), str(number)], check=True)
        ours, bare = [], []
        for _ in range(ROUNDS):
            command = ["tag", str(posts), "-m", str(model), "-o", str(folder / "tags.parquet"), "--json", "--workers", "0"]
            _, seconds, peaks[number] = run(command, store)
            ours.append(number / seconds)
            loop = [sys.executable, "-c", BARE, str(model / "fast" / "fasttext.bin"), str(posts)]
            bare.append(float(subprocess.run(loop, capture_output=True, text=True, check=True).stdout))
        ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
        print(f"\n### {number:,} text-only posts, Parquet to Parquet, one process (start, reading and writing included)\n")
        print_table(
            ["", "posts/s, median", "all rounds"],
            [
                ["weibotag tag", f"{statistics.median(ours):,.0f}", ", ".join(f"{value:,.0f}" for value in ours)],
                ["bare fastText loop", f"{statistics.median(bare):,.0f}", ", ".join(f"{value:,.0f}" for value in bare)],
                ["ratio", f"{statistics.median(ratios):.2f}", ", ".join(f"{value:.2f}" for value in ratios)],
            ],
        )
    before = os.times()
    for _ in range(5):
        subprocess.run([sys.executable, "-m", "weibotag", "--help"], capture_output=True, check=True, cwd=ROOT)
    after = os.times()
    spent = (after.children_user + after.children_system - before.children_user - before.children_system) / 5
    print(f"\n`weibotag --help`: {spent:.2f} s of CPU time (mean of five).")
    small, large = peaks.values()
    print(f"\nPeak memory: {small:.0f} MB for {count // 5:,} posts, {large:.0f} MB for {count:,}: {large / small - 1:+.1%}.")


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path, help="CSV with columns split, text, images, tags, channel, and source if any")
    parser.add_argument("taxonomy", type=Path)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure only this; repeatable")
    parser.add_argument("--posts", type=int, default=1_000_000, dest="count", help="text-only posts for the speed section")
    parser.add_argument("--tune-seconds", type=int, default=60)
    arguments = parser.parse_args()
    sections = arguments.only or SECTIONS
    rows = read_rows(arguments.posts)
    print(f"{date.today()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    print(f"{len(rows):,} posts: {dict(Counter(row['split'] for row in rows))}\n")
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as name:
        folder = Path(name)
        if "quality" in sections:
            measure_quality(rows, arguments.taxonomy, folder, arguments.tune_seconds)
        if "rules" in sections:
            measure_rules(rows, folder)
        if "speed" in sections:
            measure_speed(rows, arguments.taxonomy, folder, arguments.count)


if __name__ == "__main__":
    main()
