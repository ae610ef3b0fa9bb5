"""Scores to probabilities, learnt on the rows held out for it."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit

from weibotag.scoring.closure import mark_right

# A tag with fewer positives than this among the held-out rows is calibrated with all others together.
FEWEST_POSITIVES = 30
EDGE = 1e-4


@dataclass(frozen=True)
class Calibration:
    """Platt scaling per tag: probability = sigmoid(slope * logit(score) + offset); two float32 arrays (tags,)."""

    slope: np.ndarray
    offset: np.ndarray

    def apply(self, scores: csr_matrix) -> csr_matrix:
        """Return the matrix with its scores turned into probabilities, float32; what is absent stays absent."""
        odds = logit(scores.data)
        tags = scores.indices
        probabilities = expit(self.slope[tags] * odds + self.offset[tags])
        return csr_matrix((probabilities.astype(np.float32), tags, scores.indptr), shape=scores.shape)


def logit(scores: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)), scores kept 1e-4 away from 0 and 1."""
    kept = np.clip(scores, EDGE, 1 - EDGE)
    return np.asarray(np.log(kept / (1 - kept)))


def fit(scores: csr_matrix, gold: csr_matrix, bands: np.ndarray | None = None) -> Calibration:
    """Learn slope and offset from raw scores and gold tags (both posts x tags) of held-out rows (Platt, 1999).

    One pair for all tags, or for those of each of `bands` (tags,), which serves tags that no held-out row has; tags with at
    least 30 positives get their own, kept near that by their number.
    """
    right = mark_right(scores, gold)
    odds = logit(scores.data)
    tags = scores.shape[1]
    slope, offset = np.ones(tags, np.float32), np.zeros(tags, np.float32)
    if not 0 < right.sum() < len(right):
        return Calibration(slope, offset)
    shared = _platt(odds, right, np.array([1.0, 0.0]), 0.0)
    slope[:], offset[:] = shared
    if bands is not None:
        band_of = bands[scores.indices]
        for band in np.unique(band_of[right]):
            mine = band_of == band
            slope[bands == band], offset[bands == band] = _platt(odds[mine], right[mine], shared, 5.0)
    positives = np.bincount(scores.indices[right], minlength=tags)
    order = np.argsort(scores.indices, kind="stable")
    ends = np.cumsum(np.bincount(scores.indices, minlength=tags))
    for tag in np.flatnonzero(positives >= FEWEST_POSITIVES):
        mine = order[ends[tag - 1] if tag else 0 : ends[tag]]
        if not right[mine].all():
            start = np.array([slope[tag], offset[tag]], float)
            slope[tag], offset[tag] = _platt(odds[mine], right[mine], start, 5.0)
    return Calibration(slope, offset)


def _platt(odds: np.ndarray, right: np.ndarray, start: np.ndarray, pull: float) -> np.ndarray:
    """Return the slope and offset of least log loss, pulled towards `start` with weight `pull`; slope stays positive."""
    from scipy.optimize import minimize

    def loss(pair: np.ndarray) -> tuple[float, np.ndarray]:
        logits = pair[0] * odds + pair[1]
        probabilities = 1 / (1 + np.exp(-logits))
        value = np.logaddexp(0, logits).sum() - logits[right].sum() + pull * ((pair - start) ** 2).sum()
        wrong = probabilities - right
        return value, np.array([(wrong * odds).sum(), wrong.sum()]) + 2 * pull * (pair - start)

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.05, 20), (-20, 20)])
    return np.asarray(found.x)
