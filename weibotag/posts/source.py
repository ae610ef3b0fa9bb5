"""Where posts come from: their files, which of their rows are asked for, and what must not be written among them."""

import glob
import hashlib
import os
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from weibotag.core.errors import RequestError
from weibotag.posts.encodings import KINDS, STDIN, find_kind
from weibotag.posts.selection import PostsSource as PostsSource

# A packed file holds some three times its size.
PACKED = 3


def resolve_files(path: str) -> list[Path]:
    """Return the files that `path` means, sorted: one file, all known files below a folder, or those of a glob."""
    if path == str(STDIN):
        return [STDIN]
    known = ", ".join(KINDS)
    place = Path(path)
    if place.is_file():
        if find_kind(place) is None:
            raise RequestError(f"{path}: unknown kind of file; expected one of {known} (.gz of the text ones too)")
        return [place]
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(path, recursive=True))
    files = sorted(file for file in found if find_kind(file) and not _is_hidden(file, place) and file.is_file())
    if files:
        return files
    if place.is_dir():
        raise RequestError(f"{path}: no posts in this folder; expected files that end in {known}")
    raise RequestError(f"{path}: no such file or folder; give a file, a folder, a quoted glob, or - for stdin")


def _is_hidden(file: Path, folder: Path) -> bool:
    below = file.relative_to(folder).parts if file.is_relative_to(folder) else (file.name,)
    return any(part.startswith(".") for part in below)


def describe_input(source: PostsSource) -> dict[str, Any]:
    """Return, as JSON, what tells this input from another: its files with size and time, or a digest of what stdin holds.

    Standard input is read into a file that takes its place, because it can be read only once.
    """
    files: list[list[str | int]]
    if source.path == str(STDIN):
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process reads from it
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        files = [[source.path, hashlib.file_digest(spool, "sha256").hexdigest()]]
        spool.seek(0)
        os.dup2(spool.fileno(), 0)
    else:
        states = [(path.resolve(), path.stat()) for path in resolve_files(source.path)]
        files = [[str(path), state.st_size, state.st_mtime_ns] for path, state in states]
    return {"files": files, **{key: value for key, value in asdict(source).items() if key != "path"}}


def input_bytes(source: PostsSource) -> int:
    """Return how many bytes the posts have, as text; 0 for stdin, of which it is not known."""
    if source.path == str(STDIN):
        return 0
    sizes = {path: path.stat().st_size for path in resolve_files(source.path)}
    return sum(size * (PACKED if path.suffix.lower() in (".gz", ".parquet") else 1) for path, size in sizes.items())


def refuse_outputs(source: PostsSource, *outputs: Path) -> None:
    """Raise RequestError for a file or folder to be written that would lie among the posts and be read as such."""
    if source.path == str(STDIN):
        return
    posts = Path(source.path).absolute()
    files = {path.resolve() for path in resolve_files(source.path)}
    for output in outputs:
        place = output.absolute()
        inside = place.is_relative_to(posts) if posts.is_dir() else place.match(str(posts))
        if inside or place.resolve() in files:
            raise RequestError(
                f"{output}: lies among the posts of {source.path}, where it would be read; choose another place"
            )


def matches(table: pa.Table, expression: str) -> np.ndarray:
    """Return a bool per row: where a DuckDB expression on the table's columns is true (null counts as false)."""
    import duckdb

    names = [name.lower() for name in table.column_names]
    twins = [name for name in table.column_names if names.count(name.lower()) > 1 and name.lower() in expression.lower()]
    if twins:
        raise RequestError(f"expression {expression!r}: columns {', '.join(twins)} differ in case alone; rename one")
    # Longer than every name, so that it hides none of them.
    place = "#" * (max(map(len, table.column_names), default=0) + 1)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "python_enable_replacements": "false",
        "threads": "1",
    }
    with duckdb.connect(config=settings) as database:
        database.register("posts", table.append_column(place, pa.array(np.arange(len(table)))))
        try:
            query = f'SELECT "{place}" FROM posts WHERE (\n{expression}\n)'
            if len(database.extract_statements(query)) != 1:
                raise RequestError(f"expression {expression!r}: more than one statement; expected one condition")
            rows = database.execute(query).fetchnumpy()[place]
        except duckdb.Error as error:
            reason, columns = str(error).splitlines()[0], ", ".join(table.column_names)
            raise RequestError(f"expression {expression!r}: {reason}; columns: {columns}") from error
    return np.isin(np.arange(len(table)), rows)
