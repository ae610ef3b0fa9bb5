"""Parquet files, some rows at a time: as many as fit, whatever a few bytes of the file stand for."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core.arrays import list_parts
from weibotag.posts.encodings import RECORD_LIMIT

# Of rows that are read at once.
BATCH_BYTES = 32 << 20
# A longer value of a dictionary may stand in any number of rows: such a column stays a dictionary until it is cut to size.
LONG_VALUE = 64 << 10
CELL = 8


def read_batches(path: Path, rows: int, limit: int = RECORD_LIMIT) -> Iterator[tuple[int, pa.Table]]:
    """Give the rows of a Parquet file, at most `rows` and some `BATCH_BYTES` at a time, as (number of rows, table).

    Texts may come as dictionaries. The table is empty where the row has more than `limit` bytes. A page of the
    file is held whole. Raises pa.ArrowException and OSError.
    """
    # Read through a small buffer: a row group may be the whole file.
    with _open(path, None, []) as file:
        about = file.metadata
        for number in range(about.num_row_groups):
            packed, most = _plan(path, file, number)
            with _open(path, about, packed) as group:
                for batch in group.iter_batches(min(rows, most), row_groups=[number]):
                    yield from _cut(batch, limit)


def _open(path: Path, about: pq.FileMetaData | None, packed: list[str]) -> pq.ParquetFile:
    # By its bytes: a name need not be UTF-8.
    raw = pa.OSFile(os.fsencode(path.absolute()), "rb")
    return pq.ParquetFile(raw, metadata=about, read_dictionary=packed, buffer_size=1 << 20, pre_buffer=False)


def _plan(path: Path, file: pq.ParquetFile, number: int) -> tuple[list[str], int]:
    """Return the columns of a row group to be read as dictionaries, and the rows that may be read at once."""
    group = file.metadata.row_group(number)
    columns = [group.column(place) for place in range(group.num_columns)]
    rows = max(1, group.num_rows)
    row_bytes = sum(max(column.total_uncompressed_size, column.num_values * CELL) for column in columns) / rows
    texts = [column for column in columns if column.physical_type == "BYTE_ARRAY" and column.has_dictionary_page]
    packed = []
    if sum(column.num_values * column.total_uncompressed_size for column in texts) > BATCH_BYTES:
        paths = [column.path_in_schema for column in texts]
        longest = _find_longest(path, file, number, paths)
        for column, length in zip(texts, longest, strict=True):
            if length > LONG_VALUE or (column.num_values > rows and column.num_values * length > 16 * BATCH_BYTES):
                packed.append(column.path_in_schema)
            else:
                row_bytes += length * column.num_values / rows
    return packed, max(1, int(BATCH_BYTES / row_bytes)) if row_bytes else rows


def _find_longest(path: Path, file: pq.ParquetFile, number: int, paths: list[str]) -> list[int]:
    """Return the bytes of the longest value in the dictionary of each of these columns of a row group."""
    found = []
    for name in paths:
        with _open(path, file.metadata, [name]) as group:
            batch = next(group.iter_batches(1, row_groups=[number], columns=[name]), None)
        dictionaries = [] if batch is None else [part for column in batch.columns for part in _dictionaries(column)]
        lengths = [pc.max(pc.binary_length(values.dictionary)).as_py() or 0 for values in dictionaries]
        found.append(max(lengths, default=0))
    return found


def _dictionaries(array: pa.Array) -> Iterator[pa.DictionaryArray]:
    """Give the dictionaries of texts in an array, however deep."""
    if pa.types.is_dictionary(array.type):
        if _is_text(array.type.value_type):
            yield array
    elif pa.types.is_struct(array.type):
        for field in array.flatten():
            yield from _dictionaries(field)
    elif pa.types.is_nested(array.type) and hasattr(array, "values"):
        yield from _dictionaries(array.values)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _cut(batch: pa.RecordBatch, limit: int) -> Iterator[tuple[int, pa.Table]]:
    """Give a batch in pieces, none of more than `BATCH_BYTES` and a record."""
    if batch.nbytes <= limit and not any(True for column in batch.columns for _ in _dictionaries(column)):
        yield len(batch), pa.Table.from_batches([batch])
        return
    sizes = np.zeros(len(batch), np.int64)
    for column in batch.columns:
        sizes += _sizes(column)
    long: np.ndarray = sizes > limit
    full = np.cumsum(np.where(long, 0, sizes)) // BATCH_BYTES
    changes = (np.flatnonzero((np.diff(full) != 0) | long[1:] | long[:-1]) + 1).tolist()
    for start, end in zip([0, *changes], [*changes, len(batch)], strict=True):
        yield end - start, pa.Table.from_batches([batch.slice(start, 0 if long[start] else end - start)])


def _sizes(array: pa.Array) -> np.ndarray:
    """Return the bytes (int64) of each value of an array, those of a dictionary as often as they are meant."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        places = pc.fill_null(array.indices, 0).to_numpy(zero_copy_only=False)
        return _sizes(array.dictionary)[places] if len(array.dictionary) else np.zeros(len(array), np.int64)
    if pa.types.is_struct(kind):
        return np.sum([_sizes(field) for field in array.flatten()], axis=0, dtype=np.int64) + np.zeros(len(array), np.int64)
    if pa.types.is_map(kind):
        offsets, values = list_parts(array)
        return np.diff(_ends(_sizes(values))[offsets]) + CELL
    if pa.types.is_nested(kind) and not pa.types.is_union(kind) and not pa.types.is_run_end_encoded(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        return np.diff(_ends(_sizes(array.flatten()))[_ends(lengths)]) + CELL
    if _is_text(kind):
        return np.diff(_ends(pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)))
    return np.full(len(array), max(CELL, array.nbytes // max(1, len(array))), np.int64)


def _ends(sizes: np.ndarray) -> np.ndarray:
    return np.append(0, np.cumsum(sizes, dtype=np.int64))
