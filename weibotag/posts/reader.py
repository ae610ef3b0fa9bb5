"""Files to posts tables: which rows can be used, and what their cells mean."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.core.file_names import name_as_text
from weibotag.core.schema import STRINGS
from weibotag.core.terminal import make_visible
from weibotag.posts.adapters import USUAL
from weibotag.posts.cells import as_texts, change_type
from weibotag.posts.condition import check_condition, matches
from weibotag.posts.encodings import MOST_COLUMNS, NUL, STDIN
from weibotag.posts.layout import POSTS, Layout, lay_out, lay_out_pictures
from weibotag.posts.lists import FILES, as_flags, read_lists
from weibotag.posts.rejects import Rejects, SeenIds
from weibotag.posts.result_files import has_column, read_table
from weibotag.posts.source import LISTS, PostsSource, is_media, resolve_files
from weibotag.posts.table_files import INEXACT_ID, Bad, Chunk, read_chunks, write_exactly

# 5.03E+18 is what a spreadsheet makes of a long id: its last digits are lost. A float that is exact is written as digits.
# An id as ="479…" is text for a spreadsheet; one of more than 15 digits loses the others to zeros.
QUOTED_ID, CUT_ID, DUPLICATE = r'^="(.*)"$', r"^\d{15}0+$", "duplicate post_id, first one kept"
ROUNDED_ID, FLOAT_ID = r"^\d(\.\d+)?[eE]\+\d+$", r"[.ein]"
# More rejects than this share of the rows are told whatever is quiet.
MANY_REJECTS = 0.1
# A table ends with the chunk that brings it to so many bytes: 20,000 rows of some 6,700.
BATCH_BYTES = 128 << 20
log = logging.getLogger(__name__)
Labels = dict[str, tuple[list[str], list[str]]]
Corrections = dict[str, tuple[list[str], list[str] | None]]


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
    corrections = {} if source.corrections is None else _read_corrections(Path(source.corrections))
    if not layouts:
        raise RequestError(f"{source.path}: no file has posts; expected at least one with post_id and text")
    return _refuse_none(
        source, rejects, _full_batches(_accepted(source, layouts, rejects, batch_rows, corrections), batch_rows)
    )


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


def _read_corrections(path: Path) -> Corrections:
    """Return tags and keywords by post_id; keywords are None in a file without them. Raises RequestError."""
    found: Corrections = {}
    for table in read_table(path):
        given = has_column(path, "keywords") or path.suffix.lower() == ".jsonl"
        for post_id, tags, words in zip(*(table[name].to_pylist() for name in ("post_id", "tags", "keywords")), strict=True):
            found[post_id] = (
                [tag["id"] for tag in tags or []],
                [word["keyword"] for word in words] if given and words else None,
            )
    return found


def _correct(table: pa.Table, corrections: Corrections, used: set[str]) -> pa.Table:
    """Return posts with corrected tags and keywords; an empty list of tags says that the post has none."""
    ids = table["post_id"].to_pylist()
    new = [corrections.get(post_id) for post_id in ids]
    used.update(post_id for post_id, one in zip(ids, new, strict=True) if one is not None)
    for place, name in enumerate(("tags", "keywords")):
        cells = [
            old if one is None or one[place] is None else one[place]
            for old, one in zip(table[name].to_pylist(), new, strict=True)
        ]
        table = table.set_column(table.column_names.index(name), name, pa.array(cells, STRINGS))
    return table


def _read_repeated(layouts: list[Layout], batch_rows: int) -> Labels:
    """Return the labels of rows whose post a row before them has, tags and keywords, by post_id."""
    seen, more = SeenIds(), dict[str, tuple[list[str], list[str]]]()
    for layout in layouts:
        for chunk in read_chunks(layout, batch_rows):
            table = _normalise(chunk.rows, layout, {}).select(["post_id", "tags", "keywords"])
            for row in table.filter(pa.array(seen.add(table["post_id"].to_numpy()))).to_pylist():
                if row["post_id"] and (row["tags"] or row["keywords"]):
                    for known, new in zip(
                        more.setdefault(row["post_id"], ([], [])), (row["tags"], row["keywords"]), strict=True
                    ):
                        known += new or []
    return more


def _unite(table: pa.Table, more: Labels) -> pa.Table:
    """Return posts with the labels that other rows have of them, behind their own."""
    found = [more.get(post_id, ([], [])) for post_id in table["post_id"].to_pylist()]
    for place, name in enumerate(("tags", "keywords")):
        own = zip(table[name].to_pylist(), found, strict=True)
        cells = [list(dict.fromkeys([*(old or []), *new[place]])) if new[place] else old for old, new in own]
        table = table.set_column(table.column_names.index(name), name, pa.array(cells, STRINGS))
    return table


def _accepted(
    source: PostsSource, layouts: list[Layout], rejects: Rejects, batch_rows: int, corrections: Corrections
) -> Iterator[pa.Table]:
    """Give the rows that can be used, chunk by chunk, and write down the others in the order of their lines."""
    corrected: set[str] = set()
    extras = _extra_types(layouts)
    more, united = _read_repeated(layouts, batch_rows) if source.unite else {}, 0
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
            if more:
                wrong = [row for row in bad if row[1] not in more or not row[2].startswith(DUPLICATE)]
                bad, united = wrong, united + len(bad) - len(wrong)
                table = _unite(table, more)
            table = _correct(table, corrections, corrected) if corrections else table
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
    if united:
        log.warning("%s: %s rows repeat a post: their labels are united", make_visible(source.path), f"{united:,}")
    if source.corrections is not None:
        absent = len(corrections) - len(corrected)
        told = f"{len(corrected):,} posts have corrected tags" + (
            f"; {absent:,} corrections are of no post" if absent else ""
        )
        log.warning("%s: %s", make_visible(source.corrections), told)
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
    inexact = FLOAT_ID if pa.types.is_floating(layout.types[layout.taken["post_id"]]) else ROUNDED_ID
    wordless = as_flags(pc.equal(pc.utf8_trim_whitespace(text), ""))
    for name in ("images", "videos"):
        wordless &= as_flags(pc.equal(pc.list_value_length(table[name]), 0))
    faults = {
        INEXACT_ID: as_flags(pc.match_substring_regex(ids, inexact)),
        "no post_id": as_flags(pc.equal(ids, "")),
        NUL: as_flags(pc.or_(pc.match_substring(ids, "\0"), pc.match_substring(text, "\0"))),
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
    again &= ~twins
    rounded_ids = as_flags(pc.match_substring_regex(ids, CUT_ID))
    faults |= {
        f"{DUPLICATE}; its digits behind the 15th are 0: rounded by a spreadsheet?": again & rounded_ids,
        DUPLICATE: again,
    }
    for reason, flags in faults.items():
        rows = np.flatnonzero(flags & left).tolist()
        bad += [(int(chunk.lines[row]), ids[row].as_py() or None, reason) for row in rows]
        left[rows] = False
    left &= ~twins
    if left.all():
        return table, chunk.lines, bad, 0
    return table.filter(pa.array(left)), chunk.lines[left], bad, int(twins.sum())


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
                ids = pc.replace_substring_regex(pc.utf8_trim_whitespace(_ids(cells)), QUOTED_ID, r"\1")
                columns.append(ids)
            elif name in LISTS:
                lists = read_lists(cells, name, layout.splits.get(name))
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
