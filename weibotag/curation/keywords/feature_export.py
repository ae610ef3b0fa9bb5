"""Features for factorisation machines: tagged posts as sparse rows, by a dictionary in which a feature keeps its number."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core import schema
from weibotag.core.arrays import list_parts
from weibotag.core.errors import LockedError, RequestError
from weibotag.core.files import atomic, write_parquet
from weibotag.core.text_matching import fold
from weibotag.posts.keyword_files import read_listing
from weibotag.posts.tags_file import read_table
from weibotag.taxonomy.tree import Taxonomy

FORMATS = (".libsvm", ".libffm", ".vw", ".parquet")
COLUMNS = schema.arrow_schema("dictionary")
DIGEST = b"weibotag.sha256"
# A sign between kind and name; no text of Arrow's readers has it.
SEAM = "\0"
LOCK_SECONDS = 600.0
# Bytes of memory: of a part of posts with its features, and of a byte of the dictionary's file.
MEMORY, DICTIONARY_BYTES = 400_000_000, 30
# What ends a name, a namespace or a line in one of the formats, and the sign that such are written with.
SPECIAL = re.compile(r"[%:|\s\x00-\x1f\x7f]")

# A table of tags to what its keywords are known as, one after the other: names of clusters, or null.
Clusters = Callable[[pa.Table], pa.Array]


class Dictionary:
    """Features by number, from 1; new ones are added at the end, and none ever changes or goes.

    A feature is a kind (tag, keyword, cluster, code, route) and a name; `fields` has its field for field-aware machines as
    it was first seen: its kind, and of tags also the level. Fields are numbered in the order of their first feature.
    """

    def __init__(self, kinds: list[str], fields: list[str], names: list[str]) -> None:
        self.kinds, self.fields, self.names = kinds, fields, names
        pairs = zip(kinds, names, strict=True)
        self.numbers = {kind + SEAM + name: number for number, (kind, name) in enumerate(pairs, start=1)}
        self.field_numbers = {field: number for number, field in enumerate(dict.fromkeys(fields), start=1)}

    def __len__(self) -> int:
        return len(self.names)

    def number(self, keys: list[str], taxonomy: Taxonomy | None) -> np.ndarray:
        """Return the numbers (int64) of keys `kind SEAM name`, adding those that are new in their order."""
        for key in keys:
            if key not in self.numbers:
                kind, _, name = key.partition(SEAM)
                field = f"tag{find_level(name, taxonomy)}" if kind == "tag" else kind
                self.kinds.append(kind)
                self.fields.append(field)
                self.names.append(name)
                self.numbers[key] = len(self.names)
                self.field_numbers.setdefault(field, len(self.field_numbers) + 1)
        return np.fromiter(map(self.numbers.__getitem__, keys), np.int64, len(keys))

    @property
    def table(self) -> pa.Table:
        """The features as schema "dictionary"."""
        numbers = np.arange(1, len(self) + 1)
        return pa.table([pa.array(numbers), self.kinds, self.fields, self.names], schema=COLUMNS)


def find_level(tag: str, taxonomy: Taxonomy | None) -> int:
    """Return the level of a tag, from 1: in the taxonomy, or, for a tag that is in none, by the slashes in its id."""
    number = None if taxonomy is None else taxonomy.index.get(tag)
    return tag.count("/") + 1 if taxonomy is None or number is None else int(taxonomy.depth[number])


@contextmanager
def open_dictionary(path: Path) -> Iterator[Dictionary]:
    """Give the dictionary of a file, a new one where there is none, and save it when the block ends without an error.

    Nobody else can open it meanwhile; who tries waits. A file beside it remembers how many features it has had, so that
    one that was lost or put back from an older copy is noticed. Raises RequestError for such a one and for one that is
    damaged, LockedError when another holds it for ten minutes.
    """
    from filelock import FileLock, Timeout

    if not path.parent.is_dir():
        raise RequestError(f"{path}: there is no folder {path.parent}; make it first")
    remembered = path.with_name(f".{path.name}.size")
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(f"{path}: another export has held this dictionary for {LOCK_SECONDS:.0f} s; try later") from error
    with ExitStack() as held:
        held.callback(lock.release)
        dictionary = _read_dictionary(path) if path.exists() else Dictionary([], [], [])
        size = int(remembered.read_text()) if remembered.exists() else 0
        known = len(dictionary)
        if known < size:
            raise RequestError(
                f"{path}: has {known:,} features and has had {size:,}; put the whole one back, or give a new name and "
                "train anew"
            )
        yield dictionary
        if len(dictionary) > known or not path.exists():
            table = dictionary.table
            write_parquet(table.replace_schema_metadata({DIGEST: _digest(table)}), path)
        if len(dictionary) > size:
            with atomic(remembered, "w") as file:
                file.write(str(len(dictionary)))


def _read_dictionary(path: Path) -> Dictionary:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        said = str(error).strip().splitlines()[0]
        raise RequestError(f"{path}: not a feature dictionary that can be read ({said}); put a copy back") from error
    if table.schema.remove_metadata() != COLUMNS or (table.schema.metadata or {}).get(DIGEST) != _digest(table):
        raise RequestError(
            f"{path}: not as `weibotag keywords export` wrote it: features were changed or taken out; put a copy back"
        )
    return Dictionary(*(table[name].to_pylist() for name in ("kind", "field", "name")))


def _digest(table: pa.Table) -> bytes:
    hashed = hashlib.sha256()
    for row in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        hashed.update(repr(row).encode())
    return hashed.hexdigest().encode()


@dataclass(frozen=True)
class Dataset:
    """Features of posts, ordered by post, then number: `posts`, `numbers`, `fields` int64 and `values` float32."""

    posts: np.ndarray
    numbers: np.ndarray
    fields: np.ndarray
    values: np.ndarray

    def lists(self, cells: pa.Array, posts: int) -> pa.ListArray:
        """Return a list of the cells of each of so many posts."""
        return pa.ListArray.from_arrays(pa.array(np.searchsorted(self.posts, np.arange(posts + 1)), pa.int32()), cells)


def collect_rows(
    table: pa.Table, dictionary: Dictionary, taxonomy: Taxonomy | None, clusters: Clusters | None, codes: pa.Table | None
) -> Dataset:
    """Return the features of a table of tags: each tag, keyword or cluster, code and the route, with its score as value.

    Codes and routes have 1. Of a feature that a post has twice the higher value counts; those without a score above 0
    are left out.
    """
    posts, keys, values = [], [], []
    for kind, at, names, scores in _list_features(table, clusters, codes):
        posts.append(at)
        keys.append(pc.binary_join_element_wise(kind, names, SEAM))
        values.append(scores)
    at, key, value = np.concatenate(posts), pa.concat_arrays(keys), np.concatenate(values)
    kept = np.flatnonzero(key.is_valid().to_numpy(zero_copy_only=False) & (value > 0) & np.isfinite(value))
    kept = kept[np.argsort(at[kept], kind="stable")]
    coded = key.take(pa.array(kept)).dictionary_encode()
    numbers = dictionary.number(coded.dictionary.to_pylist(), taxonomy)[coded.indices.to_numpy()]
    at, value = at[kept], value[kept]
    order = np.lexsort((-value, numbers, at))
    at, numbers, value = at[order], numbers[order], value[order]
    first = (np.diff(at, prepend=-1) != 0) | (np.diff(numbers, prepend=-1) != 0)
    at, numbers, value = at[first], numbers[first], value[first]
    found, places = np.unique(numbers, return_inverse=True)
    fields = np.array([dictionary.field_numbers[dictionary.fields[number - 1]] for number in found.tolist()], np.int64)
    return Dataset(at, numbers, fields[places], value.astype(np.float32))


def _list_features(
    table: pa.Table, clusters: Clusters | None, codes: pa.Table | None
) -> Iterator[tuple[str, np.ndarray, pa.Array, np.ndarray]]:
    """Give kind, posts, names (null: none) and values of the features of each kind."""
    for kind, column, name in (("tag", "tags", "id"), ("keyword", "keywords", "keyword")):
        at, items = _flatten(table[column])
        names = items.field(name)
        if kind == "keyword" and clusters is not None:
            kind, names = "cluster", clusters(table)
        yield kind, at, names, items.field("score").to_numpy(zero_copy_only=False).astype(np.float64)
    if codes is not None:
        known = pc.index_in(table["post_id"].combine_chunks(), codes["post_id"].combine_chunks())
        at, names = _flatten(codes["codes"].take(known))
        yield "code", at, names, np.ones(len(at))
    yield "route", np.arange(len(table)), table["route"].combine_chunks(), np.ones(len(table))


def _flatten(cells: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return the row of each item of a list column, and the items."""
    lists = cells.combine_chunks()
    # Below a null there may be values that are none of it.
    lists = lists.fill_null([]) if lists.null_count else lists
    offsets, items = list_parts(lists)
    return np.repeat(np.arange(len(lists)), np.diff(offsets)), items


def foresee_export(tagged: Path, dictionary: Path) -> str:
    """Return in one line what an export will take, by the size of its dictionary."""
    known = dictionary.stat().st_size if dictionary.is_file() else 0
    return f"{tagged}: read in parts, up to {(MEMORY + DICTIONARY_BYTES * known) / 1e9:.1f} GB of memory"


def export_features(
    tagged: Path,
    out: Path,
    path: Path,
    *,
    taxonomy: Taxonomy | None = None,
    clusters: Clusters | None = None,
    codes: pa.Table | None = None,
    label: str | None = None,
) -> dict[str, int | str]:
    """Write the features of tagged posts to `out`, in the format of its suffix and the order of the posts.

    `path` is the dictionary, `taxonomy` says on which level a tag is, `clusters` which cluster stands for each keyword of a
    table (null: none), `codes` (post_id, codes) what `weibotag codes apply` wrote, `label` a column of numbers. Of a kill
    only the old OUT or the whole new one is seen, and never one with a number that the dictionary lacks. Raises
    RequestError for what can't be used.
    """
    if out.suffix.lower() not in FORMATS:
        raise RequestError(f"{out}: unknown format; expected a name that ends in {', '.join(FORMATS)}")
    if not out.parent.is_dir():
        raise RequestError(f"{out}: there is no folder {out.parent}; make it first")
    if out.resolve() in (tagged.resolve(), path.resolve()):
        raise RequestError(f"{out}: is also read; choose another name for the output")
    posts = features = 0
    with ExitStack() as whole:
        write = _open_writer(out, whole, label)
        with open_dictionary(path) as dictionary:
            known = len(dictionary)
            for table in read_table(tagged):
                rows = collect_rows(table, dictionary, taxonomy, clusters, codes)
                write(table["post_id"], rows, None if label is None else _read_labels(tagged, table, label), dictionary)
                posts, features = posts + len(table), features + len(rows.posts)
    summary: dict[str, int | str] = {"posts": posts, "values": features, "features": len(dictionary)}
    return {**summary, "new": len(dictionary) - known, "out": str(out), "dictionary": str(path)}


def _read_labels(path: Path, table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        others = ", ".join(column for column in table.column_names if column not in schema.arrow_schema("tags").names)
        raise RequestError(f"{path} has no column {name}; found {others or 'none but those of tags'}")
    cells = table[name].combine_chunks()
    try:
        labels = (cells.cast(pa.int8()) if pa.types.is_boolean(cells.type) else cells).cast(pa.float64())
    except pa.ArrowException as error:
        said = str(error).splitlines()[0]
        raise RequestError(f"{path}: column {name} has no label in numbers ({said}); expected one for each post") from error
    wrong = np.flatnonzero(~np.isfinite(labels.to_numpy(zero_copy_only=False)))
    if len(wrong):
        post = table["post_id"][int(wrong[0])].as_py()
        raise RequestError(f"{path}: post {post} has no number as {name}; expected one for each post, leave it out")
    return labels


Writer = Callable[[pa.ChunkedArray, Dataset, pa.Array | None, Dictionary], None]


def _open_writer(out: Path, whole: ExitStack, label: str | None) -> Writer:
    """Return what writes the features of posts to `out`, which is whole when `whole` ends without an error."""
    form = out.suffix.lower()
    if form == ".parquet":
        names = schema.arrow_schema("features")
        names = names if label is not None else names.remove(names.get_field_index("label"))
        parquet = whole.enter_context(pq.ParquetWriter(whole.enter_context(atomic(out)), names, compression="zstd"))
        return lambda ids, rows, labels, _: parquet.write_table(_tabulate(ids, rows, labels, names))
    file = whole.enter_context(atomic(out, "w"))
    if form == ".vw":
        return lambda ids, rows, labels, dictionary: _write_wabbit(file, ids, rows, labels, dictionary)
    beside = whole.enter_context(atomic(out.with_name(out.name + ".ids"), "w"))

    def write(ids: pa.ChunkedArray, rows: Dataset, labels: pa.Array | None, _: Dictionary) -> None:
        beside.writelines(escape(name) + "\n" for name in ids.to_pylist())
        places = [pa.array(column).cast(pa.string()) for column in (rows.fields, rows.numbers, rows.values)]
        items = pc.binary_join_element_wise(*(places if form == ".libffm" else places[1:]), ":")
        heads = pa.repeat("0", len(ids)) if labels is None else labels.cast(pa.string())
        texts = pc.binary_join(rows.lists(items, len(ids)), " ")
        file.writelines(
            f"{head} {text}".rstrip() + "\n" for head, text in zip(heads.to_pylist(), texts.to_pylist(), strict=True)
        )

    return write


def _tabulate(ids: pa.ChunkedArray, rows: Dataset, labels: pa.Array | None, names: pa.Schema) -> pa.Table:
    columns = {"post_id": ids, "label": labels}
    for name, cells in (("features", rows.numbers), ("fields", rows.fields), ("values", rows.values)):
        columns[name] = rows.lists(pa.array(cells), len(ids))
    return pa.table([columns[name].cast(names.field(name).type) for name in names.names], schema=names)


def _write_wabbit(
    file: IO[str], ids: pa.ChunkedArray, rows: Dataset, labels: pa.Array | None, dictionary: Dictionary
) -> None:
    """Write lines `label 'post_id|field name:value … |field …`, names as they are but for `escape`."""
    order = np.lexsort((rows.numbers, rows.fields, rows.posts))
    at, fields, numbers = rows.posts[order], rows.fields[order], rows.numbers[order]
    found, places = np.unique(numbers, return_inverse=True)
    names = pa.array([escape(dictionary.names[number - 1]) for number in found.tolist()], pa.string())
    texts = pc.binary_join_element_wise(names.take(pa.array(places)), pa.array(rows.values[order]).cast(pa.string()), ":")
    starts = (np.diff(at, prepend=-1) != 0) | (np.diff(fields, prepend=-1) != 0)
    namespaces = pa.array([f"|{field} " for field in dictionary.field_numbers], pa.string())
    heads = pc.if_else(pa.array(starts), namespaces.take(pa.array(fields - 1)), "")
    lines = pc.binary_join(rows.lists(pc.binary_join_element_wise(heads, texts, ""), len(ids)), " ").to_pylist()
    targets = [""] * len(ids) if labels is None else [f"{label} " for label in labels.cast(pa.string()).to_pylist()]
    for target, post_id, line in zip(targets, ids.to_pylist(), lines, strict=True):
        file.write(f"{target}'{escape(post_id)}{line or '|'}\n")


def open_clusters(path: Path) -> Clusters:
    """Return what names the clusters of keywords by a file of schema "clusters": channel/cluster, or the cluster alone.

    The channel is the post's column `channel`, else the best of its tags that is one. A keyword that this channel has in
    no cluster, or of a post without a channel, is taken for that of the channel in which most posts mention it.
    """
    table = read_listing(path, "clusters", ("channel", "keyword", "cluster"))
    known: dict[tuple[str | None, str], str] = {}
    for row in table.sort_by([("posts", "descending"), ("channel", "ascending")]).to_pylist():
        if row["cluster"]:
            word, channel = fold(row["keyword"]).strip(), row["channel"] or ""
            name = f"{channel}/{row['cluster']}" if channel else row["cluster"]
            known[channel, word] = name
            known.setdefault((None, word), name)
    channels = pa.array(sorted({channel for channel, _ in known if channel}), pa.string())

    def name_clusters(tagged: pa.Table) -> pa.Array:
        at, items = _flatten(tagged["keywords"])
        here = _find_channels(tagged, channels).take(pa.array(at))
        pairs = pc.binary_join_element_wise(pc.fill_null(here, ""), items.field("keyword"), SEAM).dictionary_encode()
        names = []
        for pair in pairs.dictionary.to_pylist():
            channel, _, word = pair.partition(SEAM)
            word = fold(word).strip()
            names.append(known.get((channel, word), known.get((None, word))))
        return pa.array(names, pa.string()).take(pairs.indices)

    return name_clusters


def _find_channels(tagged: pa.Table, channels: pa.Array) -> pa.Array:
    """Return the channel of each post, or null."""
    if "channel" in tagged.column_names:
        return tagged["channel"].combine_chunks().cast(pa.string())
    at, items = _flatten(tagged["tags"])
    places = np.flatnonzero(pc.is_in(items.field("id"), channels).to_numpy(zero_copy_only=False))
    posts, first = np.unique(at[places], return_index=True)
    best = np.full(len(tagged), -1)
    best[posts] = places[first]
    return items.field("id").take(pa.array(best, mask=best < 0))


def read_codes(path: Path) -> pa.Table:
    """Return a file of schema "codes"; raises RequestError for any other."""
    try:
        return schema.cast(pq.read_table(path, columns=["post_id", "codes"]), "codes")
    except (pa.ArrowException, OSError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        raise RequestError(f"{path}: no codes ({said}); expected what `weibotag codes apply` wrote") from error


def escape(name: str) -> str:
    """Return a name with what the formats part by (blanks, line breaks, `:`, `|`), and `%`, as %20, %3A …"""
    return SPECIAL.sub(lambda match: quote(match[0], safe=""), name)
