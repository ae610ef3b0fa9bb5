"""Tags that mean the same (whether any classifier could tell two near ones apart), and tags that hold two things."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import ndtri
from scipy.stats import norm
from scipy.stats import t as student

from weibotag.core.arrays import keep_highest
from weibotag.core.text_matching import fold
from weibotag.curation.tags.labelled_posts import PostsByTag
from weibotag.curation.tags.proposals import LEAST_SURE, Finding, Found
from weibotag.taxonomy.tree import Taxonomy

# A tag with fewer posts is not compared; of more posts than this every so many-th is looked at.
FEWEST, MOST = 10, 200
# Tags next to a tag that it is compared with, and features that say what a tag is about.
NEIGHBOURS, MOST_FEATURES = 5, 200
# Tags whose nearness to all others is in memory at once.
BLOCK = 200
# How much of two tags' posts may carry both, if the tags are to be one that was split.
TOGETHER = 0.1
# The share of near pairs that are the same before anything is known, and where the name of one is in that of the other.
PRIOR, PRIOR_NAMED = 0.05, 0.5
# A name that more tags share, as 其他, says nothing.
MOST_NAMESAKES = 5
# How much all pairs say of the usual distance of two tags, where each of their other pairs says 1.
OVERALL = 0.5
PARTS = 3
# Groups that are so stable and unlike, with so many posts each, may be two tags.
APART, FEWEST_OF_GROUP = 0.5, 10


def find_near(vectors: csr_matrix, posts: PostsByTag) -> np.ndarray:
    """Return pairs of tags, int64 (n, 2), that are among each other's nearest by the features that say most of them.

    `vectors` are those of the posts. Tags of few posts, and pairs of which one stands above the other, are left out.
    """
    tags = np.flatnonzero(posts.sizes >= FEWEST)
    closure = posts.taxonomy.closure_matrix()
    related = csr_matrix(closure + closure.T)[tags][:, tags]
    centroids = csr_matrix(posts.gold[:, tags].T @ vectors)
    # What is as frequent in all posts says nothing of a tag.
    mean = np.asarray(vectors.mean(axis=0)).ravel()
    sizes = np.repeat(posts.sizes[tags].astype(np.float32), np.diff(centroids.indptr))
    centroids.data = np.maximum(centroids.data / sizes - mean[centroids.indices], 0)
    centroids = keep_highest(centroids, MOST_FEATURES)
    lengths = np.sqrt(np.asarray(centroids.multiply(centroids).sum(axis=1)).ravel())
    centroids.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(centroids.indptr))
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(tags), BLOCK):
        near = (centroids[start : start + BLOCK] @ centroids.T).toarray()
        near[related[start : start + BLOCK].toarray()] = -1
        best = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
        rows = np.repeat(np.arange(len(near)), best.shape[1])
        some = near[rows, best.ravel()] > 0
        found = np.sort(np.stack([tags[start + rows[some]], tags[best.ravel()[some]]], axis=1), axis=1)
        pairs.update((one, other) for one, other in found.tolist())
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def measure_area(vectors: csr_matrix, first: np.ndarray, second: np.ndarray) -> float:
    """Return the area under the curve of a classifier that parts two sets of posts (rows), out of fold."""
    from sklearn.metrics import roc_auc_score
    from sklearn.svm import LinearSVC

    own = vectors[np.concatenate([first, second])]
    own = own[:, np.unique(own.indices)]
    is_second = np.arange(own.shape[0]) >= len(first)
    part = np.concatenate([np.arange(len(first)), np.arange(len(second))]) % PARTS
    areas = []
    for held in range(PARTS):
        machine = LinearSVC(dual=True, tol=0.1, class_weight="balanced", random_state=0)
        machine.fit(own[part != held], is_second[part != held])
        areas.append(roc_auc_score(is_second[part == held], machine.decision_function(own[part == held])))
    return float(np.mean(areas))


def compare_pairs(
    vectors: csr_matrix, posts: PostsByTag, pairs: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of tags, the area under the curve of a classifier that parts each, and how likely both are the same.

    Pairs with too few posts of their own, or many in common, are left out.

    Two groups of pairs are told apart (Efron 2008): those of one tag that was split lie about 0, by no more than the error;
    all others about the distance that these two tags have from their other neighbours. So two tags that nothing is
    known to tell apart, as are all of their neighbours, are not taken for the same.
    """
    areas, errors = np.full((2, len(pairs)), np.nan)
    for at, (one, other) in enumerate(pairs.tolist()):
        both = posts.rows(one, other)
        alone = [np.setdiff1d(posts.rows(tag), both) for tag in (one, other)]
        if len(both) > TOGETHER * min(posts.sizes[one], posts.sizes[other]) or min(map(len, alone)) < FEWEST:
            continue
        alone = [rows[np.linspace(0, len(rows), min(len(rows), MOST), endpoint=False).astype(int)] for rows in alone]
        sizes = [len(rows) for rows in alone]
        areas[at] = measure_area(vectors, alone[0], alone[1])
        errors[at] = np.sqrt((sum(sizes) + 1) / (12 * sizes[0] * sizes[1]))
    known = ~np.isnan(areas)
    pairs, areas = pairs[known], areas[known]
    # The slope of d' = sqrt(2) * probit(area) at one half.
    errors = errors[known] * np.sqrt(4 * np.pi)
    distances = np.sqrt(2) * ndtri(np.clip(areas, 0.02, 0.98))
    return pairs, areas, judge_same(pairs, distances, errors, prior[known])


def judge_same(pairs: np.ndarray, distances: np.ndarray, errors: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return the probability that the tags of each pair are the same; `prior` is what it was before."""
    if not len(pairs):
        return np.empty(0)
    sums = np.bincount(pairs.ravel(), np.repeat(distances, 2))
    counts = np.bincount(pairs.ravel())
    # The other pairs of both tags, and a little of all pairs.
    others = counts[pairs].sum(axis=1) - 2
    usual = (sums[pairs].sum(axis=1) - 2 * distances + OVERALL * float(np.median(distances))) / (others + OVERALL)
    spread = np.sqrt(max(0.1, float(np.median(np.abs(distances - usual))) * 1.4826) ** 2 + errors**2)
    # Student's t, because some tags are far more alike than others and yet not the same.
    different = student.pdf((distances - usual) / spread, 4) / spread
    alike = norm.pdf(distances / errors) / errors
    return np.asarray(prior * alike / np.maximum(prior * alike + (1 - prior) * different, 1e-300))


def find_same(vectors: csr_matrix, posts: PostsByTag, near: np.ndarray) -> Iterator[Found]:
    """Give tags that mean the same as far as texts can tell, each with the larger one to merge it into.

    `near` are pairs of tags as of `find_near`; those that share a name are compared too.
    """
    taxonomy, sizes = posts.taxonomy, posts.sizes
    named = set(list_namesakes(taxonomy))
    pairs = np.array(sorted({*map(tuple, near.tolist()), *named}), np.int64).reshape(-1, 2)
    names = [fold(tag.name) for tag in taxonomy.tags]
    alike = {(one, two) for one, two in pairs.tolist() if names[one] in names[two] or names[two] in names[one]} | named
    prior = np.array([PRIOR_NAMED if (one, two) in alike else PRIOR for one, two in pairs.tolist()])
    pairs, areas, likely = compare_pairs(vectors, posts, pairs, prior)
    values = zip(likely.tolist(), areas.tolist(), strict=True)
    measured = {(one, two): found for (one, two), found in zip(pairs.tolist(), values, strict=True)}
    for pair in sorted({*measured, *named}):
        tag, other = sorted(pair, key=lambda tag: (sizes[tag], tag))
        same, area = measured.get(pair, (PRIOR_NAMED, None))
        together = len(posts.rows(tag, other))
        if same < LEAST_SURE or (area is None and together):
            continue
        reason = "they share a name" if pair in named else "posts of both say the same"
        reason += f"; a classifier parts them with AUC {area:.2f}" if area is not None else "; too few posts to compare"
        evidence = posts.examples(tag)[:3] + posts.examples(other)[:3]
        both, counts = (taxonomy.ids[tag], taxonomy.ids[other]), (int(sizes[tag]), int(sizes[other]), together)
        finding = Finding("synonym", *both, same, *counts, reason, evidence)
        yield finding
        yield finding.propose("alias" if pair in alike else "merge", same)


def list_namesakes(taxonomy: Taxonomy) -> Iterator[tuple[int, int]]:
    """Give pairs of tags (first < second), none above the other, that share a name or an alias."""
    owners: dict[str, list[int]] = defaultdict(list)
    for number, tag in enumerate(taxonomy.tags):
        for word in {fold(word) for word in (tag.name, *tag.aliases)}:
            owners[word].append(number)
    for numbers in owners.values():
        for first, second in combinations(numbers, 2) if len(numbers) <= MOST_NAMESAKES else ():
            if first not in taxonomy.ancestors(second) and second not in taxonomy.ancestors(first):
                yield first, second


def find_halves(vectors: csr_matrix, posts: PostsByTag, near: np.ndarray) -> tuple[list[Found], dict[str, np.ndarray]]:
    """Return leaves that fall into two groups, less alike than leaves near each other are; by tag the rows of the smaller.

    `vectors` are those of the posts, `near` pairs of tags as of `find_near`.
    """
    taxonomy = posts.taxonomy
    found: list[Found] = []
    smaller: dict[str, np.ndarray] = {}
    leaves = near[taxonomy.is_leaf[near].all(axis=1)]
    some = leaves[:: len(leaves) // MOST + 1].tolist()
    sides = [[vectors[posts.rows(tag)[:MOST]] for tag in pair] for pair in some]
    usual = float(np.median([measure_likeness(*pair) for pair in sides])) if sides else 1.0
    for tag in np.flatnonzero(taxonomy.is_leaf & (posts.sizes >= 2 * FEWEST_OF_GROUP)).tolist():
        rows = posts.rows(tag)
        group, stable, alike = part_in_two(vectors[rows])
        group = group if 2 * group.sum() <= len(group) else ~group
        sure = stable * (1 - max(0.0, alike))
        if sure < APART or group.sum() < FEWEST_OF_GROUP or alike >= usual:
            continue
        smaller[taxonomy.ids[tag]] = rows[group]
        evidence = tuple(posts.ids[row] for row in (*rows[group][:3], *rows[~group][:3]))
        reason = (
            f"{group.sum()} of its posts are unlike the other {(~group).sum()}: likeness {alike:.2f}, stability {stable:.2f}"
        )
        finding = Finding("split", taxonomy.ids[tag], None, sure, len(rows), None, None, reason, evidence)
        found += [finding, finding.propose("split", sure, added=(f"{taxonomy.tags[tag].name}（2）",))]
    return found, smaller


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
    return float((sums[0] @ sums[1]) / (sizes[0] * sizes[1]) / np.sqrt(within[0] * within[1]))
