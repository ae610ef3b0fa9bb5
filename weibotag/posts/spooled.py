"""Posts in files that have no lines, as lines of JSON: JSON arrays, workbooks, databases, folders of pictures and clips."""

import io
import json
import logging
import os
import sqlite3
import tempfile
from base64 import b64encode
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes

from weibotag.core.errors import RequestError
from weibotag.core.file_names import CLIPS, name_as_text
from weibotag.core.terminal import make_visible
from weibotag.posts.encodings import MOST_COLUMNS, MOST_LEVELS, RECORD_LIMIT, TextFile, open_text, refuse_twins
from weibotag.posts.workbook import Sheet, list_sheets, read_sheet

# The room that the user knows these warnings by.
logger = logging.getLogger("weibotag.posts.reader")

MAGIC = b"SQLite format 3\0"
CHUNK = 1 << 16
BLANK = " \t\r\n"
# Names in a JSON file that may hold posts.
MOST_NAMES = 100


class NoPostsError(RequestError):
    """A file has no posts in it: beside others it may be left out."""


def _spool(path: Path, lines: Iterable[str]) -> TextFile:
    """Return lines as a temporary JSONL file that vanishes with its last reader; half characters are written as bytes."""
    file: BinaryIO = tempfile.TemporaryFile(prefix="weibotag-")  # noqa: SIM115  it lives as long as the TextFile
    for line in lines:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")
    file.flush()
    return TextFile(path, "jsonl", "utf-8", spool=file)


# JSON


class _Values:
    """The values of a JSON text, one at a time: no more than one of them and a chunk is held."""

    # Numbers stay text: only where a value ends is of interest here.
    decode = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode

    def __init__(self, path: Path, stream: io.TextIOWrapper) -> None:
        self.path, self.stream = path, stream
        self.text, self.at, self.before, self.ended = "", 0, 0, False

    def _more(self) -> None:
        chunk = self.stream.read(max(CHUNK, len(self.text) - self.at))
        self.before, self.text, self.at, self.ended = self.before + self.at, self.text[self.at :] + chunk, 0, not chunk

    def peek(self) -> str:
        """Return the next character that is no blank, nothing at the end."""
        while True:
            rest = self.text[self.at : self.at + CHUNK].lstrip(BLANK)
            if rest:
                self.at = self.text.index(rest[0], self.at)
                return rest[0]
            if self.at + CHUNK < len(self.text):
                self.at += CHUNK
            elif self.ended:
                return ""
            else:
                self.at = len(self.text)
                self._more()

    def skip(self, signs: str) -> str:
        """Go behind the next character, which must be one of `signs`, and return it."""
        found = self.peek()
        if not found or found not in signs:
            raise self.broken(f"expected {' or '.join(signs)}, found {found or 'the end'}")
        self.at += 1
        return found

    def take(self) -> str:
        """Go behind the next value and return its text on one line."""
        self.peek()
        while True:
            try:
                end = self.decode(self.text, self.at)[1]
                if end < len(self.text) or self.ended:
                    text, self.at = self.text[self.at : end], end
                    return text.replace("\r", " ").replace("\n", " ")
            except json.JSONDecodeError as error:
                if self.ended:
                    raise self.broken(error.msg) from error
            except RecursionError as error:
                raise self.broken(f"nested more than {MOST_LEVELS} levels deep") from error
            if len(self.text) - self.at > RECORD_LIMIT:
                raise self.broken(f"a value of more than {RECORD_LIMIT:,} characters, or one that does not end")
            self._more()

    def broken(self, why: str) -> RequestError:
        """Return what is wrong behind the last value."""
        place = self.before + self.at
        return RequestError(f"{self.path}: no JSON that can be read (behind character {place:,}: {why}); make it again")

    def elements(self) -> Iterator[str]:
        """Give the elements of the next value, an array."""
        self.skip("[")
        if self.peek() == "]":
            self.skip("]")
            return
        yield self.take()
        while self.skip(",]") == ",":
            yield self.take()

    def lists(self, name: str = "", level: int = 0) -> Iterator[tuple[str, str]]:
        """Give (its dotted name, element) of the arrays in the next value, an object, and in objects of it."""
        if level > MOST_LEVELS:
            raise self.broken(f"nested more than {MOST_LEVELS} levels deep")
        self.skip("{")
        if self.peek() == "}":
            self.skip("}")
            return
        while True:
            if self.peek() != '"':
                raise self.broken("expected a key")
            key = f"{name}.{json.loads(self.take())}".lstrip(".")
            self.skip(":")
            match self.peek():
                case "[":
                    yield from ((key, element) for element in self.elements())
                case "{":
                    yield from self.lists(key, level + 1)
                case _:
                    self.take()
            if self.skip(",}") == "}":
                return


def spool_json(file: TextFile) -> TextFile:
    """Return the posts of a JSON file: an array's elements, objects one after the other, or the longest list in an object.

    An object without a list is one post. Raises RequestError where it is no JSON, NoPostsError where there is no object.
    """
    with open_text(file) as stream:
        values = _Values(file.path, stream)
        if values.peek() == "[":
            return _spool(file.path, values.elements())
    try:
        return _spool(file.path, _objects(file))
    except _AloneError:
        return _longest_list(file)


class _AloneError(Exception):
    """A file has one object, which may hold a list."""


def _objects(file: TextFile) -> Iterator[str]:
    with open_text(file) as stream:
        values = _Values(file.path, stream)
        try:
            first = values.take() if values.peek() else ""
        except RequestError:
            # Longer than a post can be.
            raise _AloneError from None
        if not first.startswith("{"):
            raise NoPostsError(f"{file.path}: no object in this JSON; expected a list of posts")
        if not values.peek() and "[" in first:
            raise _AloneError
        yield first
        while values.peek():
            yield values.take()


def _longest_list(file: TextFile) -> TextFile:
    counts: Counter[str] = Counter()
    with open_text(file) as stream:
        for name, element in _Values(file.path, stream).lists():
            if len(counts) < MOST_NAMES or name in counts:
                counts[name] += element.startswith("{")
    [(best, count)] = counts.most_common(1) or [("", 0)]
    with open_text(file) as stream:
        values = _Values(file.path, stream)
        if not count:
            return _spool(file.path, [values.take()])
        others = sum(1 for times in counts.values() if times) - 1
        told = f"posts are the list {best!r}" + (f"; {others} other lists are left out" if others else "")
        logger.warning("%s: %s", make_visible(str(file.path)), make_visible(told))
        return _spool(file.path, (element for name, element in values.lists() if name == best))


# Databases


@contextmanager
def _open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Give an SQLite database for reading; raises RequestError where there is none."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise NoPostsError(f"{path}: no SQLite database; check the file")
    uri = f"file:{quote_from_bytes(os.fsencode(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * RECORD_LIMIT)
            database.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            yield database
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise RequestError(f"{path}: no SQLite database that can be read ({error}); check the file") from error


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def list_tables(path: Path) -> list[Sheet]:
    """Return the tables of a database that have rows."""
    with _open_database(path) as database:
        asked = (
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"
        )
        names = [name for (name,) in database.execute(asked)]
        rows = {name: database.execute(f"SELECT * FROM {_quote(name)} LIMIT 1") for name in names}
        return [
            Sheet(name, tuple(column for column, *_ in found.description))
            for name, found in rows.items()
            if found.fetchone() is not None
        ]


def _read_table(path: Path, table: Sheet) -> Iterator[str]:
    with _open_database(path) as database:
        for row in database.execute(f"SELECT * FROM {_quote(table.name)}"):
            cells = (b64encode(cell).decode() if isinstance(cell, bytes) else cell for cell in row)
            yield json.dumps(dict(zip(table.columns, cells, strict=True)), ensure_ascii=False)


def spool_sheets(path: Path, kind: str, asked: str | None, fits: Any) -> list[TextFile]:
    """Return the tables of a workbook or database that have posts: the one that is `asked` for, else all that `fits` says.

    Raises RequestError for one that is not there, NoPostsError where none fits.
    """
    sheets = list_sheets(path) if kind == "xlsx" else list_tables(path)
    listed = ", ".join(sheet.name for sheet in sheets) or "none with rows"
    named = [sheet for sheet in sheets if asked in (None, sheet.name)]
    if asked is not None and not named:
        raise RequestError(f"{path} has no table {asked}; found {listed}")
    chosen = named if asked is not None or len(sheets) == 1 else [sheet for sheet in named if fits(sheet.columns)]
    if not chosen:
        raise NoPostsError(f"{path}: no table with posts; found {listed}; say which it is: {path}::TABLE, and --column")
    found = []
    for sheet in chosen:
        refuse_twins(path, sheet.columns)
        if len(sheet.columns) > MOST_COLUMNS:
            raise RequestError(f"{path} has {len(sheet.columns):,} columns; {MOST_COLUMNS:,} at most can be read")
        lines = read_sheet(path, sheet) if kind == "xlsx" else _read_table(path, sheet)
        text = _spool(path, lines)
        found.append(replace(text, path=Path(f"{path}::{sheet.name}")) if len(sheets) > 1 else text)
    if len(sheets) > 1:
        told = ", ".join(sheet.name for sheet in chosen)
        logger.warning("%s: posts are in %s, one of %s", make_visible(str(path)), make_visible(told), make_visible(listed))
    return found


# Pictures


def spool_pictures(paths: Collection[Path]) -> TextFile:
    """Return pictures and clips, each a post of its own that is called as its file, from the folder on that all are in."""
    folder = Path(os.path.commonpath([path.absolute().parent for path in paths]))

    def describe(path: Path) -> str:
        name = name_as_text(path.absolute().relative_to(folder).as_posix())
        return json.dumps({"post_id": name, ("videos" if CLIPS.search(name) else "images"): [name]}, ensure_ascii=False)

    return replace(_spool(folder, map(describe, paths)), path=folder / "*")
