"""From a trained fast model to the fused tagger and the cascade, on the same rows."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.stats import ExtractionStats
from weibotag.scoring import thresholds
from weibotag.scoring.tagger import raise_parents
from weibotag.taggers.cascade.policy import Cascade, Taggers, count_files
from weibotag.taggers.fasttext import FastTagger
from weibotag.taggers.fasttext import Settings as FastSettings
from weibotag.taggers.linear import LinearTagger, train_linear
from weibotag.taggers.model_folder import Model
from weibotag.training.cascade import learn_cascade
from weibotag.training.network.architectures.presets import resolve
from weibotag.training.network.settings import NetworkRecipe, Settings, TrainingRun
from weibotag.training.text_only import LEAST_SECONDS, train_text
from weibotag.vision.backends.transformers_model import find_folder
from weibotag.vision.stage import hash_weights, stages_of_kinds

UNAFFORDABLE = 1e12
# What tagging may cost with all pictures known, without a plan.
TIMES_FAST = 2.7
TIMED = 2_000
ROUNDS = 3
# A task's classes of the posts to train on and of those held out, None where it is not known.
Classes = tuple[list[str | None], list[str | None]]


@dataclass(frozen=True)
class NetworkOptions:
    """What is trained beyond the fast tagger: the network's name, minutes at most, further tasks (name: column), a seed.

    `start` is a folder of `weibotag pretrain`, whose weights the network begins from; `encoder` a language model (a folder,
    or hf:owner/name) that reads the text for the network, `encoder_training` what of it is trained: frozen, full or lora.
    """

    network: str = "concat"
    minutes: float | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    start: Path | None = None
    encoder: str = ""
    encoder_training: str = "frozen"

    def request(self) -> dict[str, Any]:
        """Return all that a training depends on, the weights that it begins from by their hashes."""
        files = () if self.start is None else sorted(path for path in self.start.iterdir() if path.is_file())
        return asdict(self) | {"start": {path.name: hash_weights(path) for path in files}}


def check_beyond(tagger: str, beyond: NetworkOptions) -> None:
    """Raise before any work what would keep the network from being trained."""
    if beyond.start is not None and not beyond.start.is_dir():
        raise RequestError(f"{beyond.start}: no folder there; --start takes one that weibotag pretrain made")
    if tagger == "fast":
        if beyond != NetworkOptions():
            raise RequestError(
                "--network, --minutes, --task, --seed, --start, --encoder, --encoder-training are of a network: "
                "give --tagger fused or cascade"
            )
        return
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise MissingExtraError(f"training the {tagger} tagger", "torch")
    check_encoder(beyond)
    resolve(beyond.network)


def check_encoder(beyond: NetworkOptions) -> None:
    """Raise RequestError for an encoder that can't be used, MissingExtraError without the libraries that it needs."""
    from importlib.util import find_spec

    if not beyond.encoder:
        if beyond.encoder_training != "frozen":
            raise RequestError(f"--encoder-training {beyond.encoder_training}: of which language model? Give --encoder, too")
        return
    if beyond.start is not None:
        raise RequestError(
            "--encoder does not go with --start: a pretrained network reads characters itself; give one of them"
        )
    if find_spec("transformers") is None:
        raise MissingExtraError("--encoder", "hf")
    if beyond.encoder_training == "lora" and find_spec("peft") is None:
        raise MissingExtraError("--encoder-training lora", "hf")

    find_folder(beyond.encoder)


def read_tasks(beyond: NetworkOptions, sides: tuple[Any, Any]) -> dict[str, Classes]:
    """Return the classes of each task's posts, those to train on and those held out; RequestError for an absent column."""
    trained, held = sides
    return {name: (_labels(trained.tables, column), _labels(held.tables, column)) for name, column in beyond.tasks.items()}


def go_beyond(
    model: Model,
    sides: tuple[Any, Any],
    tagger: str,
    beyond: NetworkOptions,
    tasks: dict[str, Classes],
    context: ExtractionContext,
    stats: ExtractionStats,
    folder: Path,
    *,
    tune_seconds: float,
    threads: int,
) -> Model:
    """Return the model with its fused tagger, and for `tagger` cascade with the text tagger and the cascade, too.

    `sides` are the rows to train on and those held out (`Dataset`), `stats` what looking at their pictures took, `tasks` is
    what `read_tasks` returned, `folder` is where the network's training goes on after a kill.
    """
    from weibotag.training.network.fit import train_fused

    trained, held = sides
    recipe = NetworkRecipe(beyond.network, beyond.start, beyond.encoder, beyond.encoder_training)
    run = TrainingRun(folder, beyond.seed, threads=threads, quiet=context.quiet)
    fused, summary = train_fused(trained, held, model.taxonomy, recipe, Settings(minutes=beyond.minutes), run, tasks)
    model = replace(model, fused=fused, about=model.about | {"network": asdict(summary)})
    if tagger == "fused":
        return model
    text = train_text(
        trained, held, model.taxonomy, FastSettings(**model.about["settings"]), tune_seconds, threads, context.quiet
    )
    taggers = text, choose_reader(model, trained, held, tune_seconds), fused
    # Words that posts bring along stand for a stage, which here nobody can run.
    stages = tuple(dict.fromkeys([*context.fingerprints, *stages_of_kinds(context.pipeline.words)]))
    prices = dict.fromkeys(stages, UNAFFORDABLE) | price_taggers(taggers, held.tables)
    prices |= stats.prices(context.fingerprints, context.workers)
    cascade = learn_cascade(held.tables, held.gold, model.taxonomy, taggers, stages, prices)
    cascade.network_rate = bound_network(cascade, model.tagger, held.tables)
    return replace(model, text=text, cascade=cascade, about=model.about | {"cascade": describe_cascade(cascade)})


def bound_network(cascade: Cascade, fast: FastTagger, tables: list[pa.Table]) -> float:
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
    """Return the milliseconds that some work takes for each of so many posts, at best."""
    spent = []
    for _ in range(ROUNDS):
        begun = perf_counter()
        work()
        spent.append(perf_counter() - begun)
    return 1000 * min(spent) / max(1, posts)


def choose_reader(model: Model, trained: Any, held: Any, seconds: float) -> FastTagger | LinearTagger:
    """Return what reads posts with wordings best on the held-out rows: a linear tagger, or the model's own fast one."""
    linear = train_linear(trained.tables, trained.gold, model.taxonomy, max(seconds, LEAST_SECONDS))
    candidates: list[FastTagger | LinearTagger] = [linear, model.tagger]

    def score(tagger: FastTagger | LinearTagger) -> float:
        raw = csr_matrix(vstack([tagger.raw_scores(table) for table in held.tables]))
        return thresholds.shared_f1(raise_parents(raw, model.taxonomy), held.gold, model.taxonomy)

    return max(candidates, key=score)


def describe_cascade(cascade: Cascade) -> dict[str, Any]:
    """Return what model.json says of a cascade."""
    prices = {name: round(value, 4) for name, value in cascade.prices.items()}
    return {
        "tagger_of_text": cascade.text.name,
        "reader": cascade.name(1, False),
        "share": cascade.share,
        "prices": prices,
        **cascade.figures,
    }


def _labels(tables: list[pa.Table], column: str) -> list[str | None]:
    """Return a column of posts as text; RequestError where it is not there."""
    for table in tables:
        if column not in table.column_names:
            raise RequestError(f"--task: no column {column!r}; there are: {', '.join(table.column_names)}")
    return [None if value is None else str(value) for table in tables for value in table[column].to_pylist()]


def price_taggers(taggers: Taggers, tables: list[pa.Table]) -> dict[str, float]:
    """Return what taggers cost here, in milliseconds a post."""
    some = pa.concat_tables(tables, promote_options="default").slice(0, TIMED)
    pairs = zip(("text", "fast", "fused"), taggers, strict=True)
    return {name: time_each(partial(tagger.scores, some), len(some)) for name, tagger in pairs}
