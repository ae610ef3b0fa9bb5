"""What posts say, line by line: texts, print in pictures, and names of what pictures show; words and marks in them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts
from weibotag.core.text_matching import Matcher, fold

SOURCES = ("text", "ocr", "object", "face", "clip")
# Sources before this are read for words, the others say one word a line.
NAMED = SOURCES.index("object")
# What a text itself marks as a name: 《title》, #hashtag#.
MARKED = re.compile(r"《([^《》\n]{1,30})》|#([^#\n]{1,30})#")


@dataclass(frozen=True)
class Lines:
    """Lines ordered by post, with int64 columns: the post (row in a table, or number among all), the source (number in
    `SOURCES`), and the place of the wording among all wordings of the table (-1 in texts).
    """

    texts: list[str]
    posts: np.ndarray
    sources: np.ndarray
    wordings: np.ndarray

    @property
    def named(self) -> np.ndarray:
        """Return a bool per line: whether it is one name."""
        return self.sources >= NAMED


def list_lines(table: pa.Table) -> Lines:
    """Return what the posts of a table say: its column text, and of `wordings` all but visual codes, which are no words."""
    posts, sources, nowhere = np.arange(len(table)), np.zeros(len(table), np.int64), np.full(len(table), -1)
    if "wordings" not in table.column_names:
        return Lines(table["text"].to_pylist(), posts, sources, nowhere)
    offsets, values = list_parts(table["wordings"].combine_chunks())
    kinds = pc.index_in(values.field("kind"), pa.array(SOURCES)).fill_null(-1).to_numpy(zero_copy_only=False)
    spoken = np.flatnonzero(kinds >= 0)
    posts = np.concatenate([posts, np.repeat(posts, np.diff(offsets))[spoken]])
    order = np.argsort(posts, kind="stable")
    words = values.field("word").take(pa.array(spoken)).cast(pa.string()).fill_null("")
    texts = pa.concat_arrays([table["text"].combine_chunks().cast(pa.string()), words]).take(pa.array(order))
    sources = np.concatenate([sources, kinds[spoken].astype(np.int64)])
    return Lines(texts.to_pylist(), posts[order], sources[order], np.concatenate([nowhere, spoken])[order])


class WordFinder:
    """Words (folded, distinct) that are looked for in lines: within texts and print, as the whole of a name.

    A word of fewer than `shortest` characters is looked for in names only.
    """

    def __init__(self, words: Sequence[str], shortest: int = 2) -> None:
        self._long = np.flatnonzero([len(word) >= shortest for word in words])
        self._matcher = Matcher([words[number] for number in self._long.tolist()])
        self._numbers = {word: number for number, word in enumerate(words)}

    def find(self, lines: Lines) -> tuple[np.ndarray, np.ndarray]:
        """Return places in the lines, ascending, and numbers of the words there (int64): the leftmost, then the longest."""
        named, read = np.flatnonzero(lines.named), np.flatnonzero(~lines.named)
        rows, words = self._matcher.find_all(lines.texts if not len(named) else [lines.texts[at] for at in read.tolist()])
        names = (self._numbers.get(fold(lines.texts[at]).strip(), -1) for at in named.tolist())
        whole = np.fromiter(names, np.int64, len(named))
        places = np.concatenate([read[rows], named[whole >= 0]])
        order = np.argsort(places, kind="stable")
        return places[order], np.concatenate([self._long[words - 1], whole[whole >= 0]])[order]


def find_marks(texts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Give places in `texts` and the names that these mark, ordered by place."""
    for row, text in enumerate(texts):
        # Most texts have no mark, and looking for one is faster than matching.
        if "《" in text or "#" in text:
            for match in MARKED.finditer(text):
                yield row, (match[1] or match[2]).strip()
