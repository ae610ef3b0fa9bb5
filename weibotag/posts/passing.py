"""Columns of the user's own, which pass through: while posts are worked on their names begin with a mark, so that none is
taken for a column of ours, whatever it is called; in the output they have their own names again."""

from collections.abc import Container

import pyarrow as pa

from weibotag.core.schema import arrow_schema

MARK = "given:"


def set_apart(posts: pa.Table) -> pa.Table:
    """Return a posts table with the mark before the name of every column that is none of "posts"."""
    own = arrow_schema("posts").names
    return posts.rename_columns([name if name in own else MARK + name for name in posts.column_names])


def find_column(posts: pa.Table, name: str) -> pa.ChunkedArray | None:
    """Return a column by the name that the user knows it by, whether or not such are set apart; None where there is none."""
    return next((posts[one] for one in (MARK + name, name) if one in posts.column_names), None)


def known_names(posts: pa.Table) -> list[str]:
    """Return the columns of a posts table as the user knows them."""
    return [name.removeprefix(MARK) for name in posts.column_names]


def pass_through(answer: pa.Table, posts: pa.Table) -> pa.Table:
    """Return a table with the columns of `posts` (same rows) that are set apart behind its own."""
    for name, cells in zip(posts.column_names, posts.columns, strict=True):
        if name.startswith(MARK):
            answer = answer.append_column(free_name(name.removeprefix(MARK), answer.column_names, known_names(posts)), cells)
    return answer


def free_name(name: str, taken: Container[str], others: Container[str]) -> str:
    """Return a name that is not `taken`, with `_in` behind it until it is free, and then none of `others` either."""
    shown = name
    while shown in taken or (shown != name and shown in others):
        shown += "_in"
    return shown
