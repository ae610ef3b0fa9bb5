"""Tags that hold two things: whether their posts fall into two groups that are stable and unlike each other."""

import numpy as np
from scipy.sparse import csr_matrix

from weibotag.curation.tags.labelled_posts import PostsByTag
from weibotag.curation.tags.proposals import Finding, Found
from weibotag.curation.tags.tag_similarity import MOST

# Groups that are so stable and unlike, with so many posts each, may be two tags.
APART, FEWEST_OF_GROUP = 0.5, 10


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
