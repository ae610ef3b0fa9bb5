"""Scores to decisions: a threshold for each tag, chosen on the rows held out for it."""

import numpy as np
from scipy.sparse import csr_matrix

from weibotag.core.arrays import rows_of
from weibotag.scoring.closure import collect_highest, mark_right, raise_parents
from weibotag.taxonomy.tree import Taxonomy

GRID = np.round(np.arange(0.06, 0.71, 0.02), 2)
# A tag's own best threshold counts as much as the shared one when it has so many positives among the held-out rows.
TRUSTED_POSITIVES = 20
# No tag's own threshold is below this share of the shared one.
LEAST_OF_SHARED = 0.5


def choose(scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy) -> np.ndarray:
    """Return a float32 threshold per tag from scores and gold tags (posts x tags, gold with ancestors) of held-out rows.

    The shared threshold has the best micro-F1 over all levels. A tag's own has its best F1, drawn towards the shared one
    the fewer positives it has, and never below half of it: a tag with none keeps the shared one.
    """
    shared = best_shared(scores, gold, taxonomy)
    columns, gold_columns = scores.tocsc(), gold.tocsc()
    thresholds = np.full(scores.shape[1], shared, np.float32)
    for tag in np.flatnonzero(np.diff(gold_columns.indptr)):
        low, high = columns.indptr[tag], columns.indptr[tag + 1]
        if low == high:
            continue
        positives = gold_columns.indices[gold_columns.indptr[tag] : gold_columns.indptr[tag + 1]]
        data = columns.data[low:high]
        own = _best_own(data, np.isin(columns.indices[low:high], positives), len(positives))
        trust = len(positives) / (len(positives) + TRUSTED_POSITIVES)
        thresholds[tag] = max(LEAST_OF_SHARED * shared, trust * own + (1 - trust) * shared)
    return thresholds


def best_shared(scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy) -> float:
    """Return the threshold of `GRID` that has the best micro-F1 when all tags share it; the highest among equals."""
    # What is below the lowest cut is never decided on; most scores of many tags are.
    high = scores.copy()
    high.data[high.data < GRID[0]] = 0
    high.eliminate_zeros()
    values = [micro_f1(decide(high, np.full(scores.shape[1], cut), taxonomy), gold) for cut in GRID]
    return float(GRID[len(GRID) - 1 - int(np.argmax(values[::-1]))])


def shared_f1(scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy) -> float:
    """Return the micro-F1 of scores under the threshold, shared by all tags, that suits them best."""
    cut = best_shared(scores, gold, taxonomy)
    return micro_f1(decide(scores, np.full(len(taxonomy), cut), taxonomy), gold)


def micro_f1(chosen: csr_matrix, gold: csr_matrix) -> float:
    """Return 2 TP / (predicted + gold) over all (post, tag) pairs; 0 when there are none."""
    both = chosen.astype(bool).multiply(gold.astype(bool)).nnz
    return float(2 * both / max(1, chosen.nnz + gold.nnz))


def decide(scores: csr_matrix, thresholds: np.ndarray, taxonomy: Taxonomy) -> csr_matrix:
    """Return the scores of the tags that reach their threshold, and of their ancestors, whatever theirs.

    `scores` are closed: every tag has at least the highest score below it.
    """
    rows = rows_of(scores.indptr)
    passed = scores.data >= thresholds[scores.indices]
    chosen = collect_highest(rows[passed], scores.indices[passed].astype(np.int64), scores.data[passed], scores.shape)
    kept = mark_right(scores, raise_parents(chosen, taxonomy))
    indptr = np.concatenate([[0], np.cumsum(kept)])[scores.indptr]
    return csr_matrix((scores.data[kept], scores.indices[kept], indptr), shape=scores.shape)


def _best_own(data: np.ndarray, right: np.ndarray, positives: int) -> float:
    """Return the cut between two scores of one tag that has the best F1."""
    order = np.argsort(-data, kind="stable")
    data, hits = data[order], np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(data) + 1) + positives)
    # Equal scores pass together: only the last of them is a cut.
    last = np.append(np.diff(data) < 0, True)
    best = int(np.argmax(np.where(last, f1, -1.0)))
    below = data[best + 1] if best + 1 < len(data) else data[best] * 0.9
    return float((data[best] + below) / 2)
