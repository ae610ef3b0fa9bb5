"""Taxonomy files as rows, before they are known to be a tree."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weibotag.core.errors import TaxonomyError
from weibotag.core.spreadsheet import unguard

COLUMNS = ("id", "parent_id", "name", "aliases", "keywords", "description")
KEYS = ("id", "name", "aliases", "keywords", "description", "children")
# A tree file may name one YAML node twice, even inside itself; no taxonomy for people is this deep.
MAX_DEPTH = 100
MOST_FOLLOWED = 1_000_000
MOST_BYTES = 64_000_000
# Of YAML, whose values take a kilobyte each while they are read.
MOST_VALUES = 2_000_000
LONGEST_CELL = 2**31 - 1
# Strings come first, so that a brace inside one is none; they hold no line break.
STRINGS_AND_BRACES = re.compile(r'"(?:[^"\\]|\\.)*"|[{}]|\n')


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
    description: str = ""


def find_shipped(path: Path) -> Path | None:
    """Return the file of a taxonomy that comes with this package, where a path is no file but the name of one, as weibo."""
    here = Path(__file__).parents[1]
    # Beside the code where it was installed, above it in a clone.
    own = [folder / "taxonomies" / f"{path.name}.csv" for folder in (here, here.parent)]
    return next((file for file in own if path.name == str(path) and not path.is_file() and file.is_file()), None)


def read_rows(path: Path) -> list[Row]:
    """Read a CSV, JSON or YAML taxonomy (by the file's ending), UTF-8 or GB18030, without judging the tree.

    Also one that comes along, by its name: see `find_shipped`.

    Raises TaxonomyError when the file is missing or isn't of its format.
    """
    path = find_shipped(path) or path
    text = _read_text(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return list(_list_tags(*_parse_json(path, text), path))
    if suffix in (".yaml", ".yml"):
        return list(_list_tags(*_parse_yaml(path, text), path))
    return _read_csv(path, text)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise TaxonomyError(f"{path}: {error.strerror or error}; give the path of a taxonomy file") from error
    if len(data) > MOST_BYTES:
        raise TaxonomyError(f"{path}: more than {MOST_BYTES:,} bytes; a taxonomy has at most that many")
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
        except (ValueError, RecursionError):
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
    csv.field_size_limit(LONGEST_CELL)
    # Strict, because the lenient reader takes all that follows a quote which is not closed for one cell.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    line = 1
    try:
        header = [cell.strip() for cell in next(reader, [])]
        places = [header.index(name) if name in header else -1 for name in COLUMNS]
        missing = [name for name in COLUMNS[:3] if name not in header]
        if missing:
            raise TaxonomyError(
                f"{path}:1: no column {', '.join(missing)} in {','.join(header) or 'an empty file'}; "
                f"the first line must be {','.join(COLUMNS)} (the last three may be left out)"
            )
        line = reader.line_num + 1
        for cells in reader:
            if any(cells):
                surplus = tuple(cells[len(header) :])
                if len(cells) < len(header):
                    cells += [""] * (len(header) - len(cells))
                *given, aliases, keywords, description = (unguard(cells[at]) if at >= 0 else "" for at in places)
                tag_id, parent_id, name = given
                words = split_list(aliases), split_list(keywords)
                rows.append(Row(line, tag_id, parent_id, name, *words, surplus, description))
            line = reader.line_num + 1
    except csv.Error as error:
        raise TaxonomyError(f"{path}:{line}: {error}; check the quotes from this line on") from error
    return rows


def _parse_json(path: Path, text: str) -> tuple[Any, Iterator[int]]:
    """Return the value of a JSON text, and the lines on which its objects open, outer ones first."""
    doubled: list[str | None] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        doubled.append(_find_doubled(key for key, _ in pairs))
        return dict(pairs)

    try:
        tree = json.loads(text, object_pairs_hook=note)
    except json.JSONDecodeError as error:
        raise TaxonomyError(f"{path}:{error.lineno}: not JSON: {error.msg}; mend this line") from error
    except RecursionError as error:
        raise TaxonomyError(f"{path}: nested too deeply; a taxonomy has at most {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise TaxonomyError(f"{path}:1: not JSON: {error}; mend the file") from error
    line, lines, opened = 1, [], []
    # The reader tells of an object when it closes.
    closed = iter(doubled)
    for match in STRINGS_AND_BRACES.finditer(text):
        line += match[0] == "\n"
        if match[0] == "{":
            lines.append(line)
            opened.append(line)
        elif match[0] == "}":
            at = opened.pop()
            if (key := next(closed)) is not None:
                raise TaxonomyError(f"{path}:{at}: key {key!r} given twice; expected each key once")
    return tree, iter(lines)


def _find_doubled(keys: Iterable[str]) -> str | None:
    return next((key for key, times in Counter(keys).items() if times > 1), None)


def _parse_yaml(path: Path, text: str) -> tuple[Any, Iterator[int]]:
    """Return the value of a YAML text, scalars as written, and the lines on which its mappings begin, outer ones first."""
    import yaml

    lines: list[int] = []

    def simplify(node: Any, depth: int) -> Any:
        # Two levels of nodes (a list, a mapping) make one level of tags.
        if depth > 2 * MAX_DEPTH:
            raise TaxonomyError(f"{path}:{node.start_mark.line + 1}: more than {MAX_DEPTH} levels; break the loop")
        if isinstance(node, yaml.SequenceNode):
            return [simplify(child, depth + 1) for child in node.value]
        if isinstance(node, yaml.MappingNode):
            lines.append(node.start_mark.line + 1)
            if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
                raise TaxonomyError(f"{path}:{lines[-1]}: a key that is no text; a tag has {', '.join(KEYS)}")
            if (twice := _find_doubled(key.value for key, _ in node.value)) is not None:
                raise TaxonomyError(f"{path}:{lines[-1]}: key {twice!r} given twice; expected each key once")
            return {key.value: simplify(value, depth + 1) for key, value in node.value}
        return None if node.tag == "tag:yaml.org,2002:null" else node.value

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _bound_yaml(path, yaml.parse(text, Loader=loader))
        root = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise TaxonomyError(f"{path}:{line}: not YAML: {error.problem}; mend this line") from error
    except yaml.YAMLError as error:
        raise TaxonomyError(f"{path}: not YAML: {' '.join(str(error).split())}; mend the file") from error
    return simplify(root, 1) if root is not None else [], iter(lines)


def _bound_yaml(path: Path, events: Iterator[Any]) -> None:
    """Raise TaxonomyError for a text whose lists are too deep, or whose aliases stand for too many values."""
    import yaml

    # How many values each list that is open has so far, and its anchor; those of what was named.
    open_lists: list[tuple[str | None, int]] = [(None, 0)]
    named: dict[str, int] = {}
    followed = 0
    for number, event in enumerate(events):
        line = event.start_mark.line + 1
        if number > MOST_VALUES:
            raise TaxonomyError(f"{path}:{line}: more than {MOST_VALUES:,} values; write it as CSV or JSON")
        if isinstance(event, yaml.CollectionStartEvent):
            open_lists.append((event.anchor, 1))
            if len(open_lists) > 2 * MAX_DEPTH:
                raise TaxonomyError(f"{path}:{line}: nested too deeply; a taxonomy has at most {MAX_DEPTH} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, count = open_lists.pop()
        elif isinstance(event, yaml.NodeEvent):
            anchor, count = event.anchor, 1
            if isinstance(event, yaml.AliasEvent):
                # One within what it names has no end, which its depth shows later.
                count = named.get(str(event.anchor), 1)
                followed += count
        else:
            continue
        if anchor is not None:
            named[anchor] = count
        outer, so_far = open_lists[-1]
        open_lists[-1] = outer, so_far + count
        if followed > MOST_FOLLOWED:
            raise TaxonomyError(f"{path}:{line}: aliases stand for more than {MOST_FOLLOWED:,} values; write them out")


def _list_tags(
    tree: Any, lines: Iterator[int], path: Path, parent_id: str = "", line: int = 1, depth: int = 1
) -> Iterator[Row]:
    """Give the tags of a tree, each before its children; `lines` has the lines of their objects in the same order."""
    if tree is None:
        return
    if not isinstance(tree, list):
        raise TaxonomyError(f"{path}:{line}: found {_kind(tree)}, expected a list of tags; write [{{name, children}}]")
    if depth > MAX_DEPTH:
        raise TaxonomyError(f"{path}:{line}: more than {MAX_DEPTH} levels; a taxonomy has at most that many")
    for fields in tree:
        if not isinstance(fields, dict):
            raise TaxonomyError(f"{path}:{line}: found {_kind(fields)}, expected a tag; write {{name: …}}")
        at = next(lines)
        unknown = [key for key in fields if key not in KEYS]
        if unknown:
            raise TaxonomyError(f"{path}:{at}: unknown key {unknown[0]!r}; a tag has {', '.join(KEYS)}")
        name = _scalar(fields.get("name"), path, at)
        tag_id = _scalar(fields.get("id"), path, at) or (f"{parent_id}/{name}" if parent_id else name)
        aliases, keywords = (_words(fields.get(key), path, at) for key in ("aliases", "keywords"))
        description = _scalar(fields.get("description"), path, at)
        yield Row(at, tag_id, parent_id, name, aliases, keywords, description=description)
        yield from _list_tags(fields.get("children"), lines, path, tag_id, at, depth + 1)


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
    return {list: "a list", dict: "a mapping", bool: "true or false"}.get(type(value), "text")
