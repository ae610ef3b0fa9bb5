"""The cheap end of the cascade: a tagger that reads text, author and channel alone, before anything looks at a picture."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.core.errors import ModelError
from weibotag.core.files import write_json
from weibotag.scoring.blend import join_scores
from weibotag.scoring.calibration import Calibration
from weibotag.scoring.tagger import raise_parents
from weibotag.taggers.fasttext import FastTagger, load_network
from weibotag.taggers.linear import LinearTagger
from weibotag.taggers.rules import RulesTagger
from weibotag.taxonomy.tree import Taxonomy

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
