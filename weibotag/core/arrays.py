"""Small operations on arrays and lists that several rooms share."""

import numpy as np
import pyarrow as pa


def list_parts(array: pa.ListArray) -> tuple[np.ndarray, pa.Array]:
    """Return the offsets of a list array, from 0, and its values between the first and the last of them."""
    offsets = array.offsets.to_numpy()
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    return offsets - first, array.values.slice(first, last - first)


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
