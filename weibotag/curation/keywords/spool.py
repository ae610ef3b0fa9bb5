"""Lines of any number of posts, on disk: read once, gone over several times."""

from collections.abc import Iterator
from typing import IO

import numpy as np
import pyarrow as pa

from weibotag.core.text_matching import CODES, spell_out
from weibotag.features.lines import Lines, list_lines

BLOCK_CHARACTERS = 4_000_000


class Spool:
    """Lines of any number of posts in an empty file, four bytes a character; a post takes some fifty bytes of memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._channels: list[np.ndarray] = [np.empty(0, np.int64)]
        self._numbers: dict[str, int] = {}
        self.posts = self.characters = 0

    @property
    def channels(self) -> list[str]:
        """Return the names of the channels, by number."""
        return list(self._numbers)

    def channel_of(self) -> np.ndarray:
        """Return the number of the channel of each post, int64."""
        return np.concatenate(self._channels)

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
            texts = self.read(begins[first:last], ends[first:last] - begins[first:last] - 1)
            yield start, Lines(texts, posts[first:last], sources[first:last].astype(np.int64), np.full(last - first, -1))

    def read(self, starts: np.ndarray, lengths: np.ndarray) -> list[str]:
        """Return what stands at places of all characters, as it was written."""
        codes = self._characters()
        cuts = np.append(0, np.cumsum(lengths))
        places = np.repeat(starts - cuts[:-1], lengths) + np.arange(cuts[-1])
        text = codes[places].tobytes().decode(CODES, "surrogatepass")
        return [text[low:high] for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)]

    def _characters(self) -> np.ndarray:
        if not self.characters:
            # An empty file can't be mapped.
            return np.empty(0, np.uint32)
        self._file.flush()
        return np.memmap(self._file, np.uint32, "r", shape=(self.characters,))
