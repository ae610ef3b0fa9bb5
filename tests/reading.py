"""Short ways for tests to write a file of posts, to read it and to see what was rejected."""

import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from weibotag.core.errors import NothingAcceptedError
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource


def read(path: Path | str, rejects: Rejects | None = None, batch_rows: int = 20_000, **options: object) -> pa.Table:
    source = PostsSource(str(path), **options)  # type: ignore[arg-type]
    return pa.concat_tables(read_posts(source, rejects or Rejects(), batch_rows))


def read_any(source: PostsSource, rejects: Rejects, batch_rows: int = 20_000) -> Iterator[pa.Table]:
    """Read posts of which it may be that none can be used."""
    with suppress(NothingAcceptedError):
        yield from read_posts(source, rejects, batch_rows)


def rejected(path: Path, folder: Path, **options: object) -> list[dict[str, str]]:
    """Read `path` and return the rows of its rejects.csv."""
    with Rejects(folder / "rejects.out") as rejects:
        for _ in read_any(PostsSource(str(path), **options), rejects):  # type: ignore[arg-type]
            pass
    with (folder / "rejects.out").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == rejects.count
    return rows


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def write_rows(path: Path, rows: list[dict[str, Any]], encoding: str = "utf-8") -> Path:
    """Write rows, which have the same columns, to a CSV."""
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
