"""Files to posts tables: which rows can be used, and what their cells mean."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts
from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.core.file_names import name_as_text
from weibotag.core.schema import STRINGS
from weibotag.core.terminal import make_visible
from weibotag.posts.adapters import USUAL
from weibotag.posts.cells import BLANKS, as_texts, change_type
from weibotag.posts.condition import check_condition, matches
from weibotag.posts.encodings import MOST_COLUMNS, NUL, STDIN, as_text
from weibotag.posts.layout import POSTS, Layout, lay_out, lay_out_pictures
from weibotag.posts.rejects import Rejects, SeenIds
from weibotag.posts.source import LISTS, PostsSource, is_media, resolve_files
from weibotag.posts.table_files import INEXACT_ID, Bad, Chunk, read_chunks, write_exactly

# 5.03E+18 is what a spreadsheet makes of a long id: its last digits are lost. A float that is exact is written as digits.
ROUNDED_ID, FLOAT_ID = r"^\d(\.\d+)?[eE]\+\d+$", r"[.ein]"
# More rejects than this share of the rows are told whatever is quiet.
MANY_REJECTS = 0.1
# A table ends with the chunk that brings it to so many bytes: 20,000 rows of some 6,700.
BATCH_BYTES = 128 << 20
# Cells that splitting at `;` does not do justice: JSON arrays, other marks, and blanks, or nothing, beside a mark.
PYTHON_TEXT = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
PYTHON_LIST = rf"\[\s*(?:(?:{PYTHON_TEXT})\s*(?:,\s*(?:{PYTHON_TEXT})\s*)*)?\]"
# What parts the names of files, how one ends, and what stands where there is none.
FILES = ("images", "videos")
FILE_MARKS, FILE_END = r"[,，|\n]", r"\.[A-Za-z0-9]{2,5}$|^https?://\S+$"
NO_FILES = ("无", "null", "none", "nan", "n/a", r"\n", "{}")
ODD_FILES = rf"{FILE_MARKS}|(?i)^(无|null|none|nan|n/a|\\n|\{{\}})$"
ODD_LIST = rf"^\[|；|;[{BLANKS};]|[{BLANKS}];|^;|;$"

log = logging.getLogger(__name__)


def read_posts(source: PostsSource, rejects: Rejects, batch_rows: int = 20_000) -> Iterator[pa.Table]:
    """Give the posts as tables of `batch_rows` rows: the columns of "posts", then all others.

    The last table may have fewer rows, and so has one that would have far more than `BATCH_BYTES`.

    Every row of the input is in a table, in `rejects`, left out by `where`, or after the last one that `limit` allows.
    Columns that are the same in name only pass through with `_in` added. Raises RequestError before the first table
    when a header, a column or a file is wrong, NothingAcceptedError in place of no table at all.
    """
    if source.where is not None:
        check_condition(source.where)
    paths = resolve_files(source.path)
    if is_media(paths[0]):
        layouts = lay_out_pictures(paths, source)
    else:
        layouts = [layout for path in paths for layout in lay_out(path, source, alone=len(paths) == 1)]
    _tell_adapters(source, layouts)
    if not layouts:
        raise RequestError(f"{source.path}: no file has posts; expected at least one with post_id and text")
    return _refuse_none(source, rejects, _full_batches(_accepted(source, layouts, rejects, batch_rows), batch_rows))


def _tell_adapters(source: PostsSource, layouts: list[Layout]) -> None:
    """Say once of each adapter how columns were read by it."""
    for name in dict.fromkeys(layout.adapter for layout in layouts if layout.adapter):
        own = [layout for layout in layouts if layout.adapter == name]
        named = {**own[0].taken, "text": "+".join([own[0].taken.get("text", ""), *own[0].joined])}
        columns = ", ".join(f"{ours}={theirs}" for ours, theirs in named.items() if theirs)
        found = sum(len(layout.pictures) for layout in own)
        told = f"; pictures of {found:,} posts found by their names" if found else ""
        named_by = "by their usual names" if name == USUAL else f"as {name} calls them"
        told = f"columns {named_by} ({columns}){told}; --adapter none takes only those that are called as here"
        log.warning("%s: %s", make_visible(source.path), make_visible(told))


def _refuse_none(source: PostsSource, rejects: Rejects, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Give tables; raises NothingAcceptedError where there is none, and warns of many rejects."""
    rows = 0
    for table in tables:
        rows += len(table)
        yield table
    if rows and rejects.count > MANY_REJECTS * (rows + rejects.count):
        where = f"; all are in {rejects.path}" if rejects.path else ""
        told = f"{rejects.count:,} rows can't be used, {rows:,} can; the first is {rejects.first}{where}"
        log.warning("%s: %s", make_visible(source.path), make_visible(told))
    if not rows:
        seen = f"; see {rejects.path}" if rejects.count and rejects.path else ""
        left = "" if source.where is None else ", the others are none that --where asks for"
        raise NothingAcceptedError(source.path, f"{rejects.count:,} rejected{left}{seen}")


def _accepted(source: PostsSource, layouts: list[Layout], rejects: Rejects, batch_rows: int) -> Iterator[pa.Table]:
    """Give the rows that can be used, chunk by chunk, and write down the others in the order of their lines."""
    extras = _extra_types(layouts)
    kinds = {layout.kind for layout in layouts}
    seen, of_kind = SeenIds(), {kind: SeenIds() for kind in kinds if len(kinds) > 1}
    twins: Counter[str] = Counter()
    left = source.limit
    for layout in layouts:
        if left == 0:
            break
        for chunk in read_chunks(layout, batch_rows):
            table, lines, bad, again = _sort_out(_normalise(chunk.rows, layout, extras), chunk, layout, seen, of_kind)
            twins[str(layout.path)] += again
            if source.where is not None:
                chosen = matches(table, source.where)
                table, lines = table.filter(pa.array(chosen)), lines[chosen]
            if left is not None and len(table) >= left:
                last = lines[left - 1]
                table, bad = table.slice(0, left), [row for row in bad if row[0] < last]
            for line, post_id, reason in sorted(bad, key=lambda row: row[0]):
                rejects.append(str(layout.path), line, post_id, reason)
            yield table
            if left is not None:
                left -= len(table)
                if left == 0:
                    break
    if +twins:
        told = ", ".join(f"{file} ({count:,})" for file, count in (+twins).items())
        log.warning(
            "%s: posts that are also in files of another kind are left out: %s", *map(make_visible, (source.path, told))
        )


def _sort_out(
    table: pa.Table, chunk: Chunk, layout: Layout, seen: SeenIds, of_kind: dict[str, SeenIds]
) -> tuple[pa.Table, np.ndarray, list[Bad], int]:
    """Return the rows that can be used with their lines, why the others can't, and how many were read from another kind of
    file: these are neither."""
    ids, text = table["post_id"], table["text"]
    rounded = FLOAT_ID if pa.types.is_floating(layout.types[layout.taken["post_id"]]) else ROUNDED_ID
    wordless = _flags(pc.equal(pc.utf8_trim_whitespace(text), ""))
    for name in ("images", "videos"):
        wordless &= _flags(pc.equal(pc.list_value_length(table[name]), 0))
    faults = {
        INEXACT_ID: _flags(pc.match_substring_regex(ids, rounded)),
        "no post_id": _flags(pc.equal(ids, "")),
        NUL: _flags(pc.or_(pc.match_substring(ids, "\0"), pc.match_substring(text, "\0"))),
        "none of text, images, videos": wordless,
    }
    usable = ~np.logical_or.reduce(list(faults.values()))
    again = np.zeros(len(table), dtype=bool)
    new = ids.filter(pa.array(usable)).to_numpy()
    again[usable] = seen.add(new)
    twins = np.zeros(len(table), dtype=bool)
    if of_kind:
        twins[usable] = again[usable] & ~of_kind[layout.kind].add(new)
    bad, left = list(chunk.bad), np.ones(len(table), dtype=bool)
    for reason, flags in {**faults, "duplicate post_id, first one kept": again & ~twins}.items():
        rows = np.flatnonzero(flags & left).tolist()
        bad += [(int(chunk.lines[row]), ids[row].as_py() or None, reason) for row in rows]
        left[rows] = False
    left &= ~twins
    if left.all():
        return table, chunk.lines, bad, 0
    return table.filter(pa.array(left)), chunk.lines[left], bad, int(twins.sum())


def _flags(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.asarray(array).astype(bool)


def _full_batches(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    count = size = 0
    for table in tables:
        if len(table):
            waiting.append(table)
            count, size = count + len(table), size + table.nbytes
        if count < rows and size < BATCH_BYTES:
            continue
        joined = pa.concat_tables(waiting)
        while count >= rows or size >= BATCH_BYTES:
            yield joined.slice(0, rows).combine_chunks()
            joined = joined.slice(rows)
            count, size = len(joined), joined.nbytes
        waiting = [joined] if count else []
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _extra_types(layouts: list[Layout]) -> dict[str, pa.DataType]:
    """Return name -> type of the columns that pass through; where files disagree it is a string."""
    types: dict[str, pa.DataType] = {}
    for layout in layouts:
        for shown, name in layout.passed.items():
            kind = layout.types[name]
            known = types.get(shown, pa.null())
            if pa.types.is_null(known) or pa.types.is_null(kind):
                types[shown] = kind if pa.types.is_null(known) else known
            elif kind != known:
                types[shown] = pa.string()
    if len(types) > MOST_COLUMNS:
        raise RequestError(f"{len(types):,} columns in all files; {MOST_COLUMNS:,} at most can be read; give fewer files")
    return types


def _normalise(rows: pa.Table, layout: Layout, extras: dict[str, pa.DataType]) -> pa.Table:
    """Return the rows with the columns of "posts", then `extras`; post_id is empty where there is none."""
    folder = os.getcwd() if layout.path == STDIN else name_as_text(os.path.dirname(os.path.abspath(layout.path)))
    columns: list[pa.Array] = []
    for name in POSTS.names:
        cells = rows[layout.taken[name]] if name in layout.taken else pa.chunked_array([pa.nulls(len(rows))])
        try:
            if name == "folder":
                columns.append(pa.repeat(folder, len(rows)))
            elif name == "post_id":
                ids = pc.utf8_trim_whitespace(_ids(cells))
                columns.append(ids)
            elif name in LISTS:
                lists = _lists(cells, name in FILES, layout.splits.get(name))
                columns.append(pc.fill_null(lists, []) if name in FILES else lists)
            elif name == "text" and layout.joined:
                columns.append(_join(cells, [rows[other] for other in layout.joined]))
            else:
                columns.append(pc.fill_null(cells.cast(pa.string()), ""))
        except pa.ArrowException as error:
            expected = "text, or a list of texts" if name in LISTS else "text"
            raise RequestError(
                f"{layout.path}: column {layout.taken[name]} is {cells.type}; expected {expected}; convert it"
            ) from error
    if layout.pictures:
        place = POSTS.names.index("images")
        here = [layout.pictures.get(post_id) for post_id in ids.to_pylist()]
        columns[place] = pa.array([own or old for own, old in zip(here, columns[place].to_pylist(), strict=True)], STRINGS)
    for shown, kind in extras.items():
        cells = rows[layout.passed[shown]] if shown in layout.passed else pa.chunked_array([pa.nulls(len(rows))])
        columns.append(_passed(cells, kind))
    return pa.table(columns, schema=pa.schema([*POSTS, *extras.items()]))


def _join(first: pa.ChunkedArray, others: list[pa.ChunkedArray]) -> pa.Array:
    """Return texts, those of other columns below those of the first; what stands there already is not said again."""
    rows = zip(*(pc.fill_null(cells.cast(pa.string()), "").to_pylist() for cells in (first, *others)), strict=True)
    texts = []
    for parts in rows:
        said = ""
        for part in map(str.strip, parts):
            said = part if said and part.startswith(said) else said if part in said else f"{said}\n{part}".strip()
        texts.append(said)
    return pa.array(texts, pa.string())


def _ids(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(cells.type):
        numbers = cells.to_pylist()
        texts = ["" if number is None or number != number else write_exactly(number) or str(number) for number in numbers]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return pc.fill_null(cells.cast(pa.string()), "")


def _passed(cells: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return cells of a column that passes through; text where files disagree about what they are."""
    return as_texts(cells) if kind == pa.string() and cells.type != kind else change_type(cells, kind)


def _lists(cells: pa.ChunkedArray, files: bool, mark: str | None) -> pa.Array:
    """Return list<string>, null where there is nothing; text is an array of JSON or Python, or items between `;`.

    Of `files`, other marks part the items as well where each then ends as a file does, and words for nothing are none. A
    `mark` that is given parts them, and nothing else does.
    """
    if pa.types.is_null(cells.type):
        return pa.nulls(len(cells), STRINGS)
    if pa.types.is_nested(cells.type):
        return _without_nulls(cells.cast(STRINGS).combine_chunks())
    texts = pc.utf8_trim_whitespace(pc.fill_null(cells.cast(pa.string()), "")).combine_chunks()
    if mark is not None:
        given = [[one.strip() for one in text.split(mark) if one.strip()] or None for text in texts.to_pylist()]
        return pa.array(given, STRINGS)
    split = pc.split_pattern(pc.if_else(pc.equal(texts, ""), None, texts), ";")
    odd = np.flatnonzero(_flags(pc.match_substring_regex(texts, f"{ODD_LIST}|{ODD_FILES}" if files else ODD_LIST)))
    if not len(odd):
        return split
    order = np.arange(len(texts))
    order[odd] = len(texts) + np.arange(len(odd))
    items = pa.array([_split_items(text, files) for text in texts.take(pa.array(odd)).to_pylist()], STRINGS)
    return pa.concat_arrays([split, items]).take(pa.array(order))


def _split_items(text: str, files: bool) -> list[str] | None:
    """Return the items of a cell that are not blank; an array may be empty, any other list is None then."""
    if files and text.lower() in NO_FILES:
        return None
    if text.startswith("["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            return [item.strip() for item in map(as_text, value) if item and item.strip()]
        if re.fullmatch(PYTHON_LIST, text):
            return [
                re.sub(r"\\(.)", r"\1", item[1:-1]).strip() for item in re.findall(PYTHON_TEXT, text) if item[1:-1].strip()
            ]
    if files and ";" not in text:
        items = [item.strip() for item in re.split(FILE_MARKS, text) if item.strip()]
        if all(re.search(FILE_END, item) for item in items):
            return items
    return [item.strip() for item in text.replace("；", ";").split(";") if item.strip()] or None


def _without_nulls(lists: pa.ListArray) -> pa.ListArray:
    offsets, values = list_parts(lists)
    if not values.null_count:
        return lists
    kept = _flags(values.is_valid())
    ends = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)[offsets]
    return pa.ListArray.from_arrays(pa.array(ends), values.filter(pa.array(kept)), mask=lists.is_null())
