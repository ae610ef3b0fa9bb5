"""Accepted proposals to a new taxonomy and relabelled posts, and what a quickly trained tagger makes of both."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from weibotag.core.arrays import rows_of
from weibotag.core.errors import RequestError
from weibotag.core.schema import STRINGS, arrow_schema
from weibotag.curation.tags.labelled_posts import can_learn, draw_folds, list_read
from weibotag.curation.tags.proposals import ACTIONS, PROPOSALS, SPLITS, Proposal, Relabelling, read_proposals, restructure
from weibotag.features.hashed_ngrams import vectorise
from weibotag.posts.encodings import STDIN, find_kind
from weibotag.posts.layout import lay_out
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource, resolve_files
from weibotag.posts.writer import write_posts
from weibotag.scoring.closure import collect_highest, raise_parents
from weibotag.scoring.decision import Decision
from weibotag.taggers.linear import train_linear
from weibotag.taxonomy.tree import Taxonomy, save_csv
from weibotag.training.dataset import gold_matrix

# Of five parts of the posts, by a hash of the id, one is judged and one chooses the thresholds.
PARTS, JUDGED, CHOOSING = 5, 0, 1
TRAINING_SECONDS = 120.0


class Judgement(TypedDict):
    """Numbers of posts and tags that were judged, and the micro-F1 on them before and after."""

    posts: int
    tags: int
    before: float
    after: float


class ApplySummary(TypedDict):
    """What was done: accepted proposals by action, tags before and after, posts and rows, and what it brought."""

    accepted: dict[str, int]
    tags: dict[str, int]
    posts: int
    posts_changed: int
    rejects: int
    micro_f1: Judgement | None
    out: str


def apply(folder: Path, source: PostsSource, taxonomy: Taxonomy, out: Path, accept: str | None) -> ApplySummary:
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
    new, changes = plan_changes(folder, taxonomy, accepted)
    out.mkdir(parents=True, exist_ok=True)
    place = out / f"posts.{_choose_format(source)}"
    read: list[pa.Table] = []
    with Rejects(out / "rejects.csv") as rejects:
        tables = _relabel(source, changes, out, rejects, read)
        first = next(tables)
        write_posts(chain([first], tables), place, first.schema)
    if not rejects.count:
        (out / "rejects.csv").unlink()
    save_csv(new, out / "taxonomy.csv")
    posts = pa.concat_tables(read, promote_options="default")
    pairs = zip(posts["old"].to_pylist(), posts["new"].to_pylist(), strict=True)
    actions = Counter(one.action for one in accepted)
    return ApplySummary(
        accepted={action: actions[action] for action in ACTIONS},
        tags={"before": len(taxonomy), "after": len(new)},
        posts=len(posts),
        posts_changed=sum((before or None) != after for before, after in pairs),
        rejects=rejects.count,
        micro_f1=judge(posts, taxonomy, new, changes),
        out=str(place),
    )


def plan_changes(folder: Path, taxonomy: Taxonomy, accepted: Sequence[Proposal]) -> tuple[Taxonomy, Relabelling]:
    """Return the new taxonomy and what becomes of the tags of posts; raises RequestError for what can't be carried out."""
    names = {one.tag: _new_id(f"{one.tag}（2）", taxonomy) for one in accepted if one.action == "split"}
    new, target = restructure(taxonomy, accepted, names)
    by_post: dict[str, list[Proposal]] = defaultdict(list)
    for one in accepted:
        if one.action == "relabel":
            strange = [tag for tag in (*one.removed, *one.added) if tag not in taxonomy.index]
            if strange:
                raise RequestError(f"{one.place}: the taxonomy has no tag {strange[0]}; correct it, or refuse the line")
            by_post[one.post_id].append(one)
    splits = {}
    if names:
        try:
            rows = pq.read_table(folder.absolute() / SPLITS).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise RequestError(f"{folder / SPLITS}: can't be read, and a split needs it; make the audit again") from error
        splits = {(row["tag"], row["post_id"]): names[row["tag"]] for row in rows if row["tag"] in names}
    return new, Relabelling({**target, **{tag: tag for tag in names.values()}}, splits, by_post)


def _new_id(tag_id: str, taxonomy: Taxonomy) -> str:
    while tag_id in taxonomy.index:
        tag_id += "'"
    return tag_id


def _choose_format(source: PostsSource) -> str:
    """Return the ending that the posts' files share, else parquet."""
    kinds = {find_kind(path) for path in resolve_files(source.path) if path != STDIN}
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind if kind in ("csv", "jsonl") else "parquet"


def _relabel(
    source: PostsSource, changes: Relabelling, out: Path, rejects: Rejects, read: list[pa.Table]
) -> Iterator[pa.Table]:
    """Give the posts with their new tags; what is needed to judge them goes to `read`, with old and new tags."""
    dropped = ["folder"]
    if source.path != str(STDIN):
        layouts = [layout for path in resolve_files(source.path) for layout in lay_out(path, source, alone=False)]
        taken = {name for layout in layouts for name in layout.taken}
        dropped = [name for name in arrow_schema("posts").names if name not in taken | {"tags"}]
    for table in read_posts(source, rejects):
        ids, old = table["post_id"].to_pylist(), table["tags"].to_pylist()
        new = [(tags and changes.change(post_id, tags)) or None for post_id, tags in zip(ids, old, strict=True)]
        known = table.select(["post_id", *list_read(table)])
        read.append(known.append_column("old", table["tags"]).append_column("new", pa.array(new, STRINGS)))
        for name in ("images", "videos"):
            table = _set(table, name, _see_from(table[name].to_pylist(), table["folder"].to_pylist(), out))
        yield _set(table, "tags", new).drop(dropped)


def _set(table: pa.Table, name: str, cells: list[list[str] | None]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(cells, STRINGS))


def _see_from(lists: list[list[str] | None], folders: list[str], out: Path) -> list[list[str] | None]:
    def see(path: str, folder: str) -> str:
        return path if os.path.isabs(path) or "://" in path else os.path.relpath(os.path.join(folder, path), out)

    return [paths and [see(path, folder) for path in paths] for paths, folder in zip(lists, folders, strict=True)]


def judge(posts: pa.Table, old: Taxonomy, new: Taxonomy, changes: Relabelling) -> Judgement | None:
    """Return the micro-F1 of linear taggers trained on the labels before and after, judged alike; None for too few posts.

    `posts` have what taggers read and the columns `old` and `new` with tags. Both taggers are judged on a fifth of the posts
    (by a hash of the id), which neither was trained on, by the labels they were given, with merged tags counted as one and
    split ones as not split: no relabelling of a post helps to judge it.
    """
    posts = posts.filter(pa.array([bool(tags) for tags in posts["old"].to_pylist()])).combine_chunks()
    part = draw_folds(posts["post_id"].to_pylist(), PARTS)
    split_from = {new_id: tag for (tag, _), new_id in changes.splits.items()}
    whole = {tag: changes.target[split_from.get(tag, tag)] for tag in new.ids}
    common = Taxonomy(tag for tag in new.tags if whole[tag.id] == tag.id)
    gold = _gold([changes.change_structure(tags) for tags in posts["old"].to_pylist()], common)
    sides = part > CHOOSING, part == CHOOSING, part == JUDGED
    if not can_learn(vectorise(posts).matrix) or not all(gold[side].nnz for side in sides):
        return None
    before = _measure_f1(posts, posts["old"].to_pylist(), old, part, changes.target, gold, common)
    after = _measure_f1(posts, posts["new"].to_pylist(), new, part, whole, gold, common)
    return Judgement(posts=int(sides[2].sum()), tags=len(common), before=before, after=after)


def _measure_f1(
    posts: pa.Table,
    labels: Sequence[Sequence[str] | None],
    taxonomy: Taxonomy,
    part: np.ndarray,
    place: Mapping[str, str],
    gold: csr_matrix,
    common: Taxonomy,
) -> float:
    """Return the micro-F1, by `gold` in the tags of `common`, of a tagger trained on labels, whose tags go by `place`."""
    own = _gold(labels, taxonomy)
    taught = (part > CHOOSING) & (np.diff(own.indptr) > 0)
    tagger = train_linear([posts.filter(pa.array(taught))], own[taught], taxonomy, TRAINING_SECONDS)
    numbers = np.array([common.index[place[tag_id]] for tag_id in taxonomy.ids])
    scores = place_scores(tagger.raw_scores(posts), numbers, common)
    decision = Decision.fit(scores[part == CHOOSING], gold[part == CHOOSING], common)
    return decision.judge(scores[part == JUDGED], gold[part == JUDGED])["micro_f1"]


def _gold(tags: Sequence[Sequence[str] | None], taxonomy: Taxonomy) -> csr_matrix:
    return gold_matrix([pa.table({"tags": pa.array(tags, STRINGS)})], taxonomy)


def place_scores(scores: csr_matrix, numbers: np.ndarray, taxonomy: Taxonomy) -> csr_matrix:
    """Return scores under other numbers of tags: of several that become one the highest."""
    shape = (scores.shape[0], len(taxonomy))
    moved = collect_highest(rows_of(scores.indptr), numbers[scores.indices], scores.data, shape)
    return raise_parents(moved, taxonomy)
