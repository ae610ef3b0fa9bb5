"""Scores of several taggers mixed."""

import numpy as np
from scipy.sparse import csr_matrix

# Scores below this are zeros: it keeps the matrix sparse and is far below every threshold.
FLOOR = 0.01
# Screenshots of whole articles would drown the post.
MOST_OCR_CHARACTERS = 300


def blend(scores: csr_matrix, others: csr_matrix, share: float) -> csr_matrix:
    """Return the mean of two score matrices in which the second counts `share`."""
    return csr_matrix(scores * np.float32(1 - share) + others * np.float32(share))
