"""Text files as they come: suffix, encoding, delimiter, and records that never swallow each other."""

import codecs
import csv
import gzip
import io
import json
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from weibotag.core.errors import RequestError
from weibotag.core.spreadsheet import unguard

if TYPE_CHECKING:
    import pyarrow.parquet as pq

STDIN = Path("-")
KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".json": "json",
    ".xlsx": "xlsx",
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
}
# Kinds that can't be packed with gzip: their readers want files.
WHOLE = ("parquet", "xlsx", "sqlite")
HEAD_BYTES = 1_000_000
# The longest record of posts, in characters (bytes in Parquet). What is written of one may be longer: quotes, escapes, tags.
RECORD_LIMIT = 16_000_000
WRITTEN_LIMIT = 8 * RECORD_LIMIT
# Columns of a file, and characters of rows that are held at once.
MOST_COLUMNS, CHUNK_SIZE = 2_000, 16_000_000
ENOUGH_LINES = 100
MOST_LEVELS = 100
# Characters of a record that can't be used in which its id is sought, and of a key that are shown.
SALVAGED, SHOWN = 10_000, 60
# The line on which a record starts, from 1; its fields; why it can't be used (its fields are then what could be read);
# its characters.
Record = tuple[int, list[str], str | None, int]
# Stands for bytes that could not be decoded: no decoder gives half a surrogate pair, so it can't be the file's own.
MARK = "\udcff"
UNCLOSED = "a quote that opens on this line is not closed; the lines after it are read as rows"
UNDECODABLE = "bytes that are not {encoding}"
NUL = "NUL byte"
TOO_LONG = "a record of more than {1:,} {0}"


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return MARK, error.end


codecs.register_error("weibotag_mark", _mark)


@dataclass(frozen=True)
class TextFile:
    """A text file and how to read it: no record may have more characters than `limit`.

    `spool` holds the bytes of stdin, which can be read only once, or what stands in a file of another kind as JSONL.
    """

    path: Path
    kind: str
    encoding: str
    limit: int = RECORD_LIMIT
    spool: BinaryIO | None = field(default=None, repr=False, compare=False)


def find_kind(path: Path) -> str | None:
    """Return what a file is by the suffix (.gz of the text ones too): a value of KINDS, None for any other."""
    name = path.name.lower()
    kind = KINDS.get(Path(name.removesuffix(".gz")).suffix)
    return None if kind in WHOLE and name.endswith(".gz") else kind


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the system, or the reader of Parquet, says about a file that can't be read into a RequestError."""
    import pyarrow as pa

    try:
        yield
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: holds a name or text that is not UTF-8; mend it") from error
    except pa.ArrowException as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"{path}: not a Parquet file that can be read ({reason}); make it again") from error
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RequestError(f"{path}: can't be read ({why}); check the file, or make it again") from error


@contextmanager
def open_parquet(path: Path, **options: Any) -> Iterator["pq.ParquetFile"]:
    """Give a Parquet file, whatever its name; `options` are those of pyarrow. Raises RequestError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with readable(path), pa.OSFile(os.fsencode(path.absolute()), "rb") as raw, pq.ParquetFile(raw, **options) as file:
        yield file


def open_file(path: Path, kind: str, limit: int = RECORD_LIMIT) -> TextFile:
    """Look into a text file and say how to read it; raises RequestError when it can't be read."""
    with readable(path), _open_bytes(path, None) as stream:
        encoding = find_encoding(stream)
        if kind in ("json", "jsonl"):
            stream.seek(0)
            kind = find_json_kind(stream.read(HEAD_BYTES).decode(encoding, errors="ignore").lstrip(), kind)
        return TextFile(path, kind, encoding, limit)


def open_stdin() -> TextFile:
    """Copy stdin to a temporary file that vanishes with its last reader: JSON when it starts with `[` or `{`, else CSV."""
    spool: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the TextFile that holds it
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.seek(0)
    encoding = find_encoding(spool)
    spool.seek(0)
    head = spool.read(HEAD_BYTES)
    if head.startswith(b"PAR1"):
        raise RequestError("stdin is a Parquet file, CSV or JSONL is expected; give the path of the file instead of -")
    start = head.decode(encoding, errors="ignore").lstrip()
    return TextFile(STDIN, find_json_kind(start, "json") if start[:1] in ("{", "[") else "csv", encoding, spool=spool)


def find_json_kind(start: str, kind: str) -> str:
    """Return json for a text that begins as an array or one object does, jsonl where objects stand on lines, else `kind`."""
    if start.startswith("["):
        return "json"
    lines = [line.strip() for line in start[:HEAD_BYTES].split("\n", 3)[:3] if line.strip()]
    alone = [line for line in lines if line.startswith("{") and isinstance(parse_object(line), dict)]
    return "jsonl" if len(lines) > 1 and lines[0].endswith("}") and alone else kind


def _open_bytes(path: Path, spool: BinaryIO | None) -> BinaryIO:
    if spool is not None:
        spool.seek(0)
        return os.fdopen(os.dup(spool.fileno()), "rb")
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


@contextmanager
def open_lines(file: TextFile) -> Iterator[Iterator[str]]:
    """Give the physical lines of a file with their line ends; undecodable bytes are `MARK`.

    Of a line of more than `file.limit` characters only one more than that is given, and no more is ever held.
    """
    with open_text(file) as lines:
        yield _cut(lines, file.limit + 1)


@contextmanager
def open_text(file: TextFile) -> Iterator[io.TextIOWrapper]:
    """Give the characters of a file; undecodable bytes are `MARK`."""
    with (
        readable(file.path),
        _open_bytes(file.path, file.spool) as stream,
        io.TextIOWrapper(stream, file.encoding, errors="weibotag_mark", newline="") as text,
    ):
        yield text


def _cut(lines: io.TextIOWrapper, most: int) -> Iterator[str]:
    for line in iter(partial(lines.readline, most), ""):
        yield line
        while len(line) == most and line[-1] not in "\r\n":
            line = lines.readline(most)


def find_encoding(stream: BinaryIO) -> str:
    """Return the Python name of the encoding of a file: utf-8-sig, utf-8, utf-16 or gb18030.

    The first megabyte decides, unless it is plain ASCII or has broken bytes: then the lines behind it are asked too.
    """
    head = stream.read(HEAD_BYTES)
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if not head.isascii() and _decodes(head, "utf-8"):
        return "utf-8"
    asked = in_utf8 = in_gb18030 = 0
    while head and asked < ENOUGH_LINES:
        lines = [] if head.isascii() else [line for line in re.split(rb"[\r\n]+", head) if not line.isascii()]
        asked += len(lines)
        in_utf8 += sum(_decodes(line, "utf-8") for line in lines)
        in_gb18030 += sum(_decodes(line, "gb18030") for line in lines)
        head = stream.read(HEAD_BYTES)
    # Chinese in GB18030 is next to never valid UTF-8, but half of all UTF-8 lines are valid GB18030: UTF-8 goes first.
    return "gb18030" if in_utf8 * 2 < asked and in_gb18030 > in_utf8 else "utf-8"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def find_problem(text: str, file: TextFile) -> str | None:
    """Return why the lines of a record can't be used (their length, undecodable bytes), None when they can."""
    if len(text) > file.limit:
        return TOO_LONG.format("characters", file.limit)
    return UNDECODABLE.format(encoding=file.encoding.upper().removesuffix("-SIG")) if MARK in text else None


def find_delimiter(file: TextFile) -> str:
    """Return the delimiter: a tab in .tsv; else a comma, or in a header without commas the tab, `;` or `|` it has."""
    if file.kind == "tsv":
        return "\t"
    with open_lines(file) as lines:
        header = next((line for line in lines if line.strip()), "")
    best = max("\t;|", key=header.count)
    return best if "," not in header and best in header else ","


def read_records(file: TextFile, delimiter: str) -> Iterator[Record]:
    """Give every record that is not blank, the header first.

    A record whose quotes go wrong, or that has more than `file.limit` characters, costs one line: those it had swallowed
    are read again. Each line is read at most three times.
    """
    csv.field_size_limit(WRITTEN_LIMIT)
    number = 1
    again: list[str] = []
    taken: list[str] = []
    with open_lines(file) as lines:
        while True:
            try:
                # Strict, because the lenient reader takes the next row's opening quote for the end of an unclosed one.
                for fields in csv.reader(_feed(again, lines, file.limit, taken), delimiter=delimiter, strict=True):
                    if fields:
                        text = taken[0] if len(taken) == 1 else "".join(taken)
                        yield number, fields, find_problem(text, file), len(text)
                    number += len(taken)
                    taken.clear()
                return
            except csv.Error as error:
                yield number, *_salvage(taken, delimiter, str(error), file), len(taken[0])
                # A quote that any of the lines between opens would go on as this one did, to the same bad end: each of
                # them is a record by itself or none.
                alone = len(taken) - (len(taken) > 1 and "end of data" not in str(error))
                for place, line in enumerate(taken[1:alone], number + 1):
                    fields, problem = _read_alone(line, delimiter, file)
                    if fields:
                        yield place, fields, problem, len(line)
                number += alone
                again = taken[alone:]
                taken.clear()


def read_sound_records(path: Path, kind: str, advice: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the names in the header of a CSV or TSV file for people, and give (line, fields) of each record below it.

    Cells are as they were before `guard` made them harmless. Raises RequestError, which ends in `advice`, with the line of
    the first record that can't be used.
    """
    file = open_file(path, kind, WRITTEN_LIMIT)
    records = read_records(file, find_delimiter(file))
    _, names, broken, _ = next(records, (0, [], None, 0))
    if broken:
        raise RequestError(f"{path}, line 1: {broken}; {advice}")

    def check() -> Iterator[tuple[int, list[str]]]:
        for line, fields, problem, _ in records:
            if problem or len(fields) != len(names):
                problem = problem or f"{len(fields)} fields; expected {len(names)}"
                raise RequestError(f"{path}, line {line}: {problem}; {advice}")
            yield line, [unguard(cell) if cell[:1] == "'" else cell for cell in fields]

    names = [unguard(name.strip()) or f"column_{place}" for place, name in enumerate(names, 1)]
    refuse_twins(path, names)
    return names, check()


def refuse_twins(path: Path, names: Sequence[str]) -> None:
    """Raise RequestError where two columns have one name."""
    twins = sorted(name for name, times in Counter(names).items() if times > 1)
    if twins:
        raise RequestError(f"{path}: column {', '.join(twins)} is there twice; expected each name once, rename one")


class _DoubledKeyError(ValueError):
    """An object has a key twice."""


def _refuse_doubled(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict; raises _DoubledKeyError where a key comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise _DoubledKeyError(f"key {key[:SHOWN]!r} given twice; expected each key once")
    return found


ONE_OF_EACH = json.JSONDecoder(object_pairs_hook=_refuse_doubled)


def parse_object(line: str) -> dict[str, Any] | str:
    """Return the object of a JSONL line, or why there is none."""
    try:
        value = ONE_OF_EACH.decode(line)
        if (
            len(line) > 2 * MOST_LEVELS
            and line.count("[") + line.count("{") > MOST_LEVELS
            and _is_deeper(value, MOST_LEVELS)
        ):
            return f"nested more than {MOST_LEVELS} levels deep"
        if "\\ud" in line or "\\uD" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate)"
    except _DoubledKeyError as error:
        return str(error)
    except (ValueError, RecursionError):
        return "not JSON; expected one object a line"
    return value if isinstance(value, dict) else "not a JSON object"


def find_within(value: Any, name: str) -> Any:
    """Return what an object has by a dotted name, as in user.name: of a list, what its objects have; None for nothing."""
    for key in name.split("."):
        if isinstance(value, list):
            inner = [one.get(key) for one in value if isinstance(one, dict)]
            found = [one for one in inner if one is not None]
            value = list(chain.from_iterable(found)) if found and all(isinstance(one, list) for one in found) else found
        else:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None or value == []:
            return None
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    row = [value]
    while row and levels >= 0:
        nested = [one.values() if isinstance(one, dict) else one for one in row if isinstance(one, dict | list)]
        row, levels = list(chain.from_iterable(nested)), levels - 1
    return bool(row)


def as_text(value: Any) -> str | None:
    """Return a cell as text: text and nothing as they are, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _feed(again: list[str], lines: Iterator[str], limit: int, taken: list[str]) -> Iterator[str]:
    """Give the lines and note them in `taken`; raises csv.Error once those of a record have more characters than `limit`."""
    size = 0
    for line in chain(again, lines):
        size = size + len(line) if taken else len(line)
        taken.append(line)
        if size > limit:
            raise csv.Error("too long")
        yield line


def _read_alone(line: str, delimiter: str, file: TextFile) -> tuple[list[str], str | None]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True)), find_problem(line, file)
    except csv.Error as error:
        return _salvage([line], delimiter, str(error), file)


def _salvage(taken: list[str], delimiter: str, message: str, file: TextFile) -> tuple[list[str], str | None]:
    """Return what the lenient reader makes of the first line, and why it is not good enough."""
    problem = find_problem(taken[0], file)
    if len(taken) == 1 and "expected after" in message:
        return next(csv.reader(taken, delimiter=delimiter)), problem
    fields = next(csv.reader([taken[0][:SALVAGED]], delimiter=delimiter), [])
    return fields, problem or UNCLOSED
