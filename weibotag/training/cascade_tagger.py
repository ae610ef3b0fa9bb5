"""The cascade's learner: its taggers, what steps cost here, what it spends without a plan."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.extraction.context import ExtractionContext
from weibotag.features.dense_blocks import forget_texts
from weibotag.scoring.closure import raise_parents
from weibotag.taggers.cascade.policy import Cascade, Taggers, count_files
from weibotag.taggers.model_folder import TEXT, CascadeAbout
from weibotag.taggers.network import NetworkScorer
from weibotag.taggers.tagger import Ensemble, Tagger
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.cascade import learn_cascade
from weibotag.training.learners import Trainer
from weibotag.vision.stage import stages_of_kinds

UNAFFORDABLE = 1e12
# What tagging may cost with all pictures known, without a plan.
TIMES_FAST = 2.7
TIMED = 2_000
ROUNDS = 3


def train_cascade(trainer: Trainer, context: ExtractionContext) -> Cascade:
    """Return the cascade of the text tagger, of fast or linear, whichever reads posts best, and of the network."""
    text, reader = trainer.train(TEXT).tagger, trainer.train(trainer.best_reader()).tagger.scorer
    taggers, lesson = (text, reader, trainer.network()), trainer.lesson
    held = lesson.held
    # Words that posts bring along stand for a stage, which here nobody can run.
    stages = tuple(dict.fromkeys([*context.fingerprints, *stages_of_kinds(context.pipeline.words)]))
    prices = dict.fromkeys(stages, UNAFFORDABLE) | price_taggers(taggers, held.tables)
    prices |= context.stats.prices(context.fingerprints, context.workers)
    cascade = learn_cascade(held.tables, held.gold, lesson.taxonomy, taggers, stages, prices)
    cascade.network_rate = bound_network(cascade, trainer.train("fast").tagger, held.tables)
    return cascade


def answer_known(cascade: Cascade, table: pa.Table) -> csr_matrix:
    """Return the tags of posts whose pictures all stages have looked at, csr_matrix (posts x tags)."""
    return cascade.answer(table, np.where(count_files(table) > 0, cascade.everything, 0)).chosen


def bound_network(cascade: Cascade, fast: Tagger, tables: Sequence[pa.Table]) -> float:
    """Return the gain per millisecond that the network is asked for where all pictures are known.

    There the cascade takes `TIMES_FAST` as long as fast, as timed here, where enough posts gain by the network.
    """
    table = pa.concat_tables(tables, promote_options="default").slice(0, TIMED)
    bits = np.where(count_files(table) > 0, cascade.everything, 0)
    quick = time_each(lambda: fast.scores(table), len(table))
    alone = time_each(lambda: cascade.answer(table, bits, np.inf), len(table))
    every = time_each(lambda: cascade.answer(table, bits, -1.0), len(table))
    share = (TIMES_FAST * quick - alone) / max(1e-9, every - alone)
    gains = cascade.answer(table, bits, np.inf).gains[:, -1]
    return float(max(0.0, np.quantile(gains, 1 - np.clip(share, 0, 1)))) / cascade.prices["fused"]


def time_each(work: Callable[[], Any], posts: int) -> float:
    """Return the milliseconds that some work takes for each of so many posts, at best, what texts mean read anew."""
    spent = []
    for _ in range(ROUNDS):
        forget_texts()
        begun = perf_counter()
        work()
        spent.append(perf_counter() - begun)
    return 1000 * min(spent) / max(1, posts)


def describe_cascade(cascade: Cascade) -> CascadeAbout:
    """Return what model.json says of a cascade."""
    prices = {name: round(value, 4) for name, value in cascade.prices.items()}
    return {
        "tagger_of_text": cascade.text.scorer.name,
        "reader": cascade.name(1, False),
        "share": cascade.share,
        "prices": prices,
        **cascade.figures,
    }


def price_taggers(taggers: Taggers, tables: Sequence[pa.Table]) -> dict[str, float]:
    """Return what taggers cost here, in milliseconds a post."""
    some = pa.concat_tables(tables, promote_options="default").slice(0, TIMED)
    prices: dict[str, float] = {}
    scorers: dict[str, Ensemble | NetworkScorer] = {"text": taggers[0].scorer, "fast": taggers[1], "fused": taggers[2]}
    for name, scorer in scorers.items():
        prices[name] = time_each(partial(_score, scorer, some, taggers[0].decision.taxonomy), len(some))
    return prices


def _score(scorer: Ensemble | NetworkScorer, table: pa.Table, taxonomy: Taxonomy) -> csr_matrix:
    return raise_parents(scorer.raw_scores(table), taxonomy)
