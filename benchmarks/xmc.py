"""Very many tags: `weibotag train --tagger xmc` on a corpus made here, and on the hashtags of real posts.

    python benchmarks/xmc.py [--posts 1000000] [--tags 500000] [--feed POSTS.csv] [--rows whole,tree,flat,nameless,omikuji]

The corpus has Zipf-distributed tags of three levels (two hundred tags to a second-level one), one or two to a post; a tag
has words of its own, shares others with its second level, and a post says some of both between words of no meaning; one in
ten says nothing of its tags. --feed is a file with columns split, source and hashtags: those of its weibo posts are a flat
taxonomy. Rows:

    whole     the command line: train, tag, evaluate
    tree      the tagger alone, along the tag tree
    flat      the same without it: third-level tags in groups by likeness, not below likely second-level tags
    nameless  the same along the tree without names and aliases of tags with few posts
    omikuji   the bare library (pip install omikuji) on the same features, one tree

Each row is a process: seconds are of the clock (training alone) and of the processor (all of the process and its children),
memory is the highest. P@1 is over third-level tags; R@5 is the share of these among the five best, of all and of
those that had no, few or more posts in training. Prints Markdown.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import rows_of
from weibotag.features.hashed_ngrams import weigh
from weibotag.scoring.closure import mark_right
from weibotag.taggers.linear_tree import XMC
from weibotag.taxonomy.tree import Tag, Taxonomy, load, save_csv
from weibotag.training import linear_tree
from weibotag.training.dataset import gold_matrix

TESTED = 10_000
ROWS = ("whole", "tree", "flat", "nameless", "omikuji")
WORDS, OWN, SHARED, NOISE = 100_000, 4, 40, 6


def make_corpus(posts: int, tags: int, folder: Path) -> None:
    """Write taxonomy.csv, train.parquet and test.parquet, the same for the same numbers."""
    draw = np.random.default_rng(0)
    sections = max(4, tags // 200)
    channels = max(2, min(50, sections // 5))
    characters = np.array([chr(0x4E00 + code) for code in draw.permutation(6000)[:3500]])
    weights = 1 / np.arange(1, 3501) ** 0.7
    spelled = characters[draw.choice(3500, (WORDS, 3), p=weights / weights.sum())]
    words = np.array(["".join(word[: 3 - short]) for word, short in zip(spelled, draw.random(WORDS) < 0.75, strict=True)])
    section_of = np.sort(draw.integers(0, sections, tags))
    channel_of = np.arange(sections) % channels
    broad = draw.integers(0, WORDS, (channels, 1500))
    shared = np.take_along_axis(broad[channel_of], draw.integers(0, 1500, (sections, SHARED)), 1)
    own = draw.integers(0, WORDS, (tags, OWN))
    own[:, 1] = shared[section_of, draw.integers(0, SHARED, tags)]

    save_csv(
        Taxonomy(
            [
                *(Tag(f"c{one}", None, f"频道{one}", (), (), 0) for one in range(channels)),
                *(Tag(f"s{one}", f"c{channel_of[one]}", f"分类{one}", (), (), 0) for one in range(sections)),
                *(
                    Tag(f"t{one}", f"s{section_of[one]}", f"{words[mine[0]]}{words[mine[1]]}", (words[mine[2]],), (), 0)
                    for one, mine in enumerate(own)
                ),
            ]
        ),
        folder / "taxonomy.csv",
    )
    total = posts + TESTED
    chances = np.cumsum(1 / np.arange(1, tags + 1))
    first = draw.permutation(tags)[np.searchsorted(chances, draw.random(total) * chances[-1])]
    starts = np.searchsorted(section_of, section_of[first], side="left")
    ends = np.searchsorted(section_of, section_of[first], side="right")
    second = np.where(draw.random(total) < 0.15, draw.integers(starts, ends), first)
    zipf = np.cumsum(1 / np.arange(1, WORDS + 1))
    noise = np.searchsorted(zipf, draw.random((total, NOISE)) * zipf[-1])
    topical = shared[section_of[first][:, None], draw.integers(0, SHARED, (total, 2))]
    said = np.hstack([own[first], own[second][:, :2], topical, noise])
    speaks = draw.random(total) >= 0.1
    kept = np.hstack(
        [
            (draw.random((total, OWN)) < 0.45) & speaks[:, None],
            (draw.random((total, 2)) < 0.45) & (speaks & (first != second))[:, None],
            np.repeat(speaks[:, None], 2, axis=1),
            np.arange(NOISE) < draw.integers(2, NOISE + 1, total)[:, None],
        ]
    )
    order = draw.random(said.shape).argsort(axis=1)
    said, kept = np.take_along_axis(said, order, 1), np.take_along_axis(kept, order, 1)
    table = pa.table(
        {
            "post_id": [f"p{row}" for row in range(total)],
            "text": ["".join(words[one[mask]]) for one, mask in zip(said, kept, strict=True)],
            "tags": [[f"t{one}", f"t{two}"] if one != two else [f"t{one}"] for one, two in zip(first, second, strict=True)],
        }
    )
    pq.write_table(table.slice(0, posts), folder / "train.parquet")
    pq.write_table(table.slice(posts), folder / "test.parquet")


def take_hashtags(feed: Path, folder: Path) -> None:
    """Write the same files of the weibo rows of a posts file, whose hashtags are tags of one level."""
    from weibotag.posts.reader import read_posts
    from weibotag.posts.rejects import Rejects
    from weibotag.posts.source import PostsSource

    with Rejects(folder / "rejects.csv") as rejects:
        posts = pa.concat_tables(read_posts(PostsSource(str(feed), where="source = 'weibo'"), rejects, 20_000))
    said = pc.split_pattern(pc.fill_null(posts["hashtags"].combine_chunks(), ""), ";")
    posts = posts.set_column(posts.column_names.index("tags"), "tags", said).select(["post_id", "text", "tags", "split"])
    names = sorted(set(pc.list_flatten(said).to_pylist()) - {""})
    save_csv(Taxonomy([Tag(name, None, name.split("/")[-1], (), (), 0) for name in names]), folder / "taxonomy.csv")
    is_test = pc.equal(posts["split"], "test")
    pq.write_table(posts.filter(pc.invert(is_test)).drop(["split"]), folder / "train.parquet")
    pq.write_table(posts.filter(is_test).drop(["split"]), folder / "test.parquet")


def read(folder: Path, name: str) -> pa.Table:
    """Return posts as taggers read them."""
    table = pq.read_table(folder / f"{name}.parquet")
    blank = pa.array([""] * len(table), pa.string())
    return table.append_column("author", blank).append_column("channel", blank)


def flatten(taxonomy: Taxonomy) -> Taxonomy:
    """Return the leaves of a taxonomy without what is above them."""
    leaves = (tag for tag, is_leaf in zip(taxonomy.tags, taxonomy.is_leaf, strict=True) if is_leaf)
    return Taxonomy([Tag(tag.id, None, tag.name, tag.aliases, tag.keywords, 0) for tag in leaves])


def score(scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy, posts: np.ndarray) -> dict[str, float | None]:
    """Return P@1 over leaves, and the share of gold leaves among the five best: of all, by how many `posts` they have."""
    leaves = np.flatnonzero(taxonomy.is_leaf)
    own, right = scores[:, leaves].tocsr(), gold[:, leaves].tocsr()
    rows = rows_of(own.indptr)
    order = np.lexsort((-own.data, rows))
    place = np.arange(len(order)) - np.repeat(own.indptr[:-1], np.diff(own.indptr))
    hits = mark_right(own, right)[order]
    best = csr_matrix((hits & (place < 5), own.indices[order], own.indptr), shape=own.shape)
    best.eliminate_zeros()
    found = mark_right(right, best)
    seen = posts[leaves][right.indices]
    bands = {"all": seen >= 0, "unseen": seen < 1, "few": (seen >= 1) & (seen < 5), "more": seen >= 5}
    shares = {name: float(found[band].mean()) if band.any() else None for name, band in bands.items()}
    return {"p_at_1": float(hits[place == 0].sum() / (np.diff(right.indptr) > 0).sum()), **shares}


def run_tagger(folder: Path, row: str) -> dict[str, Any]:
    """Train and time the tagger alone."""
    taxonomy = load(folder / "taxonomy.csv")
    if row == "flat":
        taxonomy = flatten(taxonomy)
    if row == "nameless":
        linear_tree.COLD = 0
    train, test = read(folder, "train"), read(folder, "test")
    gold = gold_matrix([train], taxonomy)
    begun = perf_counter()
    tagger = linear_tree.train_xmc([train], gold, taxonomy, 4e9)
    told: dict[str, Any] = {"seconds": perf_counter() - begun}
    (folder / row).mkdir(exist_ok=True)
    tagger.save(folder / row)
    told["model"] = (folder / row / XMC).stat().st_size
    cpu = process_time()
    raw = csr_matrix(vstack([tagger.raw_scores(test.slice(start, 5_000)) for start in range(0, len(test), 5_000)]))
    told["ms"] = (process_time() - cpu) / len(test) * 1000
    seen = np.asarray(gold.sum(axis=0)).ravel()
    return told | {"shares": score(raw, gold_matrix([test], taxonomy), taxonomy, seen)}


def run_omikuji(folder: Path) -> dict[str, Any]:
    """Train and time omikuji on the features of the row nameless."""
    import omikuji

    taxonomy = load(folder / "taxonomy.csv")
    train, test = read(folder, "train"), read(folder, "test")
    leaves = flatten(taxonomy)
    gold = gold_matrix([train], leaves)
    none = linear_tree.write_names(taxonomy, np.full(len(taxonomy), np.inf))[1]
    counts, features = linear_tree.read_features(train, none)
    frequencies = weigh(counts, len(train))
    with (folder / "omikuji.txt").open("w") as file:
        file.write(f"{len(train)} {len(features)} {len(leaves)}\n")
        counts.sort_indices()
        for row in range(len(train)):
            tags = gold.indices[gold.indptr[row] : gold.indptr[row + 1]]
            own = slice(counts.indptr[row], counts.indptr[row + 1])
            said = (
                f"{at}:{value:.4f}"
                for at, value in zip(counts.indices[own].tolist(), counts.data[own].tolist(), strict=True)
            )
            file.write(f"{','.join(map(str, tags.tolist()))} {' '.join(said)}\n")
    begun = perf_counter()
    settings = omikuji.Model.default_hyper_param()
    settings.n_trees = 1
    model = omikuji.Model.train_on_data(str(folder / "omikuji.txt"), settings, 2)
    told: dict[str, Any] = {"seconds": perf_counter() - begun}
    model.save(str(folder / "omikuji"))
    told["model"] = sum(path.stat().st_size for path in (folder / "omikuji").iterdir())
    tested = linear_tree.read_counts(test, linear_tree.number(features), len(features))
    tested.data = frequencies[tested.indices]
    lengths = np.sqrt(np.asarray(tested.multiply(tested).sum(axis=1)).ravel())
    tested.data /= np.repeat(np.maximum(lengths, 1e-6), np.diff(tested.indptr)).astype(np.float32)
    cpu = process_time()
    pairs = []
    for row in range(len(test)):
        own = slice(tested.indptr[row], tested.indptr[row + 1])
        vector = list(zip(tested.indices[own].tolist(), tested.data[own].tolist(), strict=True))
        pairs += [(row, tag, score) for tag, score in model.predict(vector, top_k=5)]
    told["ms"] = (process_time() - cpu) / len(test) * 1000
    rows, tags, data = (np.array(column) for column in zip(*pairs, strict=True))
    scores = csr_matrix((data, (rows, tags)), shape=(len(test), len(leaves)))
    return told | {"shares": score(scores, gold_matrix([test], leaves), leaves, np.asarray(gold.sum(axis=0)).ravel())}


def measure(command: list[str], errors: int | None = None) -> tuple[str, dict[str, float]]:
    """Run a command; return its stdout, seconds, seconds of the processor, and highest memory in bytes, children too."""
    begun, before = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    most, said = 0, None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        while said is None:
            try:
                said, _ = process.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                most = max(most, read_memory(process.pid))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return said, {"wall": perf_counter() - begun, "cpu": cpu, "bytes": most}


def read_memory(number: int) -> int:
    """Return the bytes that a process and its children have in memory, what they share counted once."""
    try:
        process = psutil.Process(number)
        return sum(one.memory_full_info().pss for one in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


def run_whole(folder: Path) -> None:
    """Print what train, tag and evaluate take from the command line."""
    (folder / "text.toml").write_text("stages = []\n")
    weibotag = [sys.executable, "-m", "weibotag"]
    taxonomy, model, out = (str(folder / name) for name in ("taxonomy.csv", "model", "tags.parquet"))
    train, test = (str(folder / f"{name}.parquet") for name in ("train", "test"))
    looks = ["-p", str(folder / "text.toml"), "--quiet"]
    commands = {
        "train --tagger xmc": [
            *weibotag,
            "train",
            train,
            "-t",
            taxonomy,
            "-o",
            model,
            "--tagger",
            "xmc",
            "--memory",
            "4GB",
            *looks,
        ],
        "tag": [*weibotag, "tag", test, "-m", model, "-o", out, "--quiet"],
        "evaluate": [*weibotag, "evaluate", out, test, "-t", taxonomy, "--json"],
    }
    print("| command | s | processor s | memory |\n|---|---|---|---|")
    for name, command in commands.items():
        said, took = measure(command)
        print(f"| {name} | {took['wall']:.0f} | {took['cpu']:.0f} | {took['bytes'] / 1e9:.1f} GB |", flush=True)
    report = json.loads(said)
    levels = ", ".join(f"level {level} {told['f1']:.3f}" for level, told in report["per_level"].items())
    print(f"\n{report['posts']:,} test posts: micro-F1 {report['micro_f1']:.3f} ({levels}), ECE {report['ece']:.3f}\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=1_000_000)
    parser.add_argument("--tags", type=int, default=500_000)
    parser.add_argument("--feed", type=Path, help="CSV with columns split, source, hashtags, instead of a corpus made here")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        told = run_omikuji(options.folder) if options.rows == "omikuji" else run_tagger(options.folder, options.rows)
        print(json.dumps(told))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.feed:
            take_hashtags(options.feed, folder)
        else:
            make_corpus(options.posts, options.tags, folder)
        posts, tags = pq.read_metadata(folder / "train.parquet").num_rows, len(load(folder / "taxonomy.csv"))
        cores = len(os.sched_getaffinity(0))
        python = f"Python {platform.python_version()}"
        print(f"{date.today()}, {platform.machine()}, {cores} cores, {python}; {posts:,} posts, {tags:,} tags\n", flush=True)
        rows = options.rows.split(",")
        if "whole" in rows:
            run_whole(folder)
        print("| row | training s | processor s | memory | model | ms/post | P@1 | R@5 | unseen | 1-4 posts | more |")
        print("|---" * 11 + "|")
        for row in [row for row in rows if row != "whole"]:
            # omikuji draws a bar for every step.
            errors = subprocess.DEVNULL if row == "omikuji" else None
            said, took = measure([sys.executable, __file__, "--folder", place, "--rows", row], errors)
            told = json.loads(said.splitlines()[-1])
            shares = " | ".join("" if share is None else f"{share:.3f}" for share in told["shares"].values())
            print(
                f"| {row} | {told['seconds']:.0f} | {took['cpu']:.0f} | {took['bytes'] / 1e9:.1f} GB "
                f"| {told['model'] / 1e6:.0f} MB | {told['ms']:.3f} | {shares} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
