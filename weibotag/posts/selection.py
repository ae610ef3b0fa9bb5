"""Which posts are asked for; nothing heavy is imported for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PostsSource:
    """Where posts come from: a file, a folder, a glob or "-" (stdin), how its columns are called, and which rows count.

    `columns` holds (canonical name, name in the file); `where` is a DuckDB expression, rows where it is not
    true are left out; `limit` stops after that many accepted posts.
    """

    path: str
    columns: tuple[tuple[str, str], ...] = ()
    where: str | None = None
    limit: int | None = None
