"""The policy of a cascade: which stage looks at a post's pictures next. Training, plans and runs all ask it."""

from typing import NamedTuple

import numpy as np

# A step that costs nothing is reckoned with so many milliseconds.
LEAST_MILLISECONDS = 1e-6


class NextStep(NamedTuple):
    """For each post (posts,): the number of the stage that looks next (-1: none), its gain per millisecond (-inf: none), and
    its cost in milliseconds.
    """

    stage: np.ndarray
    ratio: np.ndarray
    cost: np.ndarray


def choose_step(gains: np.ndarray, left: np.ndarray, prices: np.ndarray, bits: np.ndarray, rate: float) -> NextStep:
    """Return the stage that brings most per millisecond for each post, none where none brings `rate` and more than 0.

    `gains` (posts, stages) are what stages would bring, `left` (posts, stages) the pictures that they have not seen,
    `prices` (stages,) milliseconds a picture; stages of `bits` (posts,) have looked.
    """
    costs = price_looks(left, prices)
    if not gains.shape[1]:
        nothing = np.zeros(len(gains))
        return NextStep(np.full(len(gains), -1), nothing - np.inf, nothing)
    taken = (bits[:, None] >> np.arange(gains.shape[1])) & 1
    ratios = np.where(taken | (gains <= 0), -np.inf, gains / costs)
    best = ratios.argmax(axis=1)
    every = np.arange(len(gains))
    high = ratios[every, best]
    worth = (high > 0) & (high >= rate)
    return NextStep(np.where(worth, best, -1), np.where(worth, high, -np.inf), costs[every, best])


def price_looks(left: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Return the milliseconds (posts, stages) that looking at what is left takes."""
    return np.asarray(np.maximum(left * prices, LEAST_MILLISECONDS))
