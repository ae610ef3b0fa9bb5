"""Whether an audit finds faults that were planted among labels, and whether applying it undoes them.

    python benchmarks/audit.py POSTS TAXONOMY --seeds 3
    python benchmarks/audit.py synthetic

A fifth of the posts keep their labels and are tested on. Of the others' 5 % of the labels are dropped and 3 % exchanged with
those of other posts, two tags are split at random and one is renamed for the later half of its posts; in another copy two
tags are thrown together. Of proposals all that are listed and those that are recommended are counted. Prints Markdown.
"""

import argparse
import csv
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weibotag.curation.tags.apply import apply, place_scores
from weibotag.curation.tags.audit import audit
from weibotag.curation.tags.label_doubts import most_specific
from weibotag.curation.tags.proposals import PROPOSALS, Proposal, read_proposals
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource
from weibotag.scoring.decision import best_shared, decide, micro_f1
from weibotag.taggers.linear import train_linear
from weibotag.taxonomy.tree import Tag, Taxonomy, load, save_csv
from weibotag.training.dataset import blake, gold_matrix

DROPPED, SWAPPED = 0.05, 0.03
# A tag to be split or renamed has so many posts at least.
FEWEST = 30
KINDS = {
    "dropped": "5 % of labels dropped: missing",
    "swapped": "3 % of labels swapped: wrong",
    "split": "two tags split at random: merge or alias",
    "renamed": "one tag renamed for half its posts: merge or alias",
    "thrown": "two tags thrown together: split",
}
Labels = list[list[str]]


@dataclass
class Planted:
    """Posts with faults: their labels and taxonomy, and faults (pairs of post and tag, of tags), and all right labels."""

    labels: Labels
    taxonomy: Taxonomy
    dropped: set[tuple[str, str]] = field(default_factory=set)
    swapped: set[tuple[str, str]] = field(default_factory=set)
    right: set[tuple[str, str]] = field(default_factory=set)
    split: set[tuple[str, str]] = field(default_factory=set)
    renamed: set[tuple[str, str]] = field(default_factory=set)


def plant(ids: Sequence[str], labels: Labels, taxonomy: Taxonomy, seed: int) -> Planted:
    """Return labels (most specific tags of each post) with faults."""
    random = np.random.default_rng(seed)
    pairs = [(row, tag) for row, tags in enumerate(labels) for tag in tags]
    new: list[dict[str, None]] = [dict.fromkeys(tags) for tags in labels]
    planted = Planted([], taxonomy)
    planted.right = {(ids[row], tag) for row, tags in enumerate(labels) for tag in taxonomy.expand(tags)}
    order = random.permutation(len(pairs))
    cut = int(len(pairs) * DROPPED)
    for at in order[:cut]:
        row, tag = pairs[at]
        parent = taxonomy.tags[taxonomy.index[tag]].parent_id
        if parent is None and len(new[row]) == 1:
            continue
        del new[row][tag]
        if parent is not None and parent not in taxonomy.expand(new[row]):
            new[row][parent] = None
        planted.dropped.add((ids[row], tag))
    exchanged = order[cut : cut + int(len(pairs) * SWAPPED)]
    for at, other in zip(exchanged, np.roll(exchanged, 1), strict=True):
        (row, tag), given = pairs[at], pairs[other][1]
        if given not in taxonomy.expand(new[row]) and tag in new[row]:
            del new[row][tag]
            new[row][given] = None
            planted.swapped.add((ids[row], given))
    chosen = random.permutation(list_large(labels, taxonomy))[:3].tolist()
    added = []
    for number, tag_id in enumerate(chosen):
        tag = taxonomy.tags[taxonomy.index[tag_id]]
        renamed = number == 2
        twin = f"{tag_id}·{number}"
        added.append(Tag(twin, tag.parent_id, f"{tag.name}话题" if renamed else f"新标签{number}", (), (), 0))
        rows = [row for row, tags in enumerate(new) if tag_id in tags]
        later = rows[len(rows) // 2 :] if renamed else [row for row in rows if random.random() < 0.5]
        for row in later:
            new[row] = dict.fromkeys(twin if one == tag_id else one for one in new[row])
            if (ids[row], tag_id) in planted.swapped:
                planted.swapped = planted.swapped - {(ids[row], tag_id)} | {(ids[row], twin)}
        (planted.renamed if renamed else planted.split).add((tag_id, twin))
    planted.labels = [list(tags) for tags in new]
    planted.taxonomy = Taxonomy([*taxonomy.tags, *added])
    return planted


def list_large(labels: Labels, taxonomy: Taxonomy) -> list[str]:
    """Return the leaves with at least `FEWEST` posts."""
    numbers = [taxonomy.index[tag] for tags in labels for tag in tags]
    sizes = np.bincount(numbers, minlength=len(taxonomy))
    return [taxonomy.ids[tag] for tag in np.flatnonzero(taxonomy.is_leaf & (sizes >= FEWEST))]


def run_audit(posts: pa.Table, labels: Labels, taxonomy: Taxonomy, folder: Path) -> dict[str, Any]:
    """Write posts with labels and a taxonomy to a folder, audit them there, and return what the audit says."""
    folder.mkdir()
    relabelled = posts.set_column(posts.column_names.index("tags"), "tags", pa.array(labels, pa.list_(pa.string())))
    pq.write_table(relabelled, folder / "posts.parquet")
    save_csv(taxonomy, folder / "taxonomy.csv")
    return audit(PostsSource(str(folder / "posts.parquet")), taxonomy, folder / "audit", quiet=True)


def pair_of(proposal: Proposal) -> tuple[str, str]:
    """Return the two tags of a merger in the order of their ids."""
    first, second = sorted((proposal.tag, proposal.other))
    return first, second


def relabel_of(proposal: Proposal) -> tuple[str, ...]:
    """Return what tells a relabelling from others."""
    return (proposal.post_id, *proposal.removed, ">", *proposal.added)


def count_hits(planted: Planted, proposals: Sequence[Proposal], before: set[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Return numbers by kind of fault: found, planted, right, proposed; without what `before` has.

    A label that is gained is right where the clean post has it, one that is lost where it has not; `before` was proposed
    without any fault.
    """
    merged = {pair_of(one) for one in proposals if one.action in ("merge", "alias")} - before
    both = planted.split | planted.renamed
    origin = {twin: tag for tag, twin in both}
    relabels = [one for one in proposals if one.action == "relabel" and relabel_of(one) not in before]
    gained = {(one.post_id, origin.get(tag, tag)) for one in relabels for tag in one.added if not one.removed}
    lost = {(one.post_id, tag) for one in relabels for tag in one.removed}
    kept = {pair for pair in lost if (pair[0], origin.get(pair[1], pair[1])) in planted.right}
    counts = {
        "dropped": (gained & planted.dropped, planted.dropped, gained & planted.right, gained),
        "swapped": (lost & planted.swapped, planted.swapped, lost - kept, lost),
        "split": (merged & planted.split, planted.split, merged & planted.split, merged - planted.renamed),
        "renamed": (merged & planted.renamed, planted.renamed, merged & planted.renamed, merged - planted.split),
    }
    return {kind: np.array([len(part) for part in parts]) for kind, parts in counts.items()}


def measure_f1(
    posts: pa.Table,
    labels: Labels,
    taxonomy: Taxonomy,
    tests: pa.Table,
    clean: Labels,
    place: Mapping[str, str],
    common: Taxonomy,
) -> float:
    """Return the micro-F1 on test posts of a tagger trained on labels, of either in the tags of `common`, by `place`."""
    held = np.array([int(blake(f"held {post_id}"), 16) % 5 == 0 for post_id in posts["post_id"].to_pylist()])
    numbers = np.array([common.index[place.get(tag_id, tag_id)] for tag_id in taxonomy.ids])
    gold = gold_of(labels, taxonomy)
    taught = ~held & (np.diff(gold.indptr) > 0)
    tagger = train_linear([posts.filter(pa.array(taught))], gold[taught], taxonomy)
    own = gold_of([[place.get(tag, tag) for tag in tags] for tags in labels], common)
    cut = best_shared(place_scores(tagger.raw_scores(posts.filter(pa.array(held))), numbers, common), own[held], common)
    decided = decide(place_scores(tagger.raw_scores(tests), numbers, common), np.full(len(common), cut), common)
    return micro_f1(decided, gold_of([[place.get(tag, tag) for tag in tags] for tags in clean], common))


def gold_of(labels: Labels, taxonomy: Taxonomy) -> Any:
    """Return labels with ancestors as a matrix."""
    return gold_matrix([pa.table({"tags": pa.array(labels, pa.list_(pa.string()))})], taxonomy)


def make_synthetic(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write 6,000 posts and 48 tags: each tag has words of its own and some of its parent's, most words are anybody's."""
    random = np.random.default_rng(seed)
    tags = [f"群{parent}/签{child}" for parent in range(8) for child in range(6)]
    with (folder / "taxonomy.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "parent_id", "name"))
        writer.writerows((f"群{parent}", "", f"群{parent}") for parent in range(8))
        writer.writerows((tag, tag.split("/")[0], tag.split("/")[1] + tag[1]) for tag in tags)
    with (folder / "posts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("post_id", "text", "tags"))
        for number in range(6_000):
            own = [tags[min(int(random.pareto(0.8) * 4), len(tags) - 1)]]
            if random.random() < 0.2:
                own.append(tags[random.integers(len(tags))])
            words = [f"w{random.zipf(1.3) % 3000}" for _ in range(6)]
            words += [f"{tag.split('/')[0][1]}p{random.integers(20)}" for tag in own for _ in range(2)]
            words += [f"{tags.index(tag)}t{random.integers(15)}" for tag in own for _ in range(random.integers(1, 4))]
            writer.writerow((f"s{number}", " ".join(random.permutation(words)), ";".join(dict.fromkeys(own))))
    return folder / "posts.csv", folder / "taxonomy.csv"


def rows_of(source: PostsSource, taxonomy: Taxonomy) -> tuple[pa.Table, Labels]:
    """Return the labelled posts and the most specific tags of each."""
    posts = pa.concat_tables(read_posts(source, Rejects()))
    gold = gold_matrix([posts], taxonomy)
    posts = posts.filter(pa.array(np.diff(gold.indptr) > 0)).combine_chunks()
    leaves = most_specific(gold[np.diff(gold.indptr) > 0], taxonomy)
    return posts, [[taxonomy.ids[tag] for tag in part] for part in np.split(leaves.indices, leaves.indptr[1:-1])]


def run_seed(
    posts: pa.Table, labels: Labels, taxonomy: Taxonomy, before: set[tuple[str, ...]], seed: int, folder: Path
) -> tuple[dict[str, dict[str, np.ndarray]], list[float]]:
    """Plant, audit, apply; return counts by cut and kind, and micro-F1: clean, spoilt, repaired, clean in repaired tags."""
    ids = posts["post_id"].to_pylist()
    is_test = np.array([int(blake(f"{seed} {post_id}"), 16) % 5 == 0 for post_id in ids])
    sides = [posts.filter(pa.array(mask)) for mask in (~is_test, is_test)]
    own, tests = ([tags for tags, one in zip(labels, mask, strict=True) if one] for mask in (~is_test, is_test))
    planted = plant(sides[0]["post_id"].to_pylist(), own, taxonomy, seed)
    run_audit(sides[0], planted.labels, planted.taxonomy, folder)
    counts = {}
    for cut in ("all", "recommended"):
        counts[cut] = count_hits(planted, read_proposals(folder / "audit" / PROPOSALS, cut), before)
    source = PostsSource(str(folder / "posts.parquet"))
    apply(folder / "audit", source, planted.taxonomy, folder / "new", "recommended")
    repaired = load(folder / "new" / "taxonomy.csv")
    written = pq.read_table(folder / "new" / "posts.parquet")
    assert written["post_id"].to_pylist() == sides[0]["post_id"].to_pylist()
    merged = {one.tag: one.other for one in read_proposals(folder / "audit" / PROPOSALS, "recommended") if one.other}
    place = {tag_id: follow(tag_id, merged, repaired) for tag_id in planted.taxonomy.ids}
    clean = (sides[0], own, taxonomy, sides[1], tests)
    spoilt = (sides[0], planted.labels, planted.taxonomy, sides[1], tests)
    after = (sides[0], [tags or [] for tags in written["tags"].to_pylist()], repaired, sides[1], tests)
    figures = [
        measure_f1(*clean, {}, taxonomy),
        measure_f1(*spoilt, {}, planted.taxonomy),
        measure_f1(*after, place, repaired),
        measure_f1(*clean, place, repaired),
    ]
    return counts, figures


def follow(tag_id: str, merged: Mapping[str, str], taxonomy: Taxonomy) -> str:
    """Return what a tag became: itself, or the end of its mergers."""
    while tag_id not in taxonomy.index:
        tag_id = merged[tag_id]
    return tag_id


def find_thrown(posts: pa.Table, labels: Labels, taxonomy: Taxonomy, seed: int, folder: Path) -> dict[str, np.ndarray]:
    """Throw two tags together, audit, and return the counts of splits, as `count_hits` does."""
    one, other = np.random.default_rng(seed).permutation(list_large(labels, taxonomy))[:2].tolist()
    thrown = [[one if tag == other else tag for tag in tags] for tags in labels]
    run_audit(posts, thrown, taxonomy, folder)
    counts = {}
    for name, accept in (("all", "all"), ("recommended", "recommended")):
        split = {found.tag for found in read_proposals(folder / "audit" / PROPOSALS, accept) if found.action == "split"}
        counts[name] = np.array([one in split, 1, one in split, len(split)], int)
    return counts


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |")


def share(above: int, below: int) -> str:
    """Return a share and what it is of."""
    return f"{above / below:.2f} ({above}/{below})" if below else "none"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", help="labelled posts, or the word synthetic")
    parser.add_argument("taxonomy", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path, tree = make_synthetic(folder) if options.posts == "synthetic" else (options.posts, options.taxonomy)
        taxonomy = load(tree)
        posts, labels = rows_of(PostsSource(str(path)), taxonomy)
        started = sum(os.times()[:2])
        unspoilt = run_audit(posts, labels, taxonomy, folder / "unspoilt")
        seconds = sum(os.times()[:2]) - started
        proposals = read_proposals(folder / "unspoilt" / "audit" / PROPOSALS, "all")
        before: set[tuple[str, ...]] = {pair_of(one) for one in proposals if one.action in ("merge", "alias")}
        before |= {relabel_of(one) for one in proposals if one.action == "relabel"}
        usual = {one.tag for one in proposals if one.action == "split"}
        totals: dict[str, dict[str, np.ndarray]] = {cut: {} for cut in ("all", "recommended")}
        figures = []
        for seed in seeds:
            counts, f1 = run_seed(posts, labels, taxonomy, before, seed, folder / f"seed{seed}")
            figures.append(f1)
            thrown = find_thrown(posts, labels, taxonomy, seed, folder / f"thrown{seed}")
            for cut, total in totals.items():
                for kind, numbers in {**counts[cut], "thrown": thrown[cut]}.items():
                    total[kind] = total.get(kind, 0) + numbers
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{len(posts):,} posts, {len(taxonomy)} tags; {options.seeds} seeds; {machine}; {datetime.now(UTC):%Y-%m-%d}\n")
    print_table(
        ["fault", "precision, listed", "recall, listed", "precision, recommended", "recall, recommended"],
        [
            [title, *(share(*total[kind][at : at + 2].tolist()) for total in totals.values() for at in (2, 0))]
            for kind, title in KINDS.items()
        ],
    )
    print("\nMergers and relabellings that are proposed without any fault too don't count; splits do.\n")
    means = np.mean(figures, axis=0)
    print_table(
        ["micro-F1 on clean test posts", *(f"seed {seed}" for seed in seeds), "mean"],
        [
            [name, *(f"{f1[at]:.4f}" for f1 in figures), f"{means[at]:.4f}"]
            for at, name in enumerate(("clean", "spoilt", "after apply", "clean, in the tags after apply"))
        ],
    )
    print(f"\nThe unspoilt posts (audit: {seconds:.0f} s of CPU): findings {unspoilt['findings']}\n")
    print_table(
        ["proposal", "tag", "other", "confidence", "reason"],
        [
            [one.action, one.tag, one.other, f"{one.confidence:.2f}", one.reason]
            for one in proposals
            if one.action != "relabel" and one.confidence >= 0.5
        ],
    )
    print(f"\nsplits proposed without any fault: {len(usual)}")


if __name__ == "__main__":
    main()
