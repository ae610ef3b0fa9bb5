"""Cells that hold several items: as JSON, as Python or joined by a mark; files, and tags and keywords with scores."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts
from weibotag.core.schema import STRINGS
from weibotag.posts.cells import BLANKS
from weibotag.posts.encodings import as_text
from weibotag.posts.result_files import name_item

# Cells that splitting at `;` does not do justice: JSON arrays, other marks, and blanks, or nothing, beside a mark.
PYTHON_TEXT = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
PYTHON_LIST = rf"\[\s*(?:(?:{PYTHON_TEXT})\s*(?:,\s*(?:{PYTHON_TEXT})\s*)*)?\]"
# What parts the names of files, how one ends, and what stands where there is none.
FILES = ("images", "videos")
FILE_MARKS, FILE_END = r"[,，|\n]", r"\.[A-Za-z0-9]{2,5}$|^https?://\S+$"
NO_FILES = ("无", "null", "none", "nan", "n/a", r"\n", "{}")
ODD_FILES = rf"{FILE_MARKS}|(?i)^(无|null|none|nan|n/a|\\n|\{{\}})$"
ODD_LIST = rf"^\[|；|;[{BLANKS};]|[{BLANKS}];|^;|;$"
# The field that names an item of what `weibotag tag` writes, and how its items end as text.
OWN = {"tags": ("id", r".:([01]\.\d{4})?$"), "keywords": ("keyword", r".:([01]\.\d{4})?:[a-z]*$")}


def as_flags(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return booleans as numpy has them."""
    return np.asarray(array).astype(bool)


def read_lists(cells: pa.ChunkedArray, name: str, mark: str | None) -> pa.Array:
    """Return list<string>, null where there is nothing; text is an array of JSON or Python, or items between `;`.

    Tags and keywords may be as `weibotag tag` writes them, with scores. Of files, other marks part the items as well where
    each then ends as a file does, and words for nothing are none. A `mark` that is given parts them, and nothing else does.
    """
    if pa.types.is_null(cells.type):
        return pa.nulls(len(cells), STRINGS)
    files, own = name in FILES, OWN.get(name)
    if pa.types.is_nested(cells.type):
        value = cells.type.value_type if pa.types.is_list(cells.type) else pa.null()
        if own and pa.types.is_struct(value) and value.get_field_index(own[0]) >= 0:
            lists = cells.combine_chunks()
            offsets, values = list_parts(lists)
            names = values.field(own[0]).cast(pa.string())
            return _without_nulls(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), names, mask=lists.is_null()))
        return _without_nulls(cells.cast(STRINGS).combine_chunks())
    texts = pc.utf8_trim_whitespace(pc.fill_null(cells.cast(pa.string()), "")).combine_chunks()
    if mark is not None:
        given = [[one.strip() for one in text.split(mark) if one.strip()] or None for text in texts.to_pylist()]
        return pa.array(given, STRINGS)
    split = pc.split_pattern(pc.if_else(pc.equal(texts, ""), None, texts), ";")
    odd = np.flatnonzero(as_flags(pc.match_substring_regex(texts, f"{ODD_LIST}|{ODD_FILES}" if files else ODD_LIST)))
    if len(odd):
        order = np.arange(len(texts))
        order[odd] = len(texts) + np.arange(len(odd))
        items = pa.array([_split_items(text, name) for text in texts.take(pa.array(odd)).to_pylist()], STRINGS)
        split = pa.concat_arrays([split, items]).take(pa.array(order))
    return _without_scores(split, name) if own else split


def _without_scores(lists: pa.ListArray, name: str) -> pa.ListArray:
    """Return the names of tags or keywords where all items of all cells are as `weibotag tag` writes them."""
    offsets, values = list_parts(lists)
    _, ending = OWN[name]
    if not len(values) or not as_flags(pc.match_substring_regex(values, ending)).all():
        return lists
    names = pa.array([name_item(name, item) for item in values.to_pylist()], pa.string())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), names, mask=lists.is_null())


def _split_items(text: str, name: str) -> list[str] | None:
    """Return the items of a cell that are not blank; an array may be empty, any other list is None then."""
    files, field = name in FILES, OWN[name][0] if name in OWN else ""
    if files and text.lower() in NO_FILES:
        return None
    if text.startswith("["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            named = [item.get(field, item) if isinstance(item, dict) else item for item in value]
            return [item.strip() for item in map(as_text, named) if item and item.strip()]
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
    kept = as_flags(values.is_valid())
    ends = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)[offsets]
    return pa.ListArray.from_arrays(pa.array(ends), values.filter(pa.array(kept)), mask=lists.is_null())
