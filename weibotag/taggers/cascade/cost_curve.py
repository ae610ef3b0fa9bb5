"""Quality against cost: what a cascade's answers cost and are worth at many rates, and where more cost stops to pay."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weibotag.taggers.cascade.simulation import CascadeSimulation, PolicyOutcome

# Rates are tried from the highest at which any step is taken down to this share of it, and none at all.
STEPS, LOWEST = 60, 1e-8


@dataclass(frozen=True)
class Curve:
    """Points from the cheapest on: `rates` (gain per millisecond), `seconds`, `quality`; float64, of equal length."""

    rates: np.ndarray
    seconds: np.ndarray
    quality: np.ndarray

    @property
    def knee(self) -> int:
        """Return the point farthest above the straight line from the first to the best one, the last of equals.

        Satopaa et al., 2011, "Finding a Kneedle in a Haystack".
        """
        best = self.best
        cost, gain = self.seconds - self.seconds[0], self.quality - self.quality[0]
        if best == 0 or cost[best] <= 0:
            return best
        above = np.round((gain / gain[best] - cost / cost[best])[: best + 1], 9)
        return best - int(np.argmax(above[::-1]))

    @property
    def best(self) -> int:
        """Return the cheapest point of the best quality."""
        return int(np.argmax(self.quality))

    def reach(self, seconds: float) -> int:
        """Return the first point that takes so many seconds, at most the best one: a budget ends on the way to it."""
        return min(int(np.searchsorted(self.seconds, seconds)), self.best)


def trace_curve(simulation: CascadeSimulation, quality: Callable[[PolicyOutcome], float]) -> Curve:
    """Return the curve of a cascade over posts; `quality` judges an outcome."""
    highest = max(1e-9, simulation.highest_ratio())
    rates = np.array([2 * highest, *np.geomspace(highest, highest * LOWEST, STEPS), 0.0])
    outcomes = [simulation.run(rate) for rate in rates]
    seconds = np.array([simulation.seconds(outcome) for outcome in outcomes])
    values = np.array([quality(outcome) for outcome in outcomes])
    # Rates of one outcome are one point, in their middle: there other posts than these come to a like one, too.
    found, first, of = np.unique(seconds, return_index=True, return_inverse=True)
    logs = np.log(np.maximum(rates, highest * LOWEST / 2))
    middle = np.exp((_most(logs, of, len(found)) - _most(-logs, of, len(found))) / 2)
    return Curve(middle, found, values[first])


def _most(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the highest value of each group."""
    highest = np.full(count, -np.inf)
    np.maximum.at(highest, groups, values)
    return highest
