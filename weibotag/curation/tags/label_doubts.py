"""Which labels of posts are likely missing or wrong: confident learning, and how sure it is, rehearsed on planted faults.

Northcutt, Jiang and Chuang 2021 ("Confident Learning") doubt a label by how its out-of-fold score stands to the mean score
of the posts that carry it. What such a doubt is worth differs between taxonomies, so it is learnt: faults of known
places are planted among the labels, looked for in the same way, and a logistic regression says how often one was found.
cleanlab (Apache-2.0 as of 2.9) asks for a dense matrix of posts x tags and gives no probability; here all is sparse.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import keep_highest, rows_of
from weibotag.scoring import calibration
from weibotag.scoring.calibration import logit
from weibotag.scoring.tagger import mark_right, raise_parents
from weibotag.taggers.linear import train_linear
from weibotag.taxonomy.tree import Taxonomy

# Scores that are kept of a post, best first, and how many tags that it lacks are looked at.
MOST_SCORES, MOST_MISSING = 20, 3
# What is absent from the scores is below their floor.
ABSENT = 0.005
# The share of labels that is dropped in the rehearsal, and that is swapped: enough to learn from, and most are left alone.
PLANTED = 0.05


@dataclass(frozen=True)
class Doubts:
    """Doubtful labels: `rows` and `tags` (int64) of the pairs, `features` (float64, pairs x features) that describe each,
    `sure` (float64, 0 to 1): how likely each is at fault, before that is known its score."""

    rows: np.ndarray
    tags: np.ndarray
    features: np.ndarray
    sure: np.ndarray

    def above(self, cut: float) -> "Doubts":
        """Return those at least so sure."""
        kept = self.sure >= cut
        return Doubts(self.rows[kept], self.tags[kept], self.features[kept], self.sure[kept])


def score_out_of_fold(
    posts: pa.Table, gold: csr_matrix, taxonomy: Taxonomy, folds: np.ndarray, seconds: float
) -> csr_matrix:
    """Return probabilities of tags by linear taggers that did not see the post: float32 csr_matrix (posts x tags), the best.

    `posts` as for `train_linear`; `gold` (posts x tags) with ancestors; `folds` int (posts,). Each fold trains for about
    `seconds` at most.
    """
    blocks, rows = [], []
    for fold in np.unique(folds):
        held = folds == fold
        tagger = train_linear([posts.filter(pa.array(~held))], gold[~held], taxonomy, seconds)
        blocks.append(keep_highest(tagger.raw_scores(posts.filter(pa.array(held))), MOST_SCORES))
        rows.append(np.flatnonzero(held))
    raw = csr_matrix(vstack(blocks))[np.argsort(np.concatenate(rows))]
    return raise_parents(calibration.fit(raw, gold).apply(raw), taxonomy)


def most_specific(gold: csr_matrix, taxonomy: Taxonomy) -> csr_matrix:
    """Return labels (posts x tags, with ancestors) without those that have another below them in the same post."""
    rows = rows_of(gold.indptr)
    parents = taxonomy.parents[gold.indices]
    inner = parents >= 0
    above = csr_matrix((np.ones(int(inner.sum()), np.float32), (rows[inner], parents[inner])), shape=gold.shape)
    kept = ~mark_right(gold, above)
    return csr_matrix((np.ones(int(kept.sum()), np.float32), (rows[kept], gold.indices[kept])), shape=gold.shape)


def look_up(scores: csr_matrix, rows: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Return the scores of pairs, `ABSENT` where there is none."""
    return np.maximum(np.asarray(scores[rows, tags]).ravel() if len(rows) else np.empty(0), ABSENT)


def describe(scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy) -> tuple[Doubts, Doubts]:
    """Return what may be missing and what may be wrong, each pair with its score in the place of how sure that is."""
    leaves = most_specific(gold, taxonomy)
    sizes = np.asarray(gold.sum(axis=0)).ravel()
    # The mean score of the posts that carry a tag: what confident learning compares with.
    cuts = np.maximum(np.asarray(scores.multiply(gold).sum(axis=0)).ravel() / np.maximum(sizes, 1), ABSENT)
    lacking = scores.copy()
    lacking.data[mark_right(scores, gold)] = 0
    lacking.eliminate_zeros()
    lacking = keep_highest(lacking, MOST_MISSING)
    missing = rows_of(lacking.indptr), lacking.indices.astype(np.int64), lacking.data.astype(float)
    own_rows = rows_of(leaves.indptr)
    wrong = own_rows, leaves.indices.astype(np.int64), look_up(scores, own_rows, leaves.indices)
    best = np.full(gold.shape[0], ABSENT)
    np.maximum.at(best, missing[0], missing[2])
    least = np.full(gold.shape[0], 1.0)
    np.minimum.at(least, own_rows, wrong[2])
    number = np.diff(leaves.indptr)
    # How usual it is that a post with this tag has one below it too.
    deeper = 1 - np.bincount(leaves.indices, minlength=len(taxonomy)) / np.maximum(sizes, 1)

    def doubt(rows: np.ndarray, tags: np.ndarray, values: np.ndarray, other: np.ndarray) -> Doubts:
        parents = taxonomy.parents[tags]
        stops = (parents >= 0) & (look_up(leaves, rows, parents) == 1)
        columns = (
            logit(values),
            logit(values) - logit(cuts[tags]),
            logit(np.where(parents >= 0, values / look_up(scores, rows, parents), values)),
            logit(other[rows]),
            np.log1p(number[rows]),
            number[rows] == 1,
            stops,
            np.where(stops, logit(deeper[parents]), 0),
            np.log1p(sizes[tags]),
        )
        return Doubts(rows, tags, np.stack([np.asarray(column, float) for column in columns], axis=1), values)

    return doubt(*missing, least), doubt(*wrong, best)


def plant(gold: csr_matrix, taxonomy: Taxonomy, dropped: float, swapped: float, random: np.random.Generator) -> csr_matrix:
    """Return labels (with ancestors) of which a share of the most specific are dropped and a share given as another tag.

    A dropped label leaves its parent, unless the post has more; the other tag is a sibling, or any by its number of posts.
    """
    leaves = most_specific(gold, taxonomy)
    rows = rows_of(leaves.indptr)
    tags = leaves.indices.copy()
    fate = random.random(len(tags))
    drop, swap = fate < dropped, (fate >= dropped) & (fate < dropped + swapped)
    pool = leaves.indices
    drawn = pool[random.integers(len(pool), size=len(tags))]
    for at in np.flatnonzero(swap & (random.random(len(tags)) < 0.5)):
        siblings = taxonomy.children(int(taxonomy.parents[tags[at]]))
        drawn[at] = siblings[random.integers(len(siblings))]
    tags = np.where(swap, drawn, tags)
    parents = taxonomy.parents[tags]
    gone = drop & (parents < 0) & (np.diff(leaves.indptr)[rows] > 1)
    tags = np.where(drop & (parents >= 0), parents, tags)[~gone]
    own = csr_matrix((np.ones(len(tags), np.float32), (rows[~gone], tags)), shape=gold.shape)
    own.data[:] = 1
    return raise_parents(own, taxonomy)


def find_doubts(
    posts: pa.Table, gold: csr_matrix, taxonomy: Taxonomy, folds: np.ndarray, seconds: float
) -> tuple[Doubts, Doubts, csr_matrix]:
    """Return labels that may be missing, those that may be wrong, with how sure that is, and the scores of all.

    What is passed is as for `score_out_of_fold`, which is asked twice: for `gold`, and for it with planted faults.
    """
    planted = plant(gold, taxonomy, PLANTED, PLANTED, np.random.default_rng(0))
    rehearsed = describe(score_out_of_fold(posts, planted, taxonomy, folds, seconds), planted, taxonomy)
    scores = score_out_of_fold(posts, gold, taxonomy, folds, seconds)
    missing, wrong = describe(scores, gold, taxonomy)
    carried = [look_up(gold, doubts.rows, doubts.tags) > ABSENT for doubts in rehearsed]
    return weigh(missing, rehearsed[0], carried[0]), weigh(wrong, rehearsed[1], ~carried[1]), scores


def weigh(doubts: Doubts, rehearsed: Doubts, at_fault: np.ndarray) -> Doubts:
    """Return doubts with how sure each is, by those of a rehearsal, of which it is known (bool) whether they were right."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(at_fault)) < 2:
        return replace(doubts, sure=np.zeros(len(doubts.rows)))
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rehearsed.features, at_fault)
    return replace(doubts, sure=shift_prior(model.predict_proba(doubts.features)[:, 1], float(at_fault.mean())))


def shift_prior(sure: np.ndarray, prior: float) -> np.ndarray:
    """Return probabilities that were learnt where a share `prior` was true as they are where, by them, another share is.

    One step of expectation maximisation (Saerens, Latinne and Decaestecker 2002). All steps would explain most real faults
    away, because the rehearsal has them too, among what was not planted; none would find as many in labels without a fault.
    """
    share = float(np.clip(sure.mean(), 1e-6, 1 - 1e-6))
    sure = np.minimum(sure, 1 - 1e-9)
    odds = sure / (1 - sure) * (1 - prior) / prior * share / (1 - share)
    return np.asarray(odds / (1 + odds))
