"""Posts with what their pictures say: their own column `wordings`, that of a file, and words in other columns."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.errors import RequestError
from weibotag.core.progress import bar
from weibotag.core.schema import WORDING
from weibotag.extraction.requests import WordingsRequest
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.supplied_words import add_given


def read_pictured(request: WordingsRequest, rejects: Rejects, label: str, rows: int = 20_000) -> Iterator[pa.Table]:
    """Give tables of so many posts, counted on a bar; those whose pictures say something have the column `wordings`.

    Raises RequestError when the file of wordings can't be read, or a column `wordings` is no list as `weibotag wordings`
    writes.
    """
    with bar(None, label, request.quiet) as progress:
        for table in read_posts(request.source, rejects, rows):
            if request.wordings is not None:
                found = _look_up(request.wordings, table.select(["post_id"]))
                places = pc.index_in(table["post_id"].combine_chunks(), found["post_id"].combine_chunks())
                table = table.select([name for name in table.column_names if name != "wordings"])
                table = table.append_column("wordings", found["wordings"].combine_chunks().take(places))
            if "wordings" in table.column_names:
                lists = _cast(table["wordings"], request.posts)
                table = table.set_column(table.column_names.index("wordings"), "wordings", lists)
            yield add_given(table, request.words)
            progress.advance(len(table))


def _cast(wordings: pa.ChunkedArray, posts: str) -> pa.ChunkedArray:
    try:
        return wordings.cast(pa.list_(WORDING)).fill_null([])
    except pa.ArrowException as error:
        raise RequestError(
            f"{posts}: column wordings is {wordings.type}; expected what `weibotag wordings` writes: give --wordings"
        ) from error


def _look_up(wordings: Path, asked: pa.Table) -> pa.Table:
    """Return post_id and wordings of the asked posts that a file has."""
    import duckdb

    query = "SELECT post_id, wordings FROM read_parquet(?) WHERE post_id IN (SELECT post_id FROM asked)"
    with duckdb.connect() as database:
        database.register("asked", asked)
        try:
            return database.sql(query, params=[str(wordings)]).to_arrow_table()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise RequestError(
                f"--wordings {wordings}: {reason}; expected what `weibotag wordings` writes to Parquet"
            ) from error
