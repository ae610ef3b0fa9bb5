"""A sparse linear scorer: hashed words and characters, TF-IDF, and for each tag a linear SVM among its parent's posts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, hstack, vstack

from weibotag.core.errors import ModelError
from weibotag.core.own_files import INDEX, Origin, as_csr, read_tensors, write_tensors
from weibotag.features.dense_blocks import NOTHING, DenseBlocks, DenseWeights
from weibotag.features.hashed_ngrams import READ, ROWS, check_features, number, read_counts, vectorise
from weibotag.scoring.closure import FLOOR
from weibotag.taxonomy.tree import Taxonomy

LINEAR = "linear.safetensors"
ORIGIN = Origin("a linear model for the tags of the taxonomy beside it", "train again")
TENSORS = {
    "features": ("uint32", "features"),
    "squares": ("float32", "features"),
    "offsets": ("float32", "tags"),
    "data": ("float32", "weights"),
    "indices": (INDEX, "weights"),
    "indptr": (INDEX, "features+1"),
}
# The SVM has a weight of each feature for each tag; without those below this nine in ten are gone and no figure changes.
SMALL = 0.05
# A margin of 1, which is what the SVM asks for, is as good as certain: its sigmoid is 0.95.
STEEPNESS = 3.0
CERTAIN = 10.0
# What liblinear has for one post of one tag, and what it holds in memory.
PAIRS_A_SECOND = 100_000
MOST_POSTS = 200_000
# How many times as long it takes with vectors.
SLOWER = 4


class LinearScorer:
    """Weights of features for tags, and what it takes to turn their sums into scores.

    `features` are the hashed features that it knows, ascending (uint32); `squares` (float32) the squares of their inverse
    document frequencies; `weights` (features x tags, float32 csr_matrix, small ones left out) have these frequencies in
    them; `offsets` (tags,) float32. The margin of a tag in a post is that of a linear SVM, the score its sigmoid times the
    score of the parent, on whose posts alone it was trained: no child is above its parent. `dense` are the weights of the
    vectors' numbers, where vectors are read, too.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        features: np.ndarray,
        squares: np.ndarray,
        weights: csr_matrix,
        offsets: np.ndarray,
        dense: DenseWeights | None = None,
    ) -> None:
        self.dense, self.blocks = dense, dense.blocks if dense else NOTHING
        if weights.shape != (len(features), len(taxonomy)):
            raise ModelError("the linear model knows another number of tags than the taxonomy beside it: train again")
        self.taxonomy = taxonomy
        self.features, self.squares, self.weights, self.offsets = features, squares, weights, offsets
        self._places = number(features)
        depth = taxonomy.depth
        self._levels = [np.flatnonzero(depth == level) for level in range(2, int(depth.max(initial=1)) + 1)]

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return scores of posts: float32 csr_matrix (posts x tags), those above 0.01; for `table` see `Scorer`."""
        blocks = [self._score(table.slice(start, ROWS)) for start in range(0, len(table), ROWS)]
        return csr_matrix(vstack(blocks)) if blocks else csr_matrix((0, len(self.taxonomy)), dtype=np.float32)

    def _score(self, table: pa.Table) -> csr_matrix:
        counts = read_counts(table, self._places, len(self.features))
        lengths = np.sqrt(counts @ self.squares)
        margins = (counts @ self.weights).toarray()
        margins /= np.where(lengths > 0, lengths, np.float32(1))[:, None]
        if self.dense is not None:
            margins += self.dense.blocks.read(table) @ self.dense.weights
        margins += self.offsets
        scores = 1 / (1 + np.exp(-STEEPNESS * margins))
        for tags in self._levels:
            scores[:, tags] *= scores[:, self.taxonomy.parents[tags]]
        scores[scores < FLOOR] = 0
        return csr_matrix(scores)

    def save(self, folder: Path) -> None:
        """Write linear.safetensors."""
        weights = self.weights
        arrays = {"features": self.features, "squares": self.squares, "offsets": self.offsets}
        write_tensors(
            folder / LINEAR, {**arrays, "data": weights.data, "indices": weights.indices, "indptr": weights.indptr}
        )
        if self.dense is not None:
            self.dense.save(folder)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> "LinearScorer":
        """Read what `save` wrote; raises OwnFileError when the file is none, or of another taxonomy."""
        path = folder / LINEAR
        arrays = read_tensors(path, TENSORS, ORIGIN, {"tags": len(taxonomy)})
        check_features(arrays["features"], path, ORIGIN)
        ORIGIN.need(path, (arrays["squares"] >= 0).all(), "found squares below 0")
        weights = as_csr(arrays, (len(arrays["features"]), len(taxonomy)), path, ORIGIN)
        dense = DenseWeights.load(folder, len(taxonomy))
        return cls(taxonomy, arrays["features"], arrays["squares"], weights, arrays["offsets"], dense)


def train_linear(
    tables: Sequence[pa.Table],
    gold: csr_matrix,
    taxonomy: Taxonomy,
    seconds: float = 120,
    blocks: DenseBlocks = NOTHING,
) -> LinearScorer:
    """Return a scorer trained on posts (tables as for `Scorer`) and gold tags (posts x tags, ancestors included).

    Of more posts than can be learnt from in about `seconds` every so many-th is. `blocks` are vectors that are read beside
    the n-grams. The same input gives the same scorer.
    """
    numbers = np.concatenate([blocks.read(one) for one in tables])
    seconds = seconds / SLOWER if blocks.width else seconds
    table = pa.concat_tables([one.select([name for name in READ if name in one.column_names]) for one in tables])
    kept = _choose_posts(gold, taxonomy, seconds)
    if len(kept) < len(table):
        table, gold, numbers = table.take(pa.array(kept)), gold[kept], numbers[kept]
    vectors = vectorise(table)
    matrix, frequencies = vectors.matrix, vectors.frequencies
    if blocks.width:
        matrix = csr_matrix(hstack([matrix, csr_matrix(numbers)]))
        frequencies = np.append(frequencies, np.ones(numbers.shape[1], np.float32))
    weights, offsets = _fit(matrix, gold, taxonomy, frequencies, len(vectors.features))
    features, squares = vectors.features.astype(np.uint32), vectors.frequencies**2
    dense = DenseWeights(blocks, weights[len(features) :].toarray()) if blocks.width else None
    return LinearScorer(taxonomy, features, squares, csr_matrix(weights[: len(features)]), offsets, dense)


def count_pairs(gold: csr_matrix, taxonomy: Taxonomy) -> float:
    """Return the pairs of a tag and a post of its parent, each of which training looks at; `gold` as for `train_linear`."""
    sizes = np.asarray(gold.sum(axis=0)).ravel()
    return float(np.where(taxonomy.parents >= 0, sizes[taxonomy.parents], gold.shape[0])[sizes > 0].sum())


def _choose_posts(gold: csr_matrix, taxonomy: Taxonomy, seconds: float) -> np.ndarray:
    """Return the places of the posts to learn from."""
    total = gold.shape[0]
    share = min(1.0, seconds * PAIRS_A_SECOND / max(1.0, count_pairs(gold, taxonomy)), MOST_POSTS / max(1, total))
    return np.linspace(0, total, int(total * share), endpoint=False).astype(np.int64)


def _fit(
    posts: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy, frequencies: np.ndarray, sparse: int
) -> tuple[csr_matrix, np.ndarray]:
    """Return the weights and offsets of `LinearScorer` from posts; of `sparse` features small ones are left out."""
    from sklearn.svm import LinearSVC

    by_tag = gold.tocsc()
    members = np.split(by_tag.indices, by_tag.indptr[1:-1])
    # A tag that no post has is never given, one that all of its parent's posts have is always given with it.
    offsets = np.full(len(taxonomy), -CERTAIN, np.float32)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for tag, (own, parent) in enumerate(zip(members, taxonomy.parents.tolist(), strict=True)):
        among = members[parent] if parent >= 0 else np.arange(posts.shape[0])
        kept, values = np.empty(0, np.int64), np.empty(0, np.float32)
        if len(own) == len(among):
            offsets[tag] = CERTAIN
        elif len(own):
            # The dual's order is drawn at random.
            machine = LinearSVC(tol=0.1, dual=True, random_state=0).fit(posts[among], np.isin(among, own))
            offsets[tag] = machine.intercept_[0]
            kept = np.flatnonzero((np.abs(machine.coef_[0]) >= SMALL) | (np.arange(posts.shape[1]) >= sparse))
            values = machine.coef_[0][kept].astype(np.float32) * frequencies[kept]
        found.append((kept, values))
    indptr = np.concatenate([[0], np.cumsum([len(kept) for kept, _ in found])])
    columns = csr_matrix(
        (np.concatenate([values for _, values in found]), np.concatenate([kept for kept, _ in found]), indptr),
        shape=(len(taxonomy), posts.shape[1]),
    )
    return csr_matrix(columns.T), offsets
