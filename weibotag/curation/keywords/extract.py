"""The keywords of each channel: found in its posts and their pictures, counted, compared with those of an earlier time."""

import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.arrays import first_of_each
from weibotag.core.errors import NothingAcceptedError, RequestError
from weibotag.core.progress import bar, describe_cost
from weibotag.core.schema import WORDING, arrow_schema, cast
from weibotag.core.text_matching import fold
from weibotag.curation.keywords.phrases import (
    JOINERS,
    MOST_CHARACTERS,
    MOST_TOKENS,
    PhraseCounter,
    Spool,
    gather,
    unpack,
    weigh_phrases,
)
from weibotag.extraction.requests import WordingsRequest
from weibotag.features.plain_text import make_texts_plain
from weibotag.features.vocabulary import SOURCES, Lines, WordFinder, find_marks, list_lines
from weibotag.features.wordings import look_up_wordings
from weibotag.posts.encodings import open_file, open_lines
from weibotag.posts.reader import read_posts
from weibotag.posts.rejects import Rejects
from weibotag.posts.result_files import has_column, read_listing
from weibotag.posts.source import PostsSource, input_bytes, resolve_files
from weibotag.posts.supplied_words import add_given
from weibotag.posts.writer import find_format, write_tables

KEYWORDS = arrow_schema("channel_keywords")
FEWEST_POSTS = 2
# A word in fewer of a very large number of posts is chance.
FEWEST_SHARE = 1e-5
# A word that more of a channel's posts mention tells none of them from another.
MOST_SHARE = 0.5
LEAST_COHESION, LEAST_FREEDOM = 2.0, 0.5
# What a single Latin word or a name counts as: it has no parts to hold together, and needs no proof that it is whole.
OWN_COHESION, OWN_FREEDOM = 6.0, 1.0
# What posts take, rounded up from what a million of them took: bytes a second, bytes on disk for each, bytes of memory.
PACE, DISK_BYTES, MEMORY = 1.5e6, 2, 1.5e9
# A number by itself, or before a unit: dates and counts.
NUMBER = re.compile(r"^[0-9]+(?![a-z0-9])|(?<![a-z0-9])[0-9]+(?=[^\x00-\x7f])")
# Characters that no Chinese keyword begins or ends with, and words that are said of anything.
EDGES = frozenset("的了是在我你他她它们和与及或也都就很还又不没这那着把被让吗呢吧啊呀么")
_WORDS = """
一个 一些 一样 一种 一起 一直 之后 之前 今天 昨天 明天 现在 目前 已经 正在 自己 大家 什么 怎么 怎样 如何 为什么 可以 可能
能够 应该 需要 必须 因为 所以 但是 不过 而且 如果 虽然 然而 以及 通过 根据 关于 对于 由于 其中 其他 非常 十分 比较 更加 有点
真的 有人 有些 只有 只是 还有 没有 就是 也是 表示 希望 觉得 认为 知道 看到 进行 开始 继续 成为 使用 时候 时间 问题 方面 情况
全文 网页链接 分享图片 转发微博 视频 图片 哈哈 哈哈哈
a about after all also am an and any are as at back be because been but by can can't could did do does don't down even for
from get go going good got great had has have he her here him his how http https i if i'm in into is it it's its just know
let like lol make me more most much my no not now of off on one only or other our out over own people re really rt say
see she should so some than thank thanks that that's the their them then there these they this those time to today too
up us very via want was way we well were what when where which while who why will with would www yes you you're your
"""
STOP_WORDS = frozenset(_WORDS.split())


class KeywordIndex:
    """Keywords of channels (`table`: columns channel, keyword) as they are looked for in posts of their own channel.

    Raises RequestError when a channel has a keyword twice, or a keyword is empty.
    """

    def __init__(self, table: pa.Table) -> None:
        self.keywords = np.array(table["keyword"].to_pylist(), dtype=object)
        folded = [fold(word or "").strip() for word in self.keywords]
        if "" in folded:
            raise RequestError(f"keyword {folded.index('') + 1} is empty: every row needs a keyword; delete the row")
        words, numbers = np.unique(np.array(folded, dtype=object), return_inverse=True)
        self._finder = WordFinder(words.tolist())
        self._channels = {channel: number for number, channel in enumerate(pc.unique(table["channel"]).to_pylist())}
        channels = np.array([self._channels[channel] for channel in table["channel"].to_pylist()], np.int64)
        first = first_of_each(channels * len(words) + numbers)
        if not first.all():
            row = int(np.argmin(first))
            raise RequestError(
                f"keyword {self.keywords[row]!r} is there twice in channel {table['channel'][row]}; delete one"
            )
        # The place of each keyword, from 1, by channel and word; the last row is that of channels without keywords.
        shape = (len(self._channels) + 1, len(words))
        self._places = csr_matrix((np.arange(1, len(table) + 1), (channels, numbers)), shape=shape)

    def find(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Return what the posts of a table mention, each once: rows of posts and of keywords, int64, ordered by both.

        `table` has the columns text, channel and, where pictures were looked at, wordings. A post of a channel without
        keywords mentions none.
        """
        lines = list_lines(table)
        places, words = self._finder.find(lines)
        posts, total = lines.posts[places], max(1, len(self.keywords))
        numbers = (self._channels.get(channel, len(self._channels)) for channel in table["channel"].to_pylist())
        channels = np.fromiter(numbers, np.int64, len(table))[posts]
        rows = np.asarray(self._places[channels, words]).ravel() if len(words) else words
        return np.divmod(np.unique(posts[rows > 0] * total + rows[rows > 0] - 1), total)


def find_keywords(table: pa.Table, keywords: KeywordIndex) -> pa.ListArray:
    """Return for each post the keywords of its channel that it mentions, each once, as they are written in the index."""
    posts, rows = keywords.find(table)
    ends = pa.array(np.searchsorted(posts, np.arange(len(table) + 1)), pa.int32())
    return pa.ListArray.from_arrays(ends, pa.array(keywords.keywords[rows], pa.string()))


def read_keywords(path: Path) -> pa.Table:
    """Read what `extract_keywords` wrote, or the like: only channel and keyword must be there.

    Raises RequestError where it can't be read, NothingAcceptedError where it has no row.
    """
    found = read_listing(path, "channel_keywords", ("channel", "keyword"))
    if not len(found):
        raise NothingAcceptedError(path)
    return found


def cost_of_extraction(source: PostsSource) -> str:
    """Return in one line what finding the keywords of posts takes."""
    size = input_bytes(source)
    return describe_cost(source.path, size, 5 + size / PACE, MEMORY, size * DISK_BYTES)


@dataclass(frozen=True)
class ExtractionSummary:
    """What was found: posts, rows that could not be used, keywords, channels, keywords that are new (None: not asked)."""

    posts: int
    rejects: int
    keywords: int
    channels: int
    new: int | None
    out: str


def extract_keywords(
    request: WordingsRequest, out: Path, earlier: str | None = None, stop_words: Path | None = None
) -> ExtractionSummary:
    """Write the keywords of posts to `out` (schema "channel_keywords"), by channel and score.

    A keyword is a phrase that holds together and stands free (see `phrases`), a name that a picture or a text itself marks
    (《…》, #…#), or a Latin word. `earlier` is posts, or the keywords that were found in them; `stop_words` a file of
    words that are no keywords.
    """
    find_format(out)
    without = read_stop_words(stop_words)
    if earlier is not None:
        resolve_files(earlier)
    rejects = Rejects()
    names: dict[str, str] = {}
    with tempfile.TemporaryFile(prefix="weibotag-") as file:
        spool = Spool(file)
        for table in read_pictured(request, rejects, "reading posts"):
            for name in find_names(spool.append(table)):
                names.setdefault(fold(name), name)
        table = count_posts(spool, find_candidates(spool, names, without, request.quiet), request.quiet)
    if earlier is not None:
        if has_column(Path(earlier), "keyword"):
            before = read_counts(Path(earlier), table)
        else:
            past = request.model_copy(update={"posts": earlier, "where": None, "limit": None})
            index, before = KeywordIndex(table), np.zeros(len(table), np.int64)
            for posts in read_pictured(past, Rejects(), "reading earlier posts"):
                before += np.bincount(index.find(posts)[1], minlength=len(table))
        table = compare_with(table, before)
    write_tables([table], out, KEYWORDS)
    new = pc.sum(table["is_new"]).as_py()
    return ExtractionSummary(spool.posts, rejects.count, len(table), len(pc.unique(table["channel"])), new, str(out))


@dataclass
class Candidates:
    """Words that may be keywords: folded, as written, and their measures (see `phrases.Measures`), float64."""

    folded: list[str]
    written: list[str]
    cohesion: np.ndarray
    freedom: np.ndarray


def find_names(lines: Lines) -> Iterator[str]:
    """Give the names that pictures show or texts mark."""
    for text, named in zip(lines.texts, lines.named.tolist(), strict=True):
        if named:
            yield text.strip()
        else:
            yield from (name for _, name in find_marks([text]))


def find_candidates(spool: Spool, names: Mapping[str, str], stop_words: Collection[str], quiet: bool) -> Candidates:
    """Return the words of the posts in a spool that may be keywords, and `names` by their folded form; no stop words."""
    counter = PhraseCounter()
    with bar(spool.posts, "counting phrases, posts", quiet) as progress:
        for start, lines in spool.blocks():
            read = (
                " " * len(text) if named else text for text, named in zip(lines.texts, lines.named.tolist(), strict=True)
            )
            counter.add(fold("\n".join(read)), start)
            progress.advance(int(lines.posts[-1] - lines.posts[0]) + 1)
    measures = weigh_phrases(counter, lambda places: [fold(text) for text in spool.read(*unpack(places))])
    cohesion = np.where(measures.sizes == 1, OWN_COHESION, measures.cohesion)
    chosen = (measures.sizes > 0) & (measures.sizes <= MOST_TOKENS) & (cohesion >= LEAST_COHESION)
    chosen &= (measures.freedom >= LEAST_FREEDOM) & (counter.counts >= max(fewest_posts(spool.posts), counter.lost + 1))
    rows = np.flatnonzero(chosen)
    found = dict.fromkeys(names, (OWN_COHESION, OWN_FREEDOM))
    written = dict(names)
    for text, row in zip(spool.read(*unpack(counter.places[rows])), rows.tolist(), strict=True):
        word = fold(text)
        written.setdefault(word, text)
        held, free = found.get(word, (0.0, 0.0))
        found[word] = max(held, float(cohesion[row])), max(free, float(measures.freedom[row]))
    kept = sorted(word for word in found if is_keyword(word) and word not in stop_words)
    pairs = np.array([found[word] for word in kept]).reshape(-1, 2)
    return Candidates(kept, [written[word] for word in kept], pairs[:, 0], pairs[:, 1])


def fewest_posts(posts: int) -> int:
    """Return how many of so many posts must mention a keyword at least."""
    return max(FEWEST_POSTS, int(posts * FEWEST_SHARE))


def is_keyword(word: str) -> bool:
    """Tell whether a folded word may be a keyword by its spelling."""
    if not 0 < len(word) <= MOST_CHARACTERS or "\n" in word or NUMBER.search(word):
        return False
    if word[0] in EDGES or word[-1] in EDGES or word[0] in JOINERS or word[-1] in JOINERS:
        return False
    if not word.isascii():
        return True
    parts = word.split()
    return len(parts) == 1 or (parts[0] not in STOP_WORDS and parts[-1] not in STOP_WORDS)


def read_stop_words(path: Path | None) -> frozenset[str]:
    """Return the stop words, folded, with those of a file that has one a line; raises RequestError."""
    if path is None:
        return STOP_WORDS
    with open_lines(open_file(path, "csv")) as lines:
        return STOP_WORDS | {fold(line).strip() for line in lines}


def count_posts(spool: Spool, candidates: Candidates, quiet: bool) -> pa.Table:
    """Return the candidates that enough posts of a channel mention, and not too many (schema "channel_keywords")."""
    words = len(candidates.folded)
    keys, posts, sources = count_sources(spool, candidates.folded, quiet)
    channels, numbers = np.divmod(keys, max(1, words))
    sizes = np.bincount(spool.channel_of(), minlength=len(spool.channels))
    total = np.bincount(numbers, posts, minlength=words)
    kept = np.flatnonzero((posts >= fewest_posts(spool.posts)) & (posts <= np.maximum(MOST_SHARE * sizes[channels], 1)))
    channels, numbers, posts, sources = channels[kept], numbers[kept], posts[kept], sources[kept]
    # Twice as often in a channel as in all of them counts half as much again.
    special = np.log2(1 + posts / sizes[channels] * spool.posts / total[numbers])
    scores = candidates.cohesion[numbers] * candidates.freedom[numbers] * np.sqrt(posts) * special
    names = np.array(spool.channels, dtype=object)[channels]
    order = np.lexsort((numbers, -scores, names.astype(str)))
    combinations = [[source for bit, source in enumerate(SOURCES) if mask >> bit & 1] for mask in range(1 << len(SOURCES))]
    columns = {
        "channel": pa.array(names[order], pa.string()),
        "keyword": pa.array(np.array(candidates.written, dtype=object)[numbers[order]], pa.string()),
        "posts": posts[order],
        "score": scores[order],
        "sources": pa.array(combinations, KEYWORDS.field("sources").type).take(pa.array(sources[order])),
    }
    return cast(pa.table(columns), "channel_keywords")


def count_sources(spool: Spool, words: Sequence[str], quiet: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which words (folded) the posts of which channels mention, int64 columns ordered by the first.

    They are channel x words + word (numbers), how many posts, and sources as bits in the order of `SOURCES`.
    """
    finder = WordFinder(words)
    channel_of = spool.channel_of()
    found = (np.empty(0, np.int64),) * 3
    with bar(spool.posts, "looking for keywords, posts", quiet) as progress:
        for _, lines in spool.blocks():
            places, numbers = finder.find(lines)
            owners = lines.posts[places]
            pairs, _, bits = gather(np.bitwise_or, owners * len(words) + numbers, owners, 1 << lines.sources[places])
            posts, numbers = np.divmod(pairs, max(1, len(words)))
            block = channel_of[posts] * len(words) + numbers, np.ones(len(posts), np.int64), bits
            found = gather(np.bitwise_or, *(np.concatenate(both) for both in zip(found, block, strict=True)))
            progress.advance(int(lines.posts[-1] - lines.posts[0]) + 1)
    return found


def read_counts(path: Path, table: pa.Table) -> np.ndarray:
    """Return how many posts mention the keywords of a table by a file of keywords, int64. Raises RequestError."""
    known = read_listing(path, "channel_keywords", ("channel", "keyword", "posts"))
    rows = zip(*(known[name].to_pylist() for name in ("channel", "keyword", "posts")), strict=True)
    counts = {(channel, fold(word).strip()): posts or 0 for channel, word, posts in rows}
    pairs = zip(table["channel"].to_pylist(), table["keyword"].to_pylist(), strict=True)
    return np.array([counts.get((channel, fold(word)), 0) for channel, word in pairs], np.int64)


def compare_with(table: pa.Table, before: np.ndarray) -> pa.Table:
    """Return the table with `trend` and `is_new` by how many posts mentioned each keyword earlier.

    Trend is the logarithm of the growth of its posts, one more counted on both sides, over that of all keywords of its
    channel that both times have: twice the posts of everything is no trend.
    """
    now = table["posts"].to_numpy()
    groups = pc.dictionary_encode(table["channel"]).combine_chunks().indices.to_numpy()
    known = before > 0
    sums = (1 + np.bincount(groups[known], counts[known], len(table)) for counts in (now, before))
    trend = np.log((now + 1) / (before + 1) / np.divide(*sums)[groups])
    for name, values in (("trend", pa.array(trend, pa.float32())), ("is_new", pa.array(~known))):
        table = table.set_column(table.column_names.index(name), KEYWORDS.field(name), values)
    return table


def read_pictured(request: WordingsRequest, rejects: Rejects, label: str, rows: int = 20_000) -> Iterator[pa.Table]:
    """Give tables of so many posts, counted on a bar; those whose pictures say something have the column `wordings`.

    Texts are plain (see `plain_text`).

    Raises RequestError when the file of wordings can't be read, or a column `wordings` is no list as `weibotag wordings`
    writes.
    """
    with bar(None, label, request.quiet) as progress:
        for table in read_posts(request.source, rejects, rows):
            if request.wordings is not None:
                lists = look_up_wordings(request.wordings, table["post_id"])
                table = table.select([name for name in table.column_names if name != "wordings"])
                table = table.append_column("wordings", lists)
            if "wordings" in table.column_names:
                lists = _cast_wordings(table["wordings"], request.posts)
                table = table.set_column(table.column_names.index("wordings"), "wordings", lists)
            yield add_given(make_texts_plain(table), request.words)
            progress.advance(len(table))


def _cast_wordings(wordings: pa.ChunkedArray, posts: str) -> pa.ChunkedArray:
    try:
        return wordings.cast(pa.list_(WORDING)).fill_null([])
    except pa.ArrowException as error:
        raise RequestError(
            f"{posts}: column wordings is {wordings.type}; expected what `weibotag wordings` writes: give --wordings"
        ) from error
