"""The columns of a file of posts: which it has, which of them are ours, and which pass through."""

import difflib
import logging
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from weibotag.core import schema
from weibotag.core.errors import RequestError
from weibotag.core.terminal import make_visible
from weibotag.posts.adapters import CONTENT, GIVEN, USUAL, Adapter, find_adapter, find_pictures, list_names, read_adapters
from weibotag.posts.cells import plain_types
from weibotag.posts.encodings import (
    MOST_COLUMNS,
    NUL,
    STDIN,
    TextFile,
    find_delimiter,
    find_kind,
    find_problem,
    find_within,
    open_file,
    open_lines,
    open_parquet,
    open_stdin,
    parse_object,
    read_records,
    refuse_twins,
)
from weibotag.posts.passing import free_name
from weibotag.posts.source import PostsSource
from weibotag.posts.spooled import NoPostsError, spool_json, spool_pictures, spool_sheets

# The room that the user knows these warnings by.
logger = logging.getLogger("weibotag.posts.reader")

POSTS = schema.arrow_schema("posts")
RESERVED = {*POSTS.names, *schema.arrow_schema("tags").names}
# What a shell takes as it is.
PLAIN_NAME = r"[\w.-]+"
# Rows that tell whether a header lacks names.
PEEKED = 20
# Beside posts such files may hold anything: those without posts are left out.
LOOSE = ("json", "xlsx", "sqlite")


@dataclass(frozen=True)
class Layout:
    """One file, or a table in it: its columns, which of them are canonical (`taken`) and which pass through (`passed`).

    Texts of the columns `joined` belong to the text; `pictures` are paths by post_id, found by name; `adapter` is whose
    columns they are, or empty.
    """

    path: Path
    kind: str
    text: TextFile | None
    delimiter: str
    types: dict[str, pa.DataType]
    taken: dict[str, str]
    passed: dict[str, str]
    joined: tuple[str, ...]
    pictures: dict[str, list[str]]
    splits: dict[str, str]
    adapter: str


def lay_out(path: Path, source: PostsSource, alone: bool) -> list[Layout]:
    """Return the layouts of a file: none for one without posts among others, one of each of its tables that has posts.

    Raises RequestError for a file that can't be read, or that has no columns that posts can be made of.
    """
    if path != STDIN and path.stat().st_size == 0:
        if alone:
            raise RequestError(f"{path} is empty; expected a header and posts")
        logger.warning("%s is empty: left out", make_visible(str(path)))
        return []
    try:
        return [found for text in _open_texts(path, source) if (found := _lay_out_text(path, text, source, alone))]
    except NoPostsError as error:
        if alone:
            raise
        logger.warning("%s: left out", make_visible(str(error)))
        return []


def lay_out_pictures(paths: Collection[Path], source: PostsSource) -> list[Layout]:
    """Return the layout of pictures and clips that are posts of their own."""
    text = spool_pictures(paths)
    return [found for found in [_lay_out_text(text.path, text, source, alone=True)] if found]


def _open_texts(path: Path, source: PostsSource) -> list[TextFile | None]:
    """Return the texts of a file, None in place of one that is Parquet; raises NoPostsError where it has no posts."""
    kind = find_kind(path)
    if kind == "parquet":
        return [None]
    if kind in ("xlsx", "sqlite"):
        return [*spool_sheets(path, kind, source.table, partial(_has_posts, source=source))]
    text = open_stdin() if path == STDIN else open_file(path, str(kind))
    if text.encoding == "gb18030":
        logger.warning("%s is GB18030, not UTF-8: read as GB18030", make_visible(str(path)))
    return [spool_json(text) if text.kind == "json" else text]


def _has_posts(names: Collection[str], source: PostsSource) -> bool:
    """Tell whether a table with these columns has posts."""
    try:
        adapter, columns, _ = _adapt(names, source)
        _take(Path(source.path), list(names), columns)
    except RequestError:
        return False
    return adapter is None or not adapter[1].get("left_out", False)


def _lay_out_text(path: Path, text: TextFile | None, source: PostsSource, alone: bool) -> Layout | None:
    delimiter, more, within = "", 0, list[str]()
    kind = find_kind(path) or "csv"
    if text is None:
        types = _parquet_types(path)
    elif text.kind == "jsonl":
        path = text.path
        within = [name for name in list_names() if "." in name]
        types = dict.fromkeys(_json_names(text, [*within, *(theirs for _, theirs in source.columns)]), pa.string())
    else:
        delimiter = find_delimiter(text)
        names, more = _header(text, delimiter)
        types = dict.fromkeys(names, pa.string())
    if len(types) > MOST_COLUMNS:
        raise RequestError(f"{path} has {len(types):,} columns; {MOST_COLUMNS:,} at most can be read; leave some out")
    adapter, columns, joined = _adapt(types, source)
    if adapter is not None and adapter[1].get("left_out", False):
        raise NoPostsError(f"{path}: columns of {adapter[0]}, which are no posts")
    try:
        taken = _take(path, list(types), columns)
    except RequestError as error:
        if alone or kind not in LOOSE:
            raise
        raise NoPostsError(str(error)) from error
    pattern = source.pictures or (adapter[1].get("pictures", []) if adapter else [])
    pictures = find_pictures(path.parent, [pattern] if isinstance(pattern, str) else pattern) if pattern else {}
    if more and list(types)[-1] != taken.get("text"):
        told = "have no names; if one was left out in the middle, the cells behind it are one place off"
        logger.warning("%s: the last %s fields of its rows %s", make_visible(str(path)), more, told)
        unnamed = [f"column_{place}" for place in range(len(types) + 1, len(types) + more + 1)]
        refuse_twins(path, [*types, *unnamed])
        types |= dict.fromkeys(unnamed, pa.string())
    passed: dict[str, str] = {}
    for name in types:
        if name not in taken.values() and name not in within:
            passed[free_name(name or "unnamed", RESERVED | passed.keys(), types)] = name
    return Layout(
        path,
        kind,
        text,
        delimiter,
        types,
        taken,
        passed,
        joined,
        pictures,
        {**(adapter[1].get("splits", {}) if adapter else {}), **dict(source.splits)},
        adapter[0] if adapter else "",
    )


def _adapt(
    names: Collection[str], source: PostsSource
) -> tuple[tuple[str, Adapter] | None, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return whose columns these are, which of them are taken as ours, and which others belong to the text."""
    # Who names columns, or has ours, needs nobody to tell what they are.
    adapter = None
    if source.adapter is not None or not (source.columns or "post_id" in names):
        adapter = find_adapter(names, source.adapter)
    if adapter is None:
        return None, source.columns, ()
    given = dict(source.columns)
    own = {ours: [one for one in theirs if one in names] for ours, theirs in adapter[1]["columns"].items()}
    if adapter[0] == USUAL:
        own = {ours: theirs[:1] for ours, theirs in own.items() if ours not in names}
    columns = [(ours, theirs[0]) for ours, theirs in own.items() if theirs and ours not in given]
    return adapter, (*columns, *source.columns), () if "text" in given else tuple(own.get("text", [])[1:])


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


def _json_names(file: TextFile, dotted: Collection[str]) -> list[str]:
    """Return the keys of all objects of a JSONL file, in order of appearance: any line may bring a new one.

    Behind them are those of the names `dotted` by which an object has a value within a value (see `find_within`).
    """
    names: dict[str, None] = {}
    empty, wanted = True, {name for name in dotted if "." in name}
    within: set[str] = set()
    with open_lines(file) as lines:
        for line in lines:
            empty = empty and not line.strip()
            value = None if find_problem(line, file) else parse_object(line)
            if isinstance(value, dict):
                new = [name for name in value if name not in names and "\0" not in name]
                if len(names) + len(new) <= MOST_COLUMNS:
                    names.update(dict.fromkeys(new))
                within |= {name for name in wanted - within if find_within(value, name) is not None}
    if not names and not empty:
        raise RequestError(f"{file.path}: no line is a JSON object; expected one object a line, with post_id and text")
    return [*names, *sorted(within - names.keys())]


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
    usual = next((lowered[other] for other in read_adapters()[USUAL]["columns"][name] if other in lowered), None)
    near = difflib.get_close_matches(name, lowered, n=1, cutoff=0.6)
    return usual or (lowered[near[0]] if near else "NAME")
