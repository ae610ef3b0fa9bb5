"""Words found in text: one Aho-Corasick automaton over all of them, blind to case, width and traditional characters, aware
of word borders.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from itertools import accumulate, chain, pairwise

import numpy as np
from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

# Full-width ASCII and the wide blank, each to its plain twin: one character for one, so that places stay true.
WIDTHS = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
# Scripts below this code part their words by blanks; Chinese, Japanese and Korean above it do not.
CJK_START = 0x2E80
CJK_HEAD = chr(CJK_START)

CODES = "utf-32-le"
LINE_BREAK = ord("\n")
LETTER, DIGIT = 1, 2
# ahocorasick_rs takes time that grows with the square of the words while it looks for rare bytes to skip by, which
# thousands of words never have; a first word of 256 bytes keeps it from looking. Of few words it would make an automaton
# that takes as long for one that repeats a letter ten thousand times.
GUARD = b"\0" * 256
FORM = Implementation.ContiguousNFA
# In a longer word that is glued to what stands beside it no shorter ones are looked for.
LONGEST = 100
# A Chinese word of so many characters may be the end of one and the start of another: 写作 in 写作业.
SHORT = 2

# The number of a word, counted from 1, and where it starts and ends in a text, in characters.
Match = tuple[int, int, int]


@cache
def _plainest() -> dict[int, int]:
    """Return characters with their plainest form: half width, simplified (OpenCC's table of single characters)."""
    import opencc

    written = [chr(code) for code in range(CJK_START, 0x10000) if not 0xD800 <= code < 0xE000 and code not in WIDTHS]
    # One a line, so that no two of them are read as one word.
    simple = opencc.OpenCC("t2s").convert("\n".join(written)).split("\n")
    return {ord(char): ord(other) for char, other in zip(written, simple, strict=True) if char != other} | WIDTHS


def fold(text: str) -> str:
    """Return `text` in lower case, half width and simplified characters, with the same length."""
    text = text.translate(_plainest())
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def edge_kind(char: str) -> int:
    """Return LETTER for a letter of a script that writes blanks between words, DIGIT for a digit, else 0."""
    if "0" <= char <= "9":
        return DIGIT
    return LETTER if ord(char) < CJK_START and char.isalpha() else 0


def spell_out(text: str) -> np.ndarray:
    """Return the code points of a text, uint32."""
    return np.frombuffer(text.encode(CODES, "surrogatepass"), np.uint32)


def edge_kinds(codes: np.ndarray) -> np.ndarray:
    """Return the `edge_kind` of each code point, uint8."""
    kinds = _tables()[1]
    return np.asarray(kinds[np.minimum(codes, len(kinds) - 1)])


def build_automaton(words: Sequence[str], matchkind: MatchKind) -> BytesAhoCorasick:
    """Return an automaton over UTF-8 that numbers `words` from 1: bytes are matched faster, and never inside a character."""
    return BytesAhoCorasick(
        [GUARD, *(word.encode("utf-8", "surrogatepass") for word in words)], matchkind=matchkind, implementation=FORM
    )


def locate(found: list[tuple[int, int, int]], encoded: bytes) -> np.ndarray:
    """Return matches (n, 3) int64 whose places in UTF-8 were made places in characters."""
    matches = np.fromiter(chain.from_iterable(found), np.int64, 3 * len(found)).reshape(-1, 3)
    if len(matches):
        heads = (np.frombuffer(encoded, np.uint8) & 0xC0) != 0x80
        before = np.concatenate([np.zeros(1, np.int32), np.cumsum(heads, dtype=np.int32)])
        matches[:, 1:] = before[matches[:, 1:]]
    return matches


class Matcher:
    """An automaton over folded words; a match is (number of the word, counted from 1, start, end) in characters.

    Of overlapping words the leftmost wins, of those the longest. A word that begins or ends with a letter or digit is
    not found next to another of the same kind: nba is in 看NBA比赛 and NBA2K, not in NBAx; iphone1 is not in iphone15.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._edges = np.array([(0, 0), *((edge_kind(word[0]), edge_kind(word[-1])) for word in words)], np.uint8)
        self._bare = (self._edges == 0).all(axis=1).tolist()
        self._words = words
        self._automaton = build_automaton(words, MatchKind.LeftmostLongest)

    @cached_property
    def _within(self) -> BytesAhoCorasick:
        return build_automaton(self._words, MatchKind.Standard)

    def find(self, text: str, written: str = "") -> list[Match]:
        """Return the matches in folded `text`, from left to right, none overlapping another.

        Where `written`, the text before folding, is given, a capital parts words as a blank does: redmi in RedmiNote.
        """
        found = self._scan(text)
        if all(self._bare[number] for number, _, _ in found):
            return found
        return [match for one in found for match in self._settle(text, written, one)]

    def _scan(self, text: str, overlapping: bool = False) -> list[Match]:
        encoded = text.encode("utf-8", "surrogatepass")
        automaton = self._within if overlapping else self._automaton
        found = automaton.find_matches_as_indexes(encoded, overlapping=overlapping)
        if not found or len(encoded) == len(text):
            return found
        return [(number, start, end) for number, start, end in locate(found, encoded).tolist()]

    def find_all(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows (places in `texts`) and the words' numbers of all matches in texts not yet folded, int64.

        The same as `find` on each folded text, for the price of one pass over all of them.
        """
        written = "\n".join(texts)
        codes = spell_out(written)
        folds, _ = _tables()
        codes = np.where(codes < len(folds) - 1, folds[np.minimum(codes, len(folds) - 1)], codes)
        joined = codes.tobytes().decode(CODES, "surrogatepass")
        encoded = joined.encode("utf-8", "surrogatepass")
        matches = locate(self._automaton.find_matches_as_indexes(encoded), encoded)
        edges = self._edges[matches[:, 0]]
        # A line break on both sides stands for the ends.
        ringed = np.concatenate([[LINE_BREAK], codes, [LINE_BREAK]])
        beside = edge_kinds(ringed[matches[:, 1:] + [0, 1]])
        glued = ((edges > 0) & (edges == beside)).any(axis=1)
        if glued.any():
            again = [
                whole
                for number, start, end in matches[glued].tolist()
                for whole in self._settle(joined, written, (number, start, end))
            ]
            matches = np.concatenate([matches[~glued], np.array(again, np.int64).reshape(-1, 3)])
            matches = matches[np.argsort(matches[:, 1], kind="stable")]
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
        return np.searchsorted(ends, matches[:, 1], side="right"), matches[:, 0]

    def _settle(self, text: str, written: str, match: Match) -> list[Match]:
        """Return the match where it is a whole word, else the whole words that its place holds, none that goes beyond it."""
        number, start, end = match
        if self._bare[number] or self._is_whole(text, written, match):
            return [match]
        if end - start > LONGEST:
            return []
        inner = [(word, low + start, high + start) for word, low, high in self._scan(text[start:end], overlapping=True)]
        settled: list[Match] = []
        for one in sorted(inner, key=lambda found: (found[1], -found[2])):
            if (not settled or one[1] >= settled[-1][2]) and self._is_whole(text, written, one):
                settled.append(one)
        return settled

    def _is_whole(self, text: str, written: str, match: Match) -> bool:
        number, start, end = match
        head, tail = self._edges[number].tolist()
        if head and start and edge_kind(text[start - 1]) == head and not _has_capital(written, start):
            return False
        glued = tail and end < len(text) and edge_kind(text[end]) == tail
        return not glued or _has_capital(written, end)


def _has_capital(written: str, place: int) -> bool:
    """Tell whether a capitalised word begins at `place`: after a small letter, or before one (OPPO|Reno)."""
    if not written or not written[place].isupper():
        return False
    return written[place - 1].islower() or written[place + 1 : place + 2].islower()


def drop_cut_out(text: str, matches: list[Match]) -> list[Match]:
    """Return the matches in folded `text` without short Chinese words that are cut out of longer ones.

    Such a word has to begin where a word of the text begins, and not to end amid another: 写作 in 写|作业 and 体育 in
    工人体育场 go, 火锅 in 火锅店 stays. Words of the text are those of rjieba, which is asked where it decides.
    """
    doubtful = {match for match in matches if match[2] - match[1] <= SHORT and min(text[match[1] : match[2]]) >= CJK_HEAD}
    if not doubtful:
        return matches
    import rjieba

    # A lone surrogate, which UTF-8 has no bytes for, is a ? to it.
    words = rjieba.cut(text.encode("utf-8", "replace").decode(), False)
    borders = [0, *accumulate(map(len, words))]
    ends = dict(pairwise(borders))
    ends[borders[-1]] = borders[-1]
    return [
        match
        for match in matches
        if match not in doubtful or (match[1] in ends and (match[2] in ends or match[2] <= ends[match[1]]))
    ]


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Return, for each character of the basic plane, its folded character (uint32) and its kind of edge (uint8)."""
    characters = [chr(code) if not 0xD800 <= code < 0xE000 else "\0" for code in range(0x10000)]
    folds = spell_out(fold("".join(characters))).copy()
    folds[0xD800:0xE000] = np.arange(0xD800, 0xE000)
    kinds = np.zeros(len(folds), np.uint8)
    kinds[:CJK_START] = [edge_kind(chr(code)) for code in range(CJK_START)]
    return folds, kinds[np.minimum(folds, len(kinds) - 1)]
