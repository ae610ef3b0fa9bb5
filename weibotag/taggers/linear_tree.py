"""A sparse linear tagger for very many tags: linear SVMs along the tag tree, of which a post walks the likely branches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import rank_in_runs
from weibotag.core.errors import ModelError
from weibotag.features.hashed_ngrams import BITS, ROWS, collect, hash_features
from weibotag.scoring.blend import FLOOR, join_scores
from weibotag.scoring.calibration import Calibration
from weibotag.scoring.tagger import raise_parents
from weibotag.taggers.fasttext import FastTagger
from weibotag.taggers.linear import STEEPNESS
from weibotag.taxonomy.tree import Taxonomy

XMC, DECISIONS = "xmc.safetensors", "decisions.safetensors"
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


class XmcTagger:
    """Linear models at the forks of the tag tree: a tag's score is the sigmoid of its margin times the score above it.

    `features` are the hashed features that it knows, ascending (uint32), `squares` (float32) the squares of their inverse
    document frequencies, which are in the weights too. At each step a post walks on to the `BRANCHES` likeliest nodes alone,
    so its price does not grow with the tags (Prabhu et al., Parabel, 2018); the tags of a level are those below likely
    tags of the level above.
    """

    def __init__(self, taxonomy: Taxonomy, features: np.ndarray, squares: np.ndarray, forks: TreeModel) -> None:
        if len(forks.above) < len(taxonomy):
            raise ModelError("the xmc model knows another number of tags than the taxonomy beside it: train again")
        self.taxonomy, self.features, self.squares, self.forks = taxonomy, features, squares, forks
        self._places = number(features)
        self._local = np.full(len(features), -1, np.int32)

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return scores before calibration: float32 csr_matrix (posts x tags), those above 0.01, few of each post.

        `table` has text, author, channel and, where pictures were looked at, wordings. Thousands of posts at once are
        cheaper than one by one.
        """
        return self._walk(read_counts(table, self._places, len(self.features)))

    def _walk(self, counts: csr_matrix) -> csr_matrix:
        posts = np.arange(counts.shape[0])
        lengths = np.sqrt(counts @ self.squares)
        counts.data = np.repeat(1 / np.maximum(lengths, 1e-6), np.diff(counts.indptr)).astype(np.float32)
        nodes, scores = np.full(len(posts), -1), np.ones(len(posts), np.float32)
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        while len(posts):
            posts, nodes, scores = self._step(counts, posts, nodes, scores)
            mask = nodes < len(self.taxonomy)
            found.append(_best(KEPT, posts[mask], nodes[mask], scores[mask]))
            mask = self.forks.fork_of[nodes] >= 0
            posts, nodes, scores = _best(BRANCHES, posts[mask], nodes[mask], scores[mask])
        rows, tags, data = (np.concatenate(part) for part in zip(*found, strict=True)) if found else (posts, nodes, scores)
        return csr_matrix((data, (rows, tags)), shape=(counts.shape[0], len(self.taxonomy)), dtype=np.float32)

    def _step(
        self, counts: csr_matrix, posts: np.ndarray, nodes: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the likely nodes below those that posts stand at: posts, nodes, scores."""
        order = np.argsort(nodes, kind="stable")
        starts = np.flatnonzero(np.diff(nodes[order], prepend=-2))
        parts = []
        for own in np.split(order, starts[1:]):
            node = nodes[own[0]]
            below, margins = self._margins(int(self.forks.fork_of[node]), counts[posts[own]])
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
        features, weights = self.forks.models(fork)
        self._local[features] = np.arange(len(features), dtype=np.int32)
        columns = self._local[counts.indices]
        self._local[features] = -1
        known = columns >= 0
        indptr = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
        own = csr_matrix((counts.data[known], columns[known], indptr), shape=(counts.shape[0], len(features)))
        below = self.forks.below[fork]
        return below, (own @ weights).toarray() + self.forks.offsets[below]

    def save(self, path: Path) -> None:
        """Write all of it to one file."""
        from safetensors.numpy import save_file

        save_file({"known": self.features, "squares": self.squares, **vars_of(self.forks)}, path)

    @classmethod
    def load(cls, path: Path, taxonomy: Taxonomy) -> "XmcTagger":
        """Read what `save` wrote; raises ModelError when the file is none, or of another taxonomy."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            parts = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: not an xmc model ({error}): train again") from error
        known, squares = parts.pop("known"), parts.pop("squares")
        return cls(taxonomy, known, squares, TreeModel(**parts))


def vars_of(forks: TreeModel) -> dict[str, np.ndarray]:
    """Return the arrays of a tree by name."""
    return {name: np.ascontiguousarray(getattr(forks, name)) for name in TreeModel.__dataclass_fields__}


def number(features: np.ndarray) -> np.ndarray:
    """Return each hashed feature's place among those known, int32; -1 for a strange one."""
    places = np.full(1 << BITS, -1, np.int32)
    places[features] = np.arange(len(features), dtype=np.int32)
    return places


def read_counts(table: pa.Table, places: np.ndarray, features: int) -> csr_matrix:
    """Return which features posts have: ones, float32 csr_matrix (posts x features); `places` number hashed features."""
    blocks = [csr_matrix((0, features), dtype=np.float32)]
    for start in range(0, len(table), ROWS):
        part = table.slice(start, ROWS)
        rows, hashed = hash_features(part)
        columns = places[hashed]
        known = columns >= 0
        blocks.append(collect(rows[known], columns[known], (len(part), features)))
    return csr_matrix(vstack(blocks))


def _best(most: int, posts: np.ndarray, nodes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the `most` best-scored nodes of each post."""

    order = np.lexsort((nodes, -scores, posts))
    order = order[rank_in_runs(posts[order]) < most]
    return posts[order], nodes[order], scores[order]


class JointTagger:
    """What answers by the routes xmc and average: the mean of its `parts`, calibrated, and `thresholds` (tags,) float32."""

    def __init__(
        self, taxonomy: Taxonomy, parts: Sequence[FastTagger | XmcTagger], calibration: Calibration, thresholds: np.ndarray
    ) -> None:
        self.taxonomy, self.parts, self.calibration, self.thresholds = taxonomy, tuple(parts), calibration, thresholds

    def scores(self, table: pa.Table) -> csr_matrix:
        """Return probabilities, float32 csr_matrix (posts x tags), a child's never above its parent's."""
        return self.settle(join_scores([part.raw_scores(table) for part in self.parts]))

    def settle(self, raw: csr_matrix) -> csr_matrix:
        """Return raw scores calibrated and closed over parents."""
        return raise_parents(self.calibration.apply(raw), self.taxonomy)

    def save(self, folder: Path) -> None:
        """Write decisions and the xmc tagger to a folder, which must exist; a fast part is the model's own."""
        from safetensors.numpy import save_file

        decisions = {"slope": self.calibration.slope, "offset": self.calibration.offset, "thresholds": self.thresholds}
        save_file(decisions, folder / DECISIONS)
        for part in self.parts:
            if isinstance(part, XmcTagger):
                part.save(folder / XMC)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy, others: Sequence[FastTagger] = ()) -> "JointTagger":
        """Read what `save` wrote; `others` are the parts beside the xmc tagger."""
        from safetensors.numpy import load_file

        decisions = load_file(folder / DECISIONS)
        parts: list[FastTagger | XmcTagger] = [*others, XmcTagger.load(folder / XMC, taxonomy)]
        return cls(taxonomy, parts, Calibration(decisions["slope"], decisions["offset"]), decisions["thresholds"])
