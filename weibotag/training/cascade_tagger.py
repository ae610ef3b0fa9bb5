"""The cascade's learner: its taggers, what steps cost here, what it spends without a plan."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.extraction.context import ExtractionContext
from weibotag.features.dense_blocks import encode_kept, forget_texts
from weibotag.features.text_vectors import open_encoder
from weibotag.scoring.closure import raise_parents
from weibotag.taggers.cascade.policy import ENCODE, FAST, FUSED, TEXT, Cascade, Taggers, count_files
from weibotag.taggers.model_folder import PLAIN, CascadeAbout
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
    taggers, lesson = train_steps(trainer, trainer.best_reader(), trainer.network()), trainer.lesson
    held = lesson.held
    # Words that posts bring along stand for a stage, which here nobody can run.
    stages = tuple(dict.fromkeys([*context.fingerprints, *stages_of_kinds(context.pipeline.words)]))
    prices = dict.fromkeys(stages, UNAFFORDABLE) | price_taggers(taggers, held.tables)
    prices |= context.stats.prices(context.fingerprints, context.workers)
    cascade = learn_cascade(held.tables, held.gold, lesson.taxonomy, taggers, stages, prices)
    cascade.network_rate = bound_network(cascade, trainer.train("fast").tagger, held.tables)
    return cascade


def train_steps(trainer: Trainer, reader: str, network: NetworkScorer) -> Taggers:
    """Return the taggers of a cascade; where these read the vectors of texts, others that read none, too."""
    text, reading = trainer.train(TEXT).tagger, trainer.train(reader).tagger.scorer
    if not any(blocks.encoder for blocks in (*text.scorer.blocks, *reading.blocks)):
        return Taggers(text, reading, network)
    other = trainer.without_texts()
    first, second = (other.train(name).tagger for name in (TEXT, other.best_reader()))
    plain = replace(first, scorer=first.scorer.move(PLAIN[0])), replace(second, scorer=second.scorer.move(PLAIN[1]))
    return Taggers(text, reading, network, plain)


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
    gains = cascade.answer(table, bits | cascade.reading, np.inf).gains[:, -1]
    return float(max(0.0, np.quantile(gains, 1 - np.clip(share, 0, 1)))) / cascade.prices["fused"]


def time_each(work: Callable[[], Any], posts: int, anew: bool = True) -> float:
    """Return the milliseconds that some work takes for each of so many posts, at best, what texts mean read anew."""
    spent = []
    for _ in range(ROUNDS):
        if anew:
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
        "reader": cascade.reader.name,
        "encodes": cascade.plain is not None,
        "share": cascade.share,
        "prices": prices,
        **cascade.figures,
    }


def price_taggers(taggers: Taggers, tables: Sequence[pa.Table]) -> dict[str, float]:
    """Return what taggers, and reading texts, cost here, in milliseconds a post."""
    some = pa.concat_tables(tables, promote_options="default").slice(0, TIMED)
    taxonomy, prices = taggers.text.decision.taxonomy, {}
    scorers: dict[str, Ensemble | NetworkScorer] = {TEXT: taggers.text.scorer, FAST: taggers.reader}
    if taggers.plain is not None:
        texts = pc.fill_null(some["text"], "").to_pylist()
        prices[ENCODE] = time_each(partial(encode_kept, open_encoder(), texts), len(some))
        scorers = {TEXT: taggers.plain[0].scorer, FAST: taggers.plain[1].scorer}
    # Where reading texts is a step of its own, that was before the network is asked.
    for name, scorer in {**scorers, FUSED: taggers.network}.items():
        prices[name] = time_each(partial(_score, scorer, some, taxonomy), len(some), anew=taggers.plain is None)
    return prices


def _score(scorer: Ensemble | NetworkScorer, table: pa.Table, taxonomy: Taxonomy) -> csr_matrix:
    return raise_parents(scorer.raw_scores(table), taxonomy)
