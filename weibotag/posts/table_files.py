"""Rows as they stand in a file: chunks of cells, in the width of its header."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from weibotag.core.terminal import make_visible
from weibotag.posts.cells import as_words, find_broken, simplify
from weibotag.posts.encodings import (
    CHUNK_SIZE,
    MARK,
    MOST_COLUMNS,
    RECORD_LIMIT,
    TOO_LONG,
    TextFile,
    as_text,
    find_problem,
    find_within,
    open_lines,
    parse_object,
    read_records,
    readable,
)
from weibotag.posts.layout import Layout
from weibotag.posts.parquet_batches import read_batches
from weibotag.posts.rejects import ID_LENGTH

# The room that the user knows these warnings by.
logger = logging.getLogger("weibotag.posts.reader")

EXACT_FLOAT = 2**53
# Each cell of a chunk is counted as some characters more.
CELL = 8
MORE_KEYS = f"a key beyond the first {MOST_COLUMNS:,} of the file, or one with a NUL byte"
INEXACT_ID = "post_id is no text and no whole number that is sure to be exact: rounded by a spreadsheet? write it as text"
Bad = tuple[int, str | None, str]


@dataclass(frozen=True)
class Chunk:
    """Rows as they stand in a file (`lines`: where), and those that could not even be read."""

    rows: pa.Table
    lines: np.ndarray
    bad: list[Bad]


def read_chunks(layout: Layout, rows: int) -> Iterator[Chunk]:
    """Give the rows of a file as chunks of about `rows`; raises RequestError when the file turns out to be broken."""
    if layout.text is None:
        return _parquet_chunks(layout, rows)
    if layout.text.kind == "jsonl":
        return _text_chunks(layout, _json_records(layout, layout.text), rows)
    return _text_chunks(layout, islice(read_records(layout.text, layout.delimiter), 1, None), rows)


def _text_chunks(layout: Layout, records: Iterator[tuple[int, list[Any], str | None, int]], rows: int) -> Iterator[Chunk]:
    """Gather records into chunks of string columns, which end by rows or by characters and cells."""
    width = len(layout.types)
    place = list(layout.types).index(layout.taken["post_id"])
    settled: Counter[str] = Counter()
    good: list[list[str | None]] = []
    lines: list[int] = []
    bad: list[Bad] = []
    room = CHUNK_SIZE
    for line, fields, problem, size in records:
        if problem is None and len(fields) != width:
            fields, how = _settle(fields, layout)
            settled.update([how] if len(fields) == width else [])
        if problem is None and len(fields) == width:
            good.append(fields)
            lines.append(line)
        else:
            cell = fields[place] if place < len(fields) else None
            post_id = None if cell is None or MARK in cell else cell.strip()[:ID_LENGTH] or None
            bad.append((line, post_id, problem or f"{len(fields)} fields; expected {width}, as in the header"))
        room -= size + CELL * width
        if room < 0 or len(good) + len(bad) >= rows:
            yield _text_chunk(layout, good, lines, bad)
            good, lines, bad, room = [], [], [], CHUNK_SIZE
    yield _text_chunk(layout, good, lines, bad)
    for how, count in sorted(settled.items()):
        logger.warning("%s: %s rows %s", make_visible(str(layout.path)), f"{count:,}", how)


def _settle(fields: list[str], layout: Layout) -> tuple[list[str], str]:
    """Return the fields of a row in the header's width, which they have not, and how; as they are where that is unclear."""
    width = len(layout.types)
    if len(fields) < width:
        return [
            *fields,
            *[""] * (width - len(fields)),
        ], "have fewer fields than the header: what lacks is empty"
    if not any(field.strip() for field in fields[width:]):
        return fields[:width], "end in more delimiters than the header: left out"
    if list(layout.types)[-1] == layout.taken.get("text"):
        last = layout.delimiter.join(fields[width - 1 :])
        return [*fields[: width - 1], last], "have delimiters in their last field, the text, without quotes: taken as text"
    return fields, ""


def _text_chunk(layout: Layout, good: list[list[str | None]], lines: list[int], bad: list[Bad]) -> Chunk:
    columns = zip(*good, strict=True) if good else [()] * len(layout.types)
    table = pa.table([pa.array(column, pa.string()) for column in columns], list(layout.types))
    return Chunk(table, np.array(lines, dtype=np.int64), bad)


def _json_records(layout: Layout, file: TextFile) -> Iterator[tuple[int, list[Any], str | None, int]]:
    names, key = list(layout.types), layout.taken["post_id"]
    dotted = [name for name in names if "." in name]
    with open_lines(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            problem = find_problem(line, file)
            value = problem if problem and len(line) > file.limit else parse_object(line)
            if isinstance(value, str):
                yield number, [], problem or value, len(line)
                continue
            value |= {
                name: found for name in dotted if name not in value and (found := find_within(value, name)) is not None
            }
            value[key], unsafe = _json_id(value.get(key))
            if not layout.types.keys() >= value.keys():
                unsafe = MORE_KEYS
            yield number, [as_text(value.get(name)) for name in names], problem or unsafe, len(line)


def _json_id(value: Any) -> tuple[str | None, str | None]:
    """Return the id as text, and why it can't be one."""
    if value is None or isinstance(value, str):
        return value, None
    exact = write_exactly(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    return (exact, None) if exact else (as_text(value), INEXACT_ID)


def write_exactly(number: float) -> str | None:
    """Return a number as an id, None for a float that may have been rounded on its way."""
    if isinstance(number, float) and not (number.is_integer() and abs(number) < EXACT_FLOAT):
        return None
    return str(int(number))


def _parquet_chunks(layout: Layout, rows: int) -> Iterator[Chunk]:
    first, taken = 1, set(layout.taken.values())
    with readable(layout.path):
        for count, raw in read_batches(layout.path, rows):
            lines = np.arange(first, first + count)
            first += count
            columns = {name: as_words(raw[name]) if name in taken else simplify(raw[name]) for name in layout.types}
            table, whole = pa.table(columns), np.ones(len(raw), dtype=bool)
            broken = find_broken(table) if len(raw) else dict.fromkeys(range(count), TOO_LONG.format("bytes", RECORD_LIMIT))
            whole[[row for row in broken if row < len(raw)]] = False
            bad: list[Bad] = [(int(lines[row]), None, reason) for row, reason in sorted(broken.items())]
            yield Chunk(table.filter(pa.array(whole)) if bad else table, lines[: len(raw)][whole], bad)
