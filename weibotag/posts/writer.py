"""Tables to Parquet, CSV, JSONL and .xlsx files."""

import csv
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core import schema
from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.errors import RequestError
from weibotag.core.files import atomic
from weibotag.core.spreadsheet import BOM, guard_row, is_formula, may_run, percent
from weibotag.core.terminal import make_visible
from weibotag.posts.cells import BLANKS, as_json, as_texts, change_type
from weibotag.posts.encodings import STDIN, as_text
from weibotag.posts.workbook import BookWriter

log = logging.getLogger(__name__)
TAGS = schema.arrow_schema("tags")
FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".xlsx": "xlsx"}
STDOUT = STDIN
# Items of a list that would not come back from a cell in which they are joined by `;`.
ODD_ITEM = rf"[;；]|^\[|^[{BLANKS}]|[{BLANKS}]$|^$"


def find_format(path: Path) -> str:
    """Return parquet, csv, jsonl or xlsx by the suffix of a tags file ("-": jsonl); raises RequestError for any other."""
    if path == STDOUT:
        return "jsonl"
    if path.is_dir():
        raise RequestError(f"{path}: is a folder; expected the name of a file")
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"{path}: unknown kind of file; expected a name that ends in {', '.join(FORMATS)}, or -")
    return FORMATS[path.suffix.lower()]


def write_tables(tables: Iterable[pa.Table], out: str | Path, schema: pa.Schema) -> int:
    """Write tables of one schema to a file, or as JSONL to stdout ("-"), and return the number of rows.

    A CSV is made for people: with a BOM, and no cell of it is a formula (see `core.spreadsheet`); cells of a workbook are
    text. The file is written
    beside its place, synced and renamed, so nobody sees half of it. Raises RequestError, before the first table is asked
    for, when the suffix is wrong.
    """
    return _write(tables, out, schema, for_people=True)


def write_posts(tables: Iterable[pa.Table], out: str | Path, schema: pa.Schema) -> int:
    """Write posts that are read as posts again, as `write_tables` does, but every cell of a CSV as it is, without a BOM."""
    return _write(tables, out, schema, for_people=False)


def _write(tables: Iterable[pa.Table], out: str | Path, schema: pa.Schema, for_people: bool) -> int:
    path = Path(out)
    form = find_format(path)
    if path == STDOUT:
        rows = sum(_write_json(table.select(schema.names), sys.stdout) for table in tables)
        sys.stdout.flush()
        return rows
    with atomic(path, "wb" if form in ("parquet", "xlsx") else "w") as file:
        if form == "xlsx":
            book = BookWriter("posts", schema.names)
            rows = sum(_write_csv(table.select(schema.names), book.write_rows, for_people=False) for table in tables)
            book.save(file)
            if book.cut:
                told = "cells had more characters than a workbook keeps: they end in …; other formats keep them whole"
                log.warning("%s: %s %s", make_visible(str(path)), f"{book.cut:,}", told)
            return rows
        if form == "parquet":
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                return sum(_write_parquet(_fit(table, schema), writer) for table in tables)
        if form == "jsonl":
            return sum(_write_json(table.select(schema.names), file) for table in tables)
        lines = csv.writer(file)
        if for_people:
            file.write(BOM)
        lines.writerow(guard_row(schema.names) if for_people else schema.names)
        return sum(_write_csv(table.select(schema.names), lines.writerows, for_people) for table in tables)


def flatten(table: pa.Table) -> pa.Table:
    """Return the table as text: tags `id:score;…`, keywords `word:score:source;…`, other lists joined by `;`.

    Scores have four decimals; `%`, `:` and `;` inside tags, keywords and evidence are written %25, %3A and %3B, and so is
    the first sign of what would be a formula: a `;` may end a cell elsewhere. A list whose items would not come back from
    that is JSON. A null is an empty text, as is an empty list.
    """
    columns = [_flat(name, table[name]) for name in table.column_names]
    return pa.table(columns, names=table.column_names)


def _flat(name: str, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if name in TAGS.names and cells.type == TAGS.field(name).type and pa.types.is_list(cells.type):
        lists = cells.combine_chunks()
        names = [field.name for field in cells.type.value_type if field.name not in ("media_id", "box")]
        pieces = [_piece(list_parts(lists)[1].field(name)) for name in names]
        return _join(lists, _escape_formulas(pc.binary_join_element_wise(*pieces, ":")))
    plain = as_json(cells) if pa.types.is_nested(cells.type) else cells
    if not pa.types.is_list(plain.type) or pa.types.is_nested(plain.type.value_type):
        return as_texts(cells)
    lists = plain.combine_chunks()
    offsets, values = list_parts(lists)
    texts = values.cast(pa.string())
    joined = _join(lists, pc.fill_null(texts, ""))
    odd = pc.fill_null(pc.match_substring_regex(texts, ODD_ITEM), True).to_numpy(zero_copy_only=False)
    if not odd.any():
        return joined
    rows = np.unique(rows_of(offsets)[odd])
    exact = np.full(len(lists), None, object)
    exact[rows] = list(map(as_text, lists.take(pa.array(rows)).to_pylist()))
    return pc.coalesce(pa.array(exact, pa.string()), joined)


def _join(lists: pa.ListArray, texts: pa.Array) -> pa.ChunkedArray:
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(list_parts(lists)[0]), texts), ";")
    return pa.chunked_array([pc.if_else(lists.is_null(), "", joined)])


def _escape_formulas(texts: pa.Array) -> pa.Array:
    if not may_run(texts):
        return texts
    return pa.array([percent(text[0]) + text[1:] if is_formula(text) else text for text in texts.to_pylist()], pa.string())


def _piece(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        for sign, escaped in (("%", "%25"), (":", "%3A"), (";", "%3B")):
            values = pc.replace_substring(values, sign, escaped)
        return pc.fill_null(values, "")
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return pc.if_else(pa.array(np.isnan(numbers)), "", pa.array(np.char.mod("%.4f", numbers), pa.string()))


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table([change_type(table[field.name], field.type) for field in schema], schema=schema)


def _write_parquet(table: pa.Table, writer: pq.ParquetWriter) -> int:
    writer.write_table(table)
    return len(table)


def _write_csv(table: pa.Table, write_rows: Callable[[Iterable[tuple[Any, ...]]], object], for_people: bool) -> int:
    columns = flatten(table).columns
    texts = [guard_row(column.to_pylist()) if for_people and may_run(column) else column.to_pylist() for column in columns]
    write_rows(zip(*texts, strict=True))
    return len(table)


def _write_json(table: pa.Table, file: IO[str]) -> int:
    names = table.column_names
    columns = [as_json(column).to_pylist() for column in table.columns]
    file.writelines(f"{as_text(dict(zip(names, row, strict=True)))}\n" for row in zip(*columns, strict=True))
    return len(table)
