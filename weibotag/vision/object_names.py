"""Everyday Chinese words for what detectors call things, and the way back: what to ask a detector for, what to call it."""

import csv
import re
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


def chinese_name(label: str) -> str | None:
    """Return the everyday Chinese word for a detector's label, or None; a label in Chinese is its own name."""
    if CHINESE.search(label):
        return label
    to_chinese, _ = read_names()
    plain = " ".join(label.lower().replace("_", " ").split())
    parts = (plain, *(part.strip() for part in plain.split("/")))
    return next((to_chinese[part] for part in parts if part in to_chinese), None)


def english_name(word: str) -> str | None:
    """Return what an English-trained detector may be asked for to find what the Chinese word names, or None."""
    return read_names()[1].get(word.lower())


@cache
def read_names() -> tuple[dict[str, str], dict[str, str]]:
    """Return {english: chinese} and {chinese in lower case: english} of the file.

    A row names one thing: of its Chinese words (a/b) the first is its name, and all of them lead back to the first of its
    English ones (a|b).
    """
    to_chinese: dict[str, str] = {}
    to_english: dict[str, str] = {}
    with NAMES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            english, chinese = row["english"].split("|"), row["chinese"].split("/")
            to_chinese |= dict.fromkeys(english, chinese[0])
            for word in chinese:
                to_english.setdefault(word.lower(), english[0])
    return to_chinese, to_english


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
