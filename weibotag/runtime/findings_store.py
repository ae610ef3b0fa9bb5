"""The store: what stages found in each picture, kept for every later run."""

import errno
import glob
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.core import schema
from weibotag.core.errors import RequestError
from weibotag.core.files import TEMPORARY, atomic, write_parquet

if TYPE_CHECKING:
    import duckdb

KEYS = {"media": ("file_id", "frame"), "near": ("file_id",)}
# Columns that parts written before there were any lack; they read as null.
LATER = {"embed": ("embed_patches",)}
ROW_GROUP = 1024
# Keys and vectors do not repeat: a dictionary makes no part smaller, and reading vectors four times slower.
DICTIONARY = False
SMALL_BYTES = 8 << 20
TRIES = 30
WAIT_SECONDS = 0.01
STALE_SECONDS = 24 * 3600

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class BrokenPartError(Exception):
    """A part is not readable Parquet with the columns of its stage; the one argument is its path."""


def default_root() -> Path:
    """Return the folder of the store: $WEIBOTAG_STORE, else in the user's cache folder."""
    if given := os.environ.get("WEIBOTAG_STORE"):
        return Path(given)
    import platformdirs

    return platformdirs.user_cache_path("weibotag") / "store"


class Store:
    """Tables of findings in `root/<stage>-<fingerprint>/part-*.parquet`, append-only, one row per picture.

    The rows of "media" are keyed by file_id and frame, those of the other stages by media_id. Many processes may read,
    write and compact at the same time.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._database: duckdb.DuckDBPyConnection | None = None
        self._opening = threading.Lock()

    def missing(self, stage: str, fingerprint: str, ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Return the distinct ids (strings; nulls are dropped) that the store does not know, in the order given."""
        asked = _number(ids)
        query = (
            f"SELECT asked.id FROM asked ANTI JOIN {{parts}} parts ON parts.{_key(stage)[0]} = asked.id ORDER BY asked.place"
        )

        def find(parts: list[Path]) -> pa.Array:
            found = self._query(query, asked, parts) if parts else asked
            return found["id"].cast(pa.string()).combine_chunks()

        return self._retry(stage, fingerprint, find)

    def read(self, stage: str, fingerprint: str, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Return the rows of these ids in the order of the ids (and frames), each once, in the schema of the stage.

        An id that the store does not know has no row; nor has one whose part turned out to be broken, which is set
        aside on the way, so that `missing` names it again.
        """
        asked = _number(ids)
        key = _key(stage)
        # Two runs may have looked at the same picture; they found the same, so any of the rows will do.
        query = (
            "SELECT min(struct_pack(filename := parts.filename, row := parts.file_row_number)) AS found "
            f"FROM asked JOIN {{parts}} parts ON parts.{key[0]} = asked.id "
            f"GROUP BY asked.place, {', '.join(f'parts.{name}' for name in key)} "
            f"ORDER BY asked.place, {', '.join(f'parts.{name}' for name in key)}"
        )

        def take(parts: list[Path]) -> pa.Table:
            if not parts:
                return schema.arrow_schema(stage).empty_table()
            found = self._query(query, asked, parts)["found"].combine_chunks()
            return _take(stage, found.field("filename").to_pylist(), found.field("row").to_pylist())

        return self._retry(stage, fingerprint, take)

    def scan(self, stage: str, fingerprint: str, columns: Sequence[str]) -> pa.Table:
        """Return some columns of all rows of a stage, each row once, ordered by them."""
        names = ", ".join(columns)

        def take(parts: list[Path]) -> pa.Table:
            if not parts:
                return schema.arrow_schema(stage).empty_table().select(columns)
            return self._query(
                f"SELECT DISTINCT {names} FROM {{parts}} ORDER BY ALL", _number(pa.array([], pa.string())), parts
            )

        return self._retry(stage, fingerprint, take)

    def prepare(self) -> None:
        """Make the store's folder; raises RequestError when it can't be made or written to."""
        _make(self.root)
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise RequestError(f"{self.root}: can't write to this store: choose another store by --store or WEIBOTAG_STORE")

    def write(self, stage: str, fingerprint: str, table: pa.Table) -> None:
        """Add rows, cast to the schema of the stage; an empty table writes nothing.

        Raises RequestError when the store's folder can't be made.
        """
        if not len(table):
            return
        folder = self._folder(stage, fingerprint)
        _make(folder)
        write_parquet(schema.cast(table, stage), _new_part(folder), row_group_size=ROW_GROUP, use_dictionary=DICTIONARY)

    def compact(self, stage: str, fingerprint: str, small: int = 64) -> None:
        """Merge the parts below 8 MB into one when there are more than `small` of them; left to whoever is at it."""
        folder = self._folder(stage, fingerprint)
        if len(_small(folder)) <= small:
            return
        from filelock import FileLock, Timeout

        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return
        try:
            _merge(stage, folder, _small(folder))
            _remove_stale(folder)
        finally:
            lock.release()

    def sizes(self) -> list[tuple[str, str, int, int, int]]:
        """Return (stage, fingerprint, parts, rows, bytes) of each folder of the store, by name."""
        sizes = []
        for folder in sorted(self.root.glob("*-*/")):
            stage, _, fingerprint = folder.name.partition("-")
            if stage in schema.TABLES:
                rows, size = self._retry(stage, fingerprint, partial(_measure, stage))
                sizes.append((stage, fingerprint, len(_list_parts(folder)), rows, size))
        return sizes

    def _folder(self, stage: str, fingerprint: str) -> Path:
        return self.root / f"{stage}-{fingerprint}"

    def _retry(self, stage: str, fingerprint: str, answer: Callable[[list[Path]], Answer]) -> Answer:
        """Ask again when parts vanished (merged into another one) or were set aside as broken."""
        import duckdb

        folder = self._folder(stage, fingerprint)
        vanished = 0
        while vanished < TRIES:
            parts = _list_parts(folder)
            try:
                return answer(parts)
            except BrokenPartError as error:
                _set_aside(error.args[0])
                continue
            except FileNotFoundError:
                pass
            except duckdb.Error:
                if all(part.exists() for part in parts):
                    if not _set_aside_broken(stage, parts):
                        raise
                    continue
            # Merged parts are removed one after the other: wait for the last.
            vanished += 1
            time.sleep(vanished * WAIT_SECONDS)
        raise RequestError(f"{folder}: parts of the store vanish while they are read: check the disk, then try again")

    def _query(self, query: str, asked: pa.Table, parts: list[Path]) -> pa.Table:
        names = [glob.escape(str(part)) for part in parts]
        options = "filename = true, file_row_number = true, hive_partitioning = false, union_by_name = false"
        with self._connect() as connection:
            connection.register("asked", asked)
            return connection.sql(
                query.format(parts=f"read_parquet($names, {options})"), params={"names": names}
            ).to_arrow_table()

    def _connect(self) -> "duckdb.DuckDBPyConnection":
        import duckdb

        with self._opening:
            if self._database is None:
                config: dict[str, str | bool | int | float | list[str]] = {
                    "memory_limit": "512MB",
                    "threads": 2,
                    "temp_directory": str(self.root / ".spill"),
                }
                self._database = duckdb.connect(config=config)
            # A cursor is a connection of its own: threads don't see each other's tables.
            return self._database.cursor()


def _key(stage: str) -> tuple[str, ...]:
    return KEYS.get(stage, ("media_id",))


def _number(ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    distinct = pc.unique(ids).drop_null().cast(pa.string())
    return pa.table({"id": distinct, "place": pa.array(range(len(distinct)), pa.int64())})


def _new_part(folder: Path) -> Path:
    return folder / f"part-{uuid4().hex}.parquet"


def _list_parts(folder: Path) -> list[Path]:
    """Return the parts by name; a listing taken while parts are merged can lack both old and new, so two must agree."""
    listed = None
    while listed != (listed := sorted(folder.glob("part-*.parquet"))):
        continue
    return listed


def _small(folder: Path) -> list[Path]:
    small = []
    for part in _list_parts(folder):
        try:
            size = part.stat().st_size
        except FileNotFoundError:
            continue
        if size < SMALL_BYTES:
            small.append(part)
    return small


def _merge(stage: str, folder: Path, parts: list[Path]) -> None:
    merged = []
    with (
        atomic(_new_part(folder)) as target,
        pq.ParquetWriter(
            target, schema.arrow_schema(stage), compression="zstd", use_dictionary=DICTIONARY, write_page_checksum=True
        ) as writer,
    ):
        waiting: list[pa.Table] = []
        for part in parts:
            try:
                with _open(stage, part) as file:
                    waiting.append(schema.cast(file.read(), stage))
            except BrokenPartError:
                _set_aside(part)
                continue
            merged.append(part)
            if sum(map(len, waiting)) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
    # Only now: until the merged part is in its place these are the only copies.
    for part in merged:
        part.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    for path in folder.glob(TEMPORARY):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"{folder}: can't make this folder of the store ({error.strerror}): "
            "choose another store by --store or WEIBOTAG_STORE"
        ) from error


def _measure(stage: str, parts: list[Path]) -> tuple[int, int]:
    rows = size = 0
    for part in parts:
        with _open(stage, part) as file:
            rows += file.metadata.num_rows
        size += part.stat().st_size
    return rows, size


def _take(stage: str, names: list[str], rows: list[int]) -> pa.Table:
    """Return these rows of these parts, in this order."""
    wanted: dict[str, list[tuple[int, int]]] = {}
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        wanted.setdefault(name, []).append((row, place))
    tables = [_read_rows(stage, Path(name), [row for row, _ in pairs]) for name, pairs in wanted.items()]
    places = [place for pairs in wanted.values() for _, place in pairs]
    table = pa.concat_tables([schema.arrow_schema(stage).empty_table(), *tables])
    return table.take(pc.sort_indices(pa.array(places, pa.int64()))).combine_chunks()


def _read_rows(stage: str, part: Path, rows: list[int]) -> pa.Table:
    """Return these rows of a part, in this order, reading only the row groups that hold them."""
    with _open(stage, part) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        read = np.unique(groups)
        skipped = np.cumsum(np.where(np.isin(np.arange(len(sizes)), read), 0, sizes))
        found = file.read_row_groups(read.tolist()).take(pa.array(rows - skipped[groups], pa.int64()))
        return schema.cast(found, stage)


@contextmanager
def _open(stage: str, part: Path) -> Iterator[pq.ParquetFile]:
    """Open a part for reading; raises BrokenPartError where it can't be read or has not the columns of the stage."""
    try:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            declared = schema.arrow_schema(stage)
            before = pa.schema([field for field in declared if field.name not in LATER.get(stage, ())])
            if file.schema_arrow not in (declared, before):
                raise BrokenPartError(part)
            yield file
    except (pa.ArrowException, OSError) as error:
        # Memory, rights and a part that was merged away are no fault of the file; Arrow's own complaints have no errno.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.EIO):
            raise
        raise BrokenPartError(part) from error


def _set_aside_broken(stage: str, parts: list[Path]) -> bool:
    """Set aside each part that can't be read to its end; return whether there was one."""
    broken = []
    for part in parts:
        try:
            with _open(stage, part) as file:
                for group in range(file.num_row_groups):
                    file.read_row_group(group)
        except BrokenPartError:
            broken.append(part)
    for part in broken:
        _set_aside(part)
    return bool(broken)


def _set_aside(part: Path) -> None:
    aside = part.with_name(f"{part.name}.broken")
    try:
        part.rename(aside)
    except FileNotFoundError:
        return
    log.warning("%s: not a readable part of the store; set aside as %s, its pictures are looked at again", part, aside)
