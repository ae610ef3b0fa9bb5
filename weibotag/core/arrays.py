"""Small operations on arrays, lists and sparse matrices that several rooms share."""

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix


def list_parts(array: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
    """Return the offsets of a list array, from 0, and its values between the first and the last of them."""
    offsets = array.offsets.to_numpy()
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    return offsets - first, array.values.slice(first, last - first)


def are_offsets(offsets: np.ndarray, count: int) -> bool:
    """Tell whether offsets part `count` values: from 0 to it, none below the one before, in whatever type of integers."""
    steps = np.diff(offsets.astype(np.int64))
    return len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == count and not (steps < 0).any()


def rows_of(offsets: np.ndarray) -> np.ndarray:
    """Return the row (int64) of each value of lists with these offsets, or of a csr_matrix with this indptr."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """Return a bool per place: whether its key is the first of its kind."""
    _, places = np.unique(keys, return_index=True)
    first = np.zeros(len(keys), bool)
    first[places] = True
    return first


def rank_in_runs(keys: np.ndarray) -> np.ndarray:
    """Return each place's number, from 0, in its run of equal keys."""
    starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
    lengths = np.diff(np.append(starts, len(keys)))
    return np.arange(len(keys)) - np.repeat(starts, lengths)


def keep_highest(matrix: csr_matrix, most: int) -> csr_matrix:
    """Return the `most` highest values of each row."""
    rows = rows_of(matrix.indptr)
    order = np.lexsort((-matrix.data, rows))
    kept = order[rank_in_runs(rows[order]) < most]
    return csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (…, d) of unit length; those of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))
