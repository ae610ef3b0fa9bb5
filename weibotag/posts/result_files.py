"""Files of tags, keywords and clusters, also those that people have edited, back to tables."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa

from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.core.schema import arrow_schema
from weibotag.core.spreadsheet import BEFORE, SIGNS, percent
from weibotag.posts.cells import as_words, change_type, find_broken, plain_types, simplify
from weibotag.posts.encodings import (
    CHUNK_SIZE,
    MOST_COLUMNS,
    TOO_LONG,
    WRITTEN_LIMIT,
    as_text,
    find_kind,
    find_problem,
    open_file,
    open_lines,
    open_parquet,
    parse_object,
    read_sound_records,
    refuse_twins,
)
from weibotag.posts.parquet_batches import read_batches
from weibotag.posts.workbook import list_sheets, read_rows
from weibotag.posts.writer import FORMATS, find_format, write_tables

TAGS = arrow_schema("tags")
READ_ROWS = 20_000
# Kinds of files that hold cells of text.
TABLES = ("csv", "tsv", "xlsx")
Row = TypeVar("Row")
# The first sign of a tag or keyword, as it is written where it would begin a formula.
FIRST = re.compile("|".join(map(percent, BEFORE + SIGNS)))
NUMBER = re.compile(r"(\d+(\.\d+)?(e[+-]?\d+)?)?")
# What a JSON value is as a column; a column of anything else, or of several of these, is text.
JSON_TYPES: dict[frozenset[type], pa.DataType] = {
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
}


def convert(source: Path, out: Path) -> int:
    """Write a tags file in another format, and return the number of rows."""
    find_format(out)
    tables = read_table(source)
    first = next(tables)
    return write_tables(chain([first], tables), out, first.schema)


def read_table(path: Path) -> Iterator[pa.Table]:
    """Give a tags file as tables: the columns of "tags", then all others.

    A tag or keyword without a score has 1.0. Other columns of a CSV are text, so are those of a JSONL that hold lists
    or objects. Raises RequestError with the line where the file can't be read,
    NothingAcceptedError, after the last table, where it has no row.
    """
    if not path.is_file():
        raise RequestError(f"{path}: no such file; expected tags as {', '.join(FORMATS)}")
    form = find_format(path)
    rows = 0
    read = {"parquet": _read_parquet, "jsonl": _read_json}.get(form, _read_csv)
    for table in read(path):
        rows += len(table)
        yield table
    if not rows:
        raise NothingAcceptedError(path)


def _complete(path: Path, found: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the columns of "tags", then all others that the file has; raises RequestError when it has no tags."""
    for name in ("post_id", "tags"):
        if name not in found:
            raise RequestError(f"{path} has no column {name}; found {', '.join(found) or 'none'}; expected a file of tags")
    if len(found) > MOST_COLUMNS + len(TAGS):
        raise RequestError(f"{path} has {len(found):,} columns; {MOST_COLUMNS:,} at most can be read; leave some out")
    return pa.schema([*TAGS, *((name, kind) for name, kind in found.items() if name not in TAGS.names)])


def _read_parquet(path: Path) -> Iterator[pa.Table]:
    with open_parquet(path) as file:
        complete = _complete(path, plain_types(path, file.schema_arrow))
        first = 1
        for count, raw in read_batches(path, READ_ROWS, WRITTEN_LIMIT):
            if len(raw) < count:
                raise RequestError(f"{path}, row {first}: {TOO_LONG.format('bytes', WRITTEN_LIMIT)}; leave it out")
            names = raw.column_names
            whole = pa.table({name: (as_words if name in TAGS.names else simplify)(raw[name]) for name in names})
            for row, reason in find_broken(whole).items():
                raise RequestError(f"{path}, row {first + row}: {reason}; make the file again")
            yield pa.table([_read_column(path, whole, field) for field in complete], schema=complete)
            first += len(raw)
        if first == 1:
            yield complete.empty_table()


def _read_column(path: Path, table: pa.Table, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.nulls(len(table), field.type)
    cells = table[field.name]
    own = field.name in TAGS.names and pa.types.is_list(field.type)
    with _expecting(path, field):
        if own and not (pa.types.is_list(cells.type) and pa.types.is_struct(cells.type.value_type)):
            return pa.array([_items(field.name, cell) for cell in cells.to_pylist()], field.type)
        return change_type(cells, field.type)


@contextmanager
def _expecting(path: Path, field: pa.Field) -> Iterator[None]:
    """Turn what Arrow says of values that a column can't hold into a RequestError."""
    try:
        yield
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{path}: column {field.name} can't be read as {field.type} ({reason}); mend it") from error


def _read_csv(path: Path) -> Iterator[pa.Table]:
    names, records = read_cells(path, "write the file again with `weibotag export`")
    complete = _complete(path, dict.fromkeys(names, pa.string()))
    yielded = False
    for part in _parts((fields, sum(map(len, fields))) for _, fields in records):
        yield _from_cells(path, dict(zip(names, zip(*part, strict=True), strict=True)), complete, len(part))
        yielded = True
    if not yielded:
        yield complete.empty_table()


def read_cells(path: Path, advice: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Do as `read_sound_records`, also of a workbook: of its first sheet, and of those that have the same columns."""
    kind = find_kind(path)
    if kind != "xlsx":
        return read_sound_records(path, str(kind), advice)
    sheets = list_sheets(path)
    names = list(sheets[0].columns) if sheets else []
    refuse_twins(path, names)

    def check() -> Iterator[tuple[int, list[str]]]:
        for sheet in sheets:
            for line, cells in read_rows(path, sheet) if list(sheet.columns) == names else ():
                if any(cell is not None for cell in cells[len(names) :]):
                    raise RequestError(f"{path}, line {line}: {len(cells)} fields; expected {len(names)}; {advice}")
                texts = ["" if cell is None else str(cell) for cell in cells[: len(names)]]
                yield line, texts + [""] * (len(names) - len(texts))

    return names, check()


def _read_json(path: Path) -> Iterator[pa.Table]:
    kinds: dict[str, set[type]] = {}
    for row, _ in _read_objects(path):
        for name, value in row.items():
            kinds.setdefault(name, set()).update(_kind(value))
    if not kinds:
        yield TAGS.empty_table()
        return
    complete = _complete(path, {name: JSON_TYPES.get(frozenset(found), pa.string()) for name, found in kinds.items()})
    for part in _parts(_read_objects(path)):
        yield _from_cells(path, {name: [row.get(name) for row in part] for name in kinds}, complete, len(part))


def _parts(rows: Iterable[tuple[Row, int]]) -> Iterator[list[Row]]:
    """Give rows, which come with their characters, some at a time."""
    part: list[Row] = []
    room = CHUNK_SIZE
    for row, size in rows:
        part.append(row)
        room -= size
        if room < 0 or len(part) == READ_ROWS:
            yield part
            part, room = [], CHUNK_SIZE
    if part:
        yield part


def _read_objects(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Give the objects of a JSONL file, each with the characters of its line."""
    file = open_file(path, "jsonl", WRITTEN_LIMIT)
    with open_lines(file) as lines:
        for number, line in enumerate(lines, 1):
            row = (find_problem(line, file) or parse_object(line)) if line.strip() else {}
            if isinstance(row, str):
                raise RequestError(f"{path}, line {number}: {row}; expected one object a line")
            if row:
                yield row, len(line)


def _kind(value: Any) -> set[type]:
    if value is None:
        return set()
    return {object} if isinstance(value, int) and abs(value) >= 2**63 else {type(value)}


def _from_cells(path: Path, columns: Mapping[str, Sequence[Any]], complete: pa.Schema, rows: int) -> pa.Table:
    """Return a table of cells that are text (CSV) or what JSON makes of them."""
    arrays = []
    for field in complete:
        cells: Sequence[Any] = columns.get(field.name, [None] * rows)
        own = field.name in TAGS.names and field.name != "post_id"
        with _expecting(path, field):
            if own and pa.types.is_list(field.type):
                cells = [_items(field.name, cell) for cell in cells]
            elif own or pa.types.is_string(field.type):
                cells = [text or None if own else text for text in map(as_text, cells)]
                if not pa.types.is_string(field.type):
                    cells = _cast(pa.array(cells, pa.string()), field.type)
            arrays.append(cells if isinstance(cells, pa.Array) else pa.array(cells, field.type))
    return pa.table(arrays, schema=complete)


def _items(name: str, cell: Any) -> list[dict[str, Any]] | None:
    if cell is None:
        return None
    parts = cell.split(";") if isinstance(cell, str) else cell if isinstance(cell, list) else [cell]
    return [_item(name, part if isinstance(part, dict) else as_text(part) or "") for part in parts if part]


def name_item(name: str, item: str) -> str:
    """Return the id of a tag, or the keyword, that `weibotag tag` wrote into a cell of tags or keywords."""
    found = _item(name, item)
    return str(found["id" if name == "tags" else "keyword"])


def _item(name: str, item: str | dict[str, Any]) -> dict[str, Any]:
    """Return one tag, keyword or piece of evidence from its text or its JSON object."""
    if isinstance(item, dict):
        return item if name == "evidence" or item.get("score") is not None else {**item, "score": 1.0}
    parts = item.split(":")
    if name == "evidence":
        return dict(zip(("tag_id", "kind", "word"), map(_unescape, parts), strict=False))
    source = None
    if name == "keywords" and len(parts) > 2 and NUMBER.fullmatch(parts[-2]):
        source = _unescape(parts.pop()) or None
    score = parts.pop() if len(parts) > 1 and NUMBER.fullmatch(parts[-1]) else ""
    found: dict[str, Any] = {"score": float(score or 1.0)}
    if name == "tags":
        return found | {"id": _unescape(":".join(parts))}
    return found | {"keyword": _unescape(":".join(parts)), "source": source}


def _unescape(text: str) -> str:
    """Return what `flatten` wrote so: the first sign may be one that begins a formula, or stands before such."""
    if "%" not in text:
        return text
    first = FIRST.match(text)
    start, rest = (unquote(first[0]), text[first.end() :]) if first else ("", text)
    return start + rest.replace("%3B", ";").replace("%3A", ":").replace("%25", "%")


def read_listing(path: Path, table: str, needed: Sequence[str]) -> pa.Table:
    """Return the columns of `table` (a name in `schema.TABLES`) that a CSV or Parquet file has, the others as nulls.

    An empty cell of a CSV is a null, of text an empty one. Raises RequestError where the file can't be read or lacks one of
    `needed`, with the line where a cell is wrong.
    """
    kind = find_kind(path)
    if kind not in (*TABLES, "parquet"):
        raise RequestError(f"{path}: unknown kind of file; expected {table} as .parquet, .csv, .tsv or .xlsx")
    columns = _read_columns(path, kind)
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise RequestError(f"{path} has no column {', '.join(missing)}; found {found}; expected a file of {table}")
    rows = len(columns[needed[0]])
    arrays = []
    for field in arrow_schema(table):
        cells = columns.get(field.name, pa.nulls(rows))
        with _expecting(path, field):
            arrays.append(_cast(cells, field.type))
    return pa.table(arrays, schema=arrow_schema(table))


def has_column(path: Path, name: str) -> bool:
    """Tell whether a CSV or Parquet file has a column; False for any other file. Raises RequestError."""
    kind = find_kind(path) if path.is_file() else None
    if kind == "parquet":
        with open_parquet(path) as file:
            return name in file.schema_arrow.names
    return kind in TABLES and name in read_cells(path, "mend it")[0]


def _read_columns(path: Path, kind: str) -> dict[str, pa.Array | pa.ChunkedArray]:
    if kind == "parquet":
        with open_parquet(path) as file:
            plain_types(path, file.schema_arrow)
            table = file.read()
        return dict(zip(table.column_names, table.columns, strict=True))
    names, records = read_cells(path, "mend it")
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
