"""Which tags are given by a thing that is seen: its own where the tree means that thing, else those of its kind."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from weibotag.core.text_matching import fold
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.object_names import Thing, find_thing, read_things

PLURAL = re.compile("(?<=[a-z]{3})(?<!s)s$")


@lru_cache(maxsize=65536)
def thing_key(word: str) -> str:
    """Return what a word is looked up by: Granny-Smith and granny smith, carrots and carrot are one."""
    return PLURAL.sub("", fold(word).replace("-", " ").strip())


@dataclass(frozen=True)
class ThingTags:
    """Things that give tags: their `names`, `tags` (numbers, with what each was found by), and `places`, by `thing_key`."""

    names: list[str]
    tags: list[dict[int, str]]
    places: dict[str, int]

    def tags_of(self, word: str) -> dict[int, str]:
        """Return the tags that a thing of this name gives."""
        place = self.places.get(thing_key(word))
        return {} if place is None else self.tags[place]


def match_things(taxonomy: Taxonomy) -> ThingTags:
    """Return which things give tags of a tree.

    The kinds of a thing that tags bear as a name or an alias say where it belongs. Tags there that are called like it are
    its own (`name`, else `alias`); those called so elsewhere are companies, games and works. Without any it gives the tags
    that are its narrowest kind (`kind`). A kind is a thing of itself and of all wider kinds. What the table of things does
    not have is a `name` or nothing.
    """
    tree = _Tree(taxonomy)
    found = ThingTags([], [], {})
    known: set[str] = set()
    things, _ = read_things()
    for thing in things:
        keys = {thing_key(word) for word in (*thing.english, *thing.chinese)} - known
        known |= keys
        _add(found, thing.chinese[0], tree.match(thing), keys)
    for thing in things:
        for place, kind in enumerate(thing.means):
            if thing_key(kind) not in known:
                known.add(thing_key(kind))
                _add(found, kind, tree.match(Thing((), (kind,), thing.means[place:])), {thing_key(kind)})
    for key, tags in tree.names.items():
        if key not in known:
            _add(found, taxonomy.tags[min(tags)].name, dict.fromkeys(sorted(tags), "name"), {key})
    return found


def _add(found: ThingTags, name: str, tags: dict[int, str], keys: set[str]) -> None:
    if tags and keys:
        found.places.update(dict.fromkeys(keys, len(found.tags)))
        found.names.append(name)
        found.tags.append(tags)


class _Tree:
    """A taxonomy's tags by their names and aliases, as `thing_key` has them, and by the kinds of things that they are."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self.names = _index([tag.name] for tag in taxonomy.tags)
        self.aliases = _index(tag.aliases for tag in taxonomy.tags)
        self._kinds: dict[str, set[int]] = {}

    def match(self, thing: Thing) -> dict[int, str]:
        """Return the tags of a thing, each with what it was found by."""
        kinds = [self._kind(word) for word in thing.means]
        above = set().union(*kinds)
        words = (*thing.english, *thing.chinese)
        choices = {
            "name": self._inside(_union(self.names, words), above),
            "alias": self._inside(_union(self.aliases, words), above) if above else set(),
            "kind": self._highest(next(filter(None, kinds), set())),
        }
        return next((dict.fromkeys(sorted(tags), by) for by, tags in choices.items() if tags), {})

    def _highest(self, tags: set[int]) -> set[int]:
        """Return the tags nearest to the root: 美食 and not 旅游/美食."""
        least = min((int(self.taxonomy.depth[tag]) for tag in tags), default=0)
        return {tag for tag in tags if self.taxonomy.depth[tag] == least}

    def _kind(self, word: str) -> set[int]:
        """Return the tags that bear the word, or its English, as a name or an alias; of a thing those in its kinds."""
        if word not in self._kinds:
            thing = find_thing(word)
            tags = self._called((word, *(thing.english if thing else ())))
            # A kind that is a thing may have namesakes, unless it is its own kind.
            wider = self._called(thing.means) if thing and word not in thing.means else set()
            self._kinds[word] = self._inside(tags, wider)
        return self._kinds[word]

    def _called(self, words: Iterable[str]) -> set[int]:
        words = tuple(words)
        return _union(self.names, words) | _union(self.aliases, words)

    def _inside(self, tags: set[int], roots: set[int]) -> set[int]:
        """Return those of some tags that are, or lie below, one of `roots`; all where there are none."""
        return {tag for tag in tags if not roots or not roots.isdisjoint((tag, *self.taxonomy.ancestors(tag)))}


def _index(words: Iterable[Iterable[str]]) -> dict[str, set[int]]:
    index: dict[str, set[int]] = {}
    for number, own in enumerate(words):
        for word in own:
            index.setdefault(thing_key(word), set()).add(number)
    index.pop("", None)
    return index


def _union(index: dict[str, set[int]], words: Iterable[str]) -> set[int]:
    return set().union(*(index.get(thing_key(word), ()) for word in words))
