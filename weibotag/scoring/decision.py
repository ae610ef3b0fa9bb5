"""Raw scores to tags: probabilities, and a threshold for each tag, learnt on the rows held out for it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit
from typing_extensions import TypedDict

from weibotag.core.arrays import rows_of
from weibotag.core.own_files import Origin, TensorTypes, read_tensors, write_tensors
from weibotag.scoring.closure import collect_highest, mark_right, raise_parents
from weibotag.scoring.metrics import expected_calibration_error
from weibotag.taxonomy.tree import Taxonomy

DECISION = "decision.safetensors"
# A tag with fewer positives than this among the held-out rows is calibrated with all others together.
FEWEST_POSITIVES = 30
EDGE = 1e-4
GRID = np.round(np.arange(0.06, 0.71, 0.02), 2)
# A tag's own best threshold counts as much as the shared one when it has so many positives among the held-out rows.
TRUSTED_POSITIVES = 20
# No tag's own threshold is below this share of the shared one.
LEAST_OF_SHARED = 0.5


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


def fit_calibration(scores: csr_matrix, gold: csr_matrix, bands: np.ndarray | None = None) -> Calibration:
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


def choose_thresholds(scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy) -> np.ndarray:
    """Return a float32 threshold per tag from scores and gold tags (posts x tags, gold with ancestors) of held-out rows.

    The shared threshold has the best micro-F1 over all levels. A tag's own has its best F1, drawn towards the shared one
    the fewer positives it has, and never below half of it: a tag with none keeps the shared one.
    """
    shared = best_shared(scores, gold, taxonomy)
    columns, gold_columns = scores.tocsc(), gold.tocsc()
    thresholds = np.full(scores.shape[1], shared, np.float32)
    for tag in np.flatnonzero(np.diff(gold_columns.indptr)):
        low, high = columns.indptr[tag], columns.indptr[tag + 1]
        if low == high:
            continue
        positives = gold_columns.indices[gold_columns.indptr[tag] : gold_columns.indptr[tag + 1]]
        data = columns.data[low:high]
        own = _best_own(data, np.isin(columns.indices[low:high], positives), len(positives))
        trust = len(positives) / (len(positives) + TRUSTED_POSITIVES)
        thresholds[tag] = max(LEAST_OF_SHARED * shared, trust * own + (1 - trust) * shared)
    return thresholds


def best_shared(scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy) -> float:
    """Return the threshold of `GRID` that has the best micro-F1 when all tags share it; the highest among equals."""
    # What is below the lowest cut is never decided on; most scores of many tags are.
    high = scores.copy()
    high.data[high.data < GRID[0]] = 0
    high.eliminate_zeros()
    values = [micro_f1(decide(high, np.full(scores.shape[1], cut), taxonomy), gold) for cut in GRID]
    return float(GRID[len(GRID) - 1 - int(np.argmax(values[::-1]))])


def shared_f1(scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy) -> float:
    """Return the micro-F1 of scores under the threshold, shared by all tags, that suits them best."""
    cut = best_shared(scores, gold, taxonomy)
    return micro_f1(decide(scores, np.full(len(taxonomy), cut), taxonomy), gold)


def micro_f1(chosen: csr_matrix, gold: csr_matrix) -> float:
    """Return 2 TP / (predicted + gold) over all (post, tag) pairs; 0 when there are none."""
    both = chosen.astype(bool).multiply(gold.astype(bool)).nnz
    return float(2 * both / max(1, chosen.nnz + gold.nnz))


def decide(scores: csr_matrix, thresholds: np.ndarray, taxonomy: Taxonomy) -> csr_matrix:
    """Return the scores of the tags that reach their threshold, and of their ancestors, whatever theirs.

    `scores` are closed: every tag has at least the highest score below it.
    """
    rows = rows_of(scores.indptr)
    passed = scores.data >= thresholds[scores.indices]
    chosen = collect_highest(rows[passed], scores.indices[passed].astype(np.int64), scores.data[passed], scores.shape)
    kept = mark_right(scores, raise_parents(chosen, taxonomy))
    indptr = np.concatenate([[0], np.cumsum(kept)])[scores.indptr]
    return csr_matrix((scores.data[kept], scores.indices[kept], indptr), shape=scores.shape)


def _best_own(data: np.ndarray, right: np.ndarray, positives: int) -> float:
    """Return the cut between two scores of one tag that has the best F1."""
    order = np.argsort(-data, kind="stable")
    data, hits = data[order], np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(data) + 1) + positives)
    # Equal scores pass together: only the last of them is a cut.
    last = np.append(np.diff(data) < 0, True)
    best = int(np.argmax(np.where(last, f1, -1.0)))
    below = data[best + 1] if best + 1 < len(data) else data[best] * 0.9
    return float((data[best] + below) / 2)


ORIGIN = Origin("thresholds for the tags of the taxonomy beside them", "train again")
THRESHOLDS: TensorTypes = {"thresholds": ("float32", "tags")}
CALIBRATED: TensorTypes = {**THRESHOLDS, "slope": ("float32", "tags"), "offset": ("float32", "tags")}


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
        calibrated = cls(taxonomy, np.zeros(len(taxonomy), np.float32), fit_calibration(raw, gold, bands))
        return replace(calibrated, thresholds=choose_thresholds(calibrated.scores(raw), gold, taxonomy))

    @classmethod
    def fixed(cls, taxonomy: Taxonomy, threshold: float) -> Self:
        """Return the decision of scores that are probabilities already: one threshold for all tags."""
        return cls(taxonomy, np.full(len(taxonomy), threshold, np.float32))

    def scores(self, raw: csr_matrix) -> csr_matrix:
        """Return raw scores as probabilities, float32 csr_matrix (posts x tags), a child's never above its parent's."""
        return raise_parents(self.calibration.apply(raw) if self.calibration else raw, self.taxonomy)

    def settle(self, raw: csr_matrix) -> tuple[csr_matrix, csr_matrix]:
        """Return raw scores as probabilities, and those of the tags that reach their threshold, and of their ancestors."""
        scores = self.scores(raw)
        return scores, decide(scores, self.thresholds, self.taxonomy)

    def decide(self, raw: csr_matrix) -> csr_matrix:
        """Return the probabilities of the tags that reach their threshold, and of their ancestors."""
        return self.settle(raw)[1]

    def judge(self, raw: csr_matrix, gold: csr_matrix) -> Figures:
        """Return how good the tags are that raw scores lead to."""
        chosen = self.decide(raw)
        ece = expected_calibration_error(chosen.data, mark_right(chosen, gold)) or 0.0
        return {"micro_f1": round(micro_f1(chosen, gold), 4), "ece": round(ece, 4)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that `of_arrays` takes, by name."""
        return {"thresholds": self.thresholds} | ({} if self.calibration is None else vars(self.calibration))

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray], taxonomy: Taxonomy) -> Self:
        """Return the decision that gave these arrays."""
        calibrated = Calibration(arrays["slope"], arrays["offset"]) if "slope" in arrays else None
        return cls(taxonomy, arrays["thresholds"], calibrated)

    def save(self, folder: Path) -> None:
        """Write decision.safetensors to a folder, which must exist."""
        write_tensors(folder / DECISION, self.arrays())

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> Self:
        """Read what `save` wrote; raises OwnFileError when the file is none, or of another taxonomy."""
        sizes = {"tags": len(taxonomy)}
        path = folder / DECISION
        arrays = read_tensors(path, lambda names: CALIBRATED if "slope" in names else THRESHOLDS, ORIGIN, sizes)
        return cls.of_arrays(arrays, taxonomy)
