"""Posts with what their pictures say: their own column `wordings`, that of a file, and words in other columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.errors import RequestError
from weibotag.core.progress import bar
from weibotag.core.schema import WORDING
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource
from weibotag.posts.supplied_words import add_given


@dataclass(frozen=True)
class PicturedPosts:
    """Where posts come from, and what their pictures say: a file that `weibotag wordings` wrote (without one, the posts'
    own column), and `words`, a column for each kind of wording (see `add_given`).
    """

    source: PostsSource
    words: Mapping[str, str] = field(default_factory=dict)
    wordings: Path | None = None

    def read(self, rejects: Rejects, label: str, quiet: bool, rows: int = 20_000) -> Iterator[pa.Table]:
        """Give tables of so many posts, counted on a bar; those of which something is known have the column `wordings`.

        Raises RequestError when the file can't be read, or a column `wordings` is no list as `weibotag wordings` writes.
        """
        with bar(None, label, quiet) as progress:
            for table in read_posts(self.source, rejects, rows):
                yield add_given(self._join(table), self.words)
                progress.advance(len(table))

    def _join(self, table: pa.Table) -> pa.Table:
        if self.wordings is not None:
            found = _look_up(self.wordings, table.select(["post_id"]))
            rows = pc.index_in(table["post_id"].combine_chunks(), found["post_id"].combine_chunks())
            table = table.select([name for name in table.column_names if name != "wordings"])
            table = table.append_column("wordings", found["wordings"].combine_chunks().take(rows))
        if "wordings" not in table.column_names:
            return table
        try:
            lists = table["wordings"].cast(pa.list_(WORDING)).fill_null([])
        except pa.ArrowException as error:
            kind = table["wordings"].type
            raise RequestError(
                f"{self.source.path}: column wordings is {kind}; expected what `weibotag wordings` writes: give --wordings"
            ) from error
        return table.set_column(table.column_names.index("wordings"), "wordings", lists)


def _look_up(wordings: Path, asked: pa.Table) -> pa.Table:
    """Return post_id and wordings of the asked posts that a file has."""
    import duckdb

    query = "SELECT post_id, wordings FROM read_parquet(?) WHERE post_id IN (SELECT post_id FROM asked)"
    with duckdb.connect() as database:
        database.register("asked", asked)
        try:
            return database.sql(query, params=[str(wordings)]).to_arrow_table()
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
            raise RequestError(
                f"--wordings {wordings}: {said}; expected what `weibotag wordings` writes to Parquet"
            ) from error
