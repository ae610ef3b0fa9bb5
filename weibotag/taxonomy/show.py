"""How many posts each tag has."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.taxonomy.tree import Taxonomy


def counts(taxonomy: Taxonomy, tables: Iterable[pa.Table]) -> dict[str, tuple[int, int]]:
    """Count posts by tag id: those that carry the tag itself, and those that carry it or a tag below it.

    `tables` have a column `tags` (lists of ids, null when unlabelled). Every tag of the taxonomy is in the answer, in
    its order; ids that it does not have follow, with both numbers equal.
    """
    total = len(taxonomy)
    own = np.zeros(total, dtype=np.int64)
    below = np.zeros(total, dtype=np.int64)
    unknown: dict[str, int] = {}
    closure = taxonomy.closure_matrix().astype(np.int32)
    known = pa.array(taxonomy.ids, pa.string())
    for table in tables:
        column = table["tags"].combine_chunks()
        rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        given = pc.list_flatten(column).cast(pa.string())
        numbers = pc.fill_null(pc.index_in(given, value_set=known), -1).to_numpy(zero_copy_only=False)
        in_tree = numbers >= 0
        cells = (np.ones(in_tree.sum(), dtype=np.int32), (rows[in_tree], numbers[in_tree]))
        carried = csr_matrix(cells, shape=(len(column), total))
        carried.data[:] = 1
        own += np.asarray(carried.sum(axis=0)).ravel()
        reached = carried @ closure
        reached.data[:] = 1
        below += np.asarray(reached.sum(axis=0)).ravel()
        strangers = pa.table({"row": rows[~in_tree], "id": given.filter(pa.array(~in_tree))})
        strangers = strangers.group_by(["row", "id"]).aggregate([])
        for entry in pc.value_counts(strangers["id"]).to_pylist():
            if entry["values"] is not None:
                unknown[entry["values"]] = unknown.get(entry["values"], 0) + entry["counts"]
    known_counts = {tag_id: (int(own[at]), int(below[at])) for at, tag_id in enumerate(taxonomy.ids)}
    return known_counts | {tag_id: (number, number) for tag_id, number in sorted(unknown.items())}
