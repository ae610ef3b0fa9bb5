"""A sparse linear scorer for very many tags: linear SVMs along the tag tree, of which a post takes the likely branches."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.core.arrays import are_offsets, rank_in_runs
from weibotag.core.own_files import Origin, read_tensors, write_tensors
from weibotag.features.dense_blocks import NOTHING, DenseWeights
from weibotag.features.hashed_ngrams import check_features, number, read_counts
from weibotag.scoring.closure import FLOOR
from weibotag.taggers.linear import STEEPNESS
from weibotag.taxonomy.tree import Taxonomy

XMC = "xmc.safetensors"
ORIGIN = Origin("an xmc model for the tags of the taxonomy beside it", "train again")
TENSORS = {
    "known": ("uint32", "known"),
    "squares": ("float32", "known"),
    "above": ("int32", "nodes"),
    "ends": ("int64", "forks+1"),
    "features": ("int32|int64|uint32", "features"),
    "indptr": ("int64", "features+1"),
    "indices": ("uint16", "weights"),
    "data": ("float32", "weights"),
    "offsets": ("float32", "nodes"),
}
# Levels of a taxonomy with their groups; a post walks down all of them.
MOST_LEVELS = 300
# Branches that a post walks on at once, and tags of it that are kept from each step.
BRANCHES = 10
KEPT = 20


@dataclass(frozen=True)
class TreeModel:
    """A tree whose first nodes are the tags, the others groups of siblings that were too many, and its linear models.

    `above` (nodes,) int32 is the node above each, -1 for the root; a tag stands below its parent or a group of it.
    A fork is a node with nodes below it, in the order of the nodes, the root first. Its models are one csr_matrix (its
    features x nodes below), stored after those of the fork before: `ends` (forks + 1,) counts features, `features` are
    their numbers; `indptr`, `indices` (uint16), `data` (float32) are of all forks. `offsets` (nodes,) float32.
    """

    above: np.ndarray
    ends: np.ndarray
    features: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    offsets: np.ndarray

    def check(self, tags: int, known: int, path: Path) -> None:
        """Raise OwnFileError unless all nodes of a file hang on the root and all numbers in it point inside."""
        nodes, ends, above = len(self.above), self.ends, self.above.astype(np.int64)
        inside = nodes >= tags and nodes > 0 and above.min() >= -1 and above.max() < nodes
        ORIGIN.need(path, inside, f"found {nodes:,} nodes, or one above them that is none")
        left = above
        for _ in range(MOST_LEVELS):
            if (left < 0).all():
                break
            left = np.where(left >= 0, above[left], -1)
        ORIGIN.need(path, (left < 0).all(), f"found nodes in a ring, or more than {MOST_LEVELS} levels")
        sizes = np.array([len(below) for below in self.below])
        whole = len(ends) == len(sizes) + 1 and are_offsets(ends, len(self.features))
        ORIGIN.need(path, whole and are_offsets(self.indptr, len(self.data)), "found forks without an end")
        widths = np.repeat(np.repeat(sizes, np.diff(ends)), np.diff(self.indptr))
        fit = (self.indices < widths).all() and (
            not len(self.features) or 0 <= self.features.min() <= self.features.max() < known
        )
        ORIGIN.need(path, fit, "found numbers of nodes or features that there are not")

    @cached_property
    def below(self) -> list[np.ndarray]:
        """Return the nodes below each fork, ascending."""
        return list_below(self.above)[1]

    @cached_property
    def fork_of(self) -> np.ndarray:
        """Return the fork that each node is, -1 for a leaf; the last entry is the root's, so that -1 finds it."""
        found = np.full(len(self.above) + 1, -1)
        inner = list_below(self.above)[0]
        found[inner] = np.arange(len(inner))
        return found

    def models(self, fork: int) -> tuple[np.ndarray, csr_matrix]:
        """Return a fork's features and its models."""
        low, high = self.ends[fork], self.ends[fork + 1]
        indptr = self.indptr[low : high + 1]
        start, end = indptr[0], indptr[-1]
        shape = (int(high - low), len(self.below[fork]))
        weights = csr_matrix((self.data[start:end], self.indices[start:end].astype(np.int32), indptr - start), shape=shape)
        return self.features[low:high], weights


def list_below(above: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the nodes that have others below them, ascending from the root (-1), and those below each, ascending."""
    order = np.argsort(above, kind="stable")
    inner, starts = np.unique(above[order], return_index=True)
    return inner, np.split(order, starts[1:])


class XmcScorer:
    """Linear models at the forks of the tag tree: a tag's score is the sigmoid of its margin times the score above it.

    `features` are the hashed features that it knows, ascending (uint32), `squares` (float32) the squares of their inverse
    document frequencies, which are in the weights too. At each step a post walks on to the `BRANCHES` likeliest nodes alone,
    so its price does not grow with the tags (Prabhu et al., Parabel, 2018); the tags of a level are those below likely
    tags of the level above. `dense` are the weights, for the nodes, of the vectors' numbers, where vectors are read, too.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        features: np.ndarray,
        squares: np.ndarray,
        tree: TreeModel,
        dense: DenseWeights | None = None,
    ) -> None:
        self.taxonomy, self.features, self.squares, self.tree = taxonomy, features, squares, tree
        self.dense, self.blocks = dense, dense.blocks if dense else NOTHING
        self._places = number(features)
        self._local = np.full(len(features), -1, np.int32)

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return scores of posts: float32 csr_matrix (posts x tags), those above 0.01, few of each; see `Scorer`.

        Thousands of posts at once are cheaper than one by one.
        """
        numbers = None if self.dense is None else self.dense.blocks.read(table)
        return self._descend(read_counts(table, self._places, len(self.features)), numbers)

    def _descend(self, counts: csr_matrix, numbers: np.ndarray | None) -> csr_matrix:
        posts = np.arange(counts.shape[0])
        lengths = np.sqrt(counts @ self.squares)
        counts.data = np.repeat(1 / np.maximum(lengths, 1e-6), np.diff(counts.indptr)).astype(np.float32)
        nodes, scores = np.full(len(posts), -1), np.ones(len(posts), np.float32)
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        while len(posts):
            posts, nodes, scores = self._step(counts, numbers, posts, nodes, scores)
            mask = nodes < len(self.taxonomy)
            found.append(_best(KEPT, posts[mask], nodes[mask], scores[mask]))
            mask = self.tree.fork_of[nodes] >= 0
            posts, nodes, scores = _best(BRANCHES, posts[mask], nodes[mask], scores[mask])
        rows, tags, data = (np.concatenate(part) for part in zip(*found, strict=True)) if found else (posts, nodes, scores)
        return csr_matrix((data, (rows, tags)), shape=(counts.shape[0], len(self.taxonomy)), dtype=np.float32)

    def _step(
        self, counts: csr_matrix, numbers: np.ndarray | None, posts: np.ndarray, nodes: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the likely nodes below those that posts stand at: posts, nodes, scores."""
        order = np.argsort(nodes, kind="stable")
        starts = np.flatnonzero(np.diff(nodes[order], prepend=-2))
        parts = []
        for own in np.split(order, starts[1:]):
            node = nodes[own[0]]
            below, margins = self._margins(int(self.tree.fork_of[node]), counts[posts[own]])
            if self.dense is not None and numbers is not None:
                margins += numbers[posts[own]] @ self.dense.weights[:, below]
            values = scores[own, None] / (1 + np.exp(-STEEPNESS * margins))
            least = np.full(len(own), FLOOR, np.float32)
            if len(below) > KEPT:
                least = np.maximum(least, np.partition(values, -KEPT, axis=1)[:, -KEPT])
            rows, columns = np.nonzero(values >= least[:, None])
            parts.append((posts[own[rows]], below[columns], values[rows, columns]))
        below_posts, below_nodes, below_scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return below_posts, below_nodes, below_scores

    def _margins(self, fork: int, counts: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return the nodes below a fork and their margins (posts x nodes), float32."""
        features, weights = self.tree.models(fork)
        self._local[features] = np.arange(len(features), dtype=np.int32)
        columns = self._local[counts.indices]
        self._local[features] = -1
        known = columns >= 0
        indptr = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
        own = csr_matrix((counts.data[known], columns[known], indptr), shape=(counts.shape[0], len(features)))
        below = self.tree.below[fork]
        return below, (own @ weights).toarray() + self.tree.offsets[below]

    def save(self, folder: Path) -> None:
        """Write xmc.safetensors."""
        tree = {field.name: getattr(self.tree, field.name) for field in fields(TreeModel)}
        write_tensors(folder / XMC, {"known": self.features, "squares": self.squares, **tree})
        if self.dense is not None:
            self.dense.save(folder)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> "XmcScorer":
        """Read what `save` wrote; raises OwnFileError when the file is none, or of another taxonomy."""
        arrays = read_tensors(folder / XMC, TENSORS, ORIGIN)
        known, squares = arrays.pop("known"), arrays.pop("squares")
        tree = TreeModel(**arrays)
        check_features(known, folder / XMC, ORIGIN)
        ORIGIN.need(folder / XMC, (squares >= 0).all(), "found squares below 0")
        tree.check(len(taxonomy), len(known), folder / XMC)
        return cls(taxonomy, known, squares, tree, DenseWeights.load(folder, len(tree.above)))


def _best(most: int, posts: np.ndarray, nodes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the `most` best-scored nodes of each post."""

    order = np.lexsort((nodes, -scores, posts))
    order = order[rank_in_runs(posts[order]) < most]
    return posts[order], nodes[order], scores[order]
