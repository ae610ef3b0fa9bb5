"""Raw scores to tags: calibration and a threshold per tag, learnt on the rows held out for it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypedDict

import numpy as np
from scipy.sparse import csr_matrix

from weibotag.core.arrays import load_arrays
from weibotag.scoring import calibration, thresholds
from weibotag.scoring.calibration import Calibration
from weibotag.scoring.closure import mark_right, raise_parents
from weibotag.scoring.metrics import expected_calibration_error
from weibotag.taxonomy.tree import Taxonomy

DECISION = "decision.safetensors"


class Figures(TypedDict):
    """How good tags of held-out posts are: micro-F1, and the calibration error of the chosen ones."""

    micro_f1: float
    ece: float


@dataclass(frozen=True)
class Decision:
    """How raw scores of posts (csr_matrix, posts x tags) become tags: `thresholds` float32 (tags,); None: not calibrated."""

    taxonomy: Taxonomy
    thresholds: np.ndarray
    calibration: Calibration | None = None

    @classmethod
    def fit(cls, raw: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy, bands: np.ndarray | None = None) -> Self:
        """Learn calibration and thresholds from raw scores and gold tags of held-out rows; for `bands` see `fit`."""
        calibrated = cls(taxonomy, np.zeros(len(taxonomy), np.float32), calibration.fit(raw, gold, bands))
        return replace(calibrated, thresholds=thresholds.choose(calibrated.scores(raw), gold, taxonomy))

    @classmethod
    def fixed(cls, taxonomy: Taxonomy, threshold: float) -> Self:
        """Return the decision of scores that are probabilities already: one threshold for all tags."""
        return cls(taxonomy, np.full(len(taxonomy), threshold, np.float32))

    def scores(self, raw: csr_matrix) -> csr_matrix:
        """Return raw scores as probabilities, float32 csr_matrix (posts x tags), a child's never above its parent's."""
        return raise_parents(self.calibration.apply(raw) if self.calibration else raw, self.taxonomy)

    def decide(self, raw: csr_matrix) -> csr_matrix:
        """Return the probabilities of the tags that reach their threshold, and of their ancestors."""
        return thresholds.decide(self.scores(raw), self.thresholds, self.taxonomy)

    def judge(self, raw: csr_matrix, gold: csr_matrix) -> Figures:
        """Return how good the tags are that raw scores lead to."""
        chosen = self.decide(raw)
        ece = expected_calibration_error(chosen.data, mark_right(chosen, gold)) or 0.0
        return {"micro_f1": round(thresholds.micro_f1(chosen, gold), 4), "ece": round(ece, 4)}

    def save(self, folder: Path) -> None:
        """Write decision.safetensors to a folder, which must exist."""
        from safetensors.numpy import save_file

        arrays = {"thresholds": self.thresholds}
        if self.calibration is not None:
            arrays |= {"slope": self.calibration.slope, "offset": self.calibration.offset}
        save_file(arrays, folder / DECISION)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> Self:
        """Read what `save` wrote; raises ModelError when the file is none."""
        arrays = load_arrays(folder / DECISION, "a decision")
        calibrated = Calibration(arrays["slope"], arrays["offset"]) if "slope" in arrays else None
        return cls(taxonomy, arrays["thresholds"], calibrated)
