"""What an audit finds and proposes, as files that people fill in and send back, and what they accept carried out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.posts.encodings import read_sound_records
from weibotag.posts.writer import write_tables
from weibotag.taxonomy.check import find_errors
from weibotag.taxonomy.reader import Row, join_list, split_list
from weibotag.taxonomy.tree import Tag, Taxonomy

FINDINGS, PROPOSALS, SPLITS, ABOUT = "findings.csv", "proposals.csv", "splits.parquet", "audit.json"
FINDING, PROPOSAL = arrow_schema("findings"), arrow_schema("proposals")
ACTIONS = ("merge", "alias", "move", "split", "relabel")
YES = frozenset({"y", "yes", "1", "true", "x", "是", "对", "√"})
NO = frozenset({"", "n", "no", "0", "false", "否", "不", "×"})
# Less sure mergers and relabellings are not proposed.
LEAST_SURE = 0.2
# What `--accept recommended` takes: a wrong relabelling costs one label, a wrong merger a tag.
RECOMMENDED = dict.fromkeys(ACTIONS, 0.9) | {"relabel": 0.5}
AT_LEAST = re.compile(r">=\s*(0?\.\d+|0|1(?:\.0*)?|0\.)")


@dataclass(frozen=True)
class Proposal:
    """A change that can be accepted; columns as in schema "proposals", `removed` and `added` being from and to."""

    action: str
    tag: str
    other: str = ""
    post_id: str = ""
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    confidence: float = 0.0
    reason: str = ""
    evidence: tuple[str, ...] = ()
    line: int = 0

    @property
    def place(self) -> str:
        """Return where it stands, for an error."""
        return f"{PROPOSALS}, line {self.line}"


@dataclass(frozen=True)
class Finding:
    """Something about tags or labels that their owner should know; columns as in schema "findings"."""

    kind: str
    tag: str
    other: str | None
    strength: float
    posts: int
    other_posts: int | None
    together: int | None
    reason: str
    evidence: tuple[str, ...] = ()

    def propose(self, action: str, confidence: float, added: tuple[str, ...] = ()) -> Proposal:
        """Return the change that this finding suggests."""
        other = self.other or ""
        return Proposal(action, self.tag, other, "", (), added, confidence, self.reason, self.evidence)


Found = Finding | Proposal


def write_findings(findings: Iterable[Finding], path: Path) -> None:
    """Write findings, the strongest of each kind first."""
    ordered = sorted(findings, key=lambda finding: (finding.kind, -finding.strength, finding.tag))
    write_tables([pa.Table.from_pylist(list(map(asdict, ordered)), FINDING)], path, FINDING)


def write_proposals(proposals: Iterable[Proposal], path: Path) -> None:
    """Write proposals with an empty column `accept`, tags before posts, the surest first."""
    ordered = sorted(proposals, key=lambda one: (ACTIONS.index(one.action), -one.confidence, one.tag, one.post_id))
    rows = [asdict(one) | {"accept": "", "from": join_list(one.removed), "to": join_list(one.added)} for one in ordered]
    write_tables([pa.Table.from_pylist(rows, PROPOSAL)], path, PROPOSAL)


def read_proposals(path: Path, accept: str | None) -> list[Proposal]:
    """Return the accepted proposals of a reviewed file: those with yes, and those without an answer that `accept` takes.

    `accept` is all, recommended, or actions and a least confidence joined by commas: merge,alias,>=0.9. Without it an empty
    cell means no; no is no in any case. Raises RequestError with the line of what can't be understood.
    """
    least = _parse_accept(accept)
    if not path.is_file():
        raise RequestError(f"{path}: no such file; expected the folder that `weibotag taxonomy audit` wrote")
    names, records = read_sound_records(path, "csv", "mend this line")
    missing = [name for name in PROPOSAL.names if name not in (*names, "reason", "evidence")]
    if missing:
        raise RequestError(f"{path} has no column {', '.join(missing)}; found {', '.join(names) or 'none'}")
    accepted = []
    for line, fields in records:
        row = {name: cell.strip() for name, cell in zip(names, fields, strict=True)}
        proposal = _parse(row, line, f"{path}, line {line}")
        answer = row["accept"].lower()
        if answer not in YES | NO:
            raise RequestError(f"{path}, line {line}: accept is {row['accept']!r}; expected yes, no or nothing")
        if answer in YES or (not answer and proposal.confidence >= least.get(proposal.action, float("inf"))):
            accepted.append(proposal)
    return accepted


def _parse(row: dict[str, str], line: int, where: str) -> Proposal:
    if row["action"] not in ACTIONS:
        raise RequestError(f"{where}: action is {row['action']!r}; expected one of {', '.join(ACTIONS)}")
    try:
        confidence = float(row["confidence"] or 0)
    except ValueError as error:
        raise RequestError(f"{where}: confidence is {row['confidence']!r}; expected a number from 0 to 1") from error
    needed = {"relabel": "post_id", "split": "to"}.get(row["action"], "other")
    if not row[needed] or (row["action"] != "relabel" and not row["tag"]):
        raise RequestError(f"{where}: {row['action']} needs {needed}{'' if needed == 'post_id' else ' and tag'}; fill it in")
    removed, added = (split_list(row[name]) for name in ("from", "to"))
    reason = row.get("reason", "")
    return Proposal(row["action"], row["tag"], row["other"], row["post_id"], removed, added, confidence, reason, line=line)


def _parse_accept(accept: str | None) -> dict[str, float]:
    """Return the least confidence of each action that is taken."""
    if accept is None:
        return {}
    if accept == "recommended":
        return RECOMMENDED
    words = [word.strip() for word in accept.split(",")]
    cuts = [float(match[1]) for word in words if (match := AT_LEAST.fullmatch(word))]
    actions = [word for word in words if not AT_LEAST.fullmatch(word) and word != "all"]
    unknown = [word for word in actions if word not in ACTIONS]
    if unknown or len(cuts) > 1:
        raise RequestError(
            f"--accept {accept!r}: expected all, recommended, or of {', '.join(ACTIONS)} and >=0.9 some, joined by commas"
        )
    return dict.fromkeys(actions or ACTIONS, cuts[0] if cuts else 0.0)


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
