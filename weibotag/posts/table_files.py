"""Rows as they stand in a file: which columns it has, which of them are canonical, and chunks of cells."""

import difflib
import logging
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from weibotag.core import schema
from weibotag.core.errors import RequestError
from weibotag.core.terminal import make_visible
from weibotag.posts.adapters import GIVEN, find_adapter, find_pictures
from weibotag.posts.cells import as_words, find_broken, plain_types, simplify
from weibotag.posts.encodings import (
    CHUNK_SIZE,
    MARK,
    MOST_COLUMNS,
    NUL,
    RECORD_LIMIT,
    STDIN,
    TOO_LONG,
    TextFile,
    as_text,
    find_delimiter,
    find_kind,
    find_problem,
    open_file,
    open_lines,
    open_parquet,
    open_stdin,
    parse_object,
    read_records,
    readable,
    refuse_twins,
)
from weibotag.posts.parquet_batches import read_batches
from weibotag.posts.passing import free_name
from weibotag.posts.rejects import ID_LENGTH
from weibotag.posts.source import PostsSource

# The room that the user knows these warnings by.
logger = logging.getLogger("weibotag.posts.reader")

POSTS = schema.arrow_schema("posts")
CONTENT = ("text", "images", "videos")
RESERVED = {*POSTS.names, *schema.arrow_schema("tags").names}
EXACT_FLOAT = 2**53
# What tools that collect posts call the columns, the surest first.
USUAL = {
    "post_id": (
        "id",
        "note_id",
        "mid",
        "微博id",
        "weibo_id",
        "aweme_id",
        "tweet_id",
        "status_id",
        "video_id",
        "bvid",
        "bid",
        "编号",
    ),
    "text": (
        "正文",
        "微博正文",
        "内容",
        "content",
        "full_text",
        "text_raw",
        "desc",
        "description",
        "文案",
        "caption",
        "title",
        "标题",
    ),
}
# What a shell takes as it is.
PLAIN_NAME = r"[\w.-]+"
# Rows that tell whether a header lacks names.
PEEKED = 20
# Each cell of a chunk is counted as some characters more.
CELL = 8
MORE_KEYS = f"a key beyond the first {MOST_COLUMNS:,} of the file, or one with a NUL byte"
INEXACT_ID = "post_id is no text and no whole number that is sure to be exact; write it as text"
Bad = tuple[int, str | None, str]


@dataclass(frozen=True)
class Layout:
    """One file: its columns, and which of them are the canonical ones (`taken`) and which pass through (`passed`).

    Texts of the columns `joined` belong to the text; `pictures` are paths by post_id, found by name; `adapter` is whose
    columns they are, or empty.
    """

    path: Path
    text: TextFile | None
    delimiter: str
    types: dict[str, pa.DataType]
    taken: dict[str, str]
    passed: dict[str, str]
    joined: tuple[str, ...]
    pictures: dict[str, list[str]]
    adapter: str


@dataclass(frozen=True)
class Chunk:
    """Rows as they stand in a file (`lines`: where), and those that could not even be read."""

    rows: pa.Table
    lines: np.ndarray
    bad: list[Bad]


def lay_out(path: Path, source: PostsSource, alone: bool) -> Layout | None:
    """Return the layout of a file, None for an empty one among others."""
    text, delimiter, more = None, "", 0
    types: dict[str, pa.DataType] = {}
    if path != STDIN and path.stat().st_size == 0:
        pass
    elif find_kind(path) == "parquet":
        types = _parquet_types(path)
    else:
        text = open_stdin() if path == STDIN else open_file(path, str(find_kind(path)))
        if text.encoding == "gb18030":
            logger.warning("%s is GB18030, not UTF-8: read as GB18030", make_visible(str(path)))
        if text.kind == "jsonl":
            names = _json_names(text)
        else:
            delimiter = find_delimiter(text)
            names, more = _header(text, delimiter)
        types = dict.fromkeys(names, pa.string())
    if len(types) > MOST_COLUMNS:
        raise RequestError(f"{path} has {len(types):,} columns; {MOST_COLUMNS:,} at most can be read; leave some out")
    if not types:
        if alone:
            raise RequestError(f"{path} is empty; expected a header and posts")
        logger.warning("%s is empty: left out", make_visible(str(path)))
        return None
    # Who names columns, or has ours, needs nobody to tell what they are.
    adapter = None
    if source.adapter is not None or not (source.columns or "post_id" in types):
        adapter = find_adapter(types, source.adapter)
    columns = source.columns
    joined: tuple[str, ...] = ()
    if adapter is not None:
        own = {ours: [one for one in theirs if one in types] for ours, theirs in adapter[1]["columns"].items()}
        columns = (*((ours, theirs[0]) for ours, theirs in own.items() if theirs and ours not in dict(columns)), *columns)
        joined = tuple(own.get("text", [])[1:]) if "text" not in dict(source.columns) else ()
    pattern = source.pictures or (adapter[1].get("pictures", "") if adapter else "")
    pictures = find_pictures(path.parent, pattern) if pattern else {}
    taken = _take(path, list(types), columns)
    if more and list(types)[-1] != taken.get("text"):
        told = "have no names; if one was left out in the middle, the cells behind it are one place off"
        logger.warning("%s: the last %s fields of its rows %s", make_visible(str(path)), more, told)
        unnamed = [f"column_{place}" for place in range(len(types) + 1, len(types) + more + 1)]
        refuse_twins(path, [*types, *unnamed])
        types |= dict.fromkeys(unnamed, pa.string())
    passed: dict[str, str] = {}
    for name in types:
        if name in taken.values():
            continue
        passed[free_name(name or "unnamed", RESERVED | passed.keys(), types)] = name
    return Layout(path, text, delimiter, types, taken, passed, joined, pictures, adapter[0] if adapter else "")


def _header(file: TextFile, delimiter: str) -> tuple[list[str], int]:
    """Return the names of a header, and how many fields more the rows behind it have: see `_count_more`."""
    (_, fields, problem, _), *first = islice(chain(read_records(file, delimiter), [(0, [], None, 0)]), 1 + PEEKED)
    problem = problem or (NUL if any("\0" in field for field in fields) else None)
    if problem:
        raise RequestError(f"{file.path}: the header can't be read ({problem}); save the file as UTF-8 text")
    if delimiter != "," and file.kind == "csv":
        logger.warning("%s has no comma in its header: read with the delimiter %r", make_visible(str(file.path)), delimiter)
    stripped = [field.strip() for field in fields]
    if len(set(stripped)) < len(set(fields)):
        stripped = fields
    names = [name or f"column_{place}" for place, name in enumerate(stripped, 1)]
    refuse_twins(file.path, names)
    return names, _count_more([row for _, row, fault, _ in first if row and not fault], len(names))


def _count_more(rows: list[list[str]], named: int) -> int:
    """Return how many fields more than the header all rows have, if as many each, and not only empty ones."""
    more = {len(row) - named if any(field.strip() for field in row[named:]) else 0 for row in rows}
    return max(more) if len(more) == 1 else 0


def _json_names(file: TextFile) -> list[str]:
    """Return the keys of all objects of a JSONL file, in order of appearance: any line may bring a new one."""
    names: dict[str, None] = {}
    empty = True
    with open_lines(file) as lines:
        for line in lines:
            empty = empty and not line.strip()
            value = None if find_problem(line, file) else parse_object(line)
            if isinstance(value, dict):
                new = [name for name in value if name not in names and "\0" not in name]
                if len(names) + len(new) <= MOST_COLUMNS:
                    names.update(dict.fromkeys(new))
    if not names and not empty:
        raise RequestError(f"{file.path}: no line is a JSON object; expected one object a line, with post_id and text")
    return list(names)


def _parquet_types(path: Path) -> dict[str, pa.DataType]:
    with open_parquet(path) as file:
        return plain_types(path, file.schema_arrow)


def _take(path: Path, names: list[str], columns: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return canonical name -> name in the file; raises RequestError when posts can't be made of it."""
    found = ", ".join(names) or "none"
    for canonical, given in columns:
        if canonical not in GIVEN:
            raise RequestError(f"--column {canonical}={given}: unknown column; expected one of {', '.join(GIVEN)}")
        if given not in names:
            raise RequestError(f"--column {canonical}={given}: {path} has no column {given}; found {found}")
    taken = dict(columns)
    for name in GIVEN:
        if name in names and name not in taken and name not in taken.values():
            taken[name] = name
    wanted = [] if "post_id" in taken else ["post_id"]
    wanted += [] if any(name in taken for name in CONTENT) else ["text"]
    if wanted:
        missing = " and ".join(
            {"post_id": "no column post_id", "text": f"none of {', '.join(CONTENT)}"}[name] for name in wanted
        )
        free = [name for name in names if name not in taken.values()]
        hints = []
        for name in wanted:
            near = _nearest(name, free)
            free = [one for one in free if one != near]
            hints.append(f"--column {name}={near if re.fullmatch(PLAIN_NAME, near) else shlex.quote(near)}")
        raise RequestError(f"{path} has {missing}; found {found}; say which it is: {' '.join(hints)}")
    return taken


def _nearest(name: str, names: list[str]) -> str:
    """Return the column that is likeliest meant: one by a name that is usual, then one that is spelled alike."""
    lowered = {other.strip().lower(): other for other in reversed(names)}
    usual = next((lowered[other] for other in USUAL[name] if other in lowered), None)
    near = difflib.get_close_matches(name, lowered, n=1, cutoff=0.6)
    return usual or (lowered[near[0]] if near else "NAME")


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
    with open_lines(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            problem = find_problem(line, file)
            value = problem if problem and len(line) > file.limit else parse_object(line)
            if isinstance(value, str):
                yield number, [], problem or value, len(line)
                continue
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
