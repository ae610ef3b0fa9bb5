"""The fast learner: fastText's hyper-parameters, and the share of the taxonomy's words, chosen on the held-out rows."""

from dataclasses import asdict, replace
from time import perf_counter
from typing import Any, TypedDict

import numpy as np
from scipy.sparse import csr_matrix, vstack

from weibotag.core.progress import bar
from weibotag.scoring.closure import blend, raise_parents
from weibotag.scoring.decision import shared_f1
from weibotag.taggers.fasttext import DivergedError, FastScorer, Settings, train
from weibotag.taggers.rules import RulesScorer
from weibotag.taggers.tagger import Ensemble
from weibotag.training.dataset import WORTHWHILE, Dataset, Learnt, Lesson
from weibotag.training.vector_choice import score_crossed

# fastText's hashed n-grams: about a hundred new ones a post, within these bounds.
BUCKETS = (100_000, 2_000_000)
# Of the n-grams' vectors: more would not leave a tagger its place in 1.5 GB.
MOST_BYTES = 600_000_000
# What is tried after the defaults, in this order: a factor on one setting of the best so far, or another value for it,
# until the time is up.
TRIALS: tuple[tuple[str, float | str], ...] = (
    ("spacing", "words"),
    ("lr", 0.5),
    ("epoch", 2.0),
    ("lr", 2.0),
    ("epoch", 0.5),
    ("dim", 2.0),
    ("wordNgrams", 2 / 3),
    ("dim", 0.5),
)
# What the words of the taxonomy may weigh beside fastText; they take as long again, so they must bring this much micro-F1.
RULES_SHARES = (0.25, 0.5, 0.75)
# What was learnt well with pictures may be learnt too fast from text alone: shares of the learning rate.
SLOWER = (1.0, 0.5, 0.2)
# fastText learns one tag after the other: posts x epochs x tags x width so many in a second.
FAST_PACE = 1e9


class Trial(TypedDict):
    """What was changed, and what came of it: micro-F1 on the held-out rows, None where training ran away."""

    setting: str
    value: float | str
    micro_f1: float | None


def first_settings(posts: int) -> Settings:
    """Return the settings to begin with: fewer posts are read more often, more posts have more n-grams."""
    epoch = int(np.clip(1900 / np.sqrt(posts), 5, 100))
    return Settings(epoch=epoch, bucket=int(np.clip(100 * posts, *BUCKETS)))


def is_fast_affordable(lesson: Lesson) -> bool:
    """Tell whether fastText could be trained once in about five times `tune_seconds`, or ten minutes."""
    posts, tags = lesson.trained.gold.shape
    settings = first_settings(posts)
    work = posts * settings.epoch * tags * settings.dim / FAST_PACE
    return bool(work <= max(600.0, 5 * lesson.options.tune_seconds))


def fit_fast(lesson: Lesson) -> Learnt:
    """Return fastText with the settings, and beside it the taxonomy's words with the share, that are best on `held`."""
    network, settings, trials = tune(lesson)
    scorer = FastScorer(lesson.taxonomy, network, settings.spacing)
    rules = RulesScorer(lesson.taxonomy)
    share = choose_share(lesson, scorer, rules)

    def mix(scorer: FastScorer) -> Ensemble:
        if not share:
            return Ensemble.alone("fast", scorer)
        return Ensemble({"fast": scorer, "rules": rules}, {"fast": 1 - share, "rules": share})

    crossed = score_crossed(lesson.trained, lambda posts: mix(_learn(lesson, posts, settings))) if lesson.is_short else None
    report = {"settings": asdict(settings), "trials": trials, "rules_share": share}
    return Learnt(mix(scorer), report, settings, crossed)


def fit_fast_to_texts(lesson: Lesson) -> Learnt:
    """Return fastText of texts alone, as the posts of `lesson` have them; raises DivergedError where it runs away."""
    settings = lesson.settings or first_settings(lesson.trained.gold.shape[0])
    for slower in SLOWER:
        try:
            own = replace(settings, lr=settings.lr * slower)
            scorer = _learn(lesson, lesson.trained, own)
        except DivergedError:
            if slower == SLOWER[-1]:
                raise
            continue
        break

    crossed = score_crossed(lesson.trained, lambda posts: _learn(lesson, posts, own)) if lesson.is_short else None
    return Learnt(Ensemble.alone("fast", scorer), {"settings": asdict(own)}, crossed=crossed)


def _learn(lesson: Lesson, posts: Dataset, settings: Settings) -> FastScorer:
    network = train(posts.write_lines(settings.spacing), posts.gold, settings, lesson.options.threads)
    return FastScorer(lesson.taxonomy, network, settings.spacing)


def tune(lesson: Lesson) -> tuple[Any, Settings, list[Trial]]:
    """Return the network with the best micro-F1 on the held-out rows, its settings, and all trials.

    The first settings are always tried; each of `TRIALS` changes the best so far; none is begun that would end too late.
    """
    started = perf_counter()
    best = first_settings(lesson.trained.gold.shape[0])
    best_network, best_score = None, -1.0
    trials: list[Trial] = []
    pace = 0.0
    lines: dict[str, list[str]] = {}
    with bar(1 + len(TRIALS), "choosing hyper-parameters", lesson.options.quiet) as progress:
        for name, change in (("epoch", 1.0), *TRIALS):
            progress.advance()
            old = getattr(best, name)
            value: Any = change if isinstance(change, str) else type(old)(round(old * change, 4))
            settings = replace(best, **{name: value})
            late = perf_counter() - started + pace * settings.epoch * settings.dim > lesson.options.tune_seconds
            if best_network is not None and (late or 4 * settings.bucket * settings.dim > MOST_BYTES):
                continue
            begun = perf_counter()
            if settings.spacing not in lines:
                lines[settings.spacing] = lesson.trained.write_lines(settings.spacing)
            try:
                network = train(lines[settings.spacing], lesson.trained.gold, settings, lesson.options.threads)
            except DivergedError:
                trials.append(Trial(setting=name, value=value, micro_f1=None))
                # Nothing has worked yet: the next trials begin with half the learning rate.
                if best_network is None:
                    best = replace(best, lr=best.lr / 2)
                continue
            score = _shared_f1(lesson, _score_held(lesson, FastScorer(lesson.taxonomy, network, settings.spacing)))
            pace = max(pace, (perf_counter() - begun) / (settings.epoch * settings.dim))
            trials.append(Trial(setting=name, value=value, micro_f1=round(score, 4)))
            if score > best_score:
                best, best_network, best_score = settings, network, score
    if best_network is None:
        raise DivergedError("fastText ran away with every learning rate tried: are labels or texts of the posts broken?")
    return best_network, best, trials


def choose_share(lesson: Lesson, scorer: FastScorer, rules: RulesScorer) -> float:
    """Return the weight of the words of the taxonomy beside fastText: 0 unless another brings `WORTHWHILE` micro-F1."""
    raw = _score_held(lesson, scorer)
    words = csr_matrix(vstack([rules.raw_scores(table) for table in lesson.held.tables]))
    share, best = 0.0, _shared_f1(lesson, raw) + WORTHWHILE
    for other in RULES_SHARES:
        score = _shared_f1(lesson, blend(raw, words, other))
        if score > best:
            share, best = other, score
    return share


def _score_held(lesson: Lesson, scorer: FastScorer) -> csr_matrix:
    return csr_matrix(vstack([scorer.raw_scores(table) for table in lesson.held.tables]))


def _shared_f1(lesson: Lesson, raw: csr_matrix) -> float:
    return shared_f1(raise_parents(raw, lesson.taxonomy), lesson.held.gold, lesson.taxonomy)
