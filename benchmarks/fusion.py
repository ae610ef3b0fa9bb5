"""Networks that fuse text and pictures against the fast tagger, on one split, by `weibotag compare`.

    python benchmarks/fusion.py POSTS.csv TAXONOMY.csv --store STORE

POSTS has a column split (train, valid, test). Every network is trained on one thread for --minutes at most: under an hour
for all of them on 2 cores. `no channel` are the same posts without author and channel. Prints Markdown, and how far the
network that is best on posts with pictures is from the fast tagger.
"""

import argparse
import os
import platform
from datetime import date
from pathlib import Path

from weibotag.extraction.pipeline_files import read_pipeline
from weibotag.posts.source import PostsSource
from weibotag.taxonomy.tree import load
from weibotag.training.network.settings import NETWORKS
from weibotag.workflows.compare import compare, write_markdown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", help="CSV with columns split (train, valid, test), text, images, tags, channel")
    parser.add_argument("taxonomy", type=Path)
    parser.add_argument("--minutes", type=float, default=5, help="of training for each network")
    parser.add_argument("--pipeline", help="how pictures are looked at (default: lite)")
    parser.add_argument("--store", type=Path, help="folder that keeps what pictures say")
    parser.add_argument("--out", type=Path, help="folder for table and plot")
    options = parser.parse_args()
    report = compare(
        PostsSource(options.posts),
        load(options.taxonomy),
        ["fast", "linear", *NETWORKS],
        read_pipeline(options.pipeline),
        valid="split = 'valid'",
        test="split = 'test'",
        minutes=options.minutes,
        store=options.store,
        folder=options.out,
    )
    cores = len(os.sched_getaffinity(0))
    posts = ", ".join(f"{count:,} {side}" for side, count in report["posts"].items())
    print(f"{date.today()}, {platform.machine()}, {cores} cores, Python {platform.python_version()}; posts: {posts}\n")
    print(write_markdown(report))
    taggers = report["taggers"]
    gains = {
        name: [taggers[name][kind] - taggers["fast"][kind] for kind in ("micro_f1_pictures", "micro_f1_text_only")]
        for name in NETWORKS
    }
    best = max(gains, key=lambda name: gains[name][0])
    pictures, text = gains[best]
    print(f"{best} against fast: {pictures:+.3f} on posts with pictures, {text:+.3f} on text alone.")


if __name__ == "__main__":
    main()
