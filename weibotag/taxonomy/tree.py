"""The tag tree: tags with parents, names, aliases and keywords, never changed once loaded; tags of posts in its numbers."""

import csv
import difflib
import hashlib
import io
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.errors import TaxonomyError
from weibotag.core.files import atomic
from weibotag.core.spreadsheet import guard
from weibotag.taxonomy.check import find_errors
from weibotag.taxonomy.reader import COLUMNS, Row, join_list, read_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag; `parent_id` is None for a channel (a tag of the first level); `line` is its line in the file.

    `description` is what posts about it say, in a few words or a sentence.
    """

    id: str
    parent_id: str | None
    name: str
    aliases: tuple[str, ...]
    keywords: tuple[str, ...]
    line: int
    description: str = ""


class Taxonomy:
    """A tree of tags in the order of their file; a tag's number is its place in `tags`.

    `parents` is int32 (-1 for channels), `depth` int32 (1 for channels), `order` has parents before their children,
    `is_leaf` is a bool mask. The tags must already form a tree: `load` is the way to make one from a file.
    """

    def __init__(self, tags: Iterable[Tag]) -> None:
        self.tags: tuple[Tag, ...] = tuple(tags)
        self.ids: tuple[str, ...] = tuple(tag.id for tag in self.tags)
        self.index: dict[str, int] = {tag_id: number for number, tag_id in enumerate(self.ids)}
        self.parents = np.array(
            [-1 if tag.parent_id is None else self.index[tag.parent_id] for tag in self.tags], dtype=np.int32
        )
        self.depth = np.diff(self.closure_matrix().indptr).astype(np.int32)
        self.order = np.argsort(self.depth, kind="stable")
        self.is_leaf = np.ones(len(self.tags), dtype=bool)
        self.is_leaf[self.parents[self.parents >= 0]] = False
        self._by_parent = np.argsort(self.parents, kind="stable")
        self._sorted_parents = self.parents[self._by_parent]

    @cached_property
    def id_array(self) -> pa.StringArray:
        """Return the ids, in order, for work on Arrow columns."""
        return pa.array(self.ids, pa.string())

    @cached_property
    def named(self) -> dict[str, int]:
        """Return the numbers of tags by names that only one tag has, and that are no ids."""
        times = Counter(tag.name for tag in self.tags)
        return {tag.name: at for at, tag in enumerate(self.tags) if times[tag.name] == 1 and tag.name not in self.index}

    def find(self, word: str) -> int | None:
        """Return the number of the tag with this id, or with this name where only one has it."""
        return self.index.get(word, self.named.get(word))

    def numbers(self, words: pa.Array) -> np.ndarray:
        """Return what `find` says of each word (int64), -1 for None."""
        found: np.ndarray = pc.index_in(words, self.id_array).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        strange = np.flatnonzero(found < 0)
        if len(strange):
            found[strange] = [self.named.get(word, -1) for word in words.take(pa.array(strange)).to_pylist()]
        return found

    def __len__(self) -> int:
        return len(self.tags)

    def ancestors(self, number: int) -> tuple[int, ...]:
        """Return the numbers of a tag's ancestors, its parent first."""
        found = []
        while (number := int(self.parents[number])) >= 0:
            found.append(number)
        return tuple(found)

    def children(self, number: int) -> tuple[int, ...]:
        """Return the numbers of a tag's children in file order; -1 asks for the channels."""
        low, high = np.searchsorted(self._sorted_parents, [number, number + 1])
        return tuple(self._by_parent[low:high].tolist())

    def expand(self, ids: Iterable[str]) -> set[str]:
        """Return ids with all their ancestors; an id that the taxonomy does not have stands for itself."""
        expanded: set[str] = set()
        for tag_id in ids:
            here: str | None = tag_id
            while here is not None and here not in expanded:
                expanded.add(here)
                number = self.index.get(here)
                here = None if number is None else self.tags[number].parent_id
        return expanded

    def closure_matrix(self) -> csr_matrix:
        """Return the bool matrix (tags x tags) whose row i has i and its ancestors."""
        starts, ends = [], []
        start = end = np.arange(len(self.tags), dtype=np.int32)
        while len(start):
            starts.append(start)
            ends.append(end)
            up = self.parents[end]
            start, end = start[up >= 0], up[up >= 0]
        rows = np.concatenate(starts) if starts else start
        columns = np.concatenate(ends) if ends else end
        shape = (len(self.tags), len(self.tags))
        return csr_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=shape)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the canonical CSV, hex: the same for the same tags in the same order, whatever the file."""
        return hashlib.sha256(_write(self).encode()).hexdigest()


def load(path: Path) -> Taxonomy:
    """Load a taxonomy: CSV `id,parent_id,name,aliases,keywords,description`, or a JSON or YAML tree; UTF-8 or GB18030.

    Blanks around ids and words are dropped. Raises TaxonomyError with line and fix for the first fault that keeps
    the file from being a tree.
    """
    rows = read_rows(path)
    errors = find_errors(rows)
    if errors:
        first = errors[0]
        more = f" ({len(errors) - 1} more: weibotag taxonomy check {path})" if len(errors) > 1 else ""
        raise TaxonomyError(f"{path}:{first.line}: {first.kind}: {first.message}; {first.fix}{more}")
    if not rows:
        raise TaxonomyError(f"{path}: no tags; add lines of {','.join(COLUMNS)}")
    return Taxonomy(_tag_of(row) for row in rows)


def _tag_of(row: Row) -> Tag:
    aliases, keywords = (
        tuple(dict.fromkeys(word for raw in words if (word := raw.strip()))) for words in (row.aliases, row.keywords)
    )
    description = row.description.strip()
    return Tag(row.id.strip(), row.parent_id.strip() or None, row.name.strip(), aliases, keywords, row.line, description)


def save_csv(taxonomy: Taxonomy, path: Path) -> None:
    """Write the canonical CSV, without formulas, which `load` reads back to the same tags and digest."""
    with atomic(path, "w") as file:
        file.write(_write(taxonomy, guard))


def _write(taxonomy: Taxonomy, finish: Callable[[str], str] = str) -> str:
    out = io.StringIO()
    writer = csv.writer(out)  # Ends lines with CR LF, so that a CR inside a cell is quoted too.
    # A taxonomy without descriptions is written, and has the digest, as before there were any.
    columns = COLUMNS if any(tag.description for tag in taxonomy.tags) else COLUMNS[:-1]
    writer.writerow(columns)
    for tag in taxonomy.tags:
        cells = (tag.id, tag.parent_id or "", tag.name, join_list(tag.aliases), join_list(tag.keywords), tag.description)
        writer.writerow(map(finish, cells[: len(columns)]))
    return out.getvalue()


def label_matrix(tags: pa.ChunkedArray, taxonomy: Taxonomy) -> csr_matrix:
    """Return tags (lists of ids, null when unlabelled) as float32 0/1 csr_matrix (posts x tags), unknown ones left out."""
    offsets, ids = list_parts(pc.fill_null(tags, []).combine_chunks())
    numbers = taxonomy.numbers(ids)
    rows = rows_of(offsets)
    known = numbers >= 0
    cells = (np.ones(int(known.sum()), np.float32), (rows[known], numbers[known]))
    labels = csr_matrix(cells, shape=(len(tags), len(taxonomy)))
    labels.data[:] = 1
    return labels


def count_unknown(tables: Iterable[pa.Table], taxonomy: Taxonomy) -> dict[str, int]:
    """Count the posts with each tag that the taxonomy does not have, most posts first; `tables` have a column `tags`."""
    unknown: Counter[str] = Counter()
    for table in tables:
        tags = table["tags"].combine_chunks()
        pairs = pa.table({"row": pc.list_parent_indices(tags), "id": pc.list_flatten(tags)})
        pairs = pairs.filter(pa.array(taxonomy.numbers(pairs["id"].combine_chunks()) < 0))
        unknown.update(pairs.group_by(["row", "id"]).aggregate([])["id"].to_pylist())
    return dict(sorted(unknown.items(), key=lambda item: (-item[1], item[0])))


def warn_of_unknown(unknown: dict[str, int], taxonomy: Taxonomy) -> None:
    """Log which tags of posts the taxonomy does not have, and what may be meant: posts are learnt from without them."""
    if unknown:
        most = ", ".join(f"{tag} ({count}{_guess(tag, taxonomy)})" for tag, count in list(unknown.items())[:3])
        log.warning("%s tags of the posts are not in the taxonomy and count for nothing: %s …", f"{len(unknown):,}", most)


def _guess(word: str, taxonomy: Taxonomy) -> str:
    """Return the ids of tags that have the name, or else that are spelled most alike."""
    same = [tag.id for tag in taxonomy.tags if tag.name == word]
    near = same or difflib.get_close_matches(word, [*taxonomy.ids, *taxonomy.named], n=1, cutoff=0.6)
    return f": did you mean {' or '.join(near[:3])}?" if near else ""


def count_posts(tables: Iterable[pa.Table], taxonomy: Taxonomy) -> dict[str, tuple[int, int]]:
    """Count posts by tag id: those that carry the tag itself, and those that carry it or a tag below it.

    `tables` have a column `tags`. Every tag of the taxonomy is in the answer, in its order; ids that it does not have
    follow, sorted, with both numbers equal.
    """
    own, below = np.zeros((2, len(taxonomy)), np.int64)
    unknown: Counter[str] = Counter()
    closure = taxonomy.closure_matrix()
    for table in tables:
        labels = label_matrix(table["tags"], taxonomy)
        own += np.bincount(labels.indices, minlength=len(taxonomy))
        below += np.bincount((labels.astype(bool) @ closure).indices, minlength=len(taxonomy))
        unknown.update(count_unknown([table], taxonomy))
    known = {tag_id: (int(own[at]), int(below[at])) for at, tag_id in enumerate(taxonomy.ids)}
    return known | {tag_id: (number, number) for tag_id, number in sorted(unknown.items())}
