"""Accepted proposals to a new taxonomy and relabelled posts, and what a quickly trained tagger makes of both."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from weibotag.errors import RequestError
from weibotag.export import write_tables
from weibotag.posts import PostsSource, Rejects, input_bytes, read_posts, refuse_outputs, resolve_files
from weibotag.rows import lay_out
from weibotag.schema import arrow_schema
from weibotag.taggers import thresholds
from weibotag.taggers.linear import READ, train_linear
from weibotag.taggers.tagger import collect_highest, raise_parents
from weibotag.taxonomy.labelled import is_read
from weibotag.taxonomy.likeness import can_learn, vectorise
from weibotag.taxonomy.proposals import ACTIONS, PROPOSALS, SPLITS, Proposal, read_proposals
from weibotag.taxonomy.rows import Row, find_errors
from weibotag.taxonomy.tree import Tag, Taxonomy, save_csv
from weibotag.textfiles import STDIN, find_kind
from weibotag.training import blake, gold_matrix

LIST = pa.list_(pa.string())
# Of five parts of the posts, by a hash of the id, one is judged and one chooses the threshold.
PARTS, JUDGED, CHOOSING = 5, 0, 1
TRAINING_SECONDS = 120.0
# Bytes of memory: of the libraries, and of a byte of the posts' files, whose texts are kept for the judgement.
MEMORY, INPUT_BYTES = 500_000_000, 6


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
                raise RequestError(f"{_place(one)}: the taxonomy has no tag {tag_id}; correct it, or refuse the line")
        if one.action in ("merge", "alias"):
            if one.tag in goes and goes[one.tag].other != one.other:
                raise RequestError(f"{_place(one)}: {one.tag} is merged into {goes[one.tag].other} too; accept one of them")
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
                f"{_place(goes[way[-1]])}: tags are merged in a circle: {' > '.join([*way, other])}; refuse one"
            )
        way.append(other)
    return way[-1]


def _place(proposal: Proposal) -> str:
    return f"{PROPOSALS}, line {proposal.line}"


def foresee_applying(source: PostsSource) -> str:
    """Return in one line what applying takes, by the size of the posts' files."""
    memory = MEMORY + INPUT_BYTES * input_bytes(source)
    return (
        f"{source.path}: relabelled in parts; to judge that, a linear tagger is trained twice, "
        f"{TRAINING_SECONDS:.0f} s each at most; up to {memory / 1e9:.1f} GB of memory"
    )


def apply(folder: Path, source: PostsSource, taxonomy: Taxonomy, out: Path, accept: str | None) -> dict[str, Any]:
    """Write taxonomy.csv and the relabelled posts to the folder `out`, and return what was done and what it brought.

    `folder` holds an audit; what is accepted is as for `read_proposals`. Posts are written as they came (Parquet for several
    kinds, or stdin), all columns kept, relative paths of pictures written as seen from `out`. Raises RequestError
    when nothing is accepted or a proposal can't be carried out.
    """
    accepted = read_proposals(folder / PROPOSALS, accept)
    if not accepted:
        raise RequestError(
            f"{folder / PROPOSALS}: nothing is accepted; write yes into its column accept, or give --accept recommended"
        )
    refuse_outputs(source, out)
    names = {one.tag: _new_id(f"{one.tag}（2）", taxonomy) for one in accepted if one.action == "split"}
    new, target = restructure(taxonomy, accepted, names)
    by_post: dict[str, list[Proposal]] = defaultdict(list)
    for one in accepted:
        if one.action == "relabel":
            strange = [tag for tag in (*one.removed, *one.added) if tag not in taxonomy.index]
            if strange:
                raise RequestError(f"{_place(one)}: the taxonomy has no tag {strange[0]}; correct it, or refuse the line")
            by_post[one.post_id].append(one)
    splits = {}
    if names:
        for row in _read_splits(folder / SPLITS):
            if row["tag"] in names:
                splits[row["tag"], row["post_id"]] = names[row["tag"]]
    changes = Relabelling({**target, **{tag: tag for tag in names.values()}}, splits, by_post)
    out.mkdir(parents=True, exist_ok=True)
    place = out / f"posts.{_choose_format(source)}"
    read: list[pa.Table] = []
    counts: Counter[str] = Counter()
    with Rejects(out / "rejects.csv") as rejects:
        tables = _relabel(source, changes, out, rejects, read, counts)
        first = next(tables, None)
        if first is None:
            raise RequestError(f"{source.path}: no post can be used; {out / 'rejects.csv'} says why")
        write_tables(chain([first], tables), place, first.schema)
    if not rejects.count:
        (out / "rejects.csv").unlink()
    save_csv(new, out / "taxonomy.csv")
    judged = judge(read, taxonomy, new, changes)
    actions = Counter(one.action for one in accepted)
    return {
        "accepted": {action: actions[action] for action in ACTIONS},
        "tags": {"before": len(taxonomy), "after": len(new)},
        "posts": sum(map(len, read)),
        "posts_changed": counts["changed"],
        "rejects": rejects.count,
        "micro_f1": judged,
        "out": str(place),
    }


def _new_id(tag_id: str, taxonomy: Taxonomy) -> str:
    while tag_id in taxonomy.index:
        tag_id += "'"
    return tag_id


def _read_splits(path: Path) -> list[dict[str, str]]:
    try:
        return pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"{path}: can't be read, and a split needs it; make the audit again") from error


def _choose_format(source: PostsSource) -> str:
    """Return the ending that the posts' files share, else parquet."""
    kinds = {find_kind(path) for path in resolve_files(source.path) if path != STDIN}
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind if kind in ("csv", "jsonl") else "parquet"


def _relabel(
    source: PostsSource, changes: Relabelling, out: Path, rejects: Rejects, read: list[pa.Table], counts: Counter[str]
) -> Iterator[pa.Table]:
    """Give the posts with their new tags; what is needed to judge them goes to `read`, with both kinds of tags."""
    dropped = {"folder"}
    if source.path != str(STDIN):
        layouts = [lay_out(path, source.columns, alone=False) for path in resolve_files(source.path)]
        taken = {name for layout in layouts if layout for name in layout.taken}
        dropped = {name for name in arrow_schema("posts").names if name not in taken | {"tags"}}
    for table in read_posts(source, rejects):
        ids, old = table["post_id"].to_pylist(), table["tags"].to_pylist()
        new = [(tags and changes.change(post_id, tags)) or None for post_id, tags in zip(ids, old, strict=True)]
        counts["changed"] += sum((before or None) != after for before, after in zip(old, new, strict=True))
        known = [name for name in READ if is_read(table, name)]
        read.append(
            table.select(["post_id", *known]).append_column("old", table["tags"]).append_column("new", pa.array(new, LIST))
        )
        for name in ("images", "videos"):
            table = _set(table, name, _see_from(table[name].to_pylist(), table["folder"].to_pylist(), out))
        yield _set(table, "tags", new).drop(sorted(dropped))


def _set(table: pa.Table, name: str, cells: list[list[str] | None]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(cells, LIST))


def _see_from(lists: list[list[str] | None], folders: list[str], out: Path) -> list[list[str] | None]:
    def see(path: str, folder: str) -> str:
        return path if os.path.isabs(path) or "://" in path else os.path.relpath(os.path.join(folder, path), out)

    return [paths and [see(path, folder) for path in paths] for paths, folder in zip(lists, folders, strict=True)]


def judge(read: Sequence[pa.Table], old: Taxonomy, new: Taxonomy, changes: Relabelling) -> dict[str, Any] | None:
    """Return the micro-F1 of linear taggers trained on the labels before and after, judged alike; None for too few posts.

    Both are judged on a fifth of the posts (by a hash of the id), which neither was trained on, by the labels they were
    given, with merged tags counted as one and split ones as not split: no relabelling of a post helps to judge it.
    """
    posts = pa.concat_tables(read, promote_options="default")
    posts = posts.filter(pa.array([bool(tags) for tags in posts["old"].to_pylist()])).combine_chunks()
    part = np.array([int(blake(post_id), 16) % PARTS for post_id in posts["post_id"].to_pylist()])
    trained, choosing, judged = (pa.array(mask) for mask in (part > CHOOSING, part == CHOOSING, part == JUDGED))
    whole = {**{tag: tag for tag in new.ids}, **{new_id: tag for (tag, _), new_id in changes.splits.items()}}
    whole = {tag: changes.target.get(top, top) for tag, top in whole.items()}
    common = Taxonomy(tag for tag in new.tags if whole[tag.id] == tag.id)
    structural = [changes.change_structure(tags) for tags in posts["old"].to_pylist()]
    gold = _gold(structural, common)
    if not can_learn(vectorise(posts)) or not all(gold[np.asarray(mask)].nnz for mask in (trained, choosing, judged)):
        return None
    figures: dict[str, Any] = {"posts": int(np.asarray(judged).sum()), "tags": len(common)}
    for name, taxonomy, labels, place in (
        ("before", old, posts["old"].to_pylist(), changes.target),
        ("after", new, posts["new"].to_pylist(), whole),
    ):
        own = _gold(labels, taxonomy)
        taught = np.asarray(trained) & (np.diff(own.indptr) > 0)
        tagger = train_linear([posts.filter(pa.array(taught))], own[taught], taxonomy, TRAINING_SECONDS)
        numbers = np.array([common.index[place[tag_id]] for tag_id in taxonomy.ids])
        chosen, scored = (place_scores(tagger.scores(posts.filter(mask)), numbers, common) for mask in (choosing, judged))
        cut = thresholds.best_shared(chosen, gold[np.asarray(choosing)], common)
        decided = thresholds.decide(scored, np.full(len(common), cut), common)
        figures[name] = round(thresholds.micro_f1(decided, gold[np.asarray(judged)]), 4)
    return figures


def _gold(tags: Sequence[Sequence[str] | None], taxonomy: Taxonomy) -> csr_matrix:
    return gold_matrix([pa.table({"tags": pa.array(tags, LIST)})], taxonomy)


def place_scores(scores: csr_matrix, numbers: np.ndarray, taxonomy: Taxonomy) -> csr_matrix:
    """Return scores under other numbers of tags: of several that become one the highest."""
    rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    moved = collect_highest(rows, numbers[scores.indices], scores.data, (scores.shape[0], len(taxonomy)))
    return raise_parents(moved, taxonomy)
