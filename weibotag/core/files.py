"""Files and folders that are either whole or absent: written beside their place, renamed; files are synced first."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import IO, TYPE_CHECKING, Any, TypeVar

from weibotag.core.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".*.tmp"
TOKEN_BYTES = 8
# Most file systems take 255 bytes.
NAME_BYTES = 200


@dataclass(frozen=True)
class FolderKind:
    """A folder that is replaced as a whole: files one of which it must have, others that it may have.

    Where one of `marks` is JSON with digests of `files`, these are its own, too.
    """

    marks: tuple[str, ...]
    others: tuple[str, ...] = ()


MODEL = FolderKind(("model.json",))
BODY_PARTS = ("body.safetensors", "features.json", "features.safetensors", "match.onnx", "losses.csv")
BODY = FolderKind(("body.json", "match.json"), BODY_PARTS)
MAP = FolderKind(("weights.safetensors",), ("keywords.parquet",))

Made = TypeVar("Made")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, hex; it is read again only when its size or time changed. Raises OSError."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Give a file (`mode` "wb" or "w", UTF-8) that takes the place of `path` when the block ends without an error.

    Whoever looks at `path` sees the old file or the whole new one, also after a power cut. The temporary file lies in the
    same folder under a name that nobody can foresee, and is removed on an error; see `remove_left`. What UTF-8 can't hold
    is written as \\udc80.
    """
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    temporary, file, held = _take(path, lambda fresh: fresh.open(mode.replace("w", "x"), **text))
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(held)
    sync_folder(path.parent)


@contextmanager
def replace_folder(folder: Path, kind: FolderKind) -> Iterator[Path]:
    """Give an empty folder beside `folder` that takes its place when the block ends without an error.

    A kill leaves the older folder where it is, or, between the two renames, as .NAME.HEX.old beside it; the next that
    succeeds removes it. All files get the rights that the umask leaves. Raises as `refuse_strangers` does.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, _, held = _take(folder, Path.mkdir)
    try:
        yield fresh
        # Libraries that write files themselves make some for their user alone.
        rights = fresh.stat().st_mode & 0o666
        for path in fresh.rglob("*"):
            if path.is_file():
                path.chmod(rights)
                _sync(path, os.O_RDONLY)
            else:
                sync_folder(path)
        sync_folder(fresh)
        refuse_strangers(folder, kind)
        if os.path.lexists(folder):
            os.replace(folder, fresh.with_suffix(".old"))
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        os.close(held)
    sync_folder(folder.parent)
    # Only now: between the two renames the older one is nowhere else.
    remove_left(folder)
    remove_left(folder, ".old")


def refuse_strangers(folder: Path, kind: FolderKind) -> None:
    """Raise RequestError for a file, or a folder with anything else in it than its kind has; an empty folder passes."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RequestError(f"{folder}: is a file; expected a folder, or a name that is free: choose another")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    own = {*kind.marks, *kind.others}
    for mark in found.intersection(kind.marks):
        with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
            own.update(json.loads((folder / mark).read_bytes()).get("files", ()))
    strange = found - own if found.intersection(kind.marks) else found
    if strange:
        expected = f"a name that is free, or a folder that has {' or '.join(kind.marks)} and what belongs to it"
        raise RequestError(f"{folder}: holds {min(strange)}, which would be lost; expected {expected}: choose another name")


def _take(path: Path, make: Callable[[Path], Made]) -> tuple[Path, Made, int]:
    """Make a file or folder beside `path`; return its path, what made it, and the descriptor that holds it."""
    while True:
        fresh = path.with_name(f".{_shorten(path.name)}.{token_hex(TOKEN_BYTES)}.tmp")
        made = make(fresh)
        held = _hold(fresh)
        if held is not None:
            return fresh, made, held


def _shorten(name: str) -> str:
    """Return as much of a name as leaves room for what is added to it."""
    return os.fsencode(name)[:NAME_BYTES].decode(errors="ignore")


def _hold(path: Path) -> int | None:
    """Return a descriptor that locks a file or folder until this process closes it or ends; None where another has it."""
    if fcntl is None:
        # Windows removes nothing that is open.
        return os.open(os.devnull, os.O_RDONLY)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        # A file system without locks.
        pass
    if os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)
    return None


def remove_left(path: Path, ending: str = ".tmp") -> None:
    """Remove what killed writers of `path` left beside it; what a living process is writing stays."""
    for left in path.parent.glob(f".{glob.escape(_shorten(path.name))}.{'[0-9a-f]' * 2 * TOKEN_BYTES}{ending}"):
        held = _hold(left)
        if held is None:
            continue
        with suppress(OSError):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        os.close(held)


def open_to_append(path: Path) -> IO[bytes]:
    """Return a file to append to, made where it is absent; raises OSError for a symbolic link."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "ab")


def write_parquet(table: "pa.Table", path: Path, compression: str = "zstd", **options: Any) -> None:
    """Write a table to a Parquet file with page checksums, whole or not at all; `options` are those of pyarrow."""
    import pyarrow.parquet as pq

    with atomic(path) as file:
        pq.write_table(table, file, compression=compression, write_page_checksum=True, **options)


def write_json(obj: Any, path: Path) -> None:
    """Write JSON (UTF-8, sorted keys, one value a line), whole or not at all."""
    text = json.dumps(obj, ensure_ascii=False, indent=1, sort_keys=True)
    try:
        text.encode()
    except UnicodeEncodeError:
        # The name of a file that is not UTF-8 is in it: ASCII can spell that.
        text = json.dumps(obj, indent=1, sort_keys=True)
    with atomic(path, "w") as file:
        file.write(f"{text}\n")


def remove_temporary(folder: Path) -> None:
    """Remove what killed writers left in a folder; nobody may be writing there."""
    for path in folder.glob(TEMPORARY):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder last through a power cut."""
    # Windows can't open a folder, and needs no sync for a rename to last.
    if not hasattr(os, "O_DIRECTORY"):
        return
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
