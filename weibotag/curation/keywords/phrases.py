"""Runs of characters and Latin words that hold together, counted in texts of any number: words that no dictionary has.

A token is a Chinese, Japanese or Korean character, a run of Latin letters and digits, or a hyphen or dot as in names; a
phrase is one to six of them that touch, Latin ones with a blank between. Texts are read once, spooled to disk (`Spool`), and
gone over several times.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import IO

import numpy as np
import pyarrow as pa

from weibotag.core.text_matching import CJK_START, CODES, edge_kinds, spell_out
from weibotag.features.vocabulary import Lines, list_lines

# One more is counted, because what follows a phrase tells whether it ends there.
MOST_TOKENS = 6
MOST_CHARACTERS = 30
JOINERS = "-_'’·•・"
BLANK = 0x20
# Odd, so that no power of it loses bits.
PRIME = 0x9E3779B97F4A7C15
POWERS = np.array([pow(PRIME, power, 1 << 64) for power in range(MOST_CHARACTERS + 1)], np.uint64)
# Phrases in memory at once, 24 bytes each, some three times that while two tables are merged.
MOST_PHRASES = 6_000_000
# Phrases that are weighed at once.
ROWS = 500_000
# Characters that are read from disk at once.
BLOCK_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text: hashes (uint64), where each starts and ends in it (int64), and whether it goes on in the next."""

    hashes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    joined: np.ndarray

    def phrases(self, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give, for 1 to `length` tokens, the tokens that such phrases start with (int64) and their hashes (uint64)."""
        heads = np.arange(len(self.hashes))
        hashes = self.hashes
        for size in range(1, length + 1):
            yield heads, hashes
            last = heads + size - 1
            goes_on = self.joined[last]
            heads = heads[goes_on]
            hashes = hashes[goes_on] * np.uint64(PRIME) + self.hashes[heads + size]


def split_tokens(text: str) -> Tokens:
    """Return the tokens of a folded text."""
    codes = spell_out(text)
    latin = edge_kinds(codes) > 0
    inside = latin | _stands_alone(codes)
    first = inside & ~(latin & np.concatenate([[False], latin[:-1]]))
    starts = np.flatnonzero(first)
    if not len(starts):
        return Tokens(np.empty(0, np.uint64), starts, starts, np.empty(0, bool))
    number = np.maximum(np.cumsum(first) - 1, 0)
    offset = np.minimum(np.maximum(np.arange(len(codes)) - starts[number], 0), MOST_CHARACTERS)
    mixed = np.where(inside, mix(codes.astype(np.uint64) + np.uint64(1)) * POWERS[offset], np.uint64(0))
    hashes = mix(np.add.reduceat(mixed, starts))
    ends = starts + np.bincount(number[inside], minlength=len(starts))
    joined = np.zeros(len(starts), bool)
    gap = starts[1:] - ends[:-1]
    ends_latin, starts_latin = latin[starts[:-1]], latin[starts[1:]]
    joined[:-1] = (gap == 0) | ((gap == 1) & (codes[ends[:-1]] == BLANK) & ends_latin & starts_latin)
    return Tokens(hashes, starts, ends, joined)


class PhraseCounter:
    """How often each phrase was seen: sorted hashes (uint64), counts (int64), and where one stood (see `place`).

    When there are too many the rarest are forgotten: a count may then be too small by as much as `lost`.
    """

    def __init__(self) -> None:
        self.hashes, self.counts, self.places = np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64)
        self.tokens = self.lost = 0

    def add(self, text: str, offset: int) -> None:
        """Count the phrases of a folded text that starts at character `offset` of all texts."""
        tokens = split_tokens(text)
        self.tokens += len(tokens.hashes)
        parts = [(self.hashes, self.counts, self.places)]
        for size, (heads, hashes) in enumerate(tokens.phrases(MOST_TOKENS + 1)):
            lengths = tokens.ends[heads + size] - tokens.starts[heads]
            short = lengths <= MOST_CHARACTERS
            places = place(tokens.starts[heads[short]] + offset, lengths[short])
            parts.append(gather(np.minimum, hashes[short], np.ones(len(places), np.int64), places))
        joined = (np.concatenate(part) for part in zip(*parts, strict=True))
        self.hashes, self.counts, self.places = gather(np.minimum, *joined)
        floor = 0
        while len(self.hashes) > MOST_PHRASES:
            floor += 1
            kept = self.counts > floor
            self.hashes, self.counts, self.places = self.hashes[kept], self.counts[kept], self.places[kept]
        self.lost += floor

    def look_up(self, hashes: np.ndarray) -> np.ndarray:
        """Return the places of hashes in the table, int64, -1 for those that it does not have."""
        spots = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        return np.where(self.hashes[spots] == hashes, spots, -1)

    def count(self, spots: np.ndarray) -> np.ndarray:
        """Return the counts at places in the table, float64; what was forgotten was seen once at least."""
        return np.where(spots >= 0, self.counts[spots], 1).astype(np.float64)


@dataclass(frozen=True)
class Measures:
    """What is known of the phrases of a counter, in its order: `sizes` in tokens (int8, 0: seen once), and as float32:

    `cohesion`: how many times more often than by chance its parts stand together, the logarithm, where it is parted best
    (0 for one token); `freedom`: the entropy in nats of what stands before it or after it, the smaller one.
    """

    sizes: np.ndarray
    cohesion: np.ndarray
    freedom: np.ndarray


def weigh_phrases(counter: PhraseCounter, spell: Callable[[np.ndarray], list[str]]) -> Measures:
    """Return the measures of all phrases that were seen twice; `spell` gives the folded text at places."""
    total = len(counter.hashes)
    measures = Measures(np.zeros(total, np.int8), np.zeros(total, np.float32), np.zeros(total, np.float32))
    # A phrase that goes on in one way only is no whole word. What was seen once adds nothing to these sums, as log 1 is 0.
    before, after = np.zeros(total), np.zeros(total)
    seen = np.flatnonzero(counter.counts > 1)
    for start in range(0, len(seen), ROWS):
        rows = seen[start : start + ROWS]
        tokens = split_tokens("\n".join(spell(counter.places[rows])))
        heads = np.flatnonzero(np.concatenate([[True], ~tokens.joined[:-1]]))
        sizes = np.diff(np.append(heads, len(tokens.hashes)))
        measures.sizes[rows] = sizes
        for size in range(2, MOST_TOKENS + 2):
            own = rows[sizes == size]
            parts = _look_up_parts(counter, tokens.hashes, heads[sizes == size], size)
            chances = [counter.count(parts[0, at]) * counter.count(parts[at, size]) for at in range(1, size)]
            often = np.log(counter.counts[own])
            measures.cohesion[own] = often + np.log(counter.tokens) - np.log(np.max(chances, axis=0))
            for spread, part in ((before, parts[1, size]), (after, parts[0, size - 1])):
                spread += np.bincount(part[part >= 0], (counter.counts[own] * often)[part >= 0], minlength=total)
    counts = counter.counts[seen]
    measures.freedom[seen] = np.log(counts) - np.maximum(before[seen], after[seen]) / counts
    return measures


def _look_up_parts(
    counter: PhraseCounter, hashes: np.ndarray, heads: np.ndarray, size: int
) -> dict[tuple[int, int], np.ndarray]:
    """Return, by (from, to), where the counter has what phrases of `size` tokens from `heads` begin and end with."""
    parts = {}
    for start in range(size):
        part = np.zeros(len(heads), np.uint64)
        for at in range(start, size):
            part = part * np.uint64(PRIME) + hashes[heads + at]
            if (start == 0) != (at == size - 1):
                parts[start, at + 1] = counter.look_up(part)
    return parts


def gather(
    join: np.ufunc, keys: np.ndarray, counts: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct keys, sorted, with their counts added up and their values joined."""
    if not len(keys):
        return keys, counts, values
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts[order], starts), join.reduceat(values[order], starts)


def place(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return where phrases start and how many characters they have as one number each."""
    return np.asarray((starts << 8) | lengths)


def unpack(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and numbers of characters, see `place`."""
    return places >> 8, places & 0xFF


def mix(numbers: np.ndarray) -> np.ndarray:
    """Return uint64 numbers with all bits spread over all others (the finaliser of SplitMix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(numbers ^ (numbers >> np.uint64(31)))


def _stands_alone(codes: np.ndarray) -> np.ndarray:
    table = _lonely()
    return np.where(codes < len(table), table[np.minimum(codes, len(table) - 1)], (codes >> 16 == 2) | (codes >> 16 == 3))


@cache
def _lonely() -> np.ndarray:
    """Return for each character of the basic plane whether it is a token by itself."""
    table = np.array([code >= CJK_START and chr(code).isalpha() for code in range(0x10000)])
    table[[ord(joiner) for joiner in JOINERS]] = True
    return table


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
