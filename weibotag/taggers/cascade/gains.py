"""What a further step brings a post: learnt on held-out rows from how sure the answer so far is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.arrays import list_parts, rows_of
from weibotag.scoring.closure import mark_right
from weibotag.taxonomy.tree import Taxonomy

TREES, DEPTH, FEWEST_OF_LEAF = 40, 6, 5
# Of the tags of the first level, those whose scores tell what a picture would bring.
MOST_ROOTS = 32


def benefit(chosen: csr_matrix, gold: csr_matrix, worth: float) -> np.ndarray:
    """Return what an answer is worth per post, float64 (posts,): 2 TP - worth * tags given.

    With `worth` the micro-F1 that is reached, the answer with the larger sum has the larger micro-F1 (Dinkelbach, 1967,
    on nonlinear fractional programming): a measure over all posts falls apart into a sum over posts.
    """
    rows = rows_of(chosen.indptr)
    return np.bincount(rows, 2.0 * mark_right(chosen, gold) - worth, minlength=chosen.shape[0])


def expect_benefit(chosen: csr_matrix, worth: float) -> np.ndarray:
    """Return what an answer is worth per post as its own probabilities have it: sum of 2 p - worth over the tags given."""
    return np.asarray((2 * chosen).sum(axis=1)).ravel() - worth * np.diff(chosen.indptr)


def describe(
    scores: csr_matrix, chosen: csr_matrix, table: pa.Table, worth: float, taxonomy: Taxonomy, kinds: Sequence[str]
) -> np.ndarray:
    """Return what an answer and its post look like, float32 (posts, features): how sure, how much, wordings of `kinds`."""
    posts = len(table)
    rows = rows_of(scores.indptr)
    roots = np.flatnonzero(taxonomy.parents < 0)[:MOST_ROOTS]
    taken = np.asarray(chosen.sum(axis=1)).ravel()
    total = np.bincount(rows, scores.data, minlength=posts)
    columns = [
        expect_benefit(chosen, worth),
        np.diff(chosen.indptr),
        total - taken,
        np.bincount(rows, scores.data * (1 - scores.data), minlength=posts),
        _highest(scores.data, rows, posts),
        _highest(scores.data * taxonomy.is_leaf[scores.indices], rows, posts),
        np.log1p(_numbers(pc.utf8_length(pc.fill_null(table["text"], "")))),
        *(_numbers(pc.fill_null(pc.list_value_length(table[name]), 0)) for name in ("images", "videos")),
        *(_numbers(pc.not_equal(pc.fill_null(table[name], ""), "")) for name in ("author", "channel")),
        *_count_kinds(table, kinds),
        *scores[:, roots].toarray().T,
    ]
    return np.stack([np.asarray(column, np.float32) for column in columns], axis=1)


def count_features(taxonomy: Taxonomy, kinds: Sequence[str], stages: int) -> int:
    """Return how many features `describe` gives, with one for each stage."""
    return 11 + len(kinds) + min(MOST_ROOTS, int((taxonomy.parents < 0).sum())) + stages


def _numbers(column: Any) -> np.ndarray:
    return np.asarray(pc.cast(column, pa.float32()).to_numpy())


def _highest(data: np.ndarray, rows: np.ndarray, posts: int) -> np.ndarray:
    found = np.zeros(posts, np.float32)
    np.maximum.at(found, rows, data)
    return found


def _count_kinds(table: pa.Table, kinds: Sequence[str]) -> list[np.ndarray]:
    """Return how many wordings of each kind posts have."""
    if "wordings" not in table.column_names:
        return [np.zeros(len(table))] * len(kinds)
    offsets, values = list_parts(table["wordings"].combine_chunks())
    rows = rows_of(offsets)
    own = pc.index_in(values.field("kind"), pa.array(kinds, pa.string())).fill_null(-1).to_numpy(zero_copy_only=False)
    return [np.log1p(np.bincount(rows[own == number], minlength=len(table))) for number in range(len(kinds))]


# Of a forest in a file, each with a name of its own before `trees` and `nodes`.
FOREST = {
    "roots": ("int32", "trees"),
    "feature": ("int32", "nodes"),
    "threshold": ("float64", "nodes"),
    "left": ("int32", "nodes"),
    "right": ("int32", "nodes"),
    "value": ("float32", "nodes"),
}


@dataclass(frozen=True)
class Forest:
    """Regression trees in one row of nodes: `feature`, `left` and `right` int32, `threshold` float64, `value` float32, each
    (nodes,); a leaf is its own child. `roots` int32 (trees,) are the numbers of the first nodes.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    @classmethod
    def fit(cls, rows: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> "Forest":
        """Learn from rows (n, features) and targets (n,); `groups` names each row's post; a leaf needs five."""
        from sklearn.ensemble import RandomForestRegressor

        each = max(1, round(len(rows) / max(1, len(np.unique(groups)))))
        if len(rows) < 2 * FEWEST_OF_LEAF * each:
            mean = float(targets.mean()) if len(targets) else 0.0
            node = np.zeros(1, np.int32)
            return cls(node, node, node.astype(np.float64), node, node, np.full(1, mean, np.float32))
        model = RandomForestRegressor(
            TREES, max_depth=DEPTH, min_samples_leaf=FEWEST_OF_LEAF * each, max_features=0.5, random_state=0
        ).fit(rows, targets)
        trees = [one.tree_ for one in model.estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
        feature = np.concatenate([tree.feature for tree in trees])
        shift = np.repeat(roots, [tree.node_count for tree in trees])
        own = np.arange(len(feature))
        left, right = (
            np.where(feature < 0, own, np.concatenate(some) + shift).astype(np.int32)
            for some in ([tree.children_left for tree in trees], [tree.children_right for tree in trees])
        )
        values = np.concatenate([tree.value.ravel() for tree in trees]).astype(np.float32)
        thresholds = np.concatenate([tree.threshold for tree in trees])
        return cls(roots.astype(np.int32), np.maximum(feature, 0).astype(np.int32), thresholds, left, right, values)

    def fits(self, features: int) -> bool:
        """Tell whether the trees of a file point at each other, and at so many features."""
        nodes = len(self.value)
        numbers = ((self.roots, nodes), (self.left, nodes), (self.right, nodes), (self.feature, features))
        return len(self.roots) > 0 and all(((own >= 0) & (own < most)).all() for own, most in numbers)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the mean of the trees for rows (n, features), float32 (n,)."""
        here = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
        every = np.arange(len(rows))[:, None]
        for _ in range(DEPTH):
            here = np.where(rows[every, self.feature[here]] <= self.threshold[here], self.left[here], self.right[here])
        return np.asarray(self.value[here].mean(axis=1, dtype=np.float32))
