"""What a post's tables would say if only some stages had looked at its pictures."""

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts
from weibotag.vision.stage import stage_class

# Of a struct in the column `vectors`, what does not come from looking.
PLAIN = ("media_id", "width", "height")


def limit(table: pa.Table, stages: Collection[str]) -> pa.Table:
    """Return a table of posts whose wordings and vectors are those of `stages` alone; absent columns stay absent."""
    if "wordings" in table.column_names:
        kinds = [kind for stage in stages for kind in stage_class(stage).kinds]
        table = _put(table, "wordings", _keep_kinds(table["wordings"].combine_chunks(), kinds))
    if "vectors" in table.column_names and "embed" not in stages:
        table = _put(table, "vectors", _blank(table["vectors"].combine_chunks()))
    return table


def given(table: pa.Table, stages: Sequence[str]) -> np.ndarray:
    """Return, per post, the stages that its own words stand for, as bits: words without a picture were brought along."""
    bits = np.zeros(len(table), np.int64)
    if "wordings" not in table.column_names:
        return bits
    offsets, values = list_parts(table["wordings"].combine_chunks())
    own = pc.is_null(values.field("media_id")).to_numpy(zero_copy_only=False)
    if not own.any():
        return bits
    rows = np.repeat(np.arange(len(table)), np.diff(offsets))
    for place, stage in enumerate(stages):
        kinds = pc.is_in(values.field("kind"), pa.array(stage_class(stage).kinds, pa.string())).to_numpy(
            zero_copy_only=False
        )
        bits[rows[own & kinds]] |= 1 << place
    return bits


def number_of(stages: Collection[str], order: Sequence[str]) -> int:
    """Return the stages as bits, the first of `order` the lowest."""
    return sum(1 << place for place, name in enumerate(order) if name in stages)


def stages_of(bits: int, order: Sequence[str]) -> tuple[str, ...]:
    """Return the stages that `number_of` gave these bits."""
    return tuple(name for place, name in enumerate(order) if bits >> place & 1)


def _put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _keep_kinds(wordings: pa.ListArray, kinds: Sequence[str]) -> pa.ListArray:
    offsets, values = list_parts(wordings)
    kept = pc.is_in(values.field("kind"), pa.array(kinds, pa.string()))
    ends = np.concatenate([[0], np.cumsum(kept.to_numpy(zero_copy_only=False))])[offsets]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values.filter(kept))


def _blank(vectors: pa.ListArray) -> pa.ListArray:
    offsets, values = list_parts(vectors)
    fields = list(values.type)
    columns = [values.field(field.name) if field.name in PLAIN else pa.nulls(len(values), field.type) for field in fields]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=fields))


def translate(bits: np.ndarray, old: Sequence[str], new: Sequence[str]) -> np.ndarray:
    """Return bits that were numbered by one order of stages as those of another; stages that it lacks are dropped."""
    table = np.array([number_of(stages_of(value, old), new) for value in range(1 << len(old))], np.int64)
    return np.asarray(table[bits])
