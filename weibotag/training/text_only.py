"""The cheapest tagger of texts alone, chosen on the held-out rows."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from time import process_time

from scipy.sparse import csr_matrix, vstack

from weibotag.core.progress import bar
from weibotag.scoring import calibration, thresholds
from weibotag.scoring.blend import join_scores
from weibotag.scoring.tagger import raise_parents
from weibotag.taggers.ensemble import CANDIDATES, Part, TextTagger, log, read_raw, strip
from weibotag.taggers.fasttext import DivergedError, FastTagger, Settings, train, write_documents
from weibotag.taggers.linear import train_linear
from weibotag.taggers.rules import RulesTagger
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.dataset import WORTHWHILE, Dataset

ROUNDS = 3
LEAST_SECONDS = 30.0
# What was learnt well with pictures may be learnt too fast from text alone: shares of the learning rate.
SLOWER = (1.0, 0.5, 0.2)


def choose_candidate(scores: Mapping[str, float], worthwhile: float) -> str:
    """Return the name of the cheapest candidate that no costlier one beats by `worthwhile`; `scores` are cheapest first."""
    best = next(iter(scores))
    for name, score in scores.items():
        if score >= scores[best] + worthwhile:
            best = name
    return best


def train_text(
    trained: "Dataset", held: "Dataset", taxonomy: Taxonomy, settings: Settings, seconds: float, threads: int, quiet: bool
) -> TextTagger:
    """Return the tagger of text alone that is best on the held-out rows for what it costs.

    `settings` and `threads` are fastText's; the linear tagger learns from as many posts as it can in `seconds` (at least
    half a minute). A candidate that costs more must bring `WORTHWHILE` micro-F1 more. Calibrated on all held-out rows, those
    whose text says nothing included, so that a low confidence is one to go by.
    """

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
