"""Fast, xmc, or both: which answers best on the held-out rows."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.features.visual_codes import Codebook
from weibotag.scoring import calibration, thresholds
from weibotag.scoring.blend import join_scores
from weibotag.scoring.metrics import expected_calibration_error
from weibotag.scoring.tagger import mark_right
from weibotag.taggers.fasttext import FastTagger
from weibotag.taggers.linear_tree import JointTagger, XmcTagger
from weibotag.taggers.model_folder import Model
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.dataset import WORTHWHILE, Dataset
from weibotag.training.linear_tree import train_xmc
from weibotag.training.text_only import choose_candidate

# Thresholds and calibration of more held-out posts than this are no better.
MOST_HELD = 50_000
# Posts that are scored at once: the more there are, the less each costs.
TOGETHER = 5_000
# fastText learns one tag after the other: posts x epochs x tags x width so many in a second.
FAST_PACE = 1e9

log = logging.getLogger(__name__)


def is_fast_affordable(posts: int, epochs: int, tags: int, width: int, seconds: float) -> bool:
    """Tell whether fastText could be trained once in about five times `seconds`, or ten minutes."""
    return posts * epochs * tags * width / FAST_PACE <= max(600.0, 5 * seconds)


def describe(chosen: csr_matrix, gold: csr_matrix) -> dict[str, float]:
    """Return the figures of a model on the held-out rows: micro-F1 and calibration error of the chosen tags."""
    right = mark_right(chosen, gold)
    return {
        "micro_f1": round(thresholds.micro_f1(chosen, gold), 4),
        "ece": round(expected_calibration_error(chosen.data, right) or 0.0, 4),
    }


def settle_joint(
    taxonomy: Taxonomy, parts: Sequence[FastTagger | XmcTagger], raw: csr_matrix, gold: csr_matrix, posts: np.ndarray
) -> tuple[JointTagger, dict[str, float]]:
    """Return taggers that answer together, calibrated and with thresholds, and their figures on the held-out rows.

    `raw` are their joint scores of these rows and `gold` the tags; `posts` (tags,) says how many each tag was learnt from:
    tags of one level and about as many posts are calibrated together, so that a tag without held-out posts is, too.
    """
    bands = taxonomy.depth * 64 + np.floor(np.log2(1 + posts)).astype(np.int64)
    calibrated = calibration.fit(raw, gold, bands)
    joint = JointTagger(taxonomy, parts, calibrated, np.zeros(len(taxonomy), np.float32))
    scores = joint.settle(raw)
    joint.thresholds = thresholds.choose(scores, gold, taxonomy)
    return joint, describe(thresholds.decide(scores, joint.thresholds, taxonomy), gold)


def train_alone(
    trained: "Dataset",
    held: "Dataset",
    taxonomy: Taxonomy,
    codebook: Codebook | None,
    keywords: pa.Table,
    memory: float | None,
    quiet: bool,
) -> Model:
    """Return a model that has xmc alone."""
    tagger = train_xmc(trained.tables, trained.gold, taxonomy, memory, quiet)
    tables, gold = _limit(held)
    raw = csr_matrix(vstack([tagger.raw_scores(table) for table in tables]))
    joint, figures = settle_joint(taxonomy, [tagger], raw, gold, _count(trained))
    about: dict[str, Any] = {"tagger": "xmc", "valid": figures}
    return Model(taxonomy, None, joint.calibration, joint.thresholds, codebook, keywords, about, joint=joint)


def choose(model: Model, trained: "Dataset", held: "Dataset", memory: float | None, quiet: bool) -> Model:
    """Return the model of the fast tagger, of xmc, or of their mean: the best on the held-out rows by micro-F1.

    What costs more must be better by `WORTHWHILE`: xmc than fast, the mean than both.
    """

    alone = train_alone(trained, held, model.taxonomy, model.codebook, model.keywords, memory, quiet)
    assert alone.joint is not None
    parts = (model.tagger, alone.joint.parts[0])
    tables, gold = _limit(held)
    raw = join_scores([csr_matrix(vstack([part.raw_scores(table) for table in tables])) for part in parts])
    both, figures = settle_joint(model.taxonomy, parts, raw, gold, _count(trained))
    tried = {"fast": model.about["valid"], "xmc": alone.about["valid"], "average": figures}
    taken = choose_candidate({name: told["micro_f1"] for name, told in tried.items()}, WORTHWHILE)
    told = ", ".join(f"{name} {one['micro_f1']:.3f}" for name, one in tried.items())
    log.log(logging.INFO if quiet else logging.WARNING, "took %s: micro-F1 on the held-out posts %s", taken, told)
    about = model.about | {"tagger": taken, "valid": tried[taken], "tried": tried}
    if taken == "xmc":
        return replace(alone, about=alone.about | {"tried": tried})
    return replace(model, about=about, joint=both if taken == "average" else None)


def _limit(held: "Dataset") -> tuple[list[pa.Table], csr_matrix]:
    """Return the held-out posts that calibration and thresholds are learnt on, and their gold tags."""
    table = pa.concat_tables(held.tables, promote_options="default").slice(0, MOST_HELD)
    return [table.slice(start, TOGETHER) for start in range(0, len(table), TOGETHER)], held.gold[:MOST_HELD]


def _count(rows: "Dataset") -> np.ndarray:
    """Return how many posts each tag has."""
    return np.asarray(rows.gold.sum(axis=0)).ravel()
