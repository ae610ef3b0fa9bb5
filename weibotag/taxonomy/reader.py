"""Taxonomy files as rows, before they are known to be a tree, and the errors that keep them from being one."""

import bisect
import csv
import io
import json
import json.decoder
import json.scanner
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weibotag.core.errors import TaxonomyError

COLUMNS = ("id", "parent_id", "name", "aliases", "keywords")
KEYS = ("id", "name", "aliases", "keywords", "children")
# A tree file may name one YAML node twice, even inside itself; no taxonomy for people is this deep.
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One tag as its file has it, blanks included; `line` counts from 1; `surplus` holds cells beyond the header."""

    line: int
    id: str
    parent_id: str
    name: str
    aliases: tuple[str, ...]
    keywords: tuple[str, ...]
    surplus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a taxonomy file that its author should know; `level` is error, warning or note."""

    level: str
    line: int
    tag_id: str
    kind: str
    message: str
    fix: str


def read_rows(path: Path) -> list[Row]:
    """Read a CSV, JSON or YAML taxonomy (by the file's ending), UTF-8 or GB18030, without judging the tree.

    Raises TaxonomyError when the file is missing or isn't of its format.
    """
    text = _read_text(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return list(_walk(_parse_json(path, text), path))
    if suffix in (".yaml", ".yml"):
        return list(_walk(_parse_yaml(path, text), path))
    return _read_csv(path, text)


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaxonomyError(f"{path}: {error.strerror or error}; give the path of a taxonomy file") from error
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise TaxonomyError(f"{path}: neither UTF-8 nor GB18030; save it as UTF-8")


def split_list(cell: str) -> tuple[str, ...]:
    """Split a cell: a JSON array of strings, else words joined by `;` (full-width `；` too); blanks are kept."""
    if cell.startswith("["):
        try:
            words = json.loads(cell)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return tuple(words)
    return tuple(word for word in cell.replace("；", ";").split(";") if word) if cell else ()


def join_list(words: tuple[str, ...]) -> str:
    """Join words as `split_list` reads them back: by `;`, or as a JSON array where a word would not survive that."""
    joined = ";".join(words)
    if joined.startswith("[") or any(";" in word or "；" in word for word in words):
        return json.dumps(words, ensure_ascii=False)
    return joined


def _read_csv(path: Path, text: str) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[Row] = []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        places = [header.index(name) if name in header else -1 for name in COLUMNS]
        missing = [name for name in COLUMNS[:3] if name not in header]
        if missing:
            raise TaxonomyError(
                f"{path}:1: no column {', '.join(missing)} in {','.join(header) or 'an empty file'}; "
                f"the first line must be {','.join(COLUMNS)} (the last two may be left out)"
            )
        line = reader.line_num + 1
        for cells in reader:
            if any(cells):
                surplus = tuple(cells[len(header) :])
                if len(cells) < len(header):
                    cells += [""] * (len(header) - len(cells))
                tag_id, parent_id, name, aliases, keywords = (cells[at] if at >= 0 else "" for at in places)
                rows.append(Row(line, tag_id, parent_id, name, split_list(aliases), split_list(keywords), surplus))
            line = reader.line_num + 1
    except csv.Error as error:
        raise TaxonomyError(f"{path}:{reader.line_num}: {error}; check the quotes around this line") from error
    return rows


def _parse_json(path: Path, text: str) -> Any:
    """Parse JSON into lists, strings and (fields, line) pairs in place of objects."""
    ends = [match.start() for match in re.finditer("\n", text)]
    decoder = json.JSONDecoder()
    parse = json.decoder.JSONObject  # type: ignore[attr-defined]

    def parse_object(at: tuple[str, int], *args: Any) -> tuple[tuple[dict[str, Any], int], int]:
        fields, end = parse(at, *args)
        return (fields, bisect.bisect_left(ends, at[1]) + 1), end

    # The C scanner can't say where an object began.
    decoder.parse_object = parse_object  # type: ignore[attr-defined]
    decoder.scan_once = json.scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise TaxonomyError(f"{path}:{error.lineno}: not JSON: {error.msg}; mend this line") from error
    except RecursionError as error:
        raise TaxonomyError(f"{path}: nested too deeply; a taxonomy has at most {MAX_DEPTH} levels") from error


def _parse_yaml(path: Path, text: str) -> Any:
    """Parse YAML into lists, strings and (fields, line) pairs in place of mappings; scalars stay as written."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    def simplify(node: Any, depth: int) -> Any:
        # Two levels of nodes (a list, a mapping) make one level of tags.
        if depth > 2 * MAX_DEPTH:
            raise TaxonomyError(f"{path}:{node.start_mark.line + 1}: more than {MAX_DEPTH} levels; break the loop")
        if isinstance(node, yaml.SequenceNode):
            return [simplify(child, depth + 1) for child in node.value]
        if isinstance(node, yaml.MappingNode):
            fields = {str(key.value): simplify(value, depth + 1) for key, value in node.value}
            return fields, node.start_mark.line + 1
        return None if node.tag == "tag:yaml.org,2002:null" else node.value

    try:
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise TaxonomyError(f"{path}:{line}: not YAML: {error.problem}; mend this line") from error
    except yaml.YAMLError as error:
        raise TaxonomyError(f"{path}: not YAML: {' '.join(str(error).split())}; mend the file") from error
    return simplify(root, 1) if root is not None else []


def _walk(tree: Any, path: Path, parent_id: str = "", line: int = 1, depth: int = 1) -> Iterator[Row]:
    if tree is None:
        return
    if not isinstance(tree, list):
        raise TaxonomyError(f"{path}:{line}: found {_kind(tree)}, expected a list of tags; write [{{name, children}}]")
    if depth > MAX_DEPTH:
        raise TaxonomyError(f"{path}:{line}: more than {MAX_DEPTH} levels; a taxonomy has at most that many")
    for entry in tree:
        if not isinstance(entry, tuple):
            raise TaxonomyError(f"{path}:{line}: found {_kind(entry)}, expected a tag; write {{name: …}}")
        fields, at = entry
        unknown = [key for key in fields if key not in KEYS]
        if unknown:
            raise TaxonomyError(f"{path}:{at}: unknown key {unknown[0]!r}; a tag has {', '.join(KEYS)}")
        name = _scalar(fields.get("name"), path, at)
        tag_id = _scalar(fields.get("id"), path, at) or (f"{parent_id}/{name}" if parent_id else name)
        yield Row(
            at,
            tag_id,
            parent_id,
            name,
            _words(fields.get("aliases"), path, at),
            _words(fields.get("keywords"), path, at),
        )
        yield from _walk(fields.get("children"), path, tag_id, at, depth + 1)


def _words(value: Any, path: Path, line: int) -> tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_scalar(word, path, line) for word in value)
    return split_list(_scalar(value, path, line))


def _scalar(value: Any, path: Path, line: int) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise TaxonomyError(f"{path}:{line}: found {_kind(value)}, expected text; put it in quotes")


def _kind(value: Any) -> str:
    return {list: "a list", tuple: "a mapping", bool: "true or false"}.get(type(value), "text")


def find_errors(rows: list[Row]) -> list[Finding]:
    """Find what keeps rows from being a tree: empty or duplicate ids, empty names, unknown parents, cycles; by line."""
    found: list[Finding] = []

    def add(row: Row, kind: str, message: str, fix: str) -> None:
        found.append(Finding("error", row.line, row.id.strip(), kind, message, fix))

    first: dict[str, Row] = {}
    parent_of: dict[str, str] = {}
    for row in rows:
        tag_id = row.id.strip()
        if row.surplus:
            rest = ",".join(row.surplus)
            add(row, "too many cells", f"cells beyond the header: {rest}", "quote cells that hold a comma")
        if not tag_id:
            add(row, "empty id", "a tag without an id", "give it one, such as 美妆/口红")
        elif tag_id in first:
            add(row, "duplicate id", f"{tag_id} is also on line {first[tag_id].line}", "rename or delete one of them")
        else:
            first[tag_id] = row
            parent_of[tag_id] = row.parent_id.strip()
        if not row.name.strip():
            add(row, "empty name", f"{tag_id or 'a tag'} has no name", "give it one")
    for tag_id, parent_id in parent_of.items():
        if parent_id and parent_id not in first:
            fix = f"add a line for {parent_id}, or correct parent_id"
            add(first[tag_id], "unknown parent", f"parent_id {parent_id} of {tag_id} is no tag of this file", fix)
    for circle in _find_cycles(parent_of):
        way = " > ".join([*circle, circle[0]])
        add(first[circle[0]], "cycle", f"tags are their own ancestors: {way}", "empty parent_id of the topmost")
    return sorted(found, key=lambda finding: finding.line)


def _find_cycles(parent_of: dict[str, str]) -> list[list[str]]:
    """Return each circle once, from its tag that stands first in the file."""
    order = {tag_id: place for place, tag_id in enumerate(parent_of)}
    done: set[str] = set()
    circles = []
    for start in parent_of:
        way: dict[str, None] = {}
        here = start
        while here in parent_of and here not in done and here not in way:
            way[here] = None
            here = parent_of[here]
        if here in way:
            walked = list(way)
            circle = walked[walked.index(here) :]
            top = circle.index(min(circle, key=order.__getitem__))
            circles.append(circle[top:] + circle[:top])
        done.update(way)
    return circles
