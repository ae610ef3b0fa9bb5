"""What is wrong or odd about a taxonomy file, line by line."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ahocorasick_rs import MatchKind

from weibotag.core.text_matching import build_automaton, fold
from weibotag.taxonomy.reader import Finding, Row, find_errors, read_rows

# A word under more tags than this tells none of them from the others.
MAX_OWNERS = 3
# Blanks at an end, two blanks, other blanks than the plain one, control and zero-width characters, full-width letters.
ODD = re.compile("(?m)^ | $|  |[^\\S\n ]|[\x00-\x09\x0b-\x1f\x7f\u200b-\u200f\ufeff\uff10-\uff5a]")
LEVELS = ("error", "warning", "note")


def check(path: Path) -> list[Finding]:
    """Return the findings about a taxonomy file by line; errors keep it from loading or from telling tags apart.

    Raises TaxonomyError when the file can't be read as CSV, JSON or YAML at all.
    """
    rows = read_rows(path)
    findings = [
        *find_errors(rows),
        *_check_ids(rows),
        *_check_siblings(rows),
        *_check_levels(rows),
        *_check_writing(rows),
        *_check_short_words(rows),
        *_check_shared_words(rows),
        *_check_contained_names(rows),
    ]
    if not rows:
        findings.append(Finding("error", 1, "", "empty", "no tags in this file", "add lines below the header"))
    return sorted(findings, key=lambda finding: (finding.line, LEVELS.index(finding.level)))


def _fold(word: str) -> str:
    return fold(word).strip()


def _named(rows: list[Row]) -> Iterator[Row]:
    return (row for row in rows if row.id.strip() and row.name.strip())


def _check_ids(rows: list[Row]) -> Iterator[Finding]:
    for row in rows:
        if ";" in row.id or "；" in row.id:
            fix = "write another character"
            yield Finding("error", row.line, row.id, "id with ;", "posts join tag ids by ;, so no id may hold one", fix)


def _check_siblings(rows: list[Row]) -> Iterator[Finding]:
    """Tags of one name: an error below one parent (nobody could tell them apart), else a note."""
    seen: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in _named(rows):
        same = seen[_fold(row.name)]
        parent_id = row.parent_id.strip()
        if parent_id in same:
            place = f"of {parent_id}" if parent_id else "of the first level"
            message = f"{row.name} is also the name {place} on line {same[parent_id].line}"
            yield Finding("error", row.line, row.id, "duplicate name", message, "merge the two, or rename one")
            continue
        if same:
            other = next(iter(same.values()))
            message = f"{row.name} is also the name of {other.id} on line {other.line}"
            fix = "fine where both are meant; give each its own keywords"
            yield Finding("note", row.line, row.id, "same name elsewhere", message, fix)
        same[parent_id] = row


def _check_levels(rows: list[Row]) -> Iterator[Finding]:
    """Levels that say nothing: a tag whose only child is all it holds, a channel with nothing below."""
    children: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        children[row.parent_id.strip()].append(row)
    for row in _named(rows):
        below = children.get(row.id.strip(), [])
        if len(below) == 1:
            message = f"its only child is {below[0].id} (line {below[0].line})"
            fix = "merge the two, or add the missing children"
            yield Finding("warning", row.line, row.id, "single child", message, fix)
        elif not below and not row.parent_id.strip() and len(children) > 1:
            message = "a tag of the first level without children, where others have some"
            yield Finding("note", row.line, row.id, "empty channel", message, "add children, or move it below another")


def _check_writing(rows: list[Row]) -> Iterator[Finding]:
    """Blanks around or doubled inside words, full-width letters and digits, invisible characters, empty words."""
    for row in rows:
        words = (row.name, *row.aliases, *row.keywords, row.id, row.parent_id)
        # All but a few lines are plain; one search over the whole line keeps a big file fast.
        if not ODD.search("\n".join(words)):
            continue
        for word in words:
            problem = _find_oddity(word)
            if problem:
                kind, fix = problem
                yield Finding("warning", row.line, row.id, kind, f"{word!r}: {kind}", fix)
                break


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


def _check_short_words(rows: list[Row]) -> Iterator[Finding]:
    for row in _named(rows):
        for kind, words in (("name", (row.name,)), ("alias", row.aliases), ("keyword", row.keywords)):
            for word in words:
                if len(word.strip()) == 1:
                    message = f"the {kind} {word.strip()} stands inside many other words and fires everywhere"
                    yield Finding("warning", row.line, row.id, "one character", message, "write a longer word")


def _check_shared_words(rows: list[Row]) -> Iterator[Finding]:
    """Aliases that are another tag's name, and aliases or keywords under more than MAX_OWNERS tags."""
    names: dict[str, Row] = {}
    for row in _named(rows):
        names.setdefault(_fold(row.name), row)
    owners: dict[str, list[Row]] = defaultdict(list)
    for row in _named(rows):
        own = _fold(row.name)
        for alias in row.aliases:
            folded = _fold(alias)
            if folded == own:
                message = f"the alias {alias} is the tag's own name"
                yield Finding("note", row.line, row.id, "alias is name", message, "delete the alias")
            elif folded in names and names[folded].id != row.id:
                other = names[folded]
                message = f"the alias {alias} is the name of {other.id} (line {other.line})"
                yield Finding("warning", row.line, row.id, "alias is another name", message, "keep it at one of them")
        for folded in {_fold(word) for word in (*row.aliases, *row.keywords)} - {""}:
            owners[folded].append(row)
    for word, under in owners.items():
        if len(under) > MAX_OWNERS:
            listed = ", ".join(row.id for row in under[:MAX_OWNERS])
            message = f"{word} stands under {len(under)} tags ({listed} …) and tells none of them apart"
            fix = f"keep it at {MAX_OWNERS} at most, or at their common parent"
            yield Finding("warning", under[0].line, under[0].id, "shared word", message, fix)


def _check_contained_names(rows: list[Row]) -> Iterator[Finding]:
    """Names inside other names: a post that says the longer one is never counted for the shorter."""
    first: dict[str, Row] = {}
    for row in _named(rows):
        if len(_fold(row.name)) > 1:
            first.setdefault(_fold(row.name), row)
    names = list(first)
    automaton = build_automaton(names, MatchKind.Standard)
    for name, row in first.items():
        inside = {names[found - 1] for found, _, _ in automaton.find_matches_as_indexes(name.encode(), overlapping=True)} - {
            name
        }
        # A child that repeats its parent's name (体育/体育新闻) is ordinary.
        strangers = [first[short] for short in sorted(inside) if first[short].id.strip() != row.parent_id.strip()]
        if strangers:
            listed = ", ".join(f"{other.id} (line {other.line})" for other in strangers[:MAX_OWNERS])
            message = f"{row.name} holds the name of {listed}: a post that says {row.name} counts for this tag alone"
            fix = "fine where they differ; else make one the parent of the other"
            yield Finding("note", row.line, row.id, "name in a name", message, fix)
