"""What fewer keywords are worth to a factorisation machine, what semantic codes add, and how many survive a refit.

    python benchmarks/keywords.py POSTS TAXONOMY TWEETS --wordings WORDINGS.parquet --vectors VECTORS.parquet

POSTS has columns split (train, valid, test), text and tags; WORDINGS and VECTORS are what `weibotag wordings` and
`weibotag embed` wrote for them. TWEETS has text, ocr_text, image_words, tags and split (train, test; a fifth of train is
held out). The machine predicts tags of at least 10 training posts from the keywords of a post alone; its channel is
hidden but where the table says so. Vocabulary, clusters and machine are learnt on train, epochs, rate and threshold
chosen on valid; figures are those of test, for posts with a tag and a keyword of the full vocabulary. Prints Markdown:
means ± standard deviation over seeds.
"""

import argparse
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from factorisation import Settings, train_and_score
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix, hstack
from sklearn.metrics import label_ranking_average_precision_score

from weibotag.curation.keywords import semantic_codes
from weibotag.curation.keywords.cluster import cluster_keywords
from weibotag.curation.keywords.extract import KeywordIndex, extract_keywords, read_keywords
from weibotag.extraction.requests import WordingsRequest
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource
from weibotag.posts.supplied_words import add_given
from weibotag.taxonomy.tree import Tag, Taxonomy, load
from weibotag.training.dataset import blake, gold_matrix

FEWEST_POSTS = 10
SHARES = (0.5, 0.2, 0.1, 0.05)
TRIES = (Settings(rate=0.003, batch=64), Settings(rate=0.01, batch=256))
PARTS = ("train", "valid", "test")
WORDS = {"ocr": "ocr_text", "object": "image_words"}
FIGURES = ("micro-F1", "ranking precision")
LEVELS, SIZES = 3, (64, 256)


@dataclass(frozen=True)
class Problem:
    """Posts by part: features (posts x features) and tags (posts x tags), 0/1."""

    features: dict[str, csr_matrix]
    gold: dict[str, csr_matrix]

    def map(self, projection: csr_matrix) -> "Problem":
        """Return the problem with its features put together as columns of a 0/1 matrix."""
        mapped = {part: csr_matrix(matrix @ projection) for part, matrix in self.features.items()}
        for matrix in mapped.values():
            matrix.data[:] = 1
        return Problem(mapped, self.gold)

    def keep(self, kept: dict[str, np.ndarray]) -> "Problem":
        """Return the problem with the posts of masks."""
        return Problem(*({part: each[part][kept[part]] for part in PARTS} for each in (self.features, self.gold)))


def read_table(path: Path) -> pa.Table:
    """Return the posts as the product reads them."""
    with Rejects() as rejects:
        return pa.concat_tables(read_posts(PostsSource(str(path)), rejects))


def split_posts(posts: pa.Table) -> dict[str, pa.Table]:
    """Return the posts by part; without posts of valid, a fifth of train by a hash of the id."""
    split = np.array(posts["split"].to_pylist(), dtype=object)
    if not (split == "valid").any():
        held = np.array([int(blake(post_id), 16) % 5 == 0 for post_id in posts["post_id"].to_pylist()])
        split[(split == "train") & held] = "valid"
    return {part: posts.filter(pa.array(split == part)) for part in PARTS}


def flat_taxonomy(posts: pa.Table) -> Taxonomy:
    """Return the tags of posts, none below another."""
    names = sorted(set(pc.list_flatten(posts["tags"]).to_pylist()))
    return Taxonomy([Tag(name, None, name, (), (), line) for line, name in enumerate(names, start=2)])


def gold_of(parts: dict[str, pa.Table], taxonomy: Taxonomy) -> dict[str, csr_matrix]:
    """Return the tags of posts, those that enough posts of train have."""
    whole = {part: gold_matrix([table], taxonomy) for part, table in parts.items()}
    often = np.flatnonzero(np.asarray(whole["train"].sum(axis=0)).ravel() >= FEWEST_POSTS)
    return {part: csr_matrix(matrix[:, often]) for part, matrix in whole.items()}


def figures_of(problem: Problem, seeds: int) -> np.ndarray:
    """Return figures (seeds, 2) of machines, one of `TRIES` chosen by the loss on valid."""
    learn, choose = ((problem.features[part], problem.gold[part]) for part in ("train", "valid"))
    answers = [train_and_score(learn, choose, problem.features["test"], settings, 0) for settings in TRIES]
    best = int(np.argmin([loss for *_, loss in answers]))
    figures = []
    for seed in range(seeds):
        held, tested, _ = (
            answers[best] if not seed else train_and_score(learn, choose, problem.features["test"], TRIES[best], seed)
        )
        figures.append(measure(held, problem.gold["valid"].toarray() > 0, tested, problem.gold["test"].toarray() > 0))
    return np.array(figures)


def measure(held: np.ndarray, held_gold: np.ndarray, tested: np.ndarray, gold: np.ndarray) -> tuple[float, float]:
    """Return micro-F1 on test, one threshold chosen on valid, and the mean precision at the ranks of a post's tags."""

    def f1(chosen: np.ndarray, right: np.ndarray) -> float:
        return float(2 * (chosen & right).sum() / (chosen.sum() + right.sum()))

    threshold = max(np.linspace(-3, 1, 81), key=lambda cut: f1(held > cut, held_gold))
    return f1(tested > threshold, gold), float(label_ranking_average_precision_score(gold, tested))


def find_vocabulary(parts: dict[str, pa.Table], folder: Path) -> tuple[pa.Table, dict[str, csr_matrix]]:
    """Return the keywords of the training posts, which are written to `folder`, and what all posts mention."""
    pq.write_table(parts["train"], folder / "train.parquet")
    extract_keywords(WordingsRequest(posts=str(folder / "train.parquet"), quiet=True), folder / "keywords.parquet")
    keywords = read_keywords(folder / "keywords.parquet")
    index = KeywordIndex(keywords)
    matrices = {}
    for part, table in parts.items():
        posts, words = index.find(table)
        matrices[part] = csr_matrix((np.ones(len(posts)), (posts, words)), shape=(len(table), len(keywords)))
    return keywords, matrices


def projection(to: np.ndarray, size: int) -> csr_matrix:
    """Return the matrix that gathers features in columns; those at -1 are left out."""
    kept = np.flatnonzero(to >= 0)
    return csr_matrix((np.ones(len(kept)), (kept, to[kept])), shape=(len(to), size))


def shrink(keywords: pa.Table, size: int, folder: Path) -> dict[str, csr_matrix]:
    """Return the ways to `size` features: clusters, the most frequent keywords, and a hash."""
    train = WordingsRequest(posts=str(folder / "train.parquet"), quiet=True)
    cluster_keywords(keywords, train, folder / "clusters.parquet", size)
    rows = pq.read_table(folder / "clusters.parquet").to_pylist()
    known = {(row["channel"], row["keyword"]): row["cluster"] for row in rows}
    pairs = list(zip(keywords["channel"].to_pylist(), keywords["keyword"].to_pylist(), strict=True))
    numbers: dict[tuple[str, str], int] = {}
    clusters = [numbers.setdefault((pair[0], known[pair]), len(numbers)) for pair in pairs]
    ranked = np.argsort(-keywords["posts"].to_numpy(), kind="stable")
    places = np.full(len(pairs), -1)
    places[ranked[:size]] = np.arange(size)
    hashes = [crc32("\0".join(pair).encode()) % size for pair in pairs]
    return {
        "clusters": projection(np.array(clusters), len(numbers)),
        "most frequent": projection(places, size),
        "hashed": projection(np.array(hashes), size),
    }


def print_curve(name: str, parts: dict[str, pa.Table], taxonomy: Taxonomy, seeds: int) -> None:
    """Print the curve of vocabulary against quality, and whether clusters of a tenth are good enough."""
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as place:
        folder = Path(place)
        keywords, features = find_vocabulary(parts, folder)
        gold = gold_of(parts, taxonomy)
        kept = {part: (np.diff(features[part].indptr) > 0) & (np.diff(gold[part].indptr) > 0) for part in PARTS}
        problem = Problem(features, gold).keep(kept)
        full = figures_of(problem, seeds)
        found = {(1.0, way): full for way in ("clusters", "most frequent", "hashed")}
        for share in SHARES:
            for way, gathered in shrink(keywords, round(share * len(keywords)), folder).items():
                found[share, way] = figures_of(problem.map(gathered), seeds)
    posts = ", ".join(f"{int(mask.sum()):,} {part}" for part, mask in kept.items())
    length = problem.features["test"].nnz / problem.features["test"].shape[0]
    tags = gold["train"].shape[1]
    print(f"\n**{name}**: {len(keywords):,} keywords, {length:.1f} a post, {tags} tags, posts: {posts}\n")
    print_row(["vocabulary", *(f"{way}: {figure}" for figure in FIGURES for way in ("clusters", "most frequent", "hashed"))])
    print_row(["---"] * 7)
    for share in (1.0, *SHARES):
        cells = [
            spell(found[share, way][:, at]) for at in range(len(FIGURES)) for way in ("clusters", "most frequent", "hashed")
        ]
        print_row([f"{share:.0%}", *cells])
    for at, figure in enumerate(FIGURES):
        means = {way: found[0.1, way][:, at].mean() for way in ("clusters", "most frequent", "hashed")}
        kept_shares = ", ".join(f"{way} {mean / full[:, at].mean():.1%}" for way, mean in means.items())
        print(f"\n{figure} at 10 % of the vocabulary, as a share of the full one's: {kept_shares}.")


def print_stability(vectors: np.ndarray, seeds: int) -> None:
    """Print how many of the codes of half of the vectors stay when all of them are there."""
    print(f"\n**Codes refitted on twice the data**: {len(vectors):,} vectors; share of the first half that keeps its code")
    print("down to each level, and the share of the variance of all that all levels explain\n")
    print_row(["codes a level", "refit", *(f"keeps {level}" for level in (1, 2, 3)), "explained"])
    print_row(["---"] * 6)
    for size in SIZES:
        found: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            half = vectors[np.random.default_rng(seed).permutation(len(vectors))[: len(vectors) // 2]]
            old = semantic_codes.fit(half, "s0", LEVELS, size)
            before = old.assign(half)
            anew, refitted = semantic_codes.fit(vectors, "s0", LEVELS, size), semantic_codes.refit(vectors, old)
            for way, codes, after in (
                ("anew", anew, anew.assign(half)),
                ("anew, matched with the old ones", anew, match(before, anew.assign(half), size)),
                ("from the old ones (`--align`)", refitted, refitted.assign(half)),
                ("none: old codes", old, before),
            ):
                found.setdefault(way, []).append([*semantic_codes.share_kept(before, after), codes.explained(vectors)[-1]])
        for way, rows in found.items():
            print_row([str(size), way, *(spell(column) for column in np.array(rows).T)])


def match(before: np.ndarray, after: np.ndarray, size: int) -> np.ndarray:
    """Return numbers (n, levels) called as the old ones with which they share most vectors (Hungarian method)."""
    called, kept = after.copy(), np.ones(len(before), bool)
    for level in range(before.shape[1]):
        shared = np.zeros((size, size))
        np.add.at(shared, (after[kept, level], before[kept, level]), 1)
        called[:, level] = linear_sum_assignment(shared, maximize=True)[1][after[:, level]]
        kept &= called[:, level] == before[:, level]
    return called


def print_codes(parts: dict[str, pa.Table], taxonomy: Taxonomy, ids: Sequence[str], vectors: np.ndarray, seeds: int) -> None:
    """Print what codes add to keywords, on posts with vectors."""
    with tempfile.TemporaryDirectory(prefix="weibotag-bench-") as place:
        _, features = find_vocabulary(parts, Path(place))
    gold = gold_of(parts, taxonomy)
    pictured = set(ids)
    kept = {
        part: np.array([post_id in pictured for post_id in table["post_id"].to_pylist()]) & (np.diff(gold[part].indptr) > 0)
        for part, table in parts.items()
    }
    train = set(parts["train"]["post_id"].to_pylist())
    learnt = vectors[[post_id in train for post_id in ids]]
    print(f"\n**Codes beside keywords**: posts with pictures, {int(kept['test'].sum()):,} of test\n")
    print_row(["features", *FIGURES])
    print_row(["---"] * 3)
    keywords = Problem(features, gold).keep(kept)
    print_row(["keywords", *map(spell, figures_of(keywords, seeds).T)])
    for size in SIZES:
        codes = semantic_codes.fit(learnt, "s0", LEVELS, size)
        words: dict[str, list[str]] = {}
        for post_id, numbers in zip(ids, codes.assign(vectors).tolist(), strict=True):
            words.setdefault(post_id, []).extend(codes.words(numbers))
        coded = Problem(spell_out(parts, words), gold).keep(kept)
        both = {part: csr_matrix(hstack([keywords.features[part], coded.features[part]])) for part in PARTS}
        print_row([f"codes {LEVELS} x {size}", *map(spell, figures_of(coded, seeds).T)])
        print_row([f"keywords and codes {LEVELS} x {size}", *map(spell, figures_of(Problem(both, keywords.gold), seeds).T)])


def spell_out(parts: dict[str, pa.Table], words: dict[str, list[str]]) -> dict[str, csr_matrix]:
    """Return the words of posts that at least two posts of train have, as features."""
    counts = Counter(word for post_id in parts["train"]["post_id"].to_pylist() for word in set(words.get(post_id, ())))
    numbers = {word: number for number, word in enumerate(sorted(word for word, count in counts.items() if count > 1))}
    found = {}
    for part, table in parts.items():
        pairs = {
            (row, numbers[word])
            for row, post_id in enumerate(table["post_id"].to_pylist())
            for word in words.get(post_id, ())
            if word in numbers
        }
        rows, columns = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
        found[part] = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(table), len(numbers)))
    return found


def hide(table: pa.Table) -> pa.Table:
    """Return posts that do not say their channel."""
    return table.set_column(table.column_names.index("channel"), "channel", pa.array([""] * len(table)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("taxonomy", type=Path)
    parser.add_argument("tweets", type=Path, nargs="?")
    parser.add_argument("--wordings", type=Path, help="what the pictures of POSTS say: `weibotag wordings`")
    parser.add_argument("--vectors", type=Path, help="vectors of the pictures of POSTS: `weibotag embed`")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    print(f"{date.today()}, {platform.machine()}, {cores} cores, Python {platform.python_version()}, {options.seeds} seeds")
    posts, taxonomy = read_table(options.posts), load(options.taxonomy)
    if options.wordings is not None:
        said = pq.read_table(options.wordings)
        places = pc.index_in(posts["post_id"].combine_chunks(), said["post_id"].combine_chunks())
        posts = posts.append_column("wordings", pc.fill_null(said["wordings"].take(places).combine_chunks(), []))
    parts = split_posts(hide(posts))
    print_curve("Posts", parts, taxonomy, options.seeds)
    print_curve("Posts, channels known", split_posts(posts), taxonomy, options.seeds)
    if options.tweets is not None:
        tweets = add_given(read_table(options.tweets), WORDS)
        print_curve("Tweets", split_posts(tweets), flat_taxonomy(tweets), options.seeds)
    if options.vectors is not None:
        batches = list(semantic_codes.read_vectors(options.vectors))
        ids, vectors = [post_id for some, _ in batches for post_id in some], np.concatenate([some for _, some in batches])
        print_codes(parts, taxonomy, ids, vectors, options.seeds)
        print_stability(vectors, options.seeds)


def spell(values: Iterable[float]) -> str:
    """Return a mean with its standard deviation."""
    found = np.array(list(values))
    return f"{found.mean():.3f} ± {found.std():.3f}"


def print_row(cells: Iterable[str]) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
