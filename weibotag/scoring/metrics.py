"""Numbers that say how well tags, scores and keywords agree with gold: matrices in, numbers out."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from scipy.sparse import csr_matrix, identity

from weibotag.core.arrays import rank_in_runs

BINS = 15
# Jain, Prabhu, Varma 2016, table 3: what fits data sets in general.
PROPENSITY_A, PROPENSITY_B = 0.55, 1.5
# The most frequent tags that hold so much of all training labels are the head, those after them up to so much the torso.
HEAD_SHARE, TORSO_SHARE = 0.5, 0.9


@dataclass(frozen=True)
class Ranked:
    """Distinct (row, column) pairs, ordered by row, then highest score first.

    `rows`, `columns`, `place` (0 is the row's best) are int64 and `scores` float64, all of the same length.
    """

    rows: np.ndarray
    columns: np.ndarray
    scores: np.ndarray
    place: np.ndarray

    def keep(self, mask: np.ndarray) -> "Ranked":
        """Return the pairs where `mask` holds, with their places counted anew."""
        rows = self.rows[mask]
        return Ranked(rows, self.columns[mask], self.scores[mask], rank_in_runs(rows))

    def matrix(self, shape: tuple[int, int]) -> csr_matrix:
        """Return the pairs as a 0/1 matrix."""
        return csr_matrix((np.ones(len(self.rows), dtype=np.int32), (self.rows, self.columns)), shape=shape)


class Agreement(TypedDict):
    """Precision, recall and f1 of what was predicted against gold, 0 to 1."""

    precision: float
    recall: float
    f1: float


def rank(rows: np.ndarray, columns: np.ndarray, scores: np.ndarray) -> Ranked:
    """Return the pairs ranked by score in their row; equal scores keep their order, a repeated pair its best score."""
    order = np.lexsort((-scores, rows))
    width = int(columns.max(initial=0)) + 1
    _, first = np.unique(rows[order] * width + columns[order], return_index=True)
    order = order[np.sort(first)]
    return Ranked(rows[order], columns[order], scores[order], rank_in_runs(rows[order]))


def close(matrix: csr_matrix, closure: csr_matrix) -> csr_matrix:
    """Return the 0/1 matrix (posts x tags) with all ancestors added; `closure` as the taxonomy gives it."""
    closed = (matrix.astype(np.int32) @ closure.astype(np.int32)).tocsr()
    closed.data[:] = 1
    return closed


def count(gold: csr_matrix, predicted: csr_matrix, axis: int) -> np.ndarray:
    """Return numbers of hits, gold and predicted pairs, int64 (3, n): per column for axis 0, per row for axis 1."""
    return np.stack(
        [np.asarray(part.sum(axis=axis, dtype=np.int64)).ravel() for part in (gold.multiply(predicted), gold, predicted)]
    )


def divide(above: np.ndarray | float, below: np.ndarray | float, empty: float = 0.0) -> np.ndarray:
    """Return above / below as float64, and `empty` where `below` is 0."""
    below = np.asarray(below, dtype=np.float64)
    return np.asarray(np.divide(above, below, out=np.full(below.shape, empty), where=below != 0))


def agreements(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall and f1 of counts (3, n): one figure for each of n columns of hits, gold, predicted."""
    hits, gold, predicted = counts
    return {"precision": divide(hits, predicted), "recall": divide(hits, gold), "f1": divide(2 * hits, gold + predicted)}


def agreement(counts: np.ndarray) -> Agreement:
    """Return micro-averaged precision, recall and f1 of summed counts (hits, gold, predicted).

    precision = hits / predicted, recall = hits / gold, f1 = 2 hits / (gold + predicted); 0 where the divisor is 0
    (Manning, Raghavan, Schütze 2008, chapters 8.3 and 13.6).
    """
    precision, recall, f1 = (float(value) for value in agreements(counts).values())
    return {"precision": precision, "recall": recall, "f1": f1}


def macro_f1(by_tag: np.ndarray) -> float:
    """Return the mean over the tags with a gold post of 2 hits / (gold + predicted); `by_tag` is (3, tags).

    The mean of F1s, not the F1 of mean precision and recall (Opitz and Burst 2019, "Macro F1 and Macro F1").
    """
    hits, gold, predicted = by_tag[:, by_tag[1] > 0]
    return float(divide((2 * hits / (gold + predicted)).sum(), len(gold)))


def hierarchical_f1(by_post: np.ndarray) -> float:
    """Return the mean over posts of 2 |A ∩ B| / (|A| + |B|), A and B with ancestors; `by_post` is (3, posts), closed.

    The sets are those of Kiritchenko et al. 2005 (every tag with its ancestors, the root above all tags left out), so
    a near miss in the tree gets part of the credit. Their hF sums over all posts first, which on closed sets is
    exactly `micro_f1`; here each post counts the same, however many tags it has (example-based, as in Godbole and
    Sarawagi 2004; the measures are compared in Kosmopoulos et al. 2015). Nothing predicted where nothing is gold: 1.
    """
    hits, gold, predicted = by_post
    return float(divide(divide(2 * hits, gold + predicted, empty=1.0).sum(), by_post.shape[1]))


def precision_at_5(ranked: Ranked, right: np.ndarray, by_post: np.ndarray) -> float:
    """Return the mean over posts with gold tags of (right among the 5 best scored) / min(5, number predicted).

    Dividing by what was predicted, not always by 5, keeps short answers from being punished (Manning et al. 2008,
    chapter 8.4, divides by 5); a post without any prediction counts 0. `right` says for each pair whether it is in
    the closed gold set. Tags count as they were predicted, none is added.
    """
    has_gold = by_post[1] > 0
    top = ranked.place < 5
    found = np.bincount(ranked.rows[top & right], minlength=len(has_gold))
    shown = np.bincount(ranked.rows[top], minlength=len(has_gold))
    return float(divide(divide(found, shown)[has_gold].sum(), has_gold.sum()))


def right_at_1(ranked: Ranked, right: np.ndarray, closure: csr_matrix, posts: int) -> np.ndarray:
    """Return a bool per post: whether its best scored predicted leaf is in the closed gold set.

    A leaf is a predicted tag without a predicted descendant in the same post; a post without any prediction counts
    as wrong. A leaf that is right but stands above the gold leaf counts as right: `per_level` shows such shallowness.
    """
    above = closure.astype(np.int32) - identity(closure.shape[0], dtype=np.int32, format="csr")
    is_covered = contains(close(ranked.matrix((posts, closure.shape[0])), above), ranked)
    leaves = ranked.keep(~is_covered)
    answer = np.zeros(posts, dtype=bool)
    answer[leaves.rows[(leaves.place == 0) & right[~is_covered]]] = True
    return answer


def precision_at(ranked: Ranked, right: np.ndarray, k: int, posts: int) -> float:
    """Return (right pairs among the k best scored of each post) / (k * posts): what was not predicted counts as wrong.

    As extreme classification counts it (Agrawal et al. 2013, Bhatia et al. 2016): a short answer is punished.
    """
    return float(divide((right & (ranked.place < k)).sum(), k * posts))


def propensities(counts: np.ndarray, posts: int) -> np.ndarray:
    """Return for each tag the probability that a post that it fits carries it, float64, from its number of training posts.

    1 / (1 + C (N_l + B)^-A), C = (log N - 1) (B + 1)^A, for N training posts (Jain, Prabhu, Varma 2016, section 5).
    """
    scale = max(0.0, np.log(max(1, posts)) - 1) * (PROPENSITY_B + 1) ** PROPENSITY_A
    return np.asarray(1 / (1 + scale * (counts + PROPENSITY_B) ** -PROPENSITY_A))


def divide_by_frequency(counts: np.ndarray) -> np.ndarray:
    """Return 0 (head), 1 (torso) or 2 (tail) for each tag by its number of training posts.

    A tag's place is the share of all labels that tags more frequent than it hold: the head below `HEAD_SHARE`, the torso
    below `TORSO_SHARE`, so that equally frequent tags stand together. Tags that training did not see are in the tail.
    """
    values, places, tags = np.unique(-counts, return_inverse=True, return_counts=True)
    labels = -values * tags
    before = (np.cumsum(labels) - labels) / max(1, labels.sum())
    return np.where(values == 0, 2, np.digitize(before, (HEAD_SHARE, TORSO_SHARE)))[places]


def contains(matrix: csr_matrix, ranked: Ranked) -> np.ndarray:
    """Return for each pair whether the 0/1 `matrix` has it."""
    width = matrix.shape[1]
    pairs = matrix.tocoo()
    known = pairs.row.astype(np.int64) * width + pairs.col
    return np.isin(ranked.rows * width + ranked.columns, known, assume_unique=True)


def expected_calibration_error(scores: np.ndarray, right: np.ndarray) -> float | None:
    """Return the sum over 15 equal-width bins of (pairs in bin / pairs) * |share right - mean score|; None for no pair.

    Each predicted (post, tag) pair is one event (Guo et al. 2017, equation 3). Bins are open below and closed above,
    the first holds 0 too.
    """
    if not len(scores):
        return None
    bins = np.clip(np.ceil(scores * BINS) - 1, 0, BINS - 1).astype(np.int64)
    gaps = np.bincount(bins, weights=right - scores, minlength=BINS)
    return float(np.abs(gaps).sum() / len(scores))
