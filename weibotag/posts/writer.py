"""Tables to Parquet, CSV and JSONL files."""

import csv
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core import schema
from weibotag.core.arrays import list_parts
from weibotag.core.errors import RequestError
from weibotag.core.files import atomic, remove_orphans
from weibotag.posts.encodings import STDIN, as_text

TAGS = schema.arrow_schema("tags")
FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}
STDOUT = STDIN


def find_format(path: Path) -> str:
    """Return parquet, csv or jsonl by the suffix of a tags file ("-": jsonl); raises RequestError for any other."""
    if path == STDOUT:
        return "jsonl"
    if path.is_dir():
        raise RequestError(f"{path}: is a folder; expected the name of a file")
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"{path}: unknown kind of file; expected a name that ends in {', '.join(FORMATS)}, or -")
    return FORMATS[path.suffix.lower()]


def write_tables(tables: Iterable[pa.Table], out: str | Path, schema: pa.Schema) -> int:
    """Write tables of one schema to a file, or as JSONL to stdout ("-"), and return the number of rows.

    The file is written beside its place, synced and renamed, so nobody sees half of it. Raises RequestError, before the
    first table is asked for, when the suffix or the folder is wrong.
    """
    path = Path(out)
    form = find_format(path)
    if path == STDOUT:
        rows = sum(_write_json(table.select(schema.names), sys.stdout) for table in tables)
        sys.stdout.flush()
        return rows
    if not path.parent.is_dir():
        raise RequestError(f"{path}: there is no folder {path.parent}; make it first")
    remove_orphans(path)
    with atomic(path, "wb" if form == "parquet" else "w", os.getpid()) as file:
        if form == "parquet":
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                return sum(_write_parquet(table.select(schema.names).cast(schema), writer) for table in tables)
        if form == "jsonl":
            return sum(_write_json(table.select(schema.names), file) for table in tables)
        file.write("\ufeff")
        lines = csv.writer(file)
        lines.writerow(schema.names)
        return sum(_write_csv(table.select(schema.names), lines.writerows) for table in tables)


def flatten(table: pa.Table) -> pa.Table:
    """Return the table with lists as text: tags `id:score;…`, keywords `word:score:source;…`, others joined by `;`.

    Scores have four decimals; `%`, `:` and `;` inside tags, keywords and evidence are written %25, %3A and %3B. A null
    is an empty text, as is an empty list.
    """
    columns = [_flat(name, table[name]) for name in table.column_names]
    return pa.table(columns, names=table.column_names)


def _flat(name: str, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_nested(cells.type):
        return cells
    own = name in TAGS.names and cells.type == TAGS.field(name).type
    if not pa.types.is_list(cells.type) or (pa.types.is_nested(cells.type.value_type) and not own):
        return pa.chunked_array([pa.array(map(as_text, cells.to_pylist()), pa.string())])
    lists = cells.combine_chunks()
    offsets, values = list_parts(lists)
    if own:
        names = [field.name for field in cells.type.value_type if field.name not in ("media_id", "box")]
        texts = pc.binary_join_element_wise(*(_piece(values.field(name)) for name in names), ":")
    else:
        texts = pc.fill_null(values.cast(pa.string()), "")
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), ";")
    return pa.chunked_array([pc.if_else(lists.is_null(), "", joined)])


def _piece(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        for sign, escaped in (("%", "%25"), (":", "%3A"), (";", "%3B")):
            values = pc.replace_substring(values, sign, escaped)
        return pc.fill_null(values, "")
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return pc.if_else(pa.array(np.isnan(numbers)), "", pa.array(np.char.mod("%.4f", numbers), pa.string()))


def _write_parquet(table: pa.Table, writer: pq.ParquetWriter) -> int:
    writer.write_table(table)
    return len(table)


def _write_csv(table: pa.Table, write_rows: Callable[[Iterable[tuple[Any, ...]]], object]) -> int:
    texts = [column.cast(pa.string()).to_pylist() for column in flatten(table).columns]
    write_rows(zip(*texts, strict=True))
    return len(table)


def _write_json(table: pa.Table, file: IO[str]) -> int:
    names = table.column_names
    columns = [_short(column.combine_chunks()).to_pylist() for column in table.columns]
    file.writelines(f"{as_text(dict(zip(names, row, strict=True)))}\n" for row in zip(*columns, strict=True))
    return len(table)


def _short(cells: pa.Array) -> pa.Array:
    """Return floats as the shortest double that reads back as the same one, and as null where JSON has no number."""
    kind = cells.type
    if pa.types.is_floating(kind):
        numbers = cells.cast(pa.string()).cast(pa.float64())
        return pc.if_else(pc.is_finite(numbers), numbers, None)
    if pa.types.is_list(kind):
        offsets, values = list_parts(cells)
        return pa.ListArray.from_arrays(pa.array(offsets), _short(values), mask=cells.is_null())
    if pa.types.is_struct(kind):
        fields = [_short(field) for field in cells.flatten()]
        return pa.StructArray.from_arrays(fields, [field.name for field in kind], mask=cells.is_null())
    return cells
