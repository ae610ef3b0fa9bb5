"""Files and folders that are either whole or absent: written beside their place, renamed; files are synced first."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

TEMPORARY = ".*.tmp"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, hex; it is read again only when its size or time changed. Raises OSError."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: Path, mode: str = "wb", writer: int | None = None) -> Iterator[IO[Any]]:
    """Give a file (`mode` "wb" or "w", UTF-8) that takes the place of `path` when the block ends without an error.

    Whoever looks at `path` sees the old file or the whole new one, also after a power cut. The temporary file lies in
    the same folder, matches `TEMPORARY`, and is removed on an error; the number of a `writer`'s process stands in its name.
    """
    temporary = path.with_name(f".{path.name}.{writer or uuid4().hex[:8]}.tmp")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with temporary.open(mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder` that takes its place when the block ends without an error.

    A kill leaves the older folder where it is, or, between the two renames, as .NAME-HEX.old beside it. The next that
    succeeds removes what killed ones left there; two at a time for one place are not allowed for.
    """
    fresh = folder.with_name(f".{folder.name}-{uuid4().hex}.tmp")
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if folder.exists():
            os.replace(folder, fresh.with_suffix(".old"))
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    # Only now: between the two renames the older one is nowhere else.
    for left in folder.parent.glob(f".{glob.escape(folder.name)}-{'[0-9a-f]' * 32}.*"):
        if left.suffix in (".tmp", ".old"):
            shutil.rmtree(left, ignore_errors=True)


def write_parquet(table: pa.Table, path: Path, compression: str = "zstd", **options: Any) -> None:
    """Write a table to a Parquet file with page checksums, whole or not at all; `options` are those of pyarrow."""
    with atomic(path) as file:
        pq.write_table(table, file, compression=compression, write_page_checksum=True, **options)


def write_json(obj: Any, path: Path) -> None:
    """Write JSON (UTF-8, sorted keys, one value a line), whole or not at all."""
    with atomic(path, "w") as file:
        json.dump(obj, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.write("\n")


def remove_temporary(folder: Path) -> None:
    """Remove what killed writers left in a folder; nobody may be writing there."""
    for path in folder.glob(TEMPORARY):
        path.unlink(missing_ok=True)


def remove_orphans(path: Path) -> None:
    """Remove what killed writers of `path` left beside it: files that name a process that is no more, or this one."""
    import psutil

    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.split(".")[-2]
        if number.isdecimal() and (int(number) == os.getpid() or not psutil.pid_exists(int(number))):
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder last through a power cut."""
    # Windows can't open a folder, and needs no sync for a rename to last.
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
