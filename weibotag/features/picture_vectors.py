"""The vectors of a post's pictures, as a column."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.schema import VECTOR

MOST_PICTURES = 9


# Of the first pictures, so that the patches of a hundred thousand posts fit into memory.
MOST_GRIDS, MOST_CELLS = 2, 16


PICTURE = pa.struct(
    [
        ("media_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("vector", VECTOR),
        ("patches", pa.list_(VECTOR)),
    ]
)


def collect_vectors(post_ids: Sequence[str], links: pa.Table, media: pa.Table, found: pa.Table) -> pa.Array:
    """Return the column `vectors`, list<PICTURE>: for each post its first nine pictures and frames, each once.

    `links` names each post's files, `media` their frames, `found` (schema "embed") their vectors.
    """
    frames: dict[str, list[dict[str, Any]]] = {}
    for row in media.filter(pc.is_null(media["media_error"])).to_pylist():
        frames.setdefault(row["file_id"], []).append(row)
    shown: dict[str, dict[str, dict[str, Any]]] = {}
    for link in links.sort_by([("post_id", "ascending"), ("position", "ascending")]).to_pylist():
        own = shown.setdefault(link["post_id"], {})
        for row in sorted(frames.get(link["file_id"], ()), key=lambda row: row["frame"]):
            own[row["media_id"]] = row
    rows = [list(shown.get(post_id, {}).values())[:MOST_PICTURES] for post_id in post_ids]
    flat = [row for own in rows for row in own]
    names = pa.array([row["media_id"] for row in flat], pa.string())
    at = pc.index_in(names, found["media_id"])
    patches = pa.nulls(len(flat), pa.list_(VECTOR))
    if "embed_patches" in found.column_names:
        # No network looks at the patches of later pictures.
        first = np.concatenate([np.arange(len(own)) < MOST_GRIDS for own in rows]) if flat else np.zeros(0, bool)
        patches = found["embed_patches"].combine_chunks().take(pc.if_else(pa.array(first), at, None))
    columns = [
        names,
        pa.array([row["width"] for row in flat], pa.int32()),
        pa.array([row["height"] for row in flat], pa.int32()),
        found["embed_vector"].combine_chunks().take(at),
        patches,
    ]
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in rows])])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(PICTURE)))
