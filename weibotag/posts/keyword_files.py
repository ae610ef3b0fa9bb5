"""Files of keywords and clusters, also those that people have edited, back to tables."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.posts.encodings import find_kind, read_sound_records, readable


def read_listing(path: Path, table: str, needed: Sequence[str]) -> pa.Table:
    """Return the columns of `table` (a name in `schema.TABLES`) that a CSV or Parquet file has, the others as nulls.

    An empty cell of a CSV is a null, of text an empty one. Raises RequestError where the file can't be read or lacks one of
    `needed`, with the line where a cell is wrong.
    """
    kind = find_kind(path)
    if kind not in ("csv", "tsv", "parquet"):
        raise RequestError(f"{path}: unknown kind of file; expected {table} as .parquet, .csv or .tsv")
    columns = _read_parquet(path) if kind == "parquet" else _read_text(path, kind)
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise RequestError(f"{path} has no column {', '.join(missing)}; found {found}; expected a file of {table}")
    rows = len(columns[needed[0]])
    arrays = []
    for field in arrow_schema(table):
        cells = columns.get(field.name, pa.nulls(rows))
        try:
            arrays.append(_cast(cells, field.type))
        except pa.ArrowException as error:
            raise RequestError(f"{path}: column {field.name} can't be read as {field.type} ({error}); mend it") from error
    return pa.table(arrays, schema=arrow_schema(table))


def has_column(path: Path, name: str) -> bool:
    """Tell whether a CSV or Parquet file has a column; False for any other file. Raises RequestError."""
    kind = find_kind(path) if path.is_file() else None
    if kind == "parquet":
        with readable(path):
            return name in pq.read_schema(path).names
    return kind in ("csv", "tsv") and name in read_sound_records(path, kind, "mend it")[0]


def _read_parquet(path: Path) -> dict[str, pa.ChunkedArray]:
    with readable(path):
        table = pq.read_table(path)
    return dict(zip(table.column_names, table.columns, strict=True))


def _read_text(path: Path, kind: str) -> dict[str, pa.Array]:
    names, records = read_sound_records(path, kind, "mend it")
    rows = [fields for _, fields in records]
    cells = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {name: pa.array(column, pa.string()) for name, column in zip(names, cells, strict=True)}


def _cast(cells: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if cells.type != pa.string() or kind == pa.string():
        return cells.cast(kind)
    texts = [text.strip() or None if text else None for text in cells.to_pylist()]
    if pa.types.is_list(kind):
        return pa.array([text and text.split(";") for text in texts], kind)
    # A program for tables writes 3 as 3.0, and True as TRUE.
    if pa.types.is_integer(kind):
        return pa.array(texts, pa.string()).cast(pa.float64()).cast(kind)
    return pa.array([text and text.lower() for text in texts], pa.string()).cast(kind)
