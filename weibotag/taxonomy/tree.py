"""The tag tree: tags with parents, names, aliases and keywords, loaded once and never changed."""

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from weibotag.core.errors import TaxonomyError
from weibotag.taxonomy.check import find_errors
from weibotag.taxonomy.reader import COLUMNS, Row, join_list, read_rows


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag; `parent_id` is None for a channel (a tag of the first level); `line` is its line in the file."""

    id: str
    parent_id: str | None
    name: str
    aliases: tuple[str, ...]
    keywords: tuple[str, ...]
    line: int


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
        self.depth = _measure_depth(self.parents)
        self.order = np.argsort(self.depth, kind="stable")
        self.is_leaf = np.ones(len(self.tags), dtype=bool)
        self.is_leaf[self.parents[self.parents >= 0]] = False
        self._by_parent = np.argsort(self.parents, kind="stable")
        self._sorted_parents = self.parents[self._by_parent]

    @cached_property
    def id_array(self) -> pa.StringArray:
        """Return the ids, in order, for work on Arrow columns."""
        return pa.array(self.ids, pa.string())

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


def _measure_depth(parents: np.ndarray) -> np.ndarray:
    depth = np.ones(len(parents), dtype=np.int32)
    here = parents
    while (here >= 0).any():
        depth += here >= 0
        here = np.where(here >= 0, parents[here], -1)
    return depth


def load(path: Path) -> Taxonomy:
    """Load a taxonomy: CSV `id,parent_id,name,aliases,keywords`, or a JSON or YAML tree; UTF-8 or GB18030.

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
    return Tag(row.id.strip(), row.parent_id.strip() or None, row.name.strip(), aliases, keywords, row.line)


def save_csv(taxonomy: Taxonomy, path: Path) -> None:
    """Write the canonical CSV, which `load` reads back to the same tags and digest."""
    path.write_text(_write(taxonomy), encoding="utf-8", newline="")


def _write(taxonomy: Taxonomy) -> str:
    out = io.StringIO()
    writer = csv.writer(out)  # Ends lines with CR LF, so that a CR inside a cell is quoted too.
    writer.writerow(COLUMNS)
    for tag in taxonomy.tags:
        writer.writerow((tag.id, tag.parent_id or "", tag.name, join_list(tag.aliases), join_list(tag.keywords)))
    return out.getvalue()
