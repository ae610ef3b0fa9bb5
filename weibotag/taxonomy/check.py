"""What is wrong or odd about a taxonomy file, line by line."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ahocorasick_rs import MatchKind

from weibotag.core.text_matching import build_automaton, fold
from weibotag.taxonomy.reader import Row, read_rows

# A word under more tags than this tells none of them from the others.
MAX_OWNERS = 3
# Blanks at an end, two blanks, other blanks than the plain one, control and zero-width characters, full-width letters.
ODD = re.compile("(?m)^ | $|  |[^\\S\n ]|[\x00-\x09\x0b-\x1f\x7f\u200b-\u200f\ufeff\uff10-\uff5a]")
SURROGATE = re.compile("[\ud800-\udfff]")
LEVELS = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """Something about a line of a taxonomy file that its author should know; `level` is one of `LEVELS`."""

    level: str
    line: int
    tag_id: str
    kind: str
    message: str
    fix: str


def _report(level: str, row: Row, kind: str, message: str, fix: str) -> Diagnostic:
    return Diagnostic(level, row.line, row.id, kind, message, fix)


def check(path: Path) -> list[Diagnostic]:
    """Return what is to be said of a taxonomy file, by line; errors keep it from loading or from telling tags apart.

    Raises TaxonomyError when the file can't be read as CSV, JSON or YAML at all.
    """
    rows = read_rows(path)
    named = [row for row in rows if row.id.strip() and row.name.strip()]
    found = [
        *find_errors(rows),
        *_check_siblings(named),
        *_check_levels(rows, named),
        *_check_writing(rows),
        *_check_words(named),
        *_check_contained_names(named),
    ]
    if not rows:
        found.append(Diagnostic("error", 1, "", "empty", "no tags in this file", "add lines below the header"))
    return sorted(found, key=lambda one: (one.line, LEVELS.index(one.level)))


def _fold(word: str) -> str:
    return fold(word).strip()


def _check_siblings(named: list[Row]) -> Iterator[Diagnostic]:
    """Tags of one name: an error below one parent (nobody could tell them apart), else a note."""
    seen: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in named:
        same = seen[_fold(row.name)]
        parent_id = row.parent_id.strip()
        if parent_id in same:
            place = f"of {parent_id}" if parent_id else "of the first level"
            message = f"{row.name} is also the name {place} on line {same[parent_id].line}"
            yield _report("error", row, "duplicate name", message, "merge the two, or rename one")
            continue
        if same:
            other = next(iter(same.values()))
            message = f"{row.name} is also the name of {other.id} on line {other.line}"
            yield _report(
                "note", row, "same name elsewhere", message, "fine where both are meant; give each its own keywords"
            )
        same[parent_id] = row


def _check_levels(rows: list[Row], named: list[Row]) -> Iterator[Diagnostic]:
    """Levels that say nothing: a tag whose only child is all it holds, a channel with nothing below."""
    children: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        children[row.parent_id.strip()].append(row)
    for row in named:
        below = children.get(row.id.strip(), [])
        if len(below) == 1:
            message = f"its only child is {below[0].id} (line {below[0].line})"
            yield _report("warning", row, "single child", message, "merge the two, or add the missing children")
        elif not below and not row.parent_id.strip() and len(children) > 1:
            message = "a tag of the first level without children, where others have some"
            yield _report("note", row, "empty channel", message, "add children, or move it below another")


def _check_writing(rows: list[Row]) -> Iterator[Diagnostic]:
    """Blanks around or doubled inside words, full-width letters and digits, invisible characters; ids with a `;`."""
    for row in rows:
        if ";" in row.id or "；" in row.id:
            message = "posts join tag ids by ;, so no id may hold one"
            yield _report("error", row, "id with ;", message, "write another character")
        words = (row.name, *row.aliases, *row.keywords, row.description, row.id, row.parent_id)
        # All but a few lines are plain; one search over the whole line keeps a big file fast.
        if ODD.search("\n".join(words)):
            oddity = next(((word, found) for word in words if (found := _find_oddity(word))), None)
            if oddity:
                word, (kind, fix) = oddity
                yield _report("warning", row, kind, f"{word!r}: {kind}", fix)


def _find_oddity(word: str) -> tuple[str, str] | None:
    if word != word.strip():
        return "blank around a word", "delete the blank"
    if "  " in word or "\u3000" in word:
        return "wide or double blank", "write one half-width blank"
    if not word.isprintable():
        return "invisible character", "type the word anew"
    if any("\uff10" <= char <= "\uff5a" and char.isalnum() for char in word):
        return "full-width letters or digits", f"write {unicodedata.normalize('NFKC', word)}"
    return None


def _check_words(named: list[Row]) -> Iterator[Diagnostic]:
    """Words of one character, aliases that are another tag's name, and words under more than `MAX_OWNERS` tags."""
    names: dict[str, Row] = {}
    for row in named:
        names.setdefault(_fold(row.name), row)
    owners: dict[str, list[Row]] = defaultdict(list)
    for row in named:
        for kind, words in (("name", (row.name,)), ("alias", row.aliases), ("keyword", row.keywords)):
            for word in words:
                if len(word.strip()) == 1:
                    message = f"the {kind} {word.strip()} stands inside many other words and fires everywhere"
                    yield _report("warning", row, "one character", message, "write a longer word")
        own = _fold(row.name)
        for alias in row.aliases:
            other = names.get(_fold(alias), row)
            if _fold(alias) == own:
                yield _report("note", row, "alias is name", f"the alias {alias} is the tag's own name", "delete the alias")
            elif other.id != row.id:
                message = f"the alias {alias} is the name of {other.id} (line {other.line})"
                yield _report("warning", row, "alias is another name", message, "keep it at one of them")
        for folded in {_fold(word) for word in (*row.aliases, *row.keywords)} - {""}:
            owners[folded].append(row)
    for word, under in owners.items():
        if len(under) > MAX_OWNERS:
            listed = ", ".join(row.id for row in under[:MAX_OWNERS])
            message = f"{word} stands under {len(under)} tags ({listed} …) and tells none of them apart"
            fix = f"keep it at {MAX_OWNERS} at most, or at their common parent"
            yield _report("warning", under[0], "shared word", message, fix)


def _check_contained_names(named: list[Row]) -> Iterator[Diagnostic]:
    """Names inside other names: a post that says the longer one is never counted for the shorter."""
    first: dict[str, Row] = {}
    for row in named:
        if len(_fold(row.name)) > 1:
            first.setdefault(_fold(row.name), row)
    names = list(first)
    automaton = build_automaton(names, MatchKind.Standard)
    for name, row in first.items():
        matches = automaton.find_matches_as_indexes(name.encode("utf-8", "surrogatepass"), overlapping=True)
        inside = sorted({names[number - 1] for number, _, _ in matches} - {name})
        # A child that repeats its parent's name (体育/体育新闻) is ordinary.
        strangers = [first[short] for short in inside if first[short].id.strip() != row.parent_id.strip()]
        if strangers:
            listed = ", ".join(f"{other.id} (line {other.line})" for other in strangers[:MAX_OWNERS])
            message = f"{row.name} holds the name of {listed}: a post that says {row.name} counts for this tag alone"
            fix = "fine where they differ; else make one the parent of the other"
            yield _report("note", row, "name in a name", message, fix)


def find_errors(rows: list[Row]) -> list[Diagnostic]:
    """Return, by line, what keeps rows from being a tree: empty or duplicate ids, empty names, unknown parents, cycles."""
    found: list[Diagnostic] = []

    def add(row: Row, kind: str, message: str, fix: str) -> None:
        found.append(Diagnostic("error", row.line, row.id.strip(), kind, message, fix))

    first: dict[str, Row] = {}
    for row in rows:
        tag_id = row.id.strip()
        if row.surplus:
            add(row, "too many cells", f"cells beyond the header: {','.join(row.surplus)}", "quote cells that hold a comma")
        if not tag_id:
            add(row, "empty id", "a tag without an id", "give it one, such as 美妆/口红")
        elif first.setdefault(tag_id, row) is not row:
            add(row, "duplicate id", f"{tag_id} is also on line {first[tag_id].line}", "rename or delete one of them")
        if not row.name.strip():
            add(row, "empty name", f"{tag_id or 'a tag'} has no name", "give it one")
        if SURROGATE.search("\n".join((tag_id, row.parent_id, row.name, row.description, *row.aliases, *row.keywords))):
            add(row, "half a character", "a lone surrogate, which is no character", "type the word anew")
    parent_of = {tag_id: row.parent_id.strip() for tag_id, row in first.items()}
    for tag_id, parent_id in parent_of.items():
        if parent_id and parent_id not in first:
            fix = f"add a line for {parent_id}, or correct parent_id"
            add(first[tag_id], "unknown parent", f"parent_id {parent_id} of {tag_id} is no tag of this file", fix)
    for circle in _find_cycles(parent_of):
        way = " > ".join([*circle, circle[0]])
        add(first[circle[0]], "cycle", f"tags are their own ancestors: {way}", "empty parent_id of the topmost")
    return sorted(found, key=lambda diagnostic: diagnostic.line)


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
            circle = list(way)[list(way).index(here) :]
            top = circle.index(min(circle, key=order.__getitem__))
            circles.append(circle[top:] + circle[:top])
        done.update(way)
    return circles
