"""What is wrong with a taxonomy as people used it: findings with evidence, and proposals that wait to be accepted.

What counting labels shows stands here: dead tags, one inside another, overlaps, tags that are one annotator's habit.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, triu

from weibotag.core.errors import RequestError
from weibotag.core.files import write_json, write_parquet
from weibotag.core.progress import bar
from weibotag.curation.tags.label_doubts import FOLDS, find_faults
from weibotag.curation.tags.labelled_posts import Labelled, PostsByTag, can_learn, read_labelled
from weibotag.curation.tags.proposals import (
    ABOUT,
    ACTIONS,
    FINDINGS,
    PROPOSALS,
    SPLITS,
    Finding,
    Found,
    Proposal,
    read_proposals,
    write_findings,
    write_proposals,
)
from weibotag.curation.tags.tag_similarity import find_halves, find_near, find_same
from weibotag.features.hashed_ngrams import vectorise
from weibotag.posts.source import PostsSource
from weibotag.taxonomy.tree import Taxonomy

# What reads texts looks at the tags with most posts, so many at most: its matrices have a column for each.
MOST_TAGS = 5_000
# Tags that are likelier than this the same are taken for one where labels are doubted.
SAME = 0.5

log = logging.getLogger(__name__)
# A tag with fewer posts says too little: it is dead, and not compared with others.
FEWEST = 5
# The lower bound of a share that counts as nearly all, what it may be at most elsewhere, and what counts as overlapping.
NEARLY_ALL, USUAL, OVERLAP = 0.8, 0.5, 0.5
Pair = tuple[int, int]


class AuditSummary(TypedDict):
    """What audit.json says: numbers of posts, tags, findings by kind and proposals by action, and the folder."""

    posts: int
    tags: int
    unknown_tags: dict[str, int]
    findings: dict[str, int]
    proposals: dict[str, int]
    out: str


def audit(
    source: PostsSource,
    taxonomy: Taxonomy,
    out: Path,
    *,
    annotator: str | None = None,
    minutes: float = 10,
    quiet: bool = False,
) -> AuditSummary:
    """Write findings and proposals about a taxonomy and its labelled posts to the folder `out`, return how many of each.

    `annotator` names the column that says who labelled a post. Trainings share `minutes`: of too many posts they take a
    part. Raises RequestError for posts without a known tag, a column that is not there, and a folder whose proposals
    somebody has answered.
    """
    refuse_answered(out)
    labelled = read_labelled(source, taxonomy, annotator)
    every = PostsByTag(taxonomy, labelled.gold.tocsc(), labelled.ids)
    found: list[Found] = [*find_dead(every), *find_together(every)]
    if labelled.annotators is not None:
        found += find_habits(every, labelled.annotators)
    vectors = vectorise(labelled.posts).matrix
    if not can_learn(vectors):
        log.warning("too few posts, or too few words in them, to learn from: labels are counted only")
        return write_audit(found, {}, labelled, out)
    core, kept = choose_tags(taxonomy, labelled.gold)
    posts = PostsByTag(core, labelled.gold[:, kept].tocsc(), labelled.ids)
    if not quiet:
        counts = f"{len(labelled.ids):,} posts and {len(core):,} tags that have some"
        log.warning("audit of %s: learning in %d folds, twice, for %g min at most", counts, FOLDS, minutes)
    with bar(3, "audit, steps", quiet) as progress:
        near = find_near(vectors, posts)
        same = list(find_same(vectors, posts, near))
        progress.advance()
        halves, smaller = find_halves(vectors, posts, near)
        progress.advance()
        sure = choose_best(one for one in same if isinstance(one, Proposal) and one.confidence >= SAME)
        found += same + halves + find_faults(labelled, core, kept, sure, minutes * 60 / (2 * FOLDS))
        progress.advance()
    return write_audit(found, smaller, labelled, out)


def refuse_answered(out: Path) -> None:
    """Raise RequestError where `out` holds proposals that somebody has answered."""
    path = out / PROPOSALS
    if path.exists() and read_proposals(path, None):
        raise RequestError(f"{path}: holds answers, which would be lost; name another folder, or apply and remove it first")


def choose_tags(taxonomy: Taxonomy, gold: csr_matrix) -> tuple[Taxonomy, np.ndarray]:
    """Return a taxonomy of the tags with posts, the `MOST_TAGS` most used, and their numbers (int64, ascending)."""
    sizes = np.asarray(gold.sum(axis=0)).ravel()
    order = np.lexsort((taxonomy.depth, -sizes))[:MOST_TAGS]
    # A tag has no more posts than its parent, which stands before it: none is kept without the tags above it.
    kept = np.sort(order[sizes[order] > 0]).astype(np.int64)
    return Taxonomy(taxonomy.tags[number] for number in kept.tolist()), kept


def choose_best(proposals: Iterable[Proposal]) -> list[Proposal]:
    """Return proposals of which each tag is merged, and moved, only to the other that is surest."""
    best: dict[tuple[str, ...], Proposal] = {}
    for one in sorted(proposals, key=lambda one: one.confidence):
        family = "merge" if one.action == "alias" else one.action
        best[(family, one.post_id, *one.removed, *one.added) if family == "relabel" else (family, one.tag)] = one
    return list(best.values())


def write_audit(found: list[Found], smaller: dict[str, np.ndarray], labelled: Labelled, out: Path) -> AuditSummary:
    """Write the files of an audit, and return what audit.json says; `smaller` has the rows that would leave each tag."""
    findings = [one for one in found if isinstance(one, Finding)]
    proposals = choose_best(one for one in found if isinstance(one, Proposal))
    out.mkdir(parents=True, exist_ok=True)
    write_findings(findings, out / FINDINGS)
    moved = [(tag, labelled.ids[row]) for tag, rows in smaller.items() for row in rows.tolist()]
    columns = [pa.array([pair[side] for pair in moved], pa.string()) for side in (0, 1)]
    write_parquet(pa.table(columns, names=["tag", "post_id"]), out / SPLITS)
    write_proposals(proposals, out / PROPOSALS)
    kinds = sorted({finding.kind for finding in findings})
    about = AuditSummary(
        posts=len(labelled.ids),
        tags=labelled.gold.shape[1],
        unknown_tags=dict(sorted(labelled.unknown.items())),
        findings={kind: sum(finding.kind == kind for finding in findings) for kind in kinds},
        proposals={action: sum(proposal.action == action for proposal in proposals) for action in ACTIONS},
        out=str(out),
    )
    write_json(about, out / ABOUT)
    return about


def lower_bound(hits: float, total: float) -> float:
    """Return the lower end of the 90 % interval of a share (Wilson 1927)."""
    z = 1.645
    share = hits / total
    middle, width = share + z * z / (2 * total), z * np.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return float((middle - width) / (1 + z * z / total))


def find_dead(posts: PostsByTag) -> Iterator[Found]:
    """Give leaves without posts, or with too few to learn from."""
    for tag in np.flatnonzero(posts.taxonomy.is_leaf & (posts.sizes < FEWEST)).tolist():
        few = int(posts.sizes[tag])
        reason = f"{few or 'no'} post{'' if few == 1 else 's'}; {FEWEST} are the fewest to learn from"
        yield Finding("dead", posts.taxonomy.ids[tag], None, 1 - few / FEWEST, few, None, None, reason, posts.examples(tag))


def find_together(posts: PostsByTag) -> Iterator[Found]:
    """Give tags nearly all of whose posts carry another that does not stand above them, and tags that overlap."""
    taxonomy = posts.taxonomy
    inside, overlaps = _count_together(posts)
    beside: dict[int, set[int]] = {}
    for tag, other in (*inside, *overlaps, *((other, tag) for tag, other in overlaps)):
        beside.setdefault(tag, set()).add(other)

    def is_repeated(tag: int, other: int) -> bool:
        """Return whether the same is found of a deeper tag in the other's place, or of the tag's parent."""
        deeper = any(other in taxonomy.ancestors(found) for found in beside.get(tag, ()))
        return deeper or other in beside.get(int(taxonomy.parents[tag]), ())

    for (tag, other), together in overlaps.items():
        if not is_repeated(tag, other) and not is_repeated(other, tag):
            yield from _report_overlap(posts, tag, other, together)
    for (tag, other), together in inside.items():
        if not is_repeated(tag, other):
            yield from _report_containment(posts, tag, other, together)


def _count_together(posts: PostsByTag) -> tuple[dict[Pair, int], dict[Pair, int]]:
    """Return the pairs of tags (the one with fewer posts first) of which one is inside the other, and those that overlap."""
    sizes, taxonomy = posts.sizes, posts.taxonomy
    kept = np.flatnonzero(sizes >= FEWEST)
    own = csr_matrix(posts.gold[:, kept]).astype(np.int32)
    both = triu(own.T @ own, 1).tocoo()
    pairs = np.stack([kept[both.row], kept[both.col]], axis=1)
    near = both.data / sizes[pairs].min(axis=1) >= OVERLAP
    inside: dict[Pair, int] = {}
    overlaps: dict[Pair, int] = {}
    for pair, together in zip(pairs[near].tolist(), both.data[near].tolist(), strict=True):
        smaller, larger = sorted(pair, key=lambda tag: (sizes[tag], -taxonomy.depth[tag]))
        related = larger in taxonomy.ancestors(smaller) or smaller in taxonomy.ancestors(larger)
        # What most posts carry says nothing of the others.
        if related or sizes[larger] > USUAL * len(posts.ids):
            continue
        if together / (sizes[smaller] + sizes[larger] - together) >= OVERLAP:
            overlaps[smaller, larger] = together
        elif lower_bound(together, sizes[smaller]) >= NEARLY_ALL:
            inside[smaller, larger] = together
    return inside, overlaps


def _report_overlap(posts: PostsByTag, tag: int, other: int, together: int) -> Iterator[Found]:
    names = posts.taxonomy.ids[tag], posts.taxonomy.ids[other]
    counts = int(posts.sizes[tag]), int(posts.sizes[other]), together
    union = counts[0] + counts[1] - together
    reason = f"{together} of {union} posts with one of the two have both"
    finding = Finding("overlap", *names, together / union, *counts, reason, posts.examples(tag, other))
    yield finding
    if lower_bound(together, union) >= NEARLY_ALL:
        yield finding.propose("merge", lower_bound(together, union))


def _report_containment(posts: PostsByTag, tag: int, other: int, together: int) -> Iterator[Found]:
    own, larger, parent = posts.rows(tag), posts.rows(other), int(posts.taxonomy.parents[tag])
    beside = np.setdiff1d(posts.rows(parent) if parent >= 0 else np.arange(len(posts.ids)), own)
    usual = len(np.intersect1d(beside, larger)) / max(1, len(beside))
    if usual <= USUAL:
        names = posts.taxonomy.ids[tag], posts.taxonomy.ids[other]
        counts = len(own), len(larger), together
        reason = f"{together} of its {len(own)} posts have the other too, {usual:.0%} of those beside it do"
        finding = Finding("containment", *names, together / len(own), *counts, reason, posts.examples(tag, other))
        yield finding
        yield finding.propose("move", lower_bound(together, len(own)))


def find_habits(posts: PostsByTag, annotators: np.ndarray) -> Iterator[Found]:
    """Give tags nearly all of whose posts are by one annotator, who has far fewer of those with their parent."""
    names, numbers = np.unique(annotators, return_inverse=True)
    for tag in np.flatnonzero(posts.sizes >= FEWEST).tolist():
        own = posts.rows(tag)
        parent = int(posts.taxonomy.parents[tag])
        beside = numbers if parent < 0 else numbers[posts.rows(parent)]
        counts = np.bincount(numbers[own], minlength=len(names))
        most = int(counts.argmax())
        usual = float((beside == most).mean())
        if names[most] and lower_bound(counts[most], len(own)) >= NEARLY_ALL and usual <= USUAL:
            reason = f"{counts[most]} of its {len(own)} posts are by {names[most]}, who has {usual:.0%} of those beside it"
            share = float(counts[most] / len(own))
            name = posts.taxonomy.ids[tag]
            yield Finding("habit", name, None, share, len(own), None, None, reason, posts.examples(tag))
