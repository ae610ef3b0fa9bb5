"""What is wrong with a taxonomy as people used it: findings with evidence, and proposals that wait to be accepted."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.core.errors import RequestError
from weibotag.core.files import write_json, write_parquet
from weibotag.core.progress import bar
from weibotag.curation.tags import tag_counts
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
from weibotag.curation.tags.relabelling import FOLDS, find_faults
from weibotag.curation.tags.tag_halves import find_halves
from weibotag.curation.tags.tag_similarity import find_near, find_same
from weibotag.features.hashed_ngrams import vectorise
from weibotag.posts.source import PostsSource, refuse_outputs
from weibotag.taxonomy.tree import Taxonomy

# What reads texts looks at the tags with most posts, so many at most: its matrices have a column for each.
MOST_TAGS = 5_000
# Tags that are likelier than this the same are taken for one where labels are doubted.
SAME = 0.5

log = logging.getLogger(__name__)


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
    refuse_outputs(source, out)
    refuse_answered(out)
    labelled = read_labelled(source, taxonomy, annotator)
    every = PostsByTag(taxonomy, labelled.gold.tocsc(), labelled.ids)
    found: list[Found] = [*tag_counts.find_dead(every), *tag_counts.find_together(every)]
    if labelled.annotators is not None:
        found += tag_counts.find_habits(every, labelled.annotators)
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
