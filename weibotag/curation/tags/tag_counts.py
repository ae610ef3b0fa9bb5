"""What counting labels says of tags: dead ones, one inside another, overlaps, missing parents, habits, imbalance."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, triu

from weibotag.curation.tags.proposals import Finding, Proposal
from weibotag.taxonomy.tree import Taxonomy

# A tag with fewer posts says too little: it is dead, and not compared with others.
FEWEST = 5
# The lower bound of a share that counts as nearly all, what it may be at most elsewhere, and what counts as overlapping.
NEARLY_ALL, USUAL, OVERLAP = 0.8, 0.5, 0.5
EXAMPLES = 5
# A child with more posts than this many times the middle one of its siblings.
IMBALANCE = 20
Found = Iterator[Finding | Proposal]


def lower_bound(hits: float, total: float) -> float:
    """Return the lower end of the 90 % interval of a share (Wilson 1927)."""
    z = 1.645
    share = hits / total
    middle, width = share + z * z / (2 * total), z * np.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return float((middle - width) / (1 + z * z / total))


def find_dead(taxonomy: Taxonomy, gold: csc_matrix, ids: Sequence[str]) -> Found:
    """Give leaves without posts, or with too few to learn from."""
    sizes = np.diff(gold.indptr)
    for tag in np.flatnonzero(taxonomy.is_leaf & (sizes < FEWEST)).tolist():
        few = int(sizes[tag])
        reason = f"{few or 'no'} post{'' if few == 1 else 's'}; {FEWEST} are the fewest to learn from"
        yield Finding("dead", taxonomy.ids[tag], None, 1 - few / FEWEST, few, None, None, reason, show(ids, gold, [tag]))


def find_together(taxonomy: Taxonomy, gold: csc_matrix, ids: Sequence[str]) -> Found:
    """Give tags nearly all of whose posts carry another that does not stand above them, and tags that overlap."""
    sizes = np.diff(gold.indptr)
    kept = np.flatnonzero(sizes >= FEWEST)
    own = csr_matrix(gold[:, kept]).astype(np.int32)
    both = triu(own.T @ own, 1).tocoo()
    pairs = np.stack([kept[both.row], kept[both.col]], axis=1)
    shares = both.data / sizes[pairs].min(axis=1)
    near = shares >= OVERLAP
    inside: dict[tuple[int, int], int] = {}
    overlaps: dict[tuple[int, int], int] = {}
    for pair, together in zip(pairs[near].tolist(), both.data[near].tolist(), strict=True):
        smaller, larger = sorted(pair, key=lambda tag: (sizes[tag], -taxonomy.depth[tag]))
        related = larger in taxonomy.ancestors(smaller) or smaller in taxonomy.ancestors(larger)
        # What most posts carry says nothing of the others.
        if related or sizes[larger] > USUAL * gold.shape[0]:
            continue
        if together / (sizes[smaller] + sizes[larger] - together) >= OVERLAP:
            overlaps[smaller, larger] = together
        elif lower_bound(together, sizes[smaller]) >= NEARLY_ALL:
            inside[smaller, larger] = together
    beside: dict[int, set[int]] = {}
    for tag, other in (*inside, *overlaps, *((other, tag) for tag, other in overlaps)):
        beside.setdefault(tag, set()).add(other)

    def is_said(tag: int, other: int) -> bool:
        """Return whether a deeper tag in the other's place, or the tag's parent, has the same said of it."""
        deeper = any(other in taxonomy.ancestors(found) for found in beside.get(tag, ()))
        return deeper or other in beside.get(int(taxonomy.parents[tag]), ())

    for (tag, other), together in overlaps.items():
        if not is_said(tag, other) and not is_said(other, tag):
            yield from _report_overlap(taxonomy, gold, ids, tag, other, together)
    for (tag, other), together in inside.items():
        if not is_said(tag, other):
            yield from _report_containment(taxonomy, gold, ids, tag, other, together)


def _report_overlap(taxonomy: Taxonomy, gold: csc_matrix, ids: Sequence[str], tag: int, other: int, together: int) -> Found:
    names = taxonomy.ids[tag], taxonomy.ids[other]
    counts = len(members(gold, tag)), len(members(gold, other)), together
    union = counts[0] + counts[1] - together
    reason = f"{together} of {union} posts with one of the two have both"
    evidence = show(ids, gold, [tag, other])
    yield Finding("overlap", *names, together / union, *counts, reason, evidence)
    bound = lower_bound(together, union)
    if bound >= NEARLY_ALL:
        yield Proposal("merge", *names, confidence=bound, reason=reason, evidence=evidence)


def _report_containment(
    taxonomy: Taxonomy, gold: csc_matrix, ids: Sequence[str], tag: int, other: int, together: int
) -> Found:
    own, larger, parent = members(gold, tag), members(gold, other), int(taxonomy.parents[tag])
    around = members(gold, parent) if parent >= 0 else np.arange(gold.shape[0])
    beside = np.setdiff1d(around, own)
    usual = len(np.intersect1d(beside, larger)) / max(1, len(beside))
    if usual > USUAL:
        return
    names = taxonomy.ids[tag], taxonomy.ids[other]
    reason = f"{together} of its {len(own)} posts have the other too, {usual:.0%} of those beside it do"
    evidence = show(ids, gold, [tag, other])
    yield Finding("containment", *names, together / len(own), len(own), len(larger), together, reason, evidence)
    yield Proposal("move", *names, confidence=lower_bound(together, len(own)), reason=reason, evidence=evidence)


def find_missing_parents(taxonomy: Taxonomy, given: csc_matrix, ids: Sequence[str]) -> Found:
    """Give tags that some posts have with their parent and some without it."""
    sizes = np.diff(given.indptr)
    for tag in np.flatnonzero((taxonomy.parents >= 0) & (sizes >= FEWEST)).tolist():
        parent = int(taxonomy.parents[tag])
        own, above = members(given, tag), members(given, parent)
        without = np.setdiff1d(own, above)
        if len(without) and len(without) < len(own):
            reason = (
                f"{len(without)} of its {len(own)} posts lack the parent, which training adds and a count of labels misses"
            )
            counts = (len(own), len(above), len(own) - len(without))
            evidence = tuple(ids[row] for row in without[:EXAMPLES])
            share = len(without) / len(own)
            yield Finding("parent missing", taxonomy.ids[tag], taxonomy.ids[parent], share, *counts, reason, evidence)


def find_habits(taxonomy: Taxonomy, gold: csc_matrix, ids: Sequence[str], annotators: np.ndarray) -> Found:
    """Give tags nearly all of whose posts are by one annotator, who has far fewer of those with their parent."""
    names, numbers = np.unique(annotators, return_inverse=True)
    for tag in np.flatnonzero(np.diff(gold.indptr) >= FEWEST).tolist():
        own = members(gold, tag)
        parent = int(taxonomy.parents[tag])
        beside = numbers if parent < 0 else numbers[members(gold, parent)]
        counts = np.bincount(numbers[own], minlength=len(names))
        most = int(counts.argmax())
        usual = float((beside == most).mean())
        if names[most] and lower_bound(counts[most], len(own)) >= NEARLY_ALL and usual <= USUAL:
            reason = f"{counts[most]} of its {len(own)} posts are by {names[most]}, who has {usual:.0%} of those beside it"
            share = float(counts[most] / len(own))
            yield Finding("habit", taxonomy.ids[tag], None, share, len(own), None, None, reason, show(ids, gold, [tag]))


def find_imbalance(taxonomy: Taxonomy, gold: csc_matrix, ids: Sequence[str]) -> Found:
    """Give tags with far more posts than their siblings."""
    sizes = np.diff(gold.indptr)
    for parent in np.unique(taxonomy.parents).tolist():
        children = np.array(taxonomy.children(parent), np.int64)
        children = children[sizes[children] > 0]
        if len(children) < 3:
            continue
        middle, largest = float(np.median(sizes[children])), int(children[sizes[children].argmax()])
        if sizes[largest] > IMBALANCE * middle:
            times = float(sizes[largest] / middle)
            reason = f"{times:.0f} times as many posts as the middle one of its {len(children)} siblings with posts"
            tag, evidence = taxonomy.ids[largest], show(ids, gold, [largest])
            yield Finding("imbalance", tag, None, 1 - 1 / times, int(sizes[largest]), None, None, reason, evidence)


def members(matrix: csc_matrix, tag: int) -> np.ndarray:
    """Return the rows that carry a tag, ascending."""
    return matrix.indices[matrix.indptr[tag] : matrix.indptr[tag + 1]]


def show(ids: Sequence[str], gold: csc_matrix, tags: Sequence[int]) -> tuple[str, ...]:
    """Return the ids of some posts that carry all of the tags."""
    rows = members(gold, tags[0])
    for tag in tags[1:]:
        rows = np.intersect1d(rows, members(gold, tag))
    return tuple(ids[row] for row in rows[:EXAMPLES])
