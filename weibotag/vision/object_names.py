"""What can be seen: names in Chinese and English, the kinds it belongs to, and what to ask a detector for."""

import csv
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from weibotag.core.errors import RequestError
from weibotag.taxonomy.tree import Tag, Taxonomy

NAMES = Path(__file__).with_name("object_names.csv")
CHINESE = re.compile("[\u3400-\u9fff]")
# An alias with capitals is an abbreviation or a brand: Apple would find fruit.
ENGLISH_ALIAS = re.compile(r"[a-z][a-z' -]+")
ENGLISH_NAME = re.compile(r"[A-Z]?[a-z][A-Za-z' -]+")


@dataclass(frozen=True)
class Thing:
    """What can be seen: what detectors and people call it, its name first; `means`: its kinds, from narrow to wide."""

    english: tuple[str, ...]
    chinese: tuple[str, ...]
    means: tuple[str, ...]


@cache
def read_things() -> tuple[tuple[Thing, ...], tuple[Thing, ...]]:
    """Return all things of the file, and those that are classes of ImageNet by the number of the class.

    A row names one thing; each of its cells is a list of words joined by `;`.
    """
    things: list[Thing] = []
    classes: dict[int, Thing] = {}
    with NAMES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            *names, numbers = (tuple(filter(None, cell.split(";"))) for cell in row.values())
            things.append(Thing(*names))
            classes |= dict.fromkeys(map(int, numbers), things[-1])
    return tuple(things), tuple(classes[number] for number in range(len(classes)))


@cache
def _find_things() -> dict[str, Thing]:
    """Return things by each of their words in small letters; the first row that has a word is called so."""
    return {word.lower(): thing for thing in reversed(read_things()[0]) for word in (*thing.english, *thing.chinese)}


def find_thing(word: str) -> Thing | None:
    """Return what a word of one of the two languages names, or None."""
    return _find_things().get(word.lower())


def chinese_name(label: str) -> str | None:
    """Return the everyday Chinese word for a detector's label, or None; a label in Chinese is its own name."""
    if CHINESE.search(label):
        return label
    plain = " ".join(label.replace("_", " ").split())
    found = filter(None, map(find_thing, (plain, *(part.strip() for part in plain.split("/")))))
    return next((thing.chinese[0] for thing in found), None)


def english_name(word: str) -> str | None:
    """Return what an English-trained detector may be asked for to find what the Chinese word names, or None."""
    thing = find_thing(word)
    return thing.english[0] if thing and word.lower() in map(str.lower, thing.chinese) else None


def list_classes(taxonomy: Taxonomy, branch: str) -> list[tuple[str, str]]:
    """Return (prompt, label) for the tags named `branch`, or of that id, and all below them, each prompt once.

    The label is the tag's name; the prompt is what an English-trained detector reads. A tag without one is left out.
    Raises RequestError for a branch that the taxonomy does not have, and for one that gives no class.
    """
    roots = {number for number, tag in enumerate(taxonomy.tags) if branch in (tag.id, tag.name)}
    if not roots:
        known = {name for tag in taxonomy.tags for name in (tag.name, tag.id)}
        near = get_close_matches(branch, sorted(known), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "weibotag taxonomy show lists its tags"
        raise RequestError(f"classes {branch!r}: the taxonomy has no such tag; {hint}")
    inside = [tag for number, tag in enumerate(taxonomy.tags) if roots & {number, *taxonomy.ancestors(number)}]
    classes: dict[str, str] = {}
    for tag in inside:
        if prompt := find_prompt(tag):
            classes.setdefault(prompt, tag.name)
    if not classes:
        raise RequestError(f"classes {branch!r}: none of its {len(inside)} tags has an English word: give one an alias")
    return list(classes.items())


def find_prompt(tag: Tag) -> str | None:
    """Return the English word for a tag: of its name or an alias, else its first alias in small letters, else its name."""
    known = [english_name(word) for word in (tag.name, *tag.aliases)]
    written = [alias for alias in tag.aliases if ENGLISH_ALIAS.fullmatch(alias)]
    named = tag.name.replace("-", " ").lower() if ENGLISH_NAME.fullmatch(tag.name) else None
    return next(filter(None, (*known, *written, named)), None)
