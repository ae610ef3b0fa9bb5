"""The dictionary of features for factorisation machines: a file in which a feature keeps its number for ever."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weibotag.core.errors import LockedError, RequestError
from weibotag.core.files import atomic, write_parquet
from weibotag.core.schema import arrow_schema
from weibotag.posts.encodings import readable
from weibotag.taxonomy.tree import Taxonomy

COLUMNS = arrow_schema("dictionary")
DIGEST = b"weibotag.sha256"
# A sign between kind and name; no text of Arrow's readers has it.
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

    if not path.parent.is_dir():
        raise RequestError(f"{path}: there is no folder {path.parent}; make it first")
    remembered = path.with_name(f".{path.name}.size")
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(f"{path}: another export has held this dictionary for {LOCK_SECONDS:.0f} s; try later") from error
    try:
        dictionary = Dictionary(_read_whole(path) if path.exists() else COLUMNS.empty_table())
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
    finally:
        lock.release()


def _read_whole(path: Path) -> pa.Table:
    with readable(path):
        table = pq.read_table(path)
    if table.schema.remove_metadata() != COLUMNS or (table.schema.metadata or {}).get(DIGEST) != _digest(table):
        raise RequestError(
            f"{path}: not as `weibotag keywords export` wrote it: features were changed or taken out; put a copy back"
        )
    return table


def _digest(table: pa.Table) -> bytes:
    hashed = hashlib.sha256()
    for row in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        hashed.update(repr(row).encode())
    return hashed.hexdigest().encode()
