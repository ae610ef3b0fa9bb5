"""Learners by name, on the same rows: each learns once, its scores of held-out rows are kept, the best are chosen."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import combinations
from time import perf_counter, process_time
from typing import cast

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.features.dense_blocks import DenseBlocks, forget_texts
from weibotag.runtime.findings_store import default_root
from weibotag.scoring.decision import Decision, shared_f1
from weibotag.taggers.fasttext import DivergedError
from weibotag.taggers.linear import PAIRS_A_SECOND, LinearScorer, count_pairs, train_linear
from weibotag.taggers.linear_tree import XmcScorer
from weibotag.taggers.model_folder import Candidate, TaggerAbout
from weibotag.taggers.network import NetworkScorer
from weibotag.taggers.rules import RulesScorer, rules_tagger
from weibotag.taggers.tagger import TEXTS, Ensemble, Scorer, Tagger, weigh_scores
from weibotag.training.dataset import WORTHWHILE, Dataset, Learner, Learnt, Lesson
from weibotag.training.fasttext import is_fast_affordable
from weibotag.training.linear_tree import train_xmc
from weibotag.training.network.settings import ALIASES, NETWORKS
from weibotag.training.vector_choice import choose_vectors

# Thresholds and calibration of more held-out posts than this are no better.
MOST_HELD = 50_000
# Of fewer held-out posts than this alone they are worse than those of posts that were scored in folds.
FEWEST_TO_CALIBRATE = 30
# Posts that are scored at once: the more there are, the less each costs.
TOGETHER = 5_000
ROUNDS = 3
LEAST_SECONDS = 30.0
# A linear tagger scores all tags of a thousand posts at once; more tags than this would not fit a cache, or memory.
MOST_LINEAR_TAGS = 20_000
# What learners can be named; a network's name is that of the fused tagger with this network.
FUSED, CASCADE = "fused", "cascade"
WITHOUT_TORCH = ("rules", "fast", "linear", "xmc", "text", "average", "auto")
# Who is trained, by the place of what it learns: imported when used, because some need torch.
LEARNERS = {
    "rules": "weibotag.training.learners:fit_rules",
    "fast": "weibotag.training.fasttext:fit_fast",
    "linear": "weibotag.training.learners:fit_linear",
    "xmc": "weibotag.training.learners:fit_xmc",
    "text/fast": "weibotag.training.fasttext:fit_fast_to_texts",
    FUSED: "weibotag.training.network.fit:fit_fused",
}
# Of texts alone the words of the taxonomy may count, too.
TEXT_CANDIDATES = (
    ("text/linear",),
    ("text/fast",),
    ("text/fast", "text/linear"),
    ("text/linear", "text/rules"),
    ("text/fast", "text/linear", "text/rules"),
)

# Microseconds of CPU a post, as once measured: candidates count as cheap in this order on every machine and in every run, so
# that the same posts give the same model. What they take in a run is told, and decides nothing.
COSTS = {"rules": 8, "linear": 24, "fast": 30, "xmc": 41}
# What the vectors of texts cost besides, however many read them.
TEXT_VECTOR = 1_000

log = logging.getLogger(__name__)


def check_names(names: Sequence[str]) -> None:
    """Raise RequestError for a name that is no tagger, MissingExtraError for a network where torch is absent."""
    if not names:
        raise RequestError(
            f"no tagger is named; there are: {', '.join(WITHOUT_TORCH)}, fused, cascade, and networks, as concat"
        )
    networks = [name for name in names if name not in WITHOUT_TORCH]
    if not networks:
        return
    known = (*WITHOUT_TORCH, FUSED, CASCADE, *NETWORKS)
    for name in networks:
        if ALIASES.get(name, name) not in known:
            raise RequestError(f"no tagger {name!r}; there are: {', '.join(known)}")
    if find_spec("torch") is None:
        raise MissingExtraError(f"training the {networks[0]} tagger", "torch")


def fit_rules(lesson: Lesson) -> Learnt:
    """Return the words of the taxonomy, which learn nothing."""
    words = RulesScorer(lesson.taxonomy)
    crossed = csr_matrix(vstack([words.raw_scores(table) for table in lesson.trained.tables])) if lesson.is_short else None
    return Learnt(Ensemble.alone("rules", words), crossed=crossed)


def fit_linear(lesson: Lesson) -> Learnt:
    """Return a linear tagger, from as many posts as it can learn from in `tune_seconds` (at least half a minute)."""
    seconds = max(lesson.options.tune_seconds, LEAST_SECONDS)

    def learn(posts: Dataset, blocks: DenseBlocks) -> LinearScorer:
        return train_linear(posts.tables, posts.gold, lesson.taxonomy, seconds, blocks)

    return _fit_with_vectors("linear", lesson, learn)


def fit_xmc(lesson: Lesson) -> Learnt:
    """Return linear models along the tag tree."""
    memory, quiet = lesson.options.memory, lesson.options.quiet

    def learn(posts: Dataset, blocks: DenseBlocks) -> XmcScorer:
        # Nobody waits for one of many folds.
        return train_xmc(posts.tables, posts.gold, lesson.taxonomy, memory, quiet or posts is not lesson.trained, blocks)

    return _fit_with_vectors("xmc", lesson, learn)


def _fit_with_vectors(name: str, lesson: Lesson, learn: Callable[[Dataset, DenseBlocks], Scorer]) -> Learnt:
    best, crossed, reached = choose_vectors(lesson, learn, ("pictures", "texts"), lesson.is_short)
    return Learnt(Ensemble.alone(name, best), reached, crossed=crossed)


def is_linear_affordable(lesson: Lesson) -> bool:
    """Tell whether a linear tagger could learn from all posts in about five times `tune_seconds`, or ten minutes."""
    seconds = count_pairs(lesson.trained.gold, lesson.taxonomy) / PAIRS_A_SECOND
    return len(lesson.taxonomy) <= MOST_LINEAR_TAGS and seconds <= max(600.0, 5 * lesson.options.tune_seconds)


@dataclass(frozen=True)
class Trained:
    """A tagger by its route, and what is known of it; of a mean `parts` are the taggers that it is of."""

    route: str
    tagger: Tagger
    about: TaggerAbout
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scored:
    """What a learner returned, its raw scores of the rows to choose on, microseconds of CPU a post, seconds of training."""

    learnt: Learnt
    raw: csr_matrix
    microseconds: float
    seconds: float


class Trainer:
    """Trains taggers by name on the rows of a lesson; what several of them are made of learns once."""

    def __init__(self, lesson: Lesson) -> None:
        whole = pa.concat_tables(lesson.held.tables, promote_options="default").slice(0, MOST_HELD)
        tables = [whole.slice(start, TOGETHER) for start in range(0, len(whole), TOGETHER)]
        self.lesson = lesson = replace(lesson, held=Dataset(tables, lesson.held.gold[:MOST_HELD]))
        # What is chosen on: the held-out rows, and after them those to train on where the lesson is short.
        self._gold = csr_matrix(vstack([lesson.held.gold, lesson.trained.gold])) if lesson.is_short else lesson.held.gold
        self._scored: dict[str, _Scored] = {}
        self._trained: dict[tuple[str, ...], Trained] = {}

    def train(self, name: str) -> Trained:
        """Return a tagger that has learnt: `auto` takes the best of fast, linear, xmc and their means, `average` of these.

        The best is the cheapest by `COSTS` that none which costs more beats by `WORTHWHILE` micro-F1.
        """
        if name == "text":
            names = [one for one in TEXT_CANDIDATES if all(self._can_learn(place) for place in one)]
            return replace(self._choose(names), route=name, parts=())
        if name in ("auto", "average"):
            known = [one for one in self._affordable if self._can_learn(one)]
            return self._choose([one for count in range(1 + (name == "average"), 4) for one in combinations(known, count)])
        return self._join((name,))

    def without_texts(self) -> "Trainer":
        """Return a trainer on the same rows whose taggers read no vectors of texts; what reads none has learnt already."""
        other = Trainer(replace(self.lesson, reads_texts=False))
        other._scored = {
            name: one for name, one in self._scored.items() if not any(blocks.encoder for blocks in one.learnt.scorer.blocks)
        }
        return other

    def network(self, name: str = FUSED) -> NetworkScorer:
        """Return a trained network."""
        return cast(NetworkScorer, self._score(name).learnt.scorer.scorers[FUSED])

    def best_reader(self) -> str:
        """Return who of fast and linear reads posts with wordings best, by micro-F1 of raw scores on the held-out rows."""
        taxonomy = self.lesson.taxonomy

        def reach(name: str) -> float:
            return shared_f1(Decision.fixed(taxonomy, 0.5).scores(self._score(name).raw), self._gold, taxonomy)

        return max(("linear", "fast"), key=reach)

    @cached_property
    def _affordable(self) -> tuple[str, ...]:
        """Return those of fast, linear and xmc that can be trained on these posts in reasonable time."""
        able = {"fast": is_fast_affordable(self.lesson), "linear": is_linear_affordable(self.lesson), "xmc": True}
        for name in [name for name, can in able.items() if not can]:
            log.warning("%s is left out: %s tags would take it too long", name, f"{len(self.lesson.taxonomy):,}")
        return tuple(name for name, can in able.items() if can)

    def _can_learn(self, place: str) -> bool:
        """Let a learner learn; tell whether it did: fastText may take too long, or run away."""
        if place == "text/fast" and "fast" not in self._affordable:
            return False
        try:
            self._score(place)
        except DivergedError as error:
            log.warning("%s is left out: %s", place, error)
            return False
        return True

    def _score(self, name: str) -> _Scored:
        """Return a learner's scores of the held-out rows; it learns when it is first asked."""
        if name in self._scored:
            return self._scored[name]
        lesson, place = self.lesson, name
        if name.startswith("text/"):
            texts = [
                Dataset([table.select(["post_id", *TEXTS]) for table in side.tables], side.gold)
                for side in (lesson.trained, lesson.held)
            ]
            settings = lesson.settings
            if name == "text/fast" and settings is None:
                settings = self._score("fast").learnt.settings
            lesson = replace(lesson, trained=texts[0], held=texts[1], settings=settings)
            place = name if name in LEARNERS else name.removeprefix("text/")
        elif name not in LEARNERS:
            network = replace(lesson.options.network, network=name)
            lesson, place = replace(lesson, options=replace(lesson.options, network=network)), FUSED
        begun = perf_counter()
        module, _, function = LEARNERS[place].partition(":")
        learnt = cast(Learner, getattr(import_module(module), function))(lesson)
        if name == "rules":
            # As they answer without a model; beside what has learnt, words alone.
            learnt = Learnt(self._rules.scorer)
        if name.startswith("text/"):
            # The words of the taxonomy are the same ones, whatever they are looked for in.
            kept = "rules" if place == "rules" else name
            learnt = replace(
                learnt, scorer=Ensemble({kept: learnt.scorer.scorers[place.rpartition("/")[2]]}, {kept: 1.0}, True)
            )
        seconds = perf_counter() - begun
        first, *others = self.lesson.held.tables
        spent = []
        for _ in range(ROUNDS):
            forget_texts()
            started = process_time()
            raw = learnt.scorer.raw_scores(first)
            spent.append((process_time() - started) / len(first) * 1e6)
        crossed = [] if learnt.crossed is None else [learnt.crossed]
        raw = csr_matrix(vstack([raw, *(learnt.scorer.raw_scores(table) for table in others), *crossed]))
        self._scored[name] = _Scored(learnt, raw, min(spent), seconds)
        return self._scored[name]

    def _join(self, names: tuple[str, ...]) -> Trained:
        """Return the mean of what some learners answer, calibrated, with thresholds, and its figures."""
        if names in self._trained:
            return self._trained[names]
        parts = [self._score(name) for name in names]
        ensemble = parts[0].learnt.scorer
        if len(parts) > 1:
            ensemble = Ensemble.mean([part.learnt.scorer for part in parts], parts[0].learnt.scorer.texts_only)
        raw = weigh_scores([(part.raw, 1 / len(parts)) for part in parts])
        # A network is asked for the held-out rows alone.
        gold = self._gold[: raw.shape[0]]
        if names == ("rules",):
            decision = self._rules.decision
        else:
            # What learnt in folds is less sure than what learnt from all: it tells who is best, not what a score means.
            held = len(self.lesson.held)
            own = slice(held if held >= FEWEST_TO_CALIBRATE else None)
            decision = Decision.fit(raw[own], gold[own], self.lesson.taxonomy, self._bands if "xmc" in names else None)
        about: TaggerAbout = {
            "valid": decision.judge(raw, gold),
            "microseconds": round(sum(part.microseconds for part in parts), 1),
            "seconds": round(sum(part.seconds for part in parts), 1),
            "training": {name: dict(part.learnt.report) for name, part in zip(names, parts, strict=True)},
        }
        route = "average" if len(names) > 1 else names[0] if names[0] in LEARNERS else FUSED
        self._trained[names] = Trained(route, Tagger(ensemble, decision), about, names if len(names) > 1 else ())
        return self._trained[names]

    @cached_property
    def _rules(self) -> Tagger:
        return rules_tagger(self.lesson.taxonomy, default_root())

    def _price(self, names: tuple[str, ...]) -> int:
        """Return what a mean of learners costs by `COSTS`, and by the vectors that they read, in microseconds a post."""
        read = [blocks for name in names for blocks in self._score(name).learnt.scorer.blocks]
        return price(names) + TEXT_VECTOR * any(blocks.encoder for blocks in read)

    @cached_property
    def _bands(self) -> np.ndarray:
        """Return bands of tags of one level and about as many posts: those without held-out posts go by their band."""
        posts = np.asarray(self.lesson.trained.gold.sum(axis=0)).ravel()
        return np.asarray(self.lesson.taxonomy.depth * 64 + np.floor(np.log2(1 + posts)).astype(np.int64))

    def _choose(self, candidates: Iterable[tuple[str, ...]]) -> Trained:
        """Return the best of some means, with the figures of all, cheapest first by `COSTS`."""
        joined = [self._join(names) for names in sorted(candidates, key=self._price)]
        if not joined:
            raise RequestError("no mean of taggers could be trained: too many tags for fast and linear; give --tagger xmc")
        known = {one.tagger.scorer.name: one for one in joined}
        taken = known[choose_candidate({name: one.about["valid"]["micro_f1"] for name, one in known.items()}, WORTHWHILE)]
        tried = {
            name: Candidate(**one.about["valid"], microseconds=one.about["microseconds"]) for name, one in known.items()
        }
        return replace(taken, about={**taken.about, "tried": tried})


def price(names: Iterable[str]) -> int:
    """Return what a mean of learners costs by `COSTS`, in microseconds a post."""
    return sum(COSTS[name.rpartition("/")[2]] for name in names)


def choose_candidate(scores: Mapping[str, float], worthwhile: float) -> str:
    """Return the cheapest candidate that no costlier one beats by `worthwhile`; `scores` are cheapest first."""
    values = list(scores.values())
    return next(
        name
        for place, (name, score) in enumerate(scores.items())
        if all(other < score + worthwhile for other in values[place + 1 :])
    )
