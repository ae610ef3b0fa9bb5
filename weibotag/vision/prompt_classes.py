"""A branch of a taxonomy as the classes of an open-vocabulary detector: what to ask it for, and what to call it."""

import re
from difflib import get_close_matches

from weibotag.core.errors import RequestError
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.vision.object_names import english_name

# An alias with capitals is an abbreviation or a brand: Apple would find fruit.
ENGLISH_ALIAS = re.compile(r"[a-z][a-z' -]+")
ENGLISH_NAME = re.compile(r"[A-Z]?[a-z][A-Za-z' -]+")


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
        prompt = find_prompt(tag)
        if prompt is not None:
            classes.setdefault(prompt, tag.name)
    if not classes:
        raise RequestError(
            f"classes {branch!r}: none of its {len(inside)} tags has an English word: give them one as an alias"
        )
    return list(classes.items())


def find_prompt(tag: Tag) -> str | None:
    """Return the English word for a tag: of its name or an alias, else its first alias in small letters, else its name."""
    known = [english_name(word) for word in (tag.name, *tag.aliases)]
    written = [alias for alias in tag.aliases if ENGLISH_ALIAS.fullmatch(alias)]
    named = tag.name.replace("-", " ").lower() if ENGLISH_NAME.fullmatch(tag.name) else None
    return next(filter(None, (*known, *written, named)), None)
