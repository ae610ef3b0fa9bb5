"""The files of the store: written sealed, merged when there are many small ones, and what is saved of a damaged one."""

import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa

from weibotag.core import schema
from weibotag.core.errors import RequestError
from weibotag.core.files import TEMPORARY, atomic
from weibotag.core.sealed_parquet import DamagedError, SealedParquet, write_sealed
from weibotag.runtime.shared_folder import ELSEWHERE, refuse_closed, share_file

ROW_GROUP = 1024
# Keys and vectors do not repeat: a dictionary makes no part smaller, and reading vectors four times slower.
DICTIONARY = False
SMALL_BYTES = 8 << 20
STALE_SECONDS = 24 * 3600

log = logging.getLogger(__name__)


class StrangePartError(Exception):
    """A part is whole, but has not the columns of its stage: of a newer version; the one argument is its path."""


def list_parts(folder: Path) -> list[Path]:
    """Return the parts by name; a listing taken while parts are merged can lack both old and new, so two must agree.

    Raises RequestError where this user may not read the folder.
    """
    refuse_closed(folder.parent, folder, os.R_OK | os.X_OK)
    listed = None
    while listed != (listed := sorted(folder.glob("part-*.parquet"))):
        continue
    return listed


@contextmanager
def open_part(stage: str, part: Path) -> Iterator[SealedParquet]:
    """Open a part for reading.

    Raises DamagedError where its bytes changed, StrangePartError where it has other columns than those of its stage, and
    RequestError where this user may not read it.
    """
    try:
        file = SealedParquet(part, part.parent.name)
    except PermissionError as error:
        raise RequestError(f"{part}: can't be read ({error.strerror}): have its owner open it, or {ELSEWHERE}") from error
    with file:
        if file.schema != schema.arrow_schema(stage):
            raise StrangePartError(part) if file.sealed else DamagedError(part)
        yield file


def write_part(stage: str, folder: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables (schema of the stage) as a new part, whole or not at all, as open to others as the store is."""
    part = folder / f"part-{uuid4().hex}.parquet"
    with atomic(part, "w+b") as file:
        options = {"row_group_size": ROW_GROUP, "use_dictionary": DICTIONARY}
        write_sealed(file, tables, schema.arrow_schema(stage), folder.name, **options)
        share_file(folder.parent, file.fileno())


def read_rows(stage: str, part: Path, rows: list[int]) -> pa.Table:
    """Return these rows of a part, in this order, reading only the row groups that hold them."""
    with open_part(stage, part) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in file.groups]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        read = np.unique(groups)
        if len(read) and read[-1] == len(sizes):
            raise DamagedError(part)
        skipped = np.cumsum(np.where(np.isin(np.arange(len(sizes)), read), 0, sizes))
        found = file.read(read.tolist()).take(pa.array(rows - skipped[groups], pa.int64()))
        return schema.cast(found, stage)


def list_small(folder: Path) -> list[Path]:
    """Return the parts that are worth merging and that this user can remove."""
    small = []
    only_own = folder.is_dir() and folder.stat().st_mode & stat.S_ISVTX
    for part in list_parts(folder):
        try:
            state = part.stat()
        except FileNotFoundError:
            continue
        if state.st_size < SMALL_BYTES and (not only_own or state.st_uid == os.getuid()):
            small.append(part)
    return small


def merge_parts(stage: str, folder: Path, parts: list[Path]) -> None:
    """Write the rows of parts into one, then remove them; those that can't be used stay for whoever reads them."""
    merged: list[Path] = []

    def read() -> Iterator[pa.Table]:
        waiting: list[pa.Table] = []
        for part in parts:
            try:
                with open_part(stage, part) as file:
                    waiting.append(schema.cast(file.read(), stage))
            except (DamagedError, StrangePartError, FileNotFoundError):
                continue
            merged.append(part)
            if sum(map(len, waiting)) >= ROW_GROUP:
                yield pa.concat_tables(waiting)
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting)

    write_part(stage, folder, read())
    # Only now: until the merged part is in its place these are the only copies.
    for part in merged:
        part.unlink(missing_ok=True)


def remove_stale(folder: Path) -> None:
    """Remove what writers that were killed long ago left."""
    for path in folder.glob(TEMPORARY):
        try:
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except (FileNotFoundError, PermissionError):
            continue


def set_aside(stage: str, part: Path) -> bool:
    """Keep what is whole of a damaged part in a new one, and give the damaged one another name; return False where this
    user can't."""
    aside = part.with_name(f"{part.name}.broken")
    try:
        saved = list(_read_whole_groups(stage, part))
        if saved:
            write_part(stage, part.parent, saved)
        part.rename(aside)
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("%s: damaged, and can't be set aside (%s); it is passed over", part, error.strerror)
        return False
    log.warning(
        "%s: damaged, set aside as %s; %d of its rows were saved, its other pictures are looked at again",
        *(part, aside.name, sum(map(len, saved))),
    )
    return True


def is_damaged(stage: str, part: Path) -> bool:
    """Tell whether a part can't be read to its end."""
    try:
        with open_part(stage, part) as file:
            for group in file.groups:
                file.read([group])
    except DamagedError:
        return True
    except (FileNotFoundError, StrangePartError):
        return False
    return False


def _read_whole_groups(stage: str, part: Path) -> Iterator[pa.Table]:
    """Give the row groups of a part that are as they were written; none where its footer is not."""
    try:
        with open_part(stage, part) as file:
            for group in file.groups if file.sealed else ():
                try:
                    yield schema.cast(file.read([group]), stage)
                except DamagedError:
                    continue
    except (DamagedError, StrangePartError):
        return
