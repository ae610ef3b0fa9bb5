"""Doubtful labels as proposals: which tags a post should lose, gain, or have in another's place."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from weibotag.curation.tags.label_doubts import Doubts, find_doubts
from weibotag.curation.tags.labelled_posts import EXAMPLES, Labelled, draw_folds
from weibotag.curation.tags.proposals import LEAST_SURE, RECOMMENDED, Finding, Found, Proposal
from weibotag.curation.tags.restructure import restructure
from weibotag.scoring.tagger import raise_parents
from weibotag.taxonomy.tree import Taxonomy

FOLDS = 5
Sure = tuple[int, float]
# A tag above a wrong one stays where the post's score for it is so high.
HOLDS = 0.5


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
