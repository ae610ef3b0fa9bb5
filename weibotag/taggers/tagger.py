"""What every tagger is: scorers whose mean counts, and a decision on what they score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.features.dense_blocks import NOTHING, DenseBlocks
from weibotag.scoring.decision import Decision
from weibotag.taxonomy.tree import Taxonomy

TEXTS = ["text", "author", "channel"]


class Scorer(Protocol):
    """Posts in, scores over the taxonomy out; what it learnt is files in a folder."""

    taxonomy: Taxonomy

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return scores before calibration, float32 0 to 1, csr_matrix (posts x tags).

        `table` has text, author, channel, and wordings where pictures were looked at; for a network vectors, too.
        """

    def save(self, folder: Path) -> None:
        """Write what it learnt to a folder, which must exist."""

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> Self:
        """Read what `save` wrote; raises ModelError when that is damaged or of another taxonomy."""


@dataclass(frozen=True)
class Ensemble:
    """The weighted mean of scorers, which may be one alone.

    `scorers` and `weights` (of sum 1) are by the place of what each learnt in a model's folder ("fast", "text/linear"), of
    which the last word says what it is. `texts_only`: of posts it reads text, author and channel alone.
    """

    scorers: Mapping[str, Scorer]
    weights: Mapping[str, float]
    texts_only: bool = False

    @classmethod
    def alone(cls, place: str, scorer: Scorer) -> Self:
        """Return a scorer that answers alone."""
        return cls({place: scorer}, {place: 1.0})

    @classmethod
    def mean(cls, ensembles: Sequence["Ensemble"], texts_only: bool = False) -> Self:
        """Return the mean of some ensembles; each counts the same."""
        scorers: dict[str, Scorer] = {}
        weights: dict[str, float] = {}
        for one in ensembles:
            scorers |= one.scorers
            for place, weight in one.weights.items():
                weights[place] = weights.get(place, 0.0) + weight / len(ensembles)
        return cls(scorers, weights, texts_only)

    def move(self, folder: str) -> "Ensemble":
        """Return this with what its scorers learnt in another folder of the model."""
        places = {place: f"{folder}/{place.rpartition('/')[2]}" for place in self.scorers}
        scorers = {places[place]: scorer for place, scorer in self.scorers.items()}
        return replace(self, scorers=scorers, weights={places[place]: weight for place, weight in self.weights.items()})

    @property
    def name(self) -> str:
        """Return the names of the scorers, joined: fast+linear."""
        return "+".join(place.rpartition("/")[2] for place in self.scorers)

    @property
    def blocks(self) -> list[DenseBlocks]:
        """Return which vectors its scorers read beside words."""
        found: list[DenseBlocks] = [getattr(one, "blocks", NOTHING) for one in self.scorers.values()]
        return [one for one in found if one.width]

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return scores before calibration, float32 csr_matrix (posts x tags); for `table` see `Scorer`."""
        table = table.select(TEXTS) if self.texts_only else table
        return weigh_scores([(scorer.raw_scores(table), self.weights[place]) for place, scorer in self.scorers.items()])


def weigh_scores(scores: Sequence[tuple[csr_matrix, float]]) -> csr_matrix:
    """Return the sum of score matrices times their weights."""
    first, weight = scores[0]
    if len(scores) == 1 and weight == 1:
        return first
    total = first * np.float32(weight)
    for other, weight in scores[1:]:
        total = total + other * np.float32(weight)
    return csr_matrix(total)


@dataclass(frozen=True)
class Tagger:
    """Scorers, and how their scores become tags."""

    scorer: Ensemble
    decision: Decision

    def scores(self, table: pa.Table) -> csr_matrix:
        """Return probabilities, float32 csr_matrix (posts x tags), a child's never above its parent's."""
        return self.decision.scores(self.scorer.raw_scores(table))

    def decide(self, table: pa.Table) -> csr_matrix:
        """Return the probabilities of the tags that posts get, csr_matrix (posts x tags)."""
        return self.decision.decide(self.scorer.raw_scores(table))
