"""The store: what stages found in each picture, kept for every later run."""

import glob
import logging
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core import schema
from weibotag.core.errors import RequestError
from weibotag.core.sealed_parquet import DamagedError
from weibotag.runtime.shared_folder import ELSEWHERE, make_shared, refuse_closed
from weibotag.runtime.store_parts import (
    StrangePartError,
    is_damaged,
    list_parts,
    list_small,
    merge_parts,
    open_part,
    read_rows,
    remove_stale,
    set_aside,
    write_part,
)

if TYPE_CHECKING:
    import duckdb

KEYS = {"media": ("file_id", "frame"), "near": ("file_id",), "setbacks": ("file_id",)}
TRIES = 30
WAIT_SECONDS = 0.01
LOCK = "lock"

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


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
        # How often parts were damaged or gone that had been there: what was known of a picture may be known no more.
        self.losses = 0
        self._database: duckdb.DuckDBPyConnection | None = None
        self._opening = threading.Lock()
        # Columns that were checked of each part, by folder, with the size and time that it had.
        self._checked: dict[Path, dict[Path, tuple[int, int, set[str]]]] = {}
        self._passed_over: set[Path] = set()

    def missing(self, stage: str, fingerprint: str, ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Return the distinct ids (strings; nulls are dropped) that the store does not know, in the order given."""
        asked = _number(ids)
        query = (
            f"SELECT asked.id FROM asked ANTI JOIN {{parts}} parts ON parts.{_key(stage)[0]} = asked.id ORDER BY asked.place"
        )

        def find(parts: list[Path]) -> pa.Array:
            found = self._query(query, asked, parts) if parts else asked
            return found["id"].cast(pa.string()).combine_chunks()

        return self._retry(stage, fingerprint, _key(stage), find)

    def read(self, stage: str, fingerprint: str, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
        """Return the rows of these ids in the order of the ids (and frames), each once, in the schema of the stage.

        An id that the store does not know has no row; nor has one whose part turned out to be damaged, which is set
        aside on the way, so that `missing` names it again.
        """
        asked = _number(ids)
        key = _key(stage)
        # Two runs may have looked at the same picture; they found the same, so any of the rows will do.
        query = (
            "SELECT asked.place, min(struct_pack(filename := parts.filename, row := parts.file_row_number)) AS found "
            f"FROM asked JOIN {{parts}} parts ON parts.{key[0]} = asked.id "
            f"GROUP BY asked.place, {', '.join(f'parts.{name}' for name in key)} "
            f"ORDER BY asked.place, {', '.join(f'parts.{name}' for name in key)}"
        )

        def take(parts: list[Path]) -> pa.Table:
            if not parts:
                return schema.arrow_schema(stage).empty_table()
            answer = self._query(query, asked, parts)
            found = answer["found"].combine_chunks()
            names, rows = found.field("filename").to_pylist(), found.field("row").to_pylist()
            table = _take(stage, names, rows)
            strange = pc.index(pc.equal(table[key[0]], asked["id"].take(answer["place"])), False).as_py()
            if strange >= 0:
                raise DamagedError(Path(names[strange]))
            return table

        return self._retry(stage, fingerprint, key, take)

    def scan(self, stage: str, fingerprint: str, columns: Sequence[str]) -> pa.Table:
        """Return some columns of all rows of a stage, each row once, ordered by them."""
        names = ", ".join(columns)

        def take(parts: list[Path]) -> pa.Table:
            if not parts:
                return schema.arrow_schema(stage).empty_table().select(columns)
            return self._query(
                f"SELECT DISTINCT {names} FROM {{parts}} ORDER BY ALL", _number(pa.array([], pa.string())), parts
            )

        return self._retry(stage, fingerprint, columns, take)

    def prepare(self, fingerprints: Mapping[str, str]) -> None:
        """Make the store's folder; raises RequestError when it, or that of one of these tables, can't be written to."""
        make_shared(self.root, self.root)
        for folder in (self.root, *(self._folder(stage, fingerprint) for stage, fingerprint in fingerprints.items())):
            refuse_closed(self.root, folder, os.R_OK | os.W_OK | os.X_OK)

    def make(self, name: str) -> Path:
        """Return a folder in the store for other than findings, made where this user can."""
        with suppress(RequestError):
            make_shared(self.root, self.root / name)
        return self.root / name

    def write(self, stage: str, fingerprint: str, table: pa.Table) -> None:
        """Add rows, cast to the schema of the stage; an empty table writes nothing.

        Raises RequestError when the store's folder can't be made.
        """
        if not len(table):
            return
        folder = self._folder(stage, fingerprint)
        make_shared(self.root, folder)
        write_part(stage, folder, [schema.cast(table, stage)])

    def compact(self, stage: str, fingerprint: str, small: int = 64) -> None:
        """Merge the parts below 8 MB into one when there are more than `small` of them; left to whoever is at it."""
        folder = self._folder(stage, fingerprint)
        if len(list_small(folder)) <= small:
            return
        from filelock import FileLock, Timeout

        # Open to whoever may write to the folder.
        lock = FileLock(folder / LOCK, mode=folder.stat().st_mode & 0o666)
        try:
            lock.acquire(timeout=0)
        except (Timeout, PermissionError):
            return
        try:
            merge_parts(stage, folder, list_small(folder))
            remove_stale(folder)
        finally:
            lock.release()

    def sizes(self) -> list[tuple[str, str, int, int, int]]:
        """Return (stage, fingerprint, parts, rows, bytes) of each folder of the store, by name."""
        sizes = []
        for folder in sorted(self.root.glob("*-*/")):
            stage, _, fingerprint = folder.name.partition("-")
            if stage in schema.TABLES:
                sizes.append((stage, fingerprint, *self._retry(stage, fingerprint, (), partial(_measure, stage))))
        return sizes

    def _folder(self, stage: str, fingerprint: str) -> Path:
        return self.root / f"{stage}-{fingerprint}"

    def _retry(
        self, stage: str, fingerprint: str, columns: Collection[str], answer: Callable[[list[Path]], Answer]
    ) -> Answer:
        """Ask again when parts vanished (merged into another one) or were set aside as damaged.

        `columns` are those that are read of every part.
        """
        import duckdb

        folder = self._folder(stage, fingerprint)
        vanished = 0
        while vanished < TRIES:
            parts: list[Path] = []
            try:
                parts = self._list_checked(stage, folder, set(columns))
                return answer(parts)
            except DamagedError as error:
                self._lose(stage, error.args[0])
                continue
            except FileNotFoundError:
                pass
            except duckdb.Error as error:
                if all(part.exists() for part in parts):
                    damaged = [part for part in parts if is_damaged(stage, part)]
                    for part in damaged:
                        self._lose(stage, part)
                    if not damaged:
                        reason = str(error).strip().splitlines()[0]
                        raise RequestError(f"{folder}: can't be read ({reason}): check the disk, or {ELSEWHERE}") from error
                    continue
            # Merged parts are removed one after the other: wait for the last.
            vanished += 1
            time.sleep(vanished * WAIT_SECONDS)
        raise RequestError(f"{folder}: parts of the store vanish while they are read: check the disk, then try again")

    def _list_checked(self, stage: str, folder: Path, columns: set[str]) -> list[Path]:
        """Return the parts that can be used; these columns of them are as they were written."""
        parts = [part for part in list_parts(folder) if part not in self._passed_over]
        known = self._checked.setdefault(folder, {})
        gone = known.keys() - set(parts)
        for part in gone:
            del known[part]
        self.losses += bool(gone)
        for part in list(parts):
            state = part.stat()
            size, changed, checked = known.get(part, (0, 0, set()))
            if (size, changed) == (state.st_size, state.st_mtime_ns) and columns <= checked:
                continue
            try:
                with open_part(stage, part) as file:
                    file.check(columns=sorted(columns))
            except StrangePartError:
                log.warning("%s: has not the columns of this version; it is passed over", part)
                self._passed_over.add(part)
                parts.remove(part)
                continue
            known[part] = state.st_size, state.st_mtime_ns, checked | columns
        return parts

    def _lose(self, stage: str, part: Path) -> None:
        self.losses += 1
        if not set_aside(stage, part):
            self._passed_over.add(part)

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
                    "temp_directory": str(_choose_spill(self.root)),
                }
                self._database = duckdb.connect(config=config)
                # Threads of its own that run when the interpreter ends would end it by a signal.
                weakref.finalize(self, self._database.close)
            # A cursor is a connection of its own: threads don't see each other's tables.
            return self._database.cursor()


def _choose_spill(root: Path) -> Path:
    """Return where tables that are too large for memory go: beside the store, unless this user may only read it."""
    if os.access(root, os.W_OK | os.X_OK):
        return root / f".spill-{os.getuid()}"
    # Where everybody may write, under a name that nobody can foresee.
    return Path(tempfile.gettempdir()) / f".spill-{token_hex()}"


def _key(stage: str) -> tuple[str, ...]:
    return KEYS.get(stage, ("media_id",))


def _number(ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    distinct = pc.unique(ids).drop_null().cast(pa.string())
    return pa.table({"id": distinct, "place": pa.array(range(len(distinct)), pa.int64())})


def _measure(stage: str, parts: list[Path]) -> tuple[int, int, int]:
    rows = size = 0
    for part in parts:
        with open_part(stage, part) as file:
            rows += file.metadata.num_rows
        size += part.stat().st_size
    return len(parts), rows, size


def _take(stage: str, names: list[str], rows: list[int]) -> pa.Table:
    """Return these rows of these parts, in this order."""
    wanted: dict[str, list[tuple[int, int]]] = {}
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        wanted.setdefault(name, []).append((row, place))
    tables = [read_rows(stage, Path(name), [row for row, _ in pairs]) for name, pairs in wanted.items()]
    places = [place for pairs in wanted.values() for _, place in pairs]
    table = pa.concat_tables([schema.arrow_schema(stage).empty_table(), *tables])
    return table.take(pc.sort_indices(pa.array(places, pa.int64()))).combine_chunks()
