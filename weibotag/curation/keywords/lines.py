"""What posts say, line by line: texts, print in pictures, and names of what pictures show; on disk where there is much."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts
from weibotag.core.errors import RequestError
from weibotag.core.schema import WORDING
from weibotag.core.text_matching import CODES, Matcher, fold, spell_out
from weibotag.features.vocabulary import SOURCES

# Sources before this are read for words, the others say one word a line.
NAMED = SOURCES.index("object")
BLOCK_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Lines:
    """Lines by post, with their posts (row in a table, or number among all) and sources (number in `SOURCES`), int64."""

    texts: list[str]
    posts: np.ndarray
    sources: np.ndarray

    @property
    def named(self) -> np.ndarray:
        """Return a bool per line: whether it is one name."""
        return self.sources >= NAMED


def list_lines(table: pa.Table) -> Lines:
    """Return what the posts of a table say: its column text, and of `wordings` all but visual codes."""
    posts, sources = np.arange(len(table)), np.zeros(len(table), np.int64)
    if "wordings" not in table.column_names:
        return Lines(table["text"].to_pylist(), posts, sources)
    offsets, values = list_parts(table["wordings"].combine_chunks())
    kinds = pc.index_in(values.field("kind"), pa.array(SOURCES)).fill_null(-1).to_numpy(zero_copy_only=False)
    spoken = np.flatnonzero(kinds >= 0)
    posts = np.concatenate([posts, np.repeat(np.arange(len(table)), np.diff(offsets))[spoken]])
    order = np.argsort(posts, kind="stable")
    words = values.field("word").take(pa.array(spoken)).cast(pa.string()).fill_null("")
    texts = pa.concat_arrays([table["text"].combine_chunks().cast(pa.string()), words]).take(pa.array(order))
    return Lines(texts.to_pylist(), posts[order], np.concatenate([sources, kinds[spoken].astype(np.int64)])[order])


def join_wordings(table: pa.Table, wordings: Path | None, posts: str) -> pa.Table:
    """Return a posts table with the wordings of a file that `weibotag wordings` wrote, in any order; without one, its own.

    `posts` is where the table comes from, for messages.
    Raises RequestError when the file can't be read, or a column `wordings` is no list as it writes them.
    """
    if wordings is not None:
        import duckdb

        query = "SELECT post_id, wordings FROM read_parquet(?) WHERE post_id IN (SELECT post_id FROM asked)"
        with duckdb.connect() as database:
            database.register("asked", table.select(["post_id"]))
            try:
                found = database.sql(query, params=[str(wordings)]).to_arrow_table()
            except duckdb.Error as error:
                said = str(error).splitlines()[0]
                raise RequestError(
                    f"--wordings {wordings}: {said}; expected what `weibotag wordings` writes to Parquet"
                ) from error
        rows = pc.index_in(table["post_id"].combine_chunks(), found["post_id"].combine_chunks())
        table = table.select([name for name in table.column_names if name != "wordings"])
        table = table.append_column("wordings", found["wordings"].combine_chunks().take(rows))
    if "wordings" not in table.column_names:
        return table
    try:
        lists = table["wordings"].cast(pa.list_(WORDING)).fill_null([])
    except pa.ArrowException as error:
        found = table["wordings"].type
        raise RequestError(
            f"{posts}: column wordings is {found}; expected what `weibotag wordings` writes: give --wordings"
        ) from error
    return table.set_column(table.column_names.index("wordings"), "wordings", lists)


class WordFinder:
    """Words (folded, distinct) that are looked for in lines: within texts and print, as the whole of a name.

    A word of one character is looked for in names only.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._long = np.flatnonzero([len(word) > 1 for word in words])
        self._matcher = Matcher([words[number] for number in self._long.tolist()])
        self._numbers = {word: number for number, word in enumerate(words)}

    def find(self, lines: Lines) -> tuple[np.ndarray, np.ndarray]:
        """Return places in the lines and numbers of the words there (int64): the leftmost, of those the longest."""
        named = np.flatnonzero(lines.named)
        read = np.flatnonzero(~lines.named)
        rows, words = self._matcher.find_all([lines.texts[place] for place in read.tolist()])
        names = (self._numbers.get(fold(lines.texts[place]).strip(), -1) for place in named.tolist())
        whole = np.fromiter(names, np.int64, len(named))
        return np.concatenate([read[rows], named[whole >= 0]]), np.concatenate([self._long[words - 1], whole[whole >= 0]])


class Spool:
    """Lines of any number of posts in a temporary file, four bytes a character; a post takes some fifty bytes of memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="weibotag-")  # noqa: SIM115 - it lives as long as the spool
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._channels: list[np.ndarray] = []
        self._numbers: dict[str, int] = {}
        self.posts = self.characters = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def channels(self) -> list[str]:
        """Return the names of the channels, by number."""
        return list(self._numbers)

    def channel_of(self) -> np.ndarray:
        """Return the number of the channel of each post, int64."""
        return np.concatenate([np.empty(0, np.int64), *self._channels])

    def append(self, table: pa.Table) -> Lines:
        """Write down the lines of a posts table, and return them."""
        lines = list_lines(table)
        self._file.write(spell_out("\n".join(lines.texts) + "\n").tobytes())
        lengths = np.fromiter(map(len, lines.texts), np.int64, len(lines.texts))
        ends = self.characters + np.cumsum(lengths + 1)
        self._parts.append((ends, lines.posts + self.posts, lines.sources.astype(np.int8)))
        numbers = (self._numbers.setdefault(channel, len(self._numbers)) for channel in table["channel"].to_pylist())
        self._channels.append(np.fromiter(numbers, np.int64, len(table)))
        self.characters = int(ends[-1]) if len(ends) else self.characters
        self.posts += len(table)
        return lines

    def blocks(self) -> Iterator[tuple[int, Lines]]:
        """Give all lines, some four million characters at a time and no post in two of them, with the place of the first."""
        if not self.posts:
            return
        ends, posts, sources = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        fresh = np.flatnonzero(np.diff(posts, prepend=-1))
        begins = np.concatenate([[0], ends[:-1]])
        borders = fresh[np.flatnonzero(np.diff(begins[fresh] // BLOCK_CHARACTERS, prepend=-1))]
        for first, last in zip(borders.tolist(), [*borders[1:].tolist(), len(ends)], strict=True):
            start = int(begins[first])
            text = self._characters()[start : int(ends[last - 1])].tobytes().decode(CODES, "surrogatepass")
            cuts = zip((begins[first:last] - start).tolist(), (ends[first:last] - start - 1).tolist(), strict=True)
            yield (
                start,
                Lines([text[low:high] for low, high in cuts], posts[first:last], sources[first:last].astype(np.int64)),
            )

    def read(self, starts: np.ndarray, lengths: np.ndarray) -> list[str]:
        """Return what stands at places of all characters, as it was written."""
        codes = self._characters()
        cuts = np.append(0, np.cumsum(lengths))
        places = np.repeat(starts - cuts[:-1], lengths) + np.arange(cuts[-1])
        text = codes[places].tobytes().decode(CODES, "surrogatepass")
        return [text[low:high] for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)]

    def _characters(self) -> np.ndarray:
        self._file.flush()
        # An empty file has nothing to map.
        return (
            np.empty(0, np.uint32)
            if not self.characters
            else np.memmap(self._file, np.uint32, "r", shape=(self.characters,))
        )
