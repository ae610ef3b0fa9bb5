"""What a network attended to, as evidence for the tags that it gave. Needs no torch."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.core.arrays import list_parts
from weibotag.core.text_matching import fold
from weibotag.features.vocabulary import EVIDENCE_PER_TAG
from weibotag.taxonomy.tree import Taxonomy

# What a wording must get to be named: of all attention of its post, and of what the wording got that got most.
LEAST_SHARE, LEAST_BESIDE = 0.1, 0.5
# Of a wording, what evidence has of it.
FOUND = ("kind", "word", "media_id", "box")


def add_attended(
    evidence: pa.Array, table: pa.Table, shares: np.ndarray, chosen: csr_matrix, taxonomy: Taxonomy
) -> pa.Array:
    """Return list<EVIDENCE> per post: for each chosen tag what `evidence` has, then wordings that got most attention.

    `shares` (wordings,) are what each wording of `table` got. Up to three wordings of a post, the same for all of its tags,
    as the network attends once for all of them; one in which a word of a tag was found already is not named for it again.
    Of a picture's visual codes, which say no more than that its look counted, one is named.
    """
    offsets, values = list_parts(table["wordings"].combine_chunks())
    rows = evidence.to_pylist()
    for post, (start, end) in enumerate(pairwise(offsets.tolist())):
        own = shares[start:end]
        most = own.max(initial=0)
        if most < LEAST_SHARE:
            continue
        places = np.argsort(-own, kind="stable")
        named = start + places[own[places] >= max(LEAST_SHARE, LEAST_BESIDE * most)]
        attended: dict[tuple[str, str], dict[str, Any]] = {}
        for one in values.take(pa.array(named)).to_pylist():
            same = one["kind"], one["media_id"] if one["kind"] == "code" else one["word"]
            attended.setdefault(same, {name: one[name] for name in FOUND})
        added = list(attended.values())[:EVIDENCE_PER_TAG]
        before, rows[post] = rows[post], []
        low, high = chosen.indptr[post : post + 2]
        for tag in chosen.indices[low:high][np.lexsort((chosen.indices[low:high], -chosen.data[low:high]))].tolist():
            tag_id = taxonomy.tags[tag].id
            found = [row for row in before if row["tag_id"] == tag_id]
            rows[post] += found + [{"tag_id": tag_id, **one} for one in added if not any(_is_in(row, one) for row in found)]
    return pa.array(rows, evidence.type)


def _is_in(found: dict[str, Any], wording: dict[str, Any]) -> bool:
    """Tell whether evidence that was found is a word of a wording."""
    same = all(found[name] == wording[name] for name in ("kind", "media_id", "box"))
    return same and fold(found["word"]) in fold(wording["word"])
