"""Which frames of an animation or clip are worth a look: one for each of its scenes, the longest and most different ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

THUMBNAIL = (24, 24)
# Root mean square difference of thumbnails, 0 to 255, below which two frames show the same: dithering gives < 1.
DIFFERENT = 3.0
# A caption that changes over a picture that stands still: a cell of a thumbnail changes by `LOCAL` of 255 or more, while a
# share of all change by no more than `STILL`. It moves the whole by 1.2 to 1.5 only.
LOCAL, STILL, STILL_SHARE = 8, 1, 0.75
# Standard deviation of a thumbnail below which it shows nothing: black before a fade, white after it.
BLANK = 2.0


@dataclass
class Sample:
    """A frame that may be picked: `picture` is what its library calls one, `weight` how many frames it stands for."""

    number: int
    time_ms: int
    # uint8 (24, 24, 3)
    thumbnail: np.ndarray
    picture: Any
    weight: int = 1


def pick_samples(samples: Iterable[Sample], count: int) -> list[Sample]:
    """Return at most `count` samples in their order, any two of which differ; blank ones only where all are.

    Samples are clustered as they come (Ward's criterion, so that a long scene outweighs a frame between two scenes),
    and no more than twice `count` are held at any time. A cluster is shown by the sample that stands for most.
    """
    held: list[Sample] = []
    for sample in samples:
        held.append(sample)
        merge_nearest(held, 2 * count)
    held = [sample for sample in held if sample.thumbnail.std() >= BLANK] or held
    merge_nearest(held, count)
    return held


def merge_nearest(held: list[Sample], count: int) -> None:
    """Merge the samples of `held` that look most alike until `count` are left and all of them differ."""
    while len(held) > 1:
        # Whole numbers, exact in float64: the same choice on every machine.
        stack = np.stack([sample.thumbnail.reshape(-1) for sample in held]).astype(np.float64)
        products = stack @ stack.T
        squares = products.diagonal()
        distance = (squares[:, None] + squares - 2 * products) / stack.shape[1]
        grey = stack.reshape(len(held), -1, 3).sum(2).astype(np.int16)
        steps = np.abs(grey[:, None] - grey)
        caption = (steps.max(2) >= 3 * LOCAL) & ((steps <= 3 * STILL).mean(2) >= STILL_SHARE)
        distance = np.where(caption, np.maximum(distance, DIFFERENT**2), distance)
        weight = np.array([sample.weight for sample in held], np.float64)
        cost = distance * weight * weight[:, None] / (weight + weight[:, None]) if len(held) > count else distance.copy()
        np.fill_diagonal(cost, np.inf)
        first, second = sorted(int(place) for place in np.unravel_index(cost.argmin(), cost.shape))
        if len(held) <= count and distance[first, second] >= DIFFERENT**2:
            return
        # Of two that weigh the same the later one stays: the earlier may still belong to a fade.
        stays, goes = (first, second) if held[first].weight > held[second].weight else (second, first)
        held[stays].weight += held[goes].weight
        del held[goes]
