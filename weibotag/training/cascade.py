"""What a cascade learns: states, gains, the rate of its answers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.scoring.closure import blend
from weibotag.scoring.decision import Decision, micro_f1
from weibotag.taggers.cascade.gains import Forest, benefit, describe
from weibotag.taggers.cascade.policy import (
    FAST,
    FUSED,
    TEXT,
    Cascade,
    Taggers,
    add_bits,
    count_files,
    given,
    limit,
    stages_of,
)
from weibotag.taggers.cascade.simulation import CascadeSimulation, PolicyOutcome, trace_curve
from weibotag.taxonomy.tree import Taxonomy

# What the cheap answer may weigh beside the network's; it is there already when the network is asked.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_ROWS = 20_000
FEWEST_SEEN = 200


def learn_cascade(
    tables: Sequence[pa.Table],
    gold: csr_matrix,
    taxonomy: Taxonomy,
    taggers: Taggers,
    stages: Sequence[str],
    prices: Mapping[str, float],
) -> Cascade:
    """Return the cascade of trained taggers, learnt on held-out posts with all wordings and vectors, and their gold tags.

    For each set of steps the posts are seen as if only those had been taken: there the taggers are calibrated, thresholds
    are chosen, and what each further step brings (`gains.benefit`) becomes the target of a forest.
    """
    whole = pa.concat_tables(tables, promote_options="default").slice(0, MOST_ROWS)
    gold = gold[:MOST_ROWS]
    seen = count_files(whole) + given(whole, stages) > 0
    posts = _HeldOutStates(whole, gold, seen, taxonomy, taggers, stages)
    cascade = Cascade(taxonomy, taggers, stages, posts.choose_share(), 0.5)
    cascade.prices = dict(prices)
    for tagger, bits in cascade.list_states(bool(seen.any())):
        posts.open(cascade, tagger, bits)
    full = posts.answers[FUSED, posts.most]
    best = posts.patch(full[1])
    cascade.worth = micro_f1(best, gold)
    _learn_gains(cascade, posts)
    _choose_rate(cascade, posts)
    return cascade


def _choose_rate(cascade: Cascade, posts: "_HeldOutStates") -> None:
    """Set the rate of the curve's knee on the held-out posts: what is spent where no plan says another.

    Few posts with pictures can't tell where that is: then it is that of their best quality.
    """
    left = np.repeat(count_files(posts.whole)[:, None], len(cascade.stages), axis=1)
    simulation = CascadeSimulation(cascade, posts.whole, posts.seen, np.zeros(len(posts.seen), np.int64), left)

    def quality(outcome: PolicyOutcome) -> float:
        return micro_f1(simulation.answers(outcome), posts.gold)

    curve = trace_curve(simulation, quality)
    cascade.rate = float(curve.rates[curve.knee if posts.seen.sum() >= FEWEST_SEEN else curve.best])
    cascade.figures = {
        "text": round(quality(simulation.text_alone()), 4),
        "knee": round(float(curve.quality[curve.knee]), 4),
        "everything": round(quality(simulation.everything()), 4),
        "cost_at_knee": round(float(curve.seconds[curve.knee] / max(1e-9, curve.seconds[-1])), 3),
    }


class _HeldOutStates:
    """Held-out posts as each set of steps would show them, and the scores and tags that taggers give them there."""

    def __init__(
        self,
        whole: pa.Table,
        gold: csr_matrix,
        seen: np.ndarray,
        taxonomy: Taxonomy,
        taggers: Taggers,
        stages: Sequence[str],
    ) -> None:
        self.whole, self.gold, self.seen, self.taxonomy, self.stages = whole, gold, seen, taxonomy, stages
        self.plain = Cascade(taxonomy, taggers, stages, 0.0, 0.5)
        # The bits of all steps that can be taken.
        self.most = self.plain.reading | self.plain.everything * bool(seen.any())
        self.raws: dict[tuple[str, int], csr_matrix] = {}
        self.answers: dict[tuple[str, int], tuple[csr_matrix, csr_matrix]] = {}

    def rows(self, bits: int) -> np.ndarray:
        """Return which posts can be in a state: all where no stage has looked, those with pictures in the others."""
        return self.seen if bits & self.plain.everything else np.ones(len(self.seen), bool)

    def view(self, bits: int) -> pa.Table:
        """Return the posts of a state as it shows them."""
        return limit(self.whole.filter(pa.array(self.rows(bits))), stages_of(bits, self.stages))

    def raw(self, tagger: str, bits: int) -> csr_matrix:
        """Return a tagger's raw scores at a state."""
        if (tagger, bits) not in self.raws:
            self.raws[tagger, bits] = self.plain.raw(tagger, bits, self.view(bits))
        return self.raws[tagger, bits]

    def choose_share(self) -> float:
        """Return what the cheap answer weighs beside the network's, by micro-F1 over posts with everything looked at."""
        bits = self.most
        gold = self.gold[self.rows(bits)]

        def score(share: float) -> float:
            raw = blend(self.raw(FUSED, bits), self.raw(self.plain.cheap(bits), bits), share)
            return micro_f1(Decision.fit(raw, gold, self.taxonomy).decide(raw), gold)

        return max(SHARES, key=score)

    def open(self, cascade: Cascade, tagger: str, bits: int) -> None:
        """Learn how a tagger answers at a state, and answer."""
        raw, gold = self.raw(tagger, bits), self.gold[self.rows(bits)]
        if tagger == FUSED:
            raw = blend(raw, self.raw(cascade.cheap(bits), bits), cascade.share)
        state = cascade.states[tagger, bits] = Decision.fit(raw, gold, self.taxonomy)
        self.answers[tagger, bits] = state.settle(raw)

    def patch(self, chosen: csr_matrix) -> csr_matrix:
        """Return what all posts get when those with pictures get `chosen`, the others the network's answer on text."""
        if len(self.seen) == chosen.shape[0]:
            return chosen
        rest = self.answers[FUSED, self.plain.reading][1][~self.seen]
        order = np.argsort(np.concatenate([np.flatnonzero(self.seen), np.flatnonzero(~self.seen)]))
        return csr_matrix(vstack([chosen, rest]))[order]


def _learn_gains(cascade: Cascade, posts: _HeldOutStates) -> None:
    """Fit a forest for each tagger that has answered and each step from there, over all states that it can be taken in."""
    worth, steps = cascade.worth, cascade.steps
    values: dict[tuple[str, int], np.ndarray] = {}
    features: dict[tuple[str, int], np.ndarray] = {}
    numbers = np.arange(len(posts.seen))
    for tagger, bits in cascade.states:
        scores, chosen = posts.answers[tagger, bits]
        values[tagger, bits] = benefit(chosen, posts.gold[posts.rows(bits)], worth)
        described = describe(scores, chosen, posts.view(bits), worth, cascade.taxonomy, cascade.kinds)
        features[tagger, bits] = add_bits(described, bits, len(steps))
    cases: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for (tagger, bits), before in values.items():
        own = posts.rows(bits)
        if tagger != FUSED and (FUSED, bits) in values:
            case = features[tagger, bits], values[FUSED, bits] - before, numbers[own]
            cases.setdefault((tagger, FUSED), []).append(case)
        for place, step in enumerate(steps):
            after = bits | 1 << place
            best = values.get((FUSED, after), values.get((cascade.cheap(after), after)))
            if after == bits or best is None:
                continue
            rest = posts.rows(after)
            mask = rest[own]
            cases.setdefault((tagger, step), []).append((features[tagger, bits][mask], best - before[mask], numbers[rest]))
    width = next(iter(features.values())).shape[1]
    nothing = np.zeros((0, width), np.float32), np.zeros(0), np.zeros(0, np.int64)
    for tagger in (TEXT, FAST, FUSED):
        for step in (*steps, FUSED):
            some = cases.get((tagger, step), [nothing])
            cascade.forests[tagger, step] = Forest.fit(*(np.concatenate(part) for part in zip(*some, strict=True)))
