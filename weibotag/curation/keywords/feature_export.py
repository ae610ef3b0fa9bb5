"""Features for factorisation machines: tagged posts as sparse rows, by a dictionary in which a feature keeps its number."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.errors import LockedError, RequestError
from weibotag.core.files import atomic, write_parquet
from weibotag.core.own_files import Origin, read_json
from weibotag.core.own_files import read_table as read_own
from weibotag.core.schema import arrow_schema, cast
from weibotag.core.text_matching import fold
from weibotag.posts.result_files import read_listing, read_table
from weibotag.taxonomy.tree import Taxonomy

FORMATS = (".libsvm", ".libffm", ".vw", ".parquet")
# What ends a name, a namespace or a line in one of the formats, and the sign that such are written with.
SPECIAL = re.compile(r"[%:|\s\x00-\x1f\x7f]")
# A table of tags to what its keywords are known as, one after the other: names of clusters, or null.
Clusters = Callable[[pa.Table], pa.Array]
COLUMNS = arrow_schema("dictionary")
DIGEST = b"weibotag.sha256"
# A sign between kind and name; no text of Arrow's readers has it.
# Not to be made again: its numbers are those of models that are in use.
ORIGIN = Origin("a feature dictionary as `weibotag keywords export` wrote it", "put a copy back")
SEAM = "\0"
LOCK_SECONDS = 600.0


class Dictionary:
    """Features by number, from 1; new ones are added at the end, and none ever changes or goes.

    `numbers` has that of each key: kind (tag, keyword, cluster, code, route), `SEAM`, name. `fields` are those of features
    for field-aware machines as first seen: the kind, of tags also the level; `field_numbers` numbers these in the order of
    their first feature.
    """

    def __init__(self, table: pa.Table) -> None:
        kinds, self.fields, self.names = (table[name].to_pylist() for name in ("kind", "field", "name"))
        keys = map(SEAM.join, zip(kinds, self.names, strict=True))
        self.numbers = {key: number for number, key in enumerate(keys, start=1)}
        self.field_numbers = {field: number for number, field in enumerate(dict.fromkeys(self.fields), start=1)}

    def __len__(self) -> int:
        return len(self.numbers)

    def number(self, keys: list[str], taxonomy: Taxonomy | None) -> np.ndarray:
        """Return the numbers (int64) of keys, adding those that are new in their order."""
        for key in keys:
            if key not in self.numbers:
                kind, _, name = key.partition(SEAM)
                field = f"tag{find_level(name, taxonomy)}" if kind == "tag" else kind
                self.numbers[key] = len(self.numbers) + 1
                self.names.append(name)
                self.fields.append(field)
                self.field_numbers.setdefault(field, len(self.field_numbers) + 1)
        return np.fromiter(map(self.numbers.__getitem__, keys), np.int64, len(keys))

    @property
    def table(self) -> pa.Table:
        """Return the features as schema "dictionary"."""
        kinds = [key.partition(SEAM)[0] for key in self.numbers]
        return pa.table([list(self.numbers.values()), kinds, self.fields, self.names], schema=COLUMNS)


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

    remembered = path.with_name(f".{path.name}.size")
    # Open to whoever may write to the folder.
    mode = path.parent.stat().st_mode & 0o666
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS, mode=mode)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(f"{path}: another export has held this dictionary for {LOCK_SECONDS:.0f} s; try later") from error
    try:
        dictionary = Dictionary(_read_whole(path) if path.exists() else COLUMNS.empty_table())
        size = read_json(remembered, int, ORIGIN) if remembered.exists() else 0
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
    finally:
        lock.release()


def _read_whole(path: Path) -> pa.Table:
    table = read_own(path, COLUMNS, ORIGIN)
    same = (table.schema.metadata or {}).get(DIGEST) == _digest(table)
    ORIGIN.need(path, same, "features were changed or taken out")
    numbers, kinds, names = (table[name].to_pylist() for name in ("number", "kind", "name"))
    whole = numbers == list(range(1, len(table) + 1)) and not any(column.null_count for column in table.columns)
    twice = len(set(zip(kinds, names, strict=True))) < len(names)
    ORIGIN.need(path, whole and not twice, "found features twice, or not numbered from 1")
    return table


def _digest(table: pa.Table) -> bytes:
    hashed = hashlib.sha256()
    for row in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        hashed.update(repr(row).encode())
    return hashed.hexdigest().encode()


@dataclass(frozen=True)
class FeatureRows:
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
) -> FeatureRows:
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
    return FeatureRows(at, numbers, fields[places], value.astype(np.float32))


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
    return rows_of(offsets), items


@dataclass(frozen=True)
class ExportSummary:
    """What was written: posts, their values, features that the dictionary has by now, the new ones of these; the files."""

    posts: int
    values: int
    features: int
    new: int
    out: str
    dictionary: str


def export_features(
    tagged: Path,
    out: Path,
    path: Path,
    *,
    taxonomy: Taxonomy | None = None,
    clusters: Clusters | None = None,
    codes: pa.Table | None = None,
    label: str | None = None,
) -> ExportSummary:
    """Write the features of tagged posts to `out`, in the format of its suffix and the order of the posts.

    `path` is the dictionary, `taxonomy` says on which level a tag is, `clusters` which cluster stands for each keyword of a
    table (null: none), `codes` (post_id, codes) what `weibotag codes apply` wrote, `label` a column of numbers: 0 and 1
    are -1 and 1 for Vowpal Wabbit, where there are no others. Of a kill
    only the old OUT or the whole new one is seen, and never one with a number that the dictionary lacks. Raises
    RequestError for what can't be used.
    """
    form = out.suffix.lower()
    if form not in FORMATS:
        raise RequestError(f"{out}: unknown format; expected a name that ends in {', '.join(FORMATS)}")
    posts = values = 0
    # Vowpal Wabbit's logistic loss wants -1 and 1.
    signed = form == ".vw" and label is not None and _are_binary(tagged, label)
    with ExitStack() as whole:
        # What is entered later is finished earlier: the dictionary is whole before the output is.
        write = _open_writer(out, whole, label)
        with open_dictionary(path) as dictionary:
            known = len(dictionary)
            for table in read_table(tagged):
                rows = collect_rows(table, dictionary, taxonomy, clusters, codes)
                labels = None if label is None else _read_labels(tagged, table, label)
                labels = pc.subtract(pc.multiply(labels, 2), 1) if signed else labels
                write(table["post_id"], rows, labels, dictionary)
                posts, values = posts + len(table), values + len(rows.posts)
    return ExportSummary(posts, values, len(dictionary), len(dictionary) - known, str(out), str(path))


def _are_binary(path: Path, name: str) -> bool:
    """Tell whether all labels are 0 or 1."""
    return all(set(pc.unique(_read_labels(path, table, name)).to_pylist()) <= {0.0, 1.0} for table in read_table(path))


def _read_labels(path: Path, table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        others = ", ".join(column for column in table.column_names if column not in arrow_schema("tags").names)
        raise RequestError(f"{path} has no column {name}; found {others or 'none but those of tags'}")
    cells = table[name].combine_chunks()
    try:
        labels = (cells.cast(pa.int8()) if pa.types.is_boolean(cells.type) else cells).cast(pa.float64())
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise RequestError(
            f"{path}: column {name} has no label in numbers ({reason}); expected one for each post"
        ) from error
    wrong = np.flatnonzero(~np.isfinite(labels.to_numpy(zero_copy_only=False)))
    if len(wrong):
        post = table["post_id"][int(wrong[0])].as_py()
        raise RequestError(f"{path}: post {post} has no number as {name}; expected one for each post, leave it out")
    return labels


Writer = Callable[[pa.ChunkedArray, FeatureRows, pa.Array | None, Dictionary], None]


def _open_writer(out: Path, whole: ExitStack, label: str | None) -> Writer:
    """Return what writes the features of posts to `out`, which is whole when `whole` ends without an error."""
    form = out.suffix.lower()
    if form == ".parquet":
        names = arrow_schema("features")
        names = names if label is not None else names.remove(names.get_field_index("label"))
        parquet = whole.enter_context(pq.ParquetWriter(whole.enter_context(atomic(out)), names, compression="zstd"))
        return lambda ids, rows, labels, _: parquet.write_table(_tabulate(ids, rows, labels, names))
    file = whole.enter_context(atomic(out, "w"))
    # Formats without a place for names have the posts' in a file beside them.
    beside = None if form == ".vw" else whole.enter_context(atomic(out.with_name(out.name + ".ids"), "w"))

    def write(ids: pa.ChunkedArray, rows: FeatureRows, labels: pa.Array | None, dictionary: Dictionary) -> None:
        names = [escape(name) for name in ids.to_pylist()]
        texts = _spell_names(rows, dictionary, len(ids)) if form == ".vw" else _spell_numbers(rows, form, len(ids))
        targets = [""] * len(ids) if labels is None else [f"{label} " for label in labels.cast(pa.string()).to_pylist()]
        lines = zip(targets, names, texts.to_pylist(), strict=True)
        if beside is None:
            file.writelines(f"{target}'{name}{text or '|'}\n" for target, name, text in lines)
        else:
            beside.writelines(name + "\n" for name in names)
            file.writelines(f"{target or '0 '}{text}".rstrip() + "\n" for target, _, text in lines)

    return write


def _tabulate(ids: pa.ChunkedArray, rows: FeatureRows, labels: pa.Array | None, names: pa.Schema) -> pa.Table:
    columns = {"post_id": ids, "label": labels}
    for name, cells in (("features", rows.numbers), ("fields", rows.fields), ("values", rows.values)):
        columns[name] = rows.lists(pa.array(cells), len(ids))
    return pa.table([columns[name].cast(names.field(name).type) for name in names.names], schema=names)


def _spell_numbers(rows: FeatureRows, form: str, posts: int) -> pa.Array:
    """Return `number:value …` of each post, for field-aware machines `field:number:value …`."""
    columns = (rows.fields, rows.numbers, rows.values)[0 if form == ".libffm" else 1 :]
    items = pc.binary_join_element_wise(*(pa.array(column).cast(pa.string()) for column in columns), ":")
    return pc.binary_join(rows.lists(items, posts), " ")


def _spell_names(rows: FeatureRows, dictionary: Dictionary, posts: int) -> pa.Array:
    """Return `|field name:value … |field …` of each post, names as they are but for `escape`."""
    order = np.lexsort((rows.numbers, rows.fields, rows.posts))
    at, fields = rows.posts[order], rows.fields[order]
    found, places = np.unique(rows.numbers[order], return_inverse=True)
    names = pa.array([escape(dictionary.names[number - 1]) for number in found.tolist()], pa.string()).take(pa.array(places))
    texts = pc.binary_join_element_wise(names, pa.array(rows.values[order]).cast(pa.string()), ":")
    starts = (np.diff(at, prepend=-1) != 0) | (np.diff(fields, prepend=-1) != 0)
    namespaces = pa.array([f"|{field} " for field in dictionary.field_numbers], pa.string())
    heads = pc.if_else(pa.array(starts), namespaces.take(pa.array(fields - 1)), "")
    return pc.binary_join(rows.lists(pc.binary_join_element_wise(heads, texts, ""), posts), " ")


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

    @cache
    def look_up(channel: str | None, keyword: str) -> str | None:
        word = fold(keyword).strip()
        return known.get((channel or "", word), known.get((None, word)))

    def name_clusters(tagged: pa.Table) -> pa.Array:
        at, items = _flatten(tagged["keywords"])
        here = _find_channels(tagged, channels).take(pa.array(at)).to_pylist()
        return pa.array(map(look_up, here, items.field("keyword").to_pylist()), pa.string())

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
        return cast(pq.read_table(path.absolute(), columns=["post_id", "codes"]), "codes")
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"{path}: no codes ({reason}); expected what `weibotag codes apply` wrote") from error


def escape(name: str) -> str:
    """Return a name with what the formats part by (blanks, line breaks, `:`, `|`), and `%`, as %20, %3A …"""
    return SPECIAL.sub(lambda match: quote(match[0], safe=""), name)
