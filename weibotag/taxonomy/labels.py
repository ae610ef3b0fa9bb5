"""Tags of posts counted in the numbers of a taxonomy."""

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.arrays import list_parts, rows_of
from weibotag.taxonomy.tree import Taxonomy

log = logging.getLogger(__name__)


def label_matrix(tags: pa.ChunkedArray, taxonomy: Taxonomy) -> csr_matrix:
    """Return tags (lists of ids, null when unlabelled) as float32 0/1 csr_matrix (posts x tags), unknown ones left out."""
    offsets, ids = list_parts(pc.fill_null(tags, []).combine_chunks())
    numbers = pc.index_in(ids, taxonomy.id_array).fill_null(-1).to_numpy(zero_copy_only=False)
    rows = rows_of(offsets)
    known = numbers >= 0
    cells = (np.ones(int(known.sum()), np.float32), (rows[known], numbers[known]))
    labels = csr_matrix(cells, shape=(len(tags), len(taxonomy)))
    labels.data[:] = 1
    return labels


def count_unknown(tables: Iterable[pa.Table], taxonomy: Taxonomy) -> dict[str, int]:
    """Count the posts with each tag that the taxonomy does not have, most posts first; `tables` have a column `tags`."""
    unknown: Counter[str] = Counter()
    for table in tables:
        tags = table["tags"].combine_chunks()
        pairs = pa.table({"row": pc.list_parent_indices(tags), "id": pc.list_flatten(tags)})
        pairs = pairs.filter(pc.invert(pc.is_in(pairs["id"], taxonomy.id_array)))
        unknown.update(pairs.group_by(["row", "id"]).aggregate([])["id"].to_pylist())
    return dict(sorted(unknown.items(), key=lambda item: (-item[1], item[0])))


def warn_of_unknown(unknown: dict[str, int]) -> None:
    """Log which tags of posts the taxonomy does not have: their posts are learnt from without them."""
    if unknown:
        most = ", ".join(f"{tag} ({count})" for tag, count in list(unknown.items())[:3])
        log.warning("%s tags of the posts are not in the taxonomy and count for nothing: %s …", f"{len(unknown):,}", most)


def count_posts(tables: Iterable[pa.Table], taxonomy: Taxonomy) -> dict[str, tuple[int, int]]:
    """Count posts by tag id: those that carry the tag itself, and those that carry it or a tag below it.

    `tables` have a column `tags`. Every tag of the taxonomy is in the answer, in its order; ids that it does not have
    follow, sorted, with both numbers equal.
    """
    own, below = np.zeros((2, len(taxonomy)), np.int64)
    unknown: Counter[str] = Counter()
    closure = taxonomy.closure_matrix()
    for table in tables:
        labels = label_matrix(table["tags"], taxonomy)
        own += np.bincount(labels.indices, minlength=len(taxonomy))
        below += np.bincount((labels.astype(bool) @ closure).indices, minlength=len(taxonomy))
        unknown.update(count_unknown([table], taxonomy))
    known = {tag_id: (int(own[at]), int(below[at])) for at, tag_id in enumerate(taxonomy.ids)}
    return known | {tag_id: (number, number) for tag_id, number in sorted(unknown.items())}
