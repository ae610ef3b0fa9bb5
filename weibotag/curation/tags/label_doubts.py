"""Which labels of posts are likely missing or wrong: confident learning, and how sure it is, rehearsed on planted faults.

Northcutt, Jiang and Chuang 2021 ("Confident Learning") doubt a label by how its out-of-fold score stands to the mean score
of the posts that carry it. What such a doubt is worth differs between taxonomies, so it is learnt: faults of known
places are planted among the labels, looked for in the same way, and a logistic regression says how often one was found.
Doubts become proposals: which tags a post should lose, gain, or have in another's place.
cleanlab (Apache-2.0 as of 2.9) asks for a dense matrix of posts x tags and gives no probability; here all is sparse.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import keep_highest, rows_of
from weibotag.curation.tags.labelled_posts import EXAMPLES, Labelled, draw_folds
from weibotag.curation.tags.proposals import LEAST_SURE, RECOMMENDED, Finding, Found, Proposal, restructure
from weibotag.scoring.closure import mark_right, raise_parents
from weibotag.scoring.decision import fit_calibration, logit
from weibotag.taggers.linear import train_linear
from weibotag.taxonomy.tree import Taxonomy

# Scores that are kept of a post, best first, and how many tags that it lacks are looked at.
MOST_SCORES, MOST_MISSING = 20, 3
# What is absent from the scores is below their floor.
ABSENT = 0.005
# The share of labels that is dropped in the rehearsal, and that is swapped: enough to learn from, and most are left alone.
PLANTED = 0.05
FOLDS = 5
Sure = tuple[int, float]
# A tag above a wrong one stays where the post's score for it is so high.
HOLDS = 0.5


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
    return raise_parents(fit_calibration(raw, gold).apply(raw), taxonomy)


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


def find_faults(
    labelled: Labelled, taxonomy: Taxonomy, kept: np.ndarray, same: Sequence[Proposal], seconds: float
) -> list[Found]:
    """Return labels of posts that are likely missing or wrong: a finding for each tag, a proposal for each post.

    `taxonomy` has the tags numbered `kept` of the labels' taxonomy; of `same`, leaves count as one
    with what they would be merged into. Each training takes `seconds` at most.
    """
    new, target = restructure(taxonomy, [one for one in same if taxonomy.is_leaf[taxonomy.index[one.tag]]], {})
    numbers = [new.index[target[tag_id]] for tag_id in taxonomy.ids]
    given, gold = (csr_matrix(labels[:, kept]) for labels in (labelled.given, labelled.gold))
    ones = np.ones(len(numbers), np.float32)
    merged = csr_matrix(gold @ csr_matrix((ones, (np.arange(len(numbers)), numbers)), shape=(len(numbers), len(new))))
    merged.data[:] = 1
    folds = draw_folds(labelled.ids, FOLDS)
    missing, wrong, scores = find_doubts(labelled.posts, raise_parents(merged, new), new, folds, seconds)
    missing, wrong = missing.above(LEAST_SURE), wrong.above(LEAST_SURE)
    by_post: dict[int, tuple[list[Sure], list[Sure]]] = defaultdict(lambda: ([], []))
    for side, doubts in enumerate((missing, wrong)):
        for row, tag, sure in zip(doubts.rows.tolist(), doubts.tags.tolist(), doubts.sure.tolist(), strict=True):
            by_post[row][side].append((tag, sure))
    found: list[Found] = []
    for row, (lacking, doubted) in sorted(by_post.items()):
        own = [taxonomy.ids[tag] for tag in given.indices[given.indptr[row] : given.indptr[row + 1]]]
        holding = {new.ids[tag] for tag in scores[row].indices[scores[row].data >= HOLDS].tolist()}
        found += propose(labelled.ids[row], own, target, holding, lacking, doubted, new)
    sizes = dict(zip(taxonomy.ids, np.asarray(gold.sum(axis=0)).ravel().astype(int).tolist(), strict=True))
    found += sum_up("missing", missing, labelled.ids, new, sizes)
    found += sum_up("wrong", wrong, labelled.ids, new, sizes)
    return found


def propose(
    post_id: str,
    own: Sequence[str],
    target: dict[str, str],
    holding: set[str],
    lacking: list[Sure],
    doubted: list[Sure],
    taxonomy: Taxonomy,
) -> list[Proposal]:
    """Return the proposals for one post, which carries the tags `own`.

    A wrong tag and a missing one, both worth accepting or neither, are one proposal: the one in place of the other.
    """
    cut = RECOMMENDED["relabel"]
    ids = taxonomy.ids
    below = {tag: [sure for other, sure in lacking if tag in taxonomy.ancestors(other)] for tag, _ in lacking}
    # What is as sure of a deeper tag is proposed there.
    lacking = sorted(((tag, sure) for tag, sure in lacking if max(below[tag], default=0.0) < sure), key=lambda one: -one[1])
    proposals = []
    for tag, sure in sorted(doubted, key=lambda one: -one[1]):
        line = [ids[number] for number in taxonomy.ancestors(tag)]
        fits = [one for one in lacking if (one[1] >= cut) == (sure >= cut) and tag not in taxonomy.ancestors(one[0])]
        added = tuple(ids[one[0]] for one in fits[:1])
        others = taxonomy.expand([*added, *(target[tag_id] for tag_id in own if target[tag_id] not in (ids[tag], *line))])
        gone = {ids[tag], *(tag_id for tag_id in line if tag_id not in holding | others)}
        removed = tuple(tag_id for tag_id in own if target[tag_id] in gone)
        if not removed:
            continue
        if fits:
            lacking.remove(fits[0])
            sure = min(sure, fits[0][1])
        else:
            # The nearest tag above that holds stays, unless the post has it anyway.
            had = others | {target[tag_id] for tag_id in own}
            added = tuple(tag_id for tag_id in line if tag_id in holding)[:1]
            added = () if had.intersection(added) else added
        reason = "its text speaks for another tag" if fits else "its text does not speak for this tag"
        proposals.append(Proposal("relabel", removed[0], "", post_id, removed, added, sure, reason))
    for tag, sure in lacking:
        reason = "its text speaks for this tag too"
        proposals.append(Proposal("relabel", ids[tag], "", post_id, (), (ids[tag],), sure, reason))
    return proposals


def sum_up(kind: str, doubts: Doubts, ids: Sequence[str], taxonomy: Taxonomy, sizes: dict[str, int]) -> list[Finding]:
    """Return a finding for each tag with doubtful labels; its strength is the share of its posts that are at fault."""
    found = []
    for tag in np.unique(doubts.tags).tolist():
        mine = np.flatnonzero(doubts.tags == tag)
        mine = mine[np.argsort(-doubts.sure[mine], kind="stable")]
        expected, posts = float(doubts.sure[mine].sum()), sizes[taxonomy.ids[tag]]
        fault = "lack it though their texts speak" if kind == "missing" else "have it though their texts don't speak"
        reason = f"{len(mine)} of the posts {fault} for it; about {expected:.1f} are expected to be at fault"
        evidence = tuple(ids[row] for row in doubts.rows[mine[:EXAMPLES]])
        strength = expected / max(1.0, posts + (expected if kind == "missing" else 0.0))
        found.append(Finding(kind, taxonomy.ids[tag], None, strength, posts, None, len(mine), reason, evidence))
    return found
