"""What is wrong with a taxonomy as people used it: findings with evidence, and proposals that wait to be accepted."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.core.errors import RequestError
from weibotag.core.files import write_json, write_parquet
from weibotag.core.progress import bar, format_seconds
from weibotag.core.text_matching import fold
from weibotag.curation.tags import tag_counts, tag_similarity
from weibotag.curation.tags.labelled_posts import Labelled, read_labelled
from weibotag.curation.tags.proposals import (
    ABOUT,
    ACTIONS,
    FINDINGS,
    PROPOSALS,
    SPLITS,
    Finding,
    Proposal,
    read_proposals,
    write_findings,
    write_proposals,
)
from weibotag.curation.tags.relabelling import FOLDS, LEAST_SURE, find_faults
from weibotag.curation.tags.tag_counts import Found, members
from weibotag.posts.source import PostsSource, refuse_outputs
from weibotag.taggers.linear import PAIRS_A_SECOND
from weibotag.taxonomy.tree import Taxonomy

# What reads texts looks at the tags with most posts, so many at most: its matrices have a column for each.
MOST_TAGS = 5_000
# Tags that are likelier than this the same are taken for one where labels are doubted.
SAME = 0.5
# Groups of a tag that are so stable and unlike, with so many posts each, may be two tags.
APART, FEWEST_OF_GROUP = 0.5, 10
# A name that more tags share, as 其他, says nothing.
MOST_NAMESAKES = 5
# A pair of tags takes so many seconds to compare.
PAIR_SECONDS = 0.01

Near = tuple[np.ndarray, np.ndarray]
# Bytes of memory: of the libraries, a post, and a tag of the taxonomy.
MEMORY, POST_BYTES, TAG_BYTES = 300_000_000, 6_000, 1_500

log = logging.getLogger(__name__)


def audit(
    source: PostsSource,
    taxonomy: Taxonomy,
    out: Path,
    *,
    annotator: str | None = None,
    minutes: float = 10,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write findings and proposals about a taxonomy and its labelled posts to the folder `out`, return how many of each.

    `annotator` names the column that says who labelled a post. Trainings share `minutes`: of too many posts they take a
    part. Raises RequestError for posts without a known tag, a column that is not there, and a folder whose proposals
    somebody has answered.
    """
    refuse_outputs(source, out)
    refuse_answered(out)
    labelled = read_labelled(source, taxonomy, annotator)
    by_tag = labelled.gold.tocsc()
    found: list[Finding | Proposal] = [
        *tag_counts.find_dead(taxonomy, by_tag, labelled.ids),
        *tag_counts.find_together(taxonomy, by_tag, labelled.ids),
        *tag_counts.find_missing_parents(taxonomy, labelled.given.tocsc(), labelled.ids),
        *tag_counts.find_imbalance(taxonomy, by_tag, labelled.ids),
    ]
    if labelled.annotators is not None:
        found += tag_counts.find_habits(taxonomy, by_tag, labelled.ids, labelled.annotators)
    vectors = tag_similarity.vectorise(labelled.posts)
    if not tag_similarity.can_learn(vectors):
        log.warning("too few posts, or too few words in them, to learn from: labels are counted only")
        return write_audit(found, {}, labelled, out)
    core, kept = choose_tags(taxonomy, labelled.gold)
    gold = csr_matrix(labelled.gold[:, kept])
    if not quiet:
        announce(gold, core, minutes, MEMORY + POST_BYTES * gold.shape[0] + TAG_BYTES * len(taxonomy))
    with bar(3, "audit, steps", quiet) as progress:
        sizes = np.diff(gold.tocsc().indptr)
        near = tag_similarity.find_near(vectors, gold, np.flatnonzero(sizes >= tag_similarity.FEWEST), core.closure_matrix())
        same = list(find_same(vectors, gold, core, near, labelled.ids))
        progress.advance()
        halves, parted = find_halves(vectors, gold, core, near, labelled.ids)
        progress.advance()
        sure = choose_best(one for one in same if isinstance(one, Proposal) and one.confidence >= SAME)
        found += same + halves + find_faults(labelled, core, kept, sure, minutes * 60 / (2 * FOLDS))
        progress.advance()
    return write_audit(found, parted, labelled, out)


def refuse_answered(out: Path) -> None:
    """Raise RequestError where `out` holds proposals that somebody has answered, or is no folder."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out}: is a file; expected a folder to write the audit to")
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


def announce(gold: csr_matrix, taxonomy: Taxonomy, minutes: float, memory: float) -> None:
    """Say what is going to be looked at, for about how long, and in how many bytes of memory."""
    sizes = np.asarray(gold.sum(axis=0)).ravel()
    above = np.where(taxonomy.parents >= 0, sizes[taxonomy.parents], gold.shape[0])
    trainings = min(minutes * 60, 2 * (FOLDS - 1) * float(above.sum()) / PAIRS_A_SECOND)
    pairs = tag_similarity.NEIGHBOURS * int((sizes >= tag_similarity.FEWEST).sum()) * PAIR_SECONDS
    log.warning(
        "audit of %s posts and %s tags that have some: learning in %d folds, twice; about %s, up to %.1f GB of memory",
        f"{gold.shape[0]:,}",
        f"{len(taxonomy):,}",
        FOLDS,
        format_seconds(5 + trainings + pairs + gold.shape[0] / 1000),
        memory / 1e9,
    )


def find_same(vectors: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy, near: Near, ids: Sequence[str]) -> Found:
    """Give tags that mean the same as far as texts can tell, each with the larger one to merge it into."""
    sizes = np.asarray(gold.sum(axis=0)).ravel().astype(int)
    by_tag = gold.tocsc()
    named = set(list_namesakes(taxonomy))
    pairs = np.array(sorted({*zip(*(side.tolist() for side in near), strict=True), *named}), np.int64).reshape(-1, 2)
    names = [fold(tag.name) for tag in taxonomy.tags]
    alike = {(one, two) for one, two in pairs.tolist() if names[one] in names[two] or names[two] in names[one]} | named
    prior = np.array(
        [tag_similarity.PRIOR_NAMED if tuple(pair) in alike else tag_similarity.PRIOR for pair in pairs.tolist()]
    )
    told = tag_similarity.compare_pairs(vectors, gold, pairs[:, 0], pairs[:, 1], prior)
    columns = (told.first, told.second, told.area, told.same)
    sure = {(one, two): (same, area) for one, two, area, same in zip(*(part.tolist() for part in columns), strict=True)}
    for pair in sorted({*sure, *named}):
        tag, other = sorted(pair, key=lambda tag: (sizes[tag], tag))
        same, area = sure.get(pair, (tag_similarity.PRIOR_NAMED, None))
        together = len(np.intersect1d(members(by_tag, tag), members(by_tag, other)))
        if same < LEAST_SURE or (area is None and together):
            continue
        reason = "they share a name" if pair in named else "posts of both say the same"
        reason += f"; a classifier parts them with AUC {area:.2f}" if area is not None else "; too few posts to compare"
        evidence = tag_counts.show(ids, by_tag, [tag])[:3] + tag_counts.show(ids, by_tag, [other])[:3]
        both = taxonomy.ids[tag], taxonomy.ids[other]
        yield Finding("synonym", *both, same, int(sizes[tag]), int(sizes[other]), together, reason, evidence)
        yield Proposal("alias" if pair in alike else "merge", *both, confidence=same, reason=reason, evidence=evidence)


def list_namesakes(taxonomy: Taxonomy) -> Iterator[tuple[int, int]]:
    """Give pairs of tags (first < second), none above the other, that share a name or an alias."""
    owners: dict[str, list[int]] = defaultdict(list)
    for number, tag in enumerate(taxonomy.tags):
        for word in {fold(word) for word in (tag.name, *tag.aliases)}:
            owners[word].append(number)
    for numbers in owners.values():
        if len(numbers) > MOST_NAMESAKES:
            continue
        for at, first in enumerate(numbers):
            for second in numbers[at + 1 :]:
                if first not in taxonomy.ancestors(second) and second not in taxonomy.ancestors(first):
                    yield first, second


def find_halves(
    vectors: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy, near: Near, ids: Sequence[str]
) -> tuple[list[Finding | Proposal], dict[str, np.ndarray]]:
    """Return tags that fall into two groups, less alike than tags near each other are; by tag the rows of the smaller."""
    by_tag = gold.tocsc()
    found: list[Finding | Proposal] = []
    parted: dict[str, np.ndarray] = {}
    leaves = [pair for pair in zip(*near, strict=True) if taxonomy.is_leaf[list(pair)].all()]
    some = leaves[:: len(leaves) // tag_similarity.MOST + 1]
    sides = [[vectors[members(by_tag, tag)[: tag_similarity.MOST]] for tag in pair] for pair in some]
    usual = float(np.median([tag_similarity.measure_likeness(*pair) for pair in sides])) if sides else 1.0
    for tag in np.flatnonzero(taxonomy.is_leaf & (np.diff(by_tag.indptr) >= 2 * FEWEST_OF_GROUP)).tolist():
        rows = members(by_tag, tag)
        group, stable, alike = tag_similarity.part_in_two(vectors[rows])
        group = group if 2 * group.sum() <= len(group) else ~group
        tag_id, sure = taxonomy.ids[tag], stable * (1 - max(0.0, alike))
        if sure < APART or group.sum() < FEWEST_OF_GROUP or alike >= usual:
            continue
        parted[tag_id] = rows[group]
        evidence = tuple(ids[row] for row in (*rows[group][:3], *rows[~group][:3]))
        reason = (
            f"{group.sum()} of its posts are unlike the other {(~group).sum()}: likeness {alike:.2f}, stability {stable:.2f}"
        )
        found.append(Finding("split", tag_id, None, sure, len(rows), None, None, reason, evidence))
        name = f"{taxonomy.tags[tag].name}（2）"
        found.append(Proposal("split", tag_id, added=(name,), confidence=sure, reason=reason, evidence=evidence))
    return found, parted


def choose_best(proposals: Iterable[Proposal]) -> list[Proposal]:
    """Return proposals of which each tag is merged, and moved, only to the other that is surest."""
    best: dict[tuple[str, ...], Proposal] = {}
    for one in sorted(proposals, key=lambda one: one.confidence):
        family = "merge" if one.action == "alias" else one.action
        best[(family, one.post_id, *one.removed, *one.added) if family == "relabel" else (family, one.tag)] = one
    return list(best.values())


def write_audit(
    found: list[Finding | Proposal], parted: dict[str, np.ndarray], labelled: Labelled, out: Path
) -> dict[str, Any]:
    """Write the files of an audit, and return what audit.json says."""
    findings = [one for one in found if isinstance(one, Finding)]
    proposals = choose_best(one for one in found if isinstance(one, Proposal))
    out.mkdir(parents=True, exist_ok=True)
    write_findings(findings, out / FINDINGS)
    split = [(tag, labelled.ids[row]) for tag, rows in parted.items() for row in rows.tolist()]
    columns = {"tag": [tag for tag, _ in split], "post_id": [post_id for _, post_id in split]}
    write_parquet(pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()}), out / SPLITS)
    write_proposals(proposals, out / PROPOSALS)
    kinds = sorted({finding.kind for finding in findings})
    about = {
        "posts": len(labelled.ids),
        "tags": labelled.gold.shape[1],
        "unknown_tags": dict(sorted(labelled.unknown.items())),
        "findings": {kind: sum(finding.kind == kind for finding in findings) for kind in kinds},
        "proposals": {action: sum(proposal.action == action for proposal in proposals) for action in ACTIONS},
        "out": str(out),
    }
    write_json(about, out / ABOUT)
    return about
