"""The cheap end of the cascade: a tagger that reads text, author and channel alone, before anything looks at a picture."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.errors import ModelError
from weibotag.files import write_json
from weibotag.progress import bar
from weibotag.taggers import calibration, thresholds
from weibotag.taggers.calibration import Calibration
from weibotag.taggers.fast import DivergedError, FastTagger, Settings, join_scores, load_network, train, write_documents
from weibotag.taggers.linear import LinearTagger, train_linear
from weibotag.taggers.rules import RulesTagger
from weibotag.taggers.tagger import raise_parents
from weibotag.taxonomy.tree import Taxonomy

if TYPE_CHECKING:
    from weibotag.training import Rows

ABOUT, NETWORK, LINEAR, DECISIONS = "text.json", "fasttext.bin", "linear.safetensors", "text.safetensors"
# Who can answer, and by which taggers, cheapest first.
CANDIDATES = {
    "linear": ("linear",),
    "fast": ("fast",),
    "average": ("fast", "linear"),
    "linear, rules": ("linear", "rules"),
    "average, rules": ("fast", "linear", "rules"),
}
Part = FastTagger | LinearTagger | RulesTagger
ROUNDS = 3
LEAST_SECONDS = 30.0
# What was learnt well with pictures may be learnt too fast from text alone: shares of the learning rate.
SLOWER = (1.0, 0.5, 0.2)

log = logging.getLogger(__name__)


class TextTagger:
    """Taggers of text alone that answer together, their calibration, and `thresholds`, one per tag (float32).

    `name` is a key of `CANDIDATES`; `figures` are micro_f1 on the held-out rows and microseconds a post of each of them.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        name: str,
        taggers: Mapping[str, Part],
        calibrated: Calibration,
        cuts: np.ndarray,
        figures: Mapping[str, Mapping[str, float]],
    ) -> None:
        self.taxonomy = taxonomy
        self.name = name
        self.thresholds = cuts
        self.figures = figures
        self._taggers = {one: taggers[one] for one in CANDIDATES[name]}
        self._calibration = calibrated

    def scores(self, table: pa.Table) -> csr_matrix:
        """Return probabilities, float32 csr_matrix (posts x tags), a child's never above its parent's.

        `table` has text, author and channel; wordings and vectors are not read.
        """
        raw = join_scores([read_raw(tagger, table) for tagger in self._taggers.values()])
        return raise_parents(self._calibration.apply(raw), self.taxonomy)

    def save(self, folder: Path) -> None:
        """Write the tagger's files to a folder, which must exist."""
        from safetensors.numpy import save_file

        about = {"name": self.name, "figures": self.figures}
        for tagger in self._taggers.values():
            if isinstance(tagger, RulesTagger):
                continue
            tagger.save(folder / (LINEAR if isinstance(tagger, LinearTagger) else NETWORK))
            if isinstance(tagger, FastTagger):
                about["spacing"] = tagger.spacing
        decisions = {"slope": self._calibration.slope, "offset": self._calibration.offset, "thresholds": self.thresholds}
        save_file(decisions, folder / DECISIONS)
        write_json(about, folder / ABOUT)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> "TextTagger":
        """Read what `save` wrote; raises ModelError for a folder without it."""
        from safetensors.numpy import load_file

        if not (folder / ABOUT).is_file():
            raise ModelError(f"{folder}: no text tagger there (no {ABOUT}): train again")
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        decisions = load_file(folder / DECISIONS)
        taggers: dict[str, Part] = {}
        if "fast" in CANDIDATES[about["name"]]:
            taggers["fast"] = FastTagger(taxonomy, load_network(folder / NETWORK), spacing=about["spacing"])
        if "linear" in CANDIDATES[about["name"]]:
            taggers["linear"] = LinearTagger.load(folder / LINEAR, taxonomy)
        if "rules" in CANDIDATES[about["name"]]:
            taggers["rules"] = RulesTagger(taxonomy)
        calibrated = Calibration(decisions["slope"], decisions["offset"])
        return cls(taxonomy, about["name"], taggers, calibrated, decisions["thresholds"], about["figures"])


def strip(table: pa.Table) -> pa.Table:
    """Return what posts say themselves: text, author, channel."""
    return table.select(["text", "author", "channel"])


def read_raw(tagger: Part, table: pa.Table) -> csr_matrix:
    """Return a tagger's scores before calibration, by what posts say themselves."""
    own = strip(table)
    return tagger.scores(own) if isinstance(tagger, RulesTagger) else tagger.raw_scores(own)


def choose_candidate(scores: Mapping[str, float], worthwhile: float) -> str:
    """Return the name of the cheapest candidate that no costlier one beats by `worthwhile`; `scores` are cheapest first."""
    best = next(iter(scores))
    for name, score in scores.items():
        if score >= scores[best] + worthwhile:
            best = name
    return best


def train_text(
    trained: "Rows", held: "Rows", taxonomy: Taxonomy, settings: Settings, seconds: float, threads: int, quiet: bool
) -> TextTagger:
    """Return the tagger of text alone that is best on the held-out rows for what it costs.

    `settings` and `threads` are fastText's; the linear tagger learns from as many posts as it can in `seconds` (at least
    half a minute). A candidate that costs more must bring `WORTHWHILE` micro-F1 more. Calibrated on all held-out rows, those
    whose text says nothing included, so that a low confidence is one to go by.
    """
    from weibotag.training import WORTHWHILE

    tables = [strip(table) for table in trained.tables]
    taggers: dict[str, Part] = {"rules": RulesTagger(taxonomy)}
    with bar(2, "training taggers of text alone", quiet) as progress:
        taggers["linear"] = train_linear(tables, trained.gold, taxonomy, max(seconds, LEAST_SECONDS))
        progress.advance()
        lines = [line for table in tables for line in write_documents(table, settings.spacing)]
        for slower in SLOWER:
            try:
                network = train(lines, trained.gold, replace(settings, lr=settings.lr * slower), threads)
            except DivergedError as error:
                log.log(logging.WARNING if slower == SLOWER[-1] else logging.INFO, "no fastText of text alone: %s", error)
                continue
            taggers["fast"] = FastTagger(taxonomy, network, spacing=settings.spacing)
            break
        progress.advance()
    raw, costs = {}, dict.fromkeys(taggers, float("inf"))
    for _ in range(ROUNDS):
        for name, tagger in taggers.items():
            begun = process_time()
            raw[name] = csr_matrix(vstack([read_raw(tagger, table) for table in held.tables]))
            costs[name] = min(costs[name], (process_time() - begun) / held.gold.shape[0] * 1e6)
    figures = {}
    for name, parts in CANDIDATES.items():
        if set(parts) <= set(taggers):
            joined = raise_parents(join_scores([raw[part] for part in parts]), taxonomy)
            score, cost = thresholds.shared_f1(joined, held.gold, taxonomy), sum(costs[part] for part in parts)
            figures[name] = {"micro_f1": round(score, 4), "microseconds": round(cost, 1)}
    best = choose_candidate({name: told["micro_f1"] for name, told in figures.items()}, WORTHWHILE)
    chosen = join_scores([raw[part] for part in CANDIDATES[best]])
    calibrated = calibration.fit(chosen, held.gold)
    cuts = thresholds.choose(raise_parents(calibrated.apply(chosen), taxonomy), held.gold, taxonomy)
    return TextTagger(taxonomy, best, taggers, calibrated, cuts, figures)
