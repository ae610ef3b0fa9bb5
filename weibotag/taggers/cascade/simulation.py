"""A cascade's policy tried on posts that all stages have looked at: what it would have cost and answered at any rate, and
where more cost stops to pay.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.taggers.cascade.policy import FUSED, Cascade, choose_step, limit, price_looks, stages_of

# Rates are tried from the highest at which any step is taken down to this share of it, and none at all.
STEPS, LOWEST = 60, 1e-8


@dataclass(frozen=True)
class PolicyOutcome:
    """Where posts end: steps taken (`bits`), whether the network was asked (`fused`), milliseconds `spent`, of them
    `looking` at pictures; each (posts,).
    """

    bits: np.ndarray
    fused: np.ndarray
    spent: np.ndarray
    looking: np.ndarray


class CascadeSimulation:
    """What each state of a cascade answers for posts that all stages have looked at, and what it expects of further steps.

    `seen` (posts,) tells which have pictures, `known` (posts,) the stages that had looked before, as bits, and `left`
    (posts, stages) how many pictures each stage had not seen. A post stands for `weights` (posts,) posts.
    """

    def __init__(
        self,
        cascade: Cascade,
        table: pa.Table,
        seen: np.ndarray,
        known: np.ndarray,
        left: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> None:
        self.weights = np.ones(len(table)) if weights is None else weights
        self.cascade, self.seen, self.known = cascade, seen, np.where(seen, known, 0)
        # Every text is read by itself.
        self.left = np.hstack([left, np.ones((len(table), len(cascade.steps) - len(cascade.stages)))])
        self.prices = np.array([cascade.prices[step] for step in cascade.steps])
        self.sets = sorted({bits for _, bits in cascade.states})
        self._place = {bits: place for place, bits in enumerate(self.sets)}
        posts, steps = len(table), len(cascade.steps) + 1
        shape = 2, len(self.sets), posts
        self.gains = np.zeros((*shape, steps), np.float32)
        self.chosen: dict[tuple[int, int], csr_matrix] = {}
        truths = {}
        for place, bits in enumerate(self.sets):
            own = seen if bits & cascade.everything else np.ones(posts, bool)
            view = limit(table.filter(pa.array(own)), stages_of(bits, cascade.stages))
            # Back to all posts: those that can't be in a state have an empty row there.
            rows = np.where(own, np.cumsum(own) - 1, len(view))
            for fused, rate in enumerate((np.inf, -np.inf) if cascade.has_read(bits) else (np.inf,)):
                answer = cascade.answer(view, np.full(len(view), bits), rate)
                self.gains[fused, place, own] = answer.gains
                self.chosen[fused, bits] = _spread(answer.chosen, rows)
                truths[bits] = _spread(answer.scores, rows)
        # Probabilities of all tags (posts x tags) with everything looked at.
        self.truth = _choose(seen, truths[self.sets[-1]], truths[cascade.reading])
        # Posts without pictures have nothing to look at.
        self.gains[:, :, ~seen, : len(cascade.stages)] = 0

    def highest_ratio(self) -> float:
        """Return the most that any look, or the network, promises per millisecond."""
        ratios = (self.gains[:, :, :, :-1] / price_looks(self.left, self.prices)).max(initial=0.0, where=self.left > 0)
        return float(max(ratios, self.gains[0, :, :, -1].max(initial=0.0) / self.cascade.prices[FUSED]))

    def run(self, rate: float) -> PolicyOutcome:
        """Return where posts end when each step that brings at least `rate` per millisecond is taken, the best one first."""
        prices, everything, reading = self.cascade.prices, self.cascade.everything, self.cascade.reading
        every = np.arange(len(self.known))
        bits, looking, scoring = self.known.copy(), np.zeros(len(every)), np.full(len(every), prices["text"])
        while True:
            place = np.array([self._place[own] for own in bits.tolist()], np.int64)
            complete = ~self.seen | (bits & everything == everything)
            fused = self.cascade.ask(self.gains[0, place, every], rate, complete) & (bits & reading == reading)
            gains = self.gains[fused.astype(int), place, every]
            step = choose_step(gains[:, :-1], self.left, self.prices, bits, rate)
            moves = step.stage >= 0
            if not moves.any():
                return PolicyOutcome(bits, fused, looking + scoring + fused * prices[FUSED], looking)
            looks = moves & (step.stage < len(self.cascade.stages))
            looking[looks] += step.cost[looks]
            scoring[moves & ~looks] += step.cost[moves & ~looks]
            scoring[moves] += prices["fast"] + prices[FUSED] * looks[moves]
            bits[moves] |= 1 << step.stage[moves]

    def answers(self, outcome: PolicyOutcome) -> csr_matrix:
        """Return the tags that posts get where they end."""
        total = csr_matrix(self.truth.shape, dtype=np.float32)
        for (fused, bits), chosen in self.chosen.items():
            total = _choose((outcome.bits == bits) & (outcome.fused == bool(fused)), chosen, total)
        return total

    def everything(self) -> PolicyOutcome:
        """Return the outcome where all steps were taken and the network is asked for all."""
        bits, nothing = np.where(self.seen, self.sets[-1], self.cascade.reading), np.zeros(len(self.seen))
        return PolicyOutcome(bits, nothing == 0, nothing, nothing)

    def text_alone(self) -> PolicyOutcome:
        """Return the outcome where nothing is looked at."""
        nothing = np.zeros(len(self.seen))
        return PolicyOutcome(nothing.astype(np.int64), nothing > 0, nothing, nothing)

    def expected_f1(self, outcome: PolicyOutcome) -> float:
        """Return the micro-F1 of the tags at an outcome as the probabilities with everything looked at have it."""
        chosen = self.answers(outcome)
        right, there = (
            np.asarray(some.sum(axis=1)).ravel() for some in (chosen.astype(bool).multiply(self.truth), self.truth)
        )
        both = self.weights @ (np.diff(chosen.indptr) + there)
        return float(2 * (self.weights @ right) / max(1e-9, both))

    def seconds(self, outcome: PolicyOutcome) -> float:
        """Return what it takes to get all posts to an outcome."""
        return float(self.weights @ outcome.spent) / 1000

    def judge(self, outcome: PolicyOutcome) -> dict[str, float]:
        """Return the share of the gain over text alone that is kept, and the regret in micro-F1, both expected."""
        text, here, full = (self.expected_f1(some) for some in (self.text_alone(), outcome, self.everything()))
        kept = (here - text) / (full - text) if full > text else 1.0
        return {"text_alone": round(text, 4), "kept": round(kept, 4), "regret": round(full - here, 4)}


def _spread(scores: csr_matrix, rows: np.ndarray) -> csr_matrix:
    """Return rows of a matrix, the one after its last being empty."""
    return csr_matrix(vstack([scores, csr_matrix((1, scores.shape[1]), dtype=np.float32)]))[rows]


def _choose(mask: np.ndarray, ours: csr_matrix, others: csr_matrix) -> csr_matrix:
    """Return the rows of `ours` where the mask holds, those of `others` elsewhere."""
    return csr_matrix(vstack([ours, others]))[np.where(mask, 0, len(mask)) + np.arange(len(mask))]


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
    # Not the highest ratio itself: there a last digit would decide whether anything is done.
    rates = np.array([2 * highest, *np.geomspace(0.99 * highest, highest * LOWEST, STEPS), 0.0])
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
