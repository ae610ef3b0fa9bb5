"""Tags tables to Parquet, CSV and JSONL files, and back."""

import csv
import glob
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core import schema
from weibotag.core.arrays import list_parts
from weibotag.core.errors import RequestError
from weibotag.core.files import sync_folder
from weibotag.posts.encodings import STDIN, find_delimiter, open_file, open_lines, read_records, readable

TAGS = schema.arrow_schema("tags")
FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl"}
STDOUT = STDIN
READ_ROWS = 20_000
NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")
# What a JSON value is as a column; a column of anything else, or of several of these, is text.
JSON_TYPES: dict[frozenset[type], pa.DataType] = {
    frozenset({str}): pa.string(),
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
}


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
    with _replaced(path) as temporary:
        if form == "parquet":
            rows = 0
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table.select(schema.names).cast(schema))
                    rows += len(table)
            return rows
        with temporary.open("w", encoding="utf-8-sig" if form == "csv" else "utf-8", newline="") as file:
            if form == "jsonl":
                return sum(_write_json(table.select(schema.names), file) for table in tables)
            writer_of_rows = csv.writer(file)
            writer_of_rows.writerow(schema.names)
            return sum(_write_csv(table.select(schema.names), writer_of_rows.writerows) for table in tables)


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder that takes the place of `path` when all went well."""
    if not path.parent.is_dir():
        raise RequestError(f"{path}: there is no folder {path.parent}; make it first")
    _remove_left(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """Remove what writers of `path` left that were killed: files that are named by a process that is no more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.split(".")[-2]
        if number.isdecimal() and not _lives(int(number)):
            left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def convert(source: Path, out: Path) -> int:
    """Write a tags file in another format, and return the number of rows."""
    find_format(out)
    tables = read_table(source)
    first = next(tables)
    return write_tables(chain([first], tables), out, first.schema)


def flatten(table: pa.Table) -> pa.Table:
    """Return the table with lists as text: tags `id:score;…`, keywords `word:score:source;…`, others joined by `;`.

    Scores have four decimals; `%`, `:` and `;` inside tags, keywords and evidence are written %25, %3A and %3B. A null
    is an empty text, as is an empty list.
    """
    columns = [_flat(name, table[name]) for name in table.column_names]
    return pa.table(columns, names=table.column_names)


def _flat(name: str, cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if name in TAGS.names and cells.type == TAGS.field(name).type and pa.types.is_list(cells.type):
        lists = cells.combine_chunks()
        offsets, values = list_parts(lists)
        pieces = [
            _piece(values.field(field.name)) for field in cells.type.value_type if field.name not in ("media_id", "box")
        ]
        return _joined(lists, offsets, pc.binary_join_element_wise(*pieces, ":"))
    if pa.types.is_list(cells.type) and not pa.types.is_nested(cells.type.value_type):
        lists = cells.combine_chunks()
        offsets, values = list_parts(lists)
        return _joined(lists, offsets, pc.fill_null(values.cast(pa.string()), ""))
    if pa.types.is_nested(cells.type):
        return pa.chunked_array(
            [pa.array([None if cell is None else _dump(cell) for cell in cells.to_pylist()], pa.string())]
        )
    return cells


def _joined(lists: pa.ListArray, offsets: np.ndarray, texts: pa.Array) -> pa.ChunkedArray:
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), ";")
    return pa.chunked_array([pc.if_else(lists.is_null(), "", joined)])


def _piece(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        for sign, escaped in (("%", "%25"), (":", "%3A"), (";", "%3B")):
            values = pc.replace_substring(values, sign, escaped)
        return pc.fill_null(values, "")
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return pc.if_else(pa.array(np.isnan(numbers)), "", pa.array(np.char.mod("%.4f", numbers), pa.string()))


def _write_csv(table: pa.Table, write_rows: Callable[[Iterable[tuple[Any, ...]]], object]) -> int:
    texts = [column.cast(pa.string()).to_pylist() for column in flatten(table).columns]
    write_rows(zip(*texts, strict=True))
    return len(table)


def _write_json(table: pa.Table, file: TextIO) -> int:
    names = table.column_names
    columns = [_short(column.combine_chunks()).to_pylist() for column in table.columns]
    file.writelines(_dump(dict(zip(names, row, strict=True))) + "\n" for row in zip(*columns, strict=True))
    return len(table)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


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


def read_table(path: Path) -> Iterator[pa.Table]:
    """Give a tags file as tables: the columns of "tags", then all others; at least one table, which may be empty.

    A tag or keyword without a score has 1.0. Other columns of a CSV are text, so are those of a JSONL that hold lists
    or objects. Raises RequestError with the line where the file can't be read.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such file; expected tags as {', '.join(FORMATS)}")
    form = find_format(path)
    if form == "parquet":
        return _read_parquet(path)
    return _read_csv(path) if form == "csv" else _read_json(path)


def _need_tags(path: Path, names: list[str]) -> None:
    for name in ("post_id", "tags"):
        if name not in names:
            raise RequestError(f"{path} has no column {name}; found {', '.join(names) or 'none'}; expected a file of tags")


def _read_parquet(path: Path) -> Iterator[pa.Table]:
    try:
        with readable(path), pq.ParquetFile(path) as file:
            found = file.schema_arrow
            _need_tags(path, found.names)
            others = [field for field in found if field.name not in TAGS.names]
            complete = pa.schema([*TAGS, *others])
            batches = chain(file.iter_batches(batch_size=READ_ROWS), [pa.RecordBatch.from_pylist([], found)])
            for place, batch in enumerate(batches):
                if len(batch) or not place:
                    yield _complete(pa.Table.from_batches([batch]), complete)
    except pa.ArrowException as error:
        said = str(error).strip().splitlines()[0]
        raise RequestError(f"{path}: not a Parquet file of tags that can be read ({said}); make it again") from error


def _complete(table: pa.Table, complete: pa.Schema) -> pa.Table:
    columns = []
    for field in complete:
        if field.name not in table.column_names:
            columns.append(pa.nulls(len(table), field.type))
        elif field.name in ("tags", "keywords") and not pa.types.is_struct(table[field.name].type.value_type):
            cells = [cell and [_item(field.name, item) for item in cell] for cell in table[field.name].to_pylist()]
            columns.append(pa.array(cells, field.type))
        else:
            columns.append(table[field.name].cast(field.type))
    return pa.table(columns, schema=complete)


def _read_csv(path: Path) -> Iterator[pa.Table]:
    file = open_file(path, "csv")
    records = read_records(file, find_delimiter(file))
    _, names, _ = next(records, (0, [], None))
    _need_tags(path, names)
    complete = pa.schema([*TAGS, *((name, pa.string()) for name in names if name not in TAGS.names)])
    yielded = False
    while part := list(islice(records, READ_ROWS)):
        for line, fields, problem in part:
            if problem or len(fields) != len(names):
                why = problem or f"{len(fields)} fields; expected {len(names)}"
                raise RequestError(f"{path}, line {line}: {why}; write the file again with `weibotag export`")
        columns = dict(zip(names, zip(*(fields for _, fields, _ in part), strict=True), strict=True))
        yield _from_cells(columns, complete, len(part))
        yielded = True
    if not yielded:
        yield complete.empty_table()


def _read_json(path: Path) -> Iterator[pa.Table]:
    file = open_file(path, "jsonl")
    kinds: dict[str, set[type]] = {}
    with open_lines(file) as lines:
        for _, row in _json_rows(path, lines):
            for name, value in row.items():
                kinds.setdefault(name, set()).update(_kind(value))
    if not kinds:
        yield TAGS.empty_table()
        return
    _need_tags(path, list(kinds))
    others = {name: JSON_TYPES.get(frozenset(found), pa.string()) for name, found in kinds.items() if name not in TAGS.names}
    complete = pa.schema([*TAGS, *others.items()])
    with open_lines(file) as lines:
        rows = _json_rows(path, lines)
        while part := [row for _, row in islice(rows, READ_ROWS)]:
            columns = {name: [row.get(name) for row in part] for name in kinds}
            yield _from_cells(columns, complete, len(part))


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{path}, line {number}: not JSON ({error}); expected one object a line") from error
        if not isinstance(row, dict):
            raise RequestError(f"{path}, line {number}: not a JSON object; expected one object a line")
        yield number, row


def _kind(value: Any) -> set[type]:
    if value is None:
        return set()
    return {object} if isinstance(value, int) and abs(value) >= 2**63 else {type(value)}


def _from_cells(columns: Mapping[str, Sequence[Any]], complete: pa.Schema, rows: int) -> pa.Table:
    """Return a table of cells that are text (CSV) or what JSON makes of them."""
    arrays = []
    for field in complete:
        cells: Sequence[Any] = columns.get(field.name, [None] * rows)
        if field.name in TAGS.names and pa.types.is_list(field.type):
            cells = [_items(field.name, cell) for cell in cells]
        elif field.name in TAGS.names and field.name != "post_id":
            cells = [cell or None for cell in cells]
        elif pa.types.is_string(field.type):
            cells = [cell if cell is None or isinstance(cell, str) else _dump(cell) for cell in cells]
        arrays.append(pa.array(cells, field.type))
    return pa.table(arrays, schema=complete)


def _items(name: str, cell: Any) -> list[dict[str, Any]] | None:
    if cell is None:
        return None
    parts = cell.split(";") if isinstance(cell, str) else cell
    return [_item(name, part) for part in parts if part]


def _item(name: str, item: Any) -> dict[str, Any]:
    """Return one tag, keyword or piece of evidence from its text or its JSON object."""
    if isinstance(item, dict):
        return item if name == "evidence" or item.get("score") is not None else {**item, "score": 1.0}
    parts = item.split(":")
    if name == "evidence":
        return dict(zip(("tag_id", "kind", "word"), map(_unescape, parts), strict=False))
    key = "id" if name == "tags" else "keyword"
    source = None
    if name == "keywords" and len(parts) > 2 and _is_score(parts[-2]):
        source = _unescape(parts.pop()) or None
    score = parts.pop() if len(parts) > 1 and _is_score(parts[-1]) else ""
    found: dict[str, Any] = {key: _unescape(":".join(parts)), "score": float(score or 1.0)}
    return found if name == "tags" else {**found, "source": source}


def _is_score(text: str) -> bool:
    return not text or NUMBER.fullmatch(text) is not None


def _unescape(text: str) -> str:
    return text.replace("%3B", ";").replace("%3A", ":").replace("%25", "%")
