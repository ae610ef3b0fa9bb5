"""Which vectors a learner reads beside words: those that bring something on posts that it did not learn from."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.features.dense_blocks import NOTHING, DenseBlocks
from weibotag.scoring.decision import Decision, shared_f1
from weibotag.taggers.tagger import Ensemble, Scorer
from weibotag.training.dataset import WORTHWHILE, Dataset, Lesson, blake
from weibotag.vision.registry import USE

# Vectors help where posts of a tag are few; with more posts or tags learning from them would take too long.
MOST_WITH_VECTORS, MOST_TAGS_WITH_VECTORS = 20_000, 2_000
FOLDS = 5
Reader = TypeVar("Reader", bound=Scorer)


def may_read_vectors(lesson: Lesson) -> bool:
    """Tell whether posts and tags are few enough for vectors to be tried."""
    return len(lesson.trained) <= MOST_WITH_VECTORS and len(lesson.taxonomy) <= MOST_TAGS_WITH_VECTORS


def choose_vectors(
    lesson: Lesson, learn: Callable[[Dataset, DenseBlocks], Reader], kinds: Sequence[str], crosses: bool
) -> tuple[Reader, csr_matrix | None, dict[str, float]]:
    """Return what learnt with vectors of those kinds that bring `WORTHWHILE` micro-F1 on the held-out rows, and figures.

    Where it `crosses`, the rows to train on count, too, and their scores are between: see `score_crossed`.
    """
    trained, held = lesson.trained, lesson.held
    kinds = [kind for kind in kinds if may_read_vectors(lesson) and (kind != "texts" or lesson.reads_texts)]
    if not (kinds or crosses):
        return learn(trained, NOTHING), None, {}
    gold = csr_matrix(vstack([held.gold, trained.gold])) if crosses else held.gold

    def attempt(own: DenseBlocks) -> tuple[Reader, csr_matrix | None, float]:
        scorer = learn(trained, own)
        crossed = score_crossed(trained, lambda posts: learn(posts, own)) if crosses else None
        raw = [scorer.raw_scores(table) for table in held.tables] + ([] if crossed is None else [crossed])
        scores = Decision.fixed(lesson.taxonomy, 0.5).scores(csr_matrix(vstack(raw)))
        return scorer, crossed, shared_f1(scores, gold, lesson.taxonomy)

    blocks = NOTHING
    best, crossed, reached = attempt(blocks)
    report = {"n-grams": reached}
    for kind in kinds:
        own = blocks.with_texts(USE) if kind == "texts" else DenseBlocks.learn_pictures(trained.tables)
        if own is None:
            continue
        other, scores, report[kind] = attempt(own)
        if report[kind] >= reached + WORTHWHILE:
            best, blocks, crossed, reached = other, own, scores, report[kind]
    return best, crossed, {kind: round(value, 4) for kind, value in report.items()}


def score_crossed(posts: Dataset, again: Callable[[Dataset], Scorer | Ensemble]) -> csr_matrix:
    """Return scores of posts (posts x tags), each by what `again` learns from those in other folds than its own."""
    whole = pa.concat_tables(posts.tables, promote_options="default")
    fold = np.argsort(np.argsort([blake(post_id) for post_id in whole["post_id"].to_pylist()])) % FOLDS
    scored = []
    for number in range(FOLDS):
        rest = Dataset([whole.filter(pa.array(fold != number))], posts.gold[fold != number])
        scored.append(again(rest).raw_scores(whole.filter(pa.array(fold == number))))
    return csr_matrix(vstack(scored))[np.argsort(np.argsort(fold, kind="stable"))]
