"""Files to posts tables: which files, which rows can be used, and what their cells mean."""

import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts
from weibotag.core.errors import RequestError
from weibotag.posts.encodings import KINDS, NUL, STDIN, find_kind
from weibotag.posts.rejects import Rejects, SeenIds
from weibotag.posts.table_files import EXACT_FLOAT, INEXACT_ID, POSTS, Bad, Chunk, Layout, lay_out, read_chunks

LIST = pa.list_(pa.string())
ROUNDED_ID = r"^\s*\d(\.\d+)?[eE]\+\d+\s*$"
LISTS = ("images", "videos", "tags", "keywords")
# A packed file holds some three times its size.
PACKED = 3


@dataclass(frozen=True)
class PostsSource:
    """Where posts come from: a file, a folder, a glob or "-" (stdin), how its columns are called, and which rows count.

    `columns` holds (canonical name, name in the file); `where` is a DuckDB expression, rows where it is not
    true are left out; `limit` stops after that many accepted posts.
    """

    path: str
    columns: tuple[tuple[str, str], ...] = ()
    where: str | None = None
    limit: int | None = None


def resolve_files(path: str) -> list[Path]:
    """Return the files that `path` means, sorted: one file, all known files below a folder, or those of a glob."""
    if path == str(STDIN):
        return [STDIN]
    known = ", ".join(KINDS)
    place = Path(path)
    if place.is_file():
        if find_kind(place) is None:
            raise RequestError(f"{path}: unknown kind of file; expected one of {known} (.gz of the text ones too)")
        return [place]
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(path, recursive=True))
    files = sorted(
        file
        for file in found
        if find_kind(file) and not any(part.startswith(".") for part in _below(file, place)) and file.is_file()
    )
    if files:
        return files
    if place.is_dir():
        raise RequestError(f"{path}: no posts in this folder; expected files that end in {known}")
    raise RequestError(f"{path}: no such file or folder; give a file, a folder, a quoted glob, or - for stdin")


def _below(file: Path, folder: Path) -> tuple[str, ...]:
    return file.relative_to(folder).parts if file.is_relative_to(folder) else (file.name,)


def describe_input(source: PostsSource) -> dict[str, Any]:
    """Return what tells this input from another: its files with size and time, or a digest of what stdin holds.

    Standard input is read into a file that takes its place, because it can be read only once.
    """
    if source.path == str(STDIN):
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process reads from it
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        digest = hashlib.file_digest(spool, "sha256").hexdigest()
        spool.seek(0)
        os.dup2(spool.fileno(), 0)
        files: list[Any] = [[source.path, digest]]
    else:
        files = [
            [str(path.resolve()), (state := path.stat()).st_size, state.st_mtime_ns] for path in resolve_files(source.path)
        ]
    return {"files": files, **{key: value for key, value in asdict(source).items() if key != "path"}}


def input_bytes(source: PostsSource) -> int:
    """Return how many bytes the posts have, as text; 0 for stdin, of which it is not known."""
    if source.path == str(STDIN):
        return 0
    sizes = {path: path.stat().st_size for path in resolve_files(source.path)}
    return sum(size * (PACKED if path.suffix.lower() in (".gz", ".parquet") else 1) for path, size in sizes.items())


def refuse_outputs(source: PostsSource, *outputs: Path) -> None:
    """Raise RequestError for a file or folder to be written that would lie among the posts and be read as such."""
    if source.path == str(STDIN):
        return
    posts = Path(source.path).absolute()
    files = {path.resolve() for path in resolve_files(source.path)}
    for output in outputs:
        place = output.absolute()
        inside = place.is_relative_to(posts) if posts.is_dir() else place.match(str(posts))
        if inside or place.resolve() in files:
            raise RequestError(
                f"{output}: lies among the posts of {source.path}, where it would be read; choose another place"
            )


def read_posts(source: PostsSource, rejects: Rejects, batch_rows: int = 20_000) -> Iterator[pa.Table]:
    """Give the posts as tables of `batch_rows` rows (the last one: fewer): the columns of "posts", then all others.

    Every row of the input is in a table, in `rejects`, left out by `where`, or after the last one that `limit` allows.
    Columns that are the same in name only pass through with `_in` added. Raises RequestError before the first table
    when a header, a column or a file is wrong.
    """
    paths = resolve_files(source.path)
    layouts = [layout for path in paths if (layout := lay_out(path, source.columns, alone=len(paths) == 1))]
    if not layouts:
        raise RequestError(f"{source.path}: every file is empty; expected at least one with posts")
    return _full_batches(_accepted(source, layouts, rejects, batch_rows), batch_rows)


def matches(table: pa.Table, expression: str) -> np.ndarray:
    """Return a bool per row: where a DuckDB expression on the table's columns is true (null counts as false)."""
    import duckdb

    names = [name.lower() for name in table.column_names]
    twins = [name for name in table.column_names if names.count(name.lower()) > 1 and name.lower() in expression.lower()]
    if twins:
        raise RequestError(f"expression {expression!r}: columns {', '.join(twins)} differ in case alone; rename one")
    # Longer than every name, so that it hides none of them.
    place = "#" * (max(map(len, table.column_names), default=0) + 1)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "python_enable_replacements": "false",
        "threads": "1",
    }
    with duckdb.connect(config=settings) as database:
        database.register("posts", table.append_column(place, pa.array(np.arange(len(table)))))
        try:
            query = f'SELECT "{place}" FROM posts WHERE (\n{expression}\n)'
            if len(database.extract_statements(query)) != 1:
                raise RequestError(f"expression {expression!r}: more than one statement; expected one condition")
            rows = database.execute(query).fetchnumpy()[place]
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
            columns = ", ".join(table.column_names)
            raise RequestError(f"expression {expression!r}: {said}; columns: {columns}") from error
    answer = np.zeros(len(table), dtype=bool)
    answer[rows] = True
    return answer


def _accepted(source: PostsSource, layouts: list[Layout], rejects: Rejects, batch_rows: int) -> Iterator[pa.Table]:
    """Give the rows that can be used, chunk by chunk, and write down the others in the order of their lines."""
    extras = _extra_types(layouts)
    seen = SeenIds()
    left = source.limit
    for layout in layouts:
        if left == 0:
            return
        for chunk in read_chunks(layout, batch_rows):
            table, lines, bad = _sort_out(_normalise(chunk.rows, layout, extras), chunk, layout, seen)
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
                    return


def _sort_out(table: pa.Table, chunk: Chunk, layout: Layout, seen: SeenIds) -> tuple[pa.Table, np.ndarray, list[Bad]]:
    """Return the rows that can be used with their lines, and why the others can't."""
    ids = table["post_id"]
    inexact = _inexact(chunk.rows[layout.taken["post_id"]])
    blank = _flags(pc.equal(ids, ""))
    nul = _flags(pc.or_(pc.match_substring(ids, "\0"), pc.match_substring(table["text"], "\0")))
    wordless = _flags(pc.equal(pc.utf8_trim_whitespace(table["text"]), ""))
    for name in ("images", "videos"):
        wordless &= _flags(pc.equal(pc.list_value_length(table[name]), 0))
    usable = ~(inexact | blank | nul | wordless)
    again = np.zeros(len(table), dtype=bool)
    again[usable] = seen.add(ids.filter(pa.array(usable)).to_numpy())
    reasons = (
        (INEXACT_ID, inexact),
        ("no post_id", blank),
        (NUL, nul),
        ("none of text, images, videos", wordless),
        ("duplicate post_id, first one kept", again),
    )
    bad, left = list(chunk.bad), np.ones(len(table), dtype=bool)
    for reason, flags in reasons:
        where = np.flatnonzero(flags & left)
        bad += [(int(chunk.lines[row]), ids[int(row)].as_py() or None, reason) for row in where]
        left[where] = False
    if left.all():
        return table, chunk.lines, bad
    return table.filter(pa.array(left)), chunk.lines[left], bad


def _flags(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.asarray(array).astype(bool)


def _inexact(ids: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
        # 5.03E+18 is what a spreadsheet makes of a long id: its last digits are lost.
        return _flags(pc.match_substring_regex(ids, ROUNDED_ID).fill_null(False))
    if not pa.types.is_floating(ids.type):
        return np.zeros(len(ids), dtype=bool)
    numbers = ids.cast(pa.float64()).to_numpy()
    # Not a number is what pandas writes for none: that row has no post_id.
    return ~np.isnan(numbers) & ~((np.abs(numbers) < EXACT_FLOAT) & (np.floor(numbers) == numbers))


def _full_batches(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        if len(table):
            waiting.append(table)
            count += len(table)
        if count < rows:
            continue
        joined = pa.concat_tables(waiting)
        while count >= rows:
            yield joined.slice(0, rows).combine_chunks()
            joined, count = joined.slice(rows), count - rows
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
    return types


def _normalise(rows: pa.Table, layout: Layout, extras: dict[str, pa.DataType]) -> pa.Table:
    """Return the rows with the columns of "posts", then `extras`; post_id is empty where there is none."""
    columns: list[pa.Array] = []
    for name in POSTS.names:
        given = rows[layout.taken[name]] if name in layout.taken else pa.chunked_array([pa.nulls(len(rows))])
        try:
            if name == "folder":
                folder = os.getcwd() if layout.path == STDIN else os.path.dirname(os.path.abspath(layout.path))
                columns.append(pa.repeat(folder, len(rows)))
            elif name == "post_id":
                columns.append(pc.utf8_trim_whitespace(_ids(given)))
            elif name in LISTS:
                cells = _lists(given)
                columns.append(_filled(cells) if name in ("images", "videos") else cells)
            else:
                columns.append(pc.fill_null(_strings(given), ""))
        except pa.ArrowException as error:
            expected = "text, or a list of texts" if name in LISTS else "text"
            raise RequestError(
                f"{layout.path}: column {layout.taken[name]} is {given.type}; expected {expected}; convert it"
            ) from error
    for shown, kind in extras.items():
        given = rows[layout.passed[shown]] if shown in layout.passed else pa.nulls(len(rows))
        columns.append(_passed(given, kind))
    return pa.table(columns, schema=pa.schema([*POSTS, *extras.items()]))


def _strings(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    return cells if cells.type == pa.string() else cells.cast(pa.string())


def _ids(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(cells.type):
        numbers = cells.cast(pa.float64()).to_numpy()
        exact = ~np.isnan(numbers) & ~_inexact(cells)
        whole = pa.array(np.where(exact, numbers, 0).astype(np.int64), mask=~exact)
        cells = pa.chunked_array([pc.if_else(pa.array(exact), whole.cast(pa.string()), cells.cast(pa.string()))])
        cells = pc.if_else(pc.is_nan(pa.array(numbers)), "", cells)
    return pc.fill_null(_strings(cells), "")


def _passed(cells: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if cells.type == kind:
        return cells
    if pa.types.is_string(kind) and (pa.types.is_nested(cells.type) or pa.types.is_binary(cells.type)):
        texts = [cell if cell is None else json.dumps(cell, ensure_ascii=False, default=str) for cell in cells.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    return cells.cast(kind)


def _whole(cells: pa.ChunkedArray) -> pa.Array:
    return cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells


def _lists(cells: pa.ChunkedArray) -> pa.Array:
    """Return list<string>, null where there is nothing; text is a JSON array, or items between `;`."""
    if pa.types.is_null(cells.type):
        return pa.nulls(len(cells), LIST)
    if pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type) or pa.types.is_fixed_size_list(cells.type):
        return _without_nulls(_whole(cells.cast(LIST)))
    texts = _whole(pc.utf8_trim_whitespace(pc.fill_null(_strings(cells), "")))
    split = _split(texts)
    in_json = np.flatnonzero(_flags(pc.starts_with(texts, "[")))
    items = [_json_items(texts[int(row)].as_py()) for row in in_json]
    order = np.arange(len(texts))
    for place, (row, found) in enumerate(zip(in_json, items, strict=True)):
        if found is not None:
            order[row] = len(texts) + place
    return pa.concat_arrays([split, pa.array(items, LIST)]).take(pa.array(order)) if items else split


def _json_items(text: str) -> list[str] | None:
    """Return the items of a JSON array that are not blank, None when it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    texts = (item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in value if item is not None)
    return [text.strip() for text in texts if text.strip()]


def _split(texts: pa.Array) -> pa.ListArray:
    offsets, values = list_parts(pc.split_pattern(pc.replace_substring(texts, "；", ";"), ";"))
    values = pc.utf8_trim_whitespace(values)
    lists = _kept(offsets, values, _flags(pc.not_equal(values, "")), np.zeros(len(texts), dtype=bool))
    empty = pc.equal(pc.list_value_length(lists), 0)
    return pa.ListArray.from_arrays(lists.offsets, lists.values, mask=empty)


def _without_nulls(lists: pa.ListArray) -> pa.ListArray:
    offsets, values = list_parts(lists)
    return _kept(offsets, values, _flags(values.is_valid()), _flags(lists.is_null()))


def _kept(offsets: np.ndarray, values: pa.Array, keep: np.ndarray, missing: np.ndarray) -> pa.ListArray:
    """Return lists of the values to keep, null where `missing`."""
    ends = np.concatenate([[0], np.cumsum(keep)]).astype(np.int32)[offsets]
    return pa.ListArray.from_arrays(pa.array(ends), values.filter(pa.array(keep)), mask=pa.array(missing))


def _filled(lists: pa.ListArray) -> pa.ListArray:
    """Return the lists with empty ones in the place of nulls, which hold no values."""
    offsets, values = list_parts(lists)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
