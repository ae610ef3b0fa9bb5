"""Words that a platform already has for its pictures, in columns of the posts: they become wordings like any other."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.errors import RequestError
from weibotag.core.schema import STRINGS, WORDING
from weibotag.posts.passing import find_column, known_names

MARKS = re.compile("[;,；，、]")
# What is left of a JSON array of words that was split at its commas.
BRACKETS = " []\"'"


def add_given(table: pa.Table, words: Mapping[Any, str]) -> pa.Table:
    """Return a posts table with the words of some of its columns added to its column `wordings`; the columns stay.

    `words` names a column for each kind of wording. Lists are taken as they are; print (ocr) is parted into lines; any
    other cell is parted at `;` and `,`, or where it has none at its blanks. A given word has score 1, count 1, and
    neither picture nor box. Raises RequestError for a column that is not there, or is neither text nor a list of it.
    """
    for kind, column in words.items():
        table = _append(table, kind, _list_words(table, kind, column))
    return table


def split_words(cell: str, kind: str) -> list[str]:
    """Return the words of a cell: see `add_given`."""
    if kind == "ocr":
        parts = [line.strip() for line in cell.splitlines()]
    else:
        parts = [part.strip(BRACKETS) for part in (MARKS.split(cell) if MARKS.search(cell) else cell.split())]
    return [part for part in parts if part]


def _list_words(table: pa.Table, kind: str, column: str) -> pa.ListArray:
    found = find_column(table, column)
    if found is None:
        names = known_names(table)
        near = get_close_matches(column, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
        raise RequestError(f"words {kind}={column}: the posts have no column {column!r}; {hint}")
    cells = found.combine_chunks()
    try:
        if pa.types.is_nested(cells.type):
            lists = cells.cast(STRINGS).to_pylist()
        else:
            lists = [split_words(cell, kind) for cell in pc.fill_null(cells.cast(pa.string()), "").to_pylist()]
    except pa.ArrowException as error:
        raise RequestError(
            f"words {kind}={column}: the column is {cells.type}; expected text, or a list of texts"
        ) from error
    return pa.array([[word for word in own or () if word and word.strip()] for own in lists], STRINGS)


def _append(table: pa.Table, kind: str, words: pa.ListArray) -> pa.Table:
    """Return the table with words of a kind after the wordings that it has."""
    offsets, values = list_parts(words)
    total = len(values)
    known = {"word": values, "kind": pa.repeat(kind, total)}
    known |= {name: pa.repeat(pa.scalar(1, WORDING.field(name).type), total) for name in ("score", "count")}
    fields = [known.get(field.name, pa.nulls(total, field.type)) for field in WORDING]
    added = pa.StructArray.from_arrays(fields, fields=list(WORDING))
    if "wordings" not in table.column_names:
        return table.append_column("wordings", pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), added))
    old_offsets, old = list_parts(table["wordings"].combine_chunks().cast(pa.list_(WORDING)))
    rows = np.concatenate([rows_of(ends) for ends in (old_offsets, offsets)])
    order = np.argsort(rows, kind="stable")
    joined = pa.concat_arrays([old, added]).take(pa.array(order))
    wordings = pa.ListArray.from_arrays(pa.array(old_offsets + offsets, pa.int32()), joined)
    return table.set_column(table.column_names.index("wordings"), "wordings", wordings)
