"""Sparse work on scores that all taggers share: closure over parents, which scores are right, the mean of two."""

import numpy as np
from scipy.sparse import csr_matrix

from weibotag.core.arrays import rows_of
from weibotag.taxonomy.tree import Taxonomy

# Scores below this are zeros: it keeps the matrix sparse and is far below every threshold.
FLOOR = 0.01


def raise_parents(scores: csr_matrix, taxonomy: Taxonomy) -> csr_matrix:
    """Return scores in which every tag has at least the highest score below it: a child is never above its parent."""
    rows = rows_of(scores.indptr)
    all_rows, all_tags, all_data = [rows], [scores.indices.astype(np.int64)], [scores.data]
    tags, data = scores.indices, scores.data
    while len(tags):
        up = taxonomy.parents[tags]
        inner = up >= 0
        rows, tags, data = rows[inner], up[inner], data[inner]
        all_rows.append(rows)
        all_tags.append(tags.astype(np.int64))
        all_data.append(data)
    return collect_highest(np.concatenate(all_rows), np.concatenate(all_tags), np.concatenate(all_data), scores.shape)


def mark_right(scores: csr_matrix, gold: csr_matrix) -> np.ndarray:
    """Return a bool for each stored score, in their order: whether `gold` (same shape, 0/1) has that pair."""
    pairs, right = (rows_of(each.indptr) * each.shape[1] + each.indices for each in (scores, gold))
    return np.isin(pairs, right)


def collect_highest(rows: np.ndarray, tags: np.ndarray, data: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    """Return the csr_matrix that holds the highest of the values given for each (row, tag)."""
    keys = rows.astype(np.int64) * shape[1] + tags
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    highest = np.maximum.reduceat(data[order], starts) if len(starts) else data[:0]
    keys = keys[starts]
    indptr = np.searchsorted(keys, np.arange(shape[0] + 1) * shape[1])
    return csr_matrix((highest.astype(np.float32), keys % shape[1], indptr), shape=shape)


def blend(scores: csr_matrix, others: csr_matrix, share: float) -> csr_matrix:
    """Return the mean of two score matrices in which the second counts `share`."""
    return csr_matrix(scores * np.float32(1 - share) + others * np.float32(share))
