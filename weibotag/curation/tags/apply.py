"""Accepted proposals to a new taxonomy and relabelled posts, and what a quickly trained tagger makes of both."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.curation.tags.labelled_posts import is_read
from weibotag.curation.tags.proposals import ACTIONS, PROPOSALS, SPLITS, Proposal, read_proposals
from weibotag.curation.tags.restructure import Relabelling, _place, restructure
from weibotag.curation.tags.tag_similarity import can_learn, vectorise
from weibotag.features.hashed_ngrams import READ
from weibotag.posts.encodings import STDIN, find_kind
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource, input_bytes, refuse_outputs, resolve_files
from weibotag.posts.table_files import lay_out
from weibotag.posts.writer import write_tables
from weibotag.scoring import thresholds
from weibotag.scoring.tagger import collect_highest, raise_parents
from weibotag.taggers.linear import train_linear
from weibotag.taxonomy.tree import Taxonomy, save_csv
from weibotag.training.dataset import blake, gold_matrix

LIST = pa.list_(pa.string())
# Of five parts of the posts, by a hash of the id, one is judged and one chooses the threshold.
PARTS, JUDGED, CHOOSING = 5, 0, 1
TRAINING_SECONDS = 120.0
# Bytes of memory: of the libraries, and of a byte of the posts' files, whose texts are kept for the judgement.
MEMORY, INPUT_BYTES = 500_000_000, 6


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
