"""Accepted proposals carried out on a taxonomy: where each tag goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from weibotag.core.errors import RequestError
from weibotag.curation.tags.proposals import Proposal
from weibotag.taxonomy.check import find_errors
from weibotag.taxonomy.reader import Row
from weibotag.taxonomy.tree import Tag, Taxonomy


@dataclass(frozen=True)
class Relabelling:
    """What happens to tags of posts: `target` from each old id to its new one, `splits` (tag, post) to the id of a new tag,
    `posts` from post ids to what they lose and gain, old ids."""

    target: Mapping[str, str]
    splits: Mapping[tuple[str, str], str]
    posts: Mapping[str, Sequence[Proposal]]

    def change_structure(self, tags: Sequence[str]) -> list[str]:
        """Return tags after mergers alone."""
        return list(dict.fromkeys(self.target.get(tag, tag) for tag in tags))

    def change(self, post_id: str, tags: Sequence[str]) -> list[str]:
        """Return the tags of a post after all changes."""
        removed = {tag for one in self.posts.get(post_id, ()) for tag in one.removed}
        added = [tag for one in self.posts.get(post_id, ()) for tag in one.added]
        left = [self.splits.get((tag, post_id), tag) for tag in tags if tag not in removed]
        return self.change_structure([*left, *added])


def restructure(
    taxonomy: Taxonomy, proposals: Sequence[Proposal], names: Mapping[str, str]
) -> tuple[Taxonomy, dict[str, str]]:
    """Return the taxonomy after mergers, aliases, moves and splits, and the new id of each old one.

    A tag that is merged leaves its aliases, keywords and children to the other, as an alias its name too. `names` are the
    ids of the tags that splits add. Raises RequestError with the line of a proposal that can't be carried out.
    """
    goes: dict[str, Proposal] = {}
    moves: dict[str, Proposal] = {}
    for one in proposals:
        if one.action == "relabel":
            continue
        for tag_id in (one.tag, one.other):
            if tag_id and tag_id not in taxonomy.index:
                raise RequestError(f"{one.place}: the taxonomy has no tag {tag_id}; correct it, or refuse the line")
        if one.action in ("merge", "alias"):
            if one.tag in goes and goes[one.tag].other != one.other:
                raise RequestError(f"{one.place}: {one.tag} is merged into {goes[one.tag].other} too; accept one of them")
            goes[one.tag] = one
        elif one.action == "move":
            moves[one.tag] = one
    target = {tag_id: _follow(tag_id, goes) for tag_id in taxonomy.ids}
    tags: dict[str, Tag] = {}
    for tag in taxonomy.tags:
        if tag.id in goes:
            continue
        parent = moves[tag.id].other if tag.id in moves else tag.parent_id
        parent = target[parent] if parent else None
        if parent == tag.id:
            # What was merged into its own child leaves its place to it.
            own = taxonomy.index[tag.id]
            above = [target[taxonomy.ids[number]] for number in taxonomy.ancestors(own)]
            parent = next((tag_id for tag_id in above if tag_id != tag.id), None)
        tags[tag.id] = replace(tag, parent_id=parent)
    for one in goes.values():
        old, kept = taxonomy.tags[taxonomy.index[one.tag]], tags[target[one.tag]]
        gained = ((old.name,) if one.action == "alias" else ()) + old.aliases
        aliases = tuple(dict.fromkeys(word for word in kept.aliases + gained if word != kept.name))
        tags[kept.id] = replace(kept, aliases=aliases, keywords=tuple(dict.fromkeys(kept.keywords + old.keywords)))
    for one in proposals:
        if one.action == "split":
            kept = tags[target[one.tag]]
            tags[names[one.tag]] = Tag(names[one.tag], kept.parent_id, one.added[0], (), (), 0)
    rows = [Row(at, tag.id, tag.parent_id or "", tag.name, (), ()) for at, tag in enumerate(tags.values(), 2)]
    errors = find_errors(rows)
    if errors:
        raise RequestError(f"the accepted proposals make no tree: {errors[0].message}; refuse one of them")
    return Taxonomy(tags.values()), target


def _follow(tag_id: str, goes: Mapping[str, Proposal]) -> str:
    way = [tag_id]
    while way[-1] in goes:
        other = goes[way[-1]].other
        if other in way:
            raise RequestError(
                f"{goes[way[-1]].place}: tags are merged in a circle: {' > '.join([*way, other])}; refuse one"
            )
        way.append(other)
    return way[-1]
