"""Which tags are alike: vectors of posts, tags near each other, and whether any classifier could tell two of them apart."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack
from scipy.special import ndtri
from scipy.stats import norm
from scipy.stats import t as student

from weibotag.features.hashed_ngrams import BITS, FEWEST_POSTS, ROWS, hash_features

# A tag with fewer posts is not compared; of more posts than this every so many-th is looked at.
FEWEST, MOST = 10, 200
# Fewer posts teach a classifier nothing.
FEWEST_TO_LEARN = 30
# Tags next to a tag that it is compared with, and features that say what a tag is about.
NEIGHBOURS, MOST_FEATURES = 5, 200
# Tags whose nearness to all others is in memory at once.
BLOCK = 200
# How much of two tags' posts may carry both, if the tags are to be one that was split.
TOGETHER = 0.1
# The share of near pairs that are the same before anything is known, and where the name of one is in that of the other.
PRIOR, PRIOR_NAMED = 0.05, 0.5
# How much all pairs say of the usual distance of two tags, where each of their other pairs says 1.
OVERALL = 0.5
PARTS = 3


@dataclass(frozen=True)
class Pairs:
    """Pairs of tags (int64, first < second), and for each the area under the curve of a classifier that parts them, its
    and the probability that both are the same (float64)."""

    first: np.ndarray
    second: np.ndarray
    area: np.ndarray
    same: np.ndarray


def vectorise(posts: pa.Table) -> csr_matrix:
    """Return unit TF-IDF vectors (posts x features, float32 csr_matrix) of what the linear tagger reads of posts."""
    blocks = []
    for start in range(0, len(posts), ROWS):
        part = posts.slice(start, ROWS)
        rows, columns = hash_features(part)
        block = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(part), 1 << BITS))
        block.data[:] = 1
        blocks.append(block)
    vectors = csr_matrix(vstack(blocks))
    counts = np.bincount(vectors.indices, minlength=1 << BITS)
    kept = np.flatnonzero(counts >= FEWEST_POSTS)
    vectors = vectors[:, kept]
    weights = (1 + np.log((1 + len(posts)) / (1 + counts[kept]))).astype(np.float32)
    vectors.data = weights[vectors.indices]
    lengths = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
    vectors.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(vectors.indptr)).astype(np.float32)
    return vectors


def can_learn(vectors: csr_matrix) -> bool:
    """Return whether there are posts and features enough for a classifier."""
    return vectors.shape[0] >= FEWEST_TO_LEARN and vectors.shape[1] > 0


def find_near(vectors: csr_matrix, gold: csr_matrix, tags: np.ndarray, related: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (first < second) of `tags` that are among each other's nearest by the features that say most of them.

    `related` (tags x tags, bool) has the pairs that are left out: a tag and what stands above it.
    """
    centroids = csr_matrix(gold[:, tags].T @ vectors)
    # What is as frequent in all posts says nothing of a tag.
    mean = np.asarray(vectors.mean(axis=0)).ravel()
    sizes = np.repeat(np.asarray(gold[:, tags].sum(axis=0)).ravel(), np.diff(centroids.indptr))
    centroids.data = np.maximum(centroids.data / sizes - mean[centroids.indices], 0)
    centroids = keep_highest(centroids, MOST_FEATURES)
    lengths = np.sqrt(np.asarray(centroids.multiply(centroids).sum(axis=1)).ravel())
    centroids.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(centroids.indptr))
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(tags), BLOCK):
        block = tags[start : start + BLOCK]
        near = (centroids[start : start + BLOCK] @ centroids.T).toarray()
        near[related[block][:, tags].toarray() | related.T.tocsr()[block][:, tags].toarray()] = -1
        best = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
        for row, tag in enumerate(block.tolist()):
            found = [int(tags[at]) for at in best[row] if near[row, at] > 0]
            pairs.update((min(tag, other), max(tag, other)) for other in found)
    ordered = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return ordered[:, 0], ordered[:, 1]


def keep_highest(matrix: csr_matrix, most: int) -> csr_matrix:
    """Return the `most` highest values of each row."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, rows))
    kept = order[np.arange(len(order)) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr)) < most]
    return csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)


def measure_area(vectors: csr_matrix, first: np.ndarray, second: np.ndarray) -> float:
    """Return the area under the curve of a classifier that parts two sets of posts (rows), out of fold."""
    from sklearn.metrics import roc_auc_score
    from sklearn.svm import LinearSVC

    rows = np.concatenate([first, second])
    own = vectors[rows]
    own = own[:, np.unique(own.indices)]
    is_second = np.arange(len(rows)) >= len(first)
    part = np.concatenate([np.arange(len(first)), np.arange(len(second))]) % PARTS
    areas = []
    for held in range(PARTS):
        machine = LinearSVC(dual=True, tol=0.1, class_weight="balanced", random_state=0)
        machine.fit(own[part != held], is_second[part != held])
        areas.append(roc_auc_score(is_second[part == held], machine.decision_function(own[part == held])))
    return float(np.mean(areas))


def compare_pairs(vectors: csr_matrix, gold: csr_matrix, first: np.ndarray, second: np.ndarray, prior: np.ndarray) -> Pairs:
    """Return how far apart the pairs of tags are; those with too few posts of their own, or many in common, are left out.

    Two groups of pairs are told apart (Efron 2008): those of one tag that was split lie about 0, by no more than the error;
    all others about the distance that these two tags have from their other neighbours. So two tags that nothing is
    known to tell apart, as are all of their neighbours, are not taken for the same.
    """
    by_tag = gold.tocsc()
    members = np.split(by_tag.indices, by_tag.indptr[1:-1])
    areas, errors = np.full(len(first), np.nan), np.full(len(first), np.nan)
    for at, (one, other) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        alone = [np.setdiff1d(members[one], members[other]), np.setdiff1d(members[other], members[one])]
        few = min(len(members[one]), len(members[other]))
        if len(np.intersect1d(members[one], members[other])) > TOGETHER * few or min(map(len, alone)) < FEWEST:
            continue
        alone = [rows[np.linspace(0, len(rows), min(len(rows), MOST), endpoint=False).astype(int)] for rows in alone]
        sizes = [len(rows) for rows in alone]
        areas[at] = measure_area(vectors, alone[0], alone[1])
        errors[at] = np.sqrt((sum(sizes) + 1) / (12 * sizes[0] * sizes[1]))
    known = ~np.isnan(areas)
    first, second, areas = first[known], second[known], areas[known]
    # The slope of d' = sqrt(2) * probit(area) at one half.
    errors = errors[known] * np.sqrt(4 * np.pi)
    distances = np.sqrt(2) * ndtri(np.clip(areas, 0.02, 0.98))
    return Pairs(first, second, areas, tell_same(first, second, distances, errors, prior[known]))


def tell_same(
    first: np.ndarray, second: np.ndarray, distances: np.ndarray, errors: np.ndarray, prior: np.ndarray
) -> np.ndarray:
    """Return the probability that the tags of each pair are the same; `prior` is what it was before."""
    total = int(max(first.max(initial=0), second.max(initial=0))) + 1
    overall = float(np.median(distances)) if len(distances) else 0.0
    sums = np.bincount(first, distances, total) + np.bincount(second, distances, total)
    counts = np.bincount(first, minlength=total) + np.bincount(second, minlength=total)
    # The other pairs of both tags, and a little of all pairs.
    others = counts[first] + counts[second] - 2
    usual = (sums[first] + sums[second] - 2 * distances + OVERALL * overall) / (others + OVERALL)
    typical = max(0.1, float(np.median(np.abs(distances - usual))) * 1.4826) if len(distances) else 1.0
    spread = np.sqrt(typical**2 + errors**2)
    # Student's t, because some tags are far more alike than others and yet not the same.
    different = student.pdf((distances - usual) / spread, 4) / spread
    alike = norm.pdf(distances / errors) / errors
    return prior * alike / np.maximum(prior * alike + (1 - prior) * different, 1e-300)


def part_in_two(vectors: csr_matrix, seed: int = 0) -> tuple[np.ndarray, float, float]:
    """Return a bool per row of the vectors (which group), how stable the groups are (0 to 1), how alike (about 0 to 1).

    Groups are by 2-means in the space of the ten strongest directions, stable when those of each half of the posts part all
    posts the same way. Alike is the mean similarity across over that within.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from sklearn.utils.extmath import randomized_svd

    own = vectors[:, np.unique(vectors.indices)]
    left, values, _ = randomized_svd(own, min(10, *own.shape), random_state=seed)
    directions = left * values
    directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-9)
    halves = np.array_split(np.random.default_rng(seed).permutation(len(directions)), 2)
    if min(len(np.unique(directions[half].round(4), axis=0)) for half in halves) < 2:
        return np.zeros(len(directions), bool), 0.0, 1.0
    found = [KMeans(2, n_init=4, random_state=seed).fit(directions[half]).predict(directions) for half in halves]
    group = KMeans(2, n_init=4, random_state=seed).fit_predict(directions).astype(bool)
    return group, float(adjusted_rand_score(*found)), measure_likeness(own[group], own[~group])


def measure_likeness(first: csr_matrix, second: csr_matrix) -> float:
    """Return the mean similarity of posts of two sets (unit vectors) over the geometric mean of that within each."""
    sums = [np.asarray(part.sum(axis=0)).ravel() for part in (first, second)]
    sizes = [part.shape[0] for part in (first, second)]
    within = [
        max(float(total @ total) - size, 1e-9) / max(size * (size - 1), 1) for total, size in zip(sums, sizes, strict=True)
    ]
    return float(sums[0] @ sums[1]) / (sizes[0] * sizes[1]) / float(np.sqrt(within[0] * within[1]))
