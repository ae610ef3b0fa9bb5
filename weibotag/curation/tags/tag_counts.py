"""What counting labels shows of tags: dead ones, one inside another, overlaps, and tags that are one annotator's habit."""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix, triu

from weibotag.curation.tags.labelled_posts import PostsByTag
from weibotag.curation.tags.proposals import Finding, Found

# A tag with fewer posts says too little: it is dead, and not compared with others.
FEWEST = 5
# The lower bound of a share that counts as nearly all, what it may be at most elsewhere, and what counts as overlapping.
NEARLY_ALL, USUAL, OVERLAP = 0.8, 0.5, 0.5
Pair = tuple[int, int]


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
