"""Learn from posts that have pictures and keywords which wordings speak for which keyword, and which no picture shows."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import first_of_each, list_parts
from weibotag.core.errors import RequestError
from weibotag.core.text_matching import fold
from weibotag.curation.keywords.extract import KeywordIndex, find_keywords, read_keywords
from weibotag.curation.keywords.picture_keywords import (
    ABOUT_FILE,
    LEARNT,
    PRINT_WEIGHT,
    PictureMap,
    add_up,
    hear,
    keep_best,
    read_pictured,
)
from weibotag.features.hashed_ngrams import BITS
from weibotag.posts.encodings import STDIN
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import PostsSource, refuse_outputs, resolve_files
from weibotag.scoring.calibration import fit
from weibotag.scoring.metrics import divide
from weibotag.scoring.tagger import collect_highest, mark_right

FOLDS = 4
# Keywords and features of fewer posts are not learnt, nor what a feature says of a keyword that it met but once.
FEWEST_POSTS, FEWEST_WITH_FEATURE, FEWEST_TOGETHER = 5, 3, 2
# A held-out precision counts as if that many more posts were as right as the channel's average post.
PRIOR_POSTS, FEWEST_HITS = 2.0, 3
# A post is not given what it is likelier not to have, however sure the others are.
LEAST_SCORE = 0.5
# Pairs of features and keywords that are counted at once.
MOST_PAIRS = 20_000_000
# Memory beside what posts take, and for each byte of wordings in Parquet; of text a part is wordings.
MEMORY, MEMORY_BYTES, PACKED = 0.5e9, 75, 0.1


class Lessons:
    """Posts to learn from, gathered table by table: what their pictures say, and their keywords."""

    def __init__(self) -> None:
        self.channels: dict[str, int] = {}
        self.posts = 0
        self._spelled: dict[tuple[int, str], tuple[int, str]] = {}
        self.channel_of: list[np.ndarray] = []
        self.folds: list[np.ndarray] = []
        self._said: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._gold: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, table: pa.Table, index: KeywordIndex | None) -> None:
        """Add the posts of a table that have wordings and keywords: those given by hand, or that the text mentions."""
        if index is not None:
            mentioned = pa.array(find_keywords(table.select(["text", "channel"]), index), pa.list_(pa.string()))
            given = pc.coalesce(table["keywords"].combine_chunks(), mentioned)
            table = table.set_column(table.column_names.index("keywords"), "keywords", given)
        table = table.filter(pc.and_(table["keywords"].is_valid(), pc.greater(pc.list_value_length(table["wordings"]), 0)))
        names = table["channel"].to_pylist()
        channel = np.array([self.channels.setdefault(name, len(self.channels)) for name in names], np.int64)
        self.channel_of.append(channel)
        self.folds.append(np.array([crc32(name.encode()) % FOLDS for name in table["post_id"].to_pylist()], np.int8))
        said = hear(table, self.channels)
        said = said.keep(first_of_each(said.posts * (len(self.channels) << BITS) + said.keys))
        self._said.append(((said.posts + self.posts).astype(np.int32), said.keys, said.printed))
        offsets, words = list_parts(table["keywords"].combine_chunks())
        owner = np.repeat(np.arange(len(table)), np.diff(offsets))
        pairs = zip(channel[owner].tolist(), words.to_pylist(), strict=True)
        self._gold.append((owner + self.posts, np.array([self._number(*pair) for pair in pairs], np.int64)))
        self.posts += len(table)

    def _number(self, channel: int, word: str) -> int:
        """Return the number of a keyword of a channel; it is spelled as it came first."""
        number, _ = self._spelled.setdefault((channel, fold(word).strip()), (len(self._spelled), word))
        return number

    def keywords(self) -> tuple[np.ndarray, list[str], csr_matrix]:
        """Return channel and spelling of the keywords, by channel, frequent ones first, and posts x keywords (0/1)."""
        rows, numbers = (np.concatenate(parts) for parts in zip(*self._gold, strict=True))
        gold = csr_matrix((np.ones(len(rows), np.int32), (rows, numbers)), shape=(self.posts, len(self._spelled)))
        gold.data[:] = 1
        channel = np.array([channel for channel, _ in self._spelled], np.int64)
        order = np.lexsort((-np.bincount(gold.indices, minlength=len(channel)), channel))
        words = [word for _, word in self._spelled.values()]
        return channel[order], [words[number] for number in order.tolist()], csr_matrix(gold[:, order])

    def said(self) -> tuple[np.ndarray, csr_matrix]:
        """Return the keys that several posts have, ascending, and posts x keys as `add_up` takes it."""
        posts, said, printed = (np.concatenate(parts) for parts in zip(*self._said, strict=True))
        keys, counts = np.unique(said, return_counts=True)
        keys = keys[counts >= FEWEST_WITH_FEATURE]
        kept = np.isin(said, keys)
        values = np.where(printed[kept], PRINT_WEIGHT, 1).astype(np.float32)
        places = np.searchsorted(keys, said[kept]).astype(np.int32)
        return keys, csr_matrix((values, (posts[kept], places)), shape=(self.posts, len(keys)))


def foresee_learning(source: PostsSource, wordings: Path | None) -> str:
    """Return in one line what learning from posts will take, by the size of the files that have what pictures say."""
    files = [wordings] if wordings is not None else [] if source.path == str(STDIN) else resolve_files(source.path)
    if not files:
        return "how much memory it needs depends on what comes on stdin"
    size = sum(path.stat().st_size * (1 if path.suffix in (".gz", ".parquet") else PACKED) for path in files)
    return f"{source.path}: up to {(MEMORY + size * MEMORY_BYTES) / 1e9:.1f} GB of memory"


def train_map(
    source: PostsSource, out: Path, words: Mapping[str, str], wordings: Path | None, keywords: Path | None, precision: float
) -> dict[str, Any]:
    """Learn a map from posts (see `read_pictured`, `learn_map`), write it to the folder `out`, and return a summary.

    `keywords` is a file of channels' keywords, or None.
    """
    refuse_outputs(source, out)
    if out.exists() and not (out / ABOUT_FILE).exists():
        raise RequestError(f"{out}: exists and is no map; choose another name")
    index = None if keywords is None else KeywordIndex(read_keywords(keywords))
    rejects = Rejects(None)
    found, summary = learn_map(read_pictured(source, rejects, words, wordings), precision, index)
    found.save(out)
    return {**summary, "rejects": rejects.count, "out": str(out)}


def learn_map(
    tables: Iterable[pa.Table], precision: float, index: KeywordIndex | None = None
) -> tuple[PictureMap, dict[str, Any]]:
    """Return a map learnt from posts that have keywords and the column `wordings`, and what it is worth.

    Each channel learns for itself. Scores of all posts come from weights that were learnt without them (folds by a hash of
    the post id); on these the scores are calibrated, and each keyword gets the lowest threshold that reaches `precision`. A
    keyword is refused when it has fewer than five posts, when no threshold reaches that, or when what is reached does not
    at least halve the errors of giving it to every post of the channel: then it is the channel that knows it, not the
    picture. `index` finds keywords in the texts of posts that have none by hand. The same posts give the same map. Raises
    RequestError without a post to learn from.
    """
    lessons = Lessons()
    for table in tables:
        lessons.add(table, index)
    if not lessons.posts:
        raise RequestError(
            "no post has both keywords and pictures that say something: give posts with a column keywords, or with "
            "--keywords KEYWORDS what `weibotag keywords extract` found"
        )
    own, folds = np.concatenate(lessons.channel_of), np.concatenate(lessons.folds)
    channel, words, gold = lessons.keywords()
    keys, heard = lessons.said()
    sizes = np.bincount(gold.indices, minlength=len(words))
    blocks = list(part(own, keys, channel, sizes, heard.nnz / lessons.posts))

    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    for posts, some, columns in blocks:
        raw = score_unseen(heard[posts][:, some], gold[posts][:, columns], folds[posts]).tocoo()
        found.append((posts[raw.row], columns[raw.col], raw.data))
    rows, columns, data = (np.concatenate(column) for column in zip(*found, strict=True))
    scores = keep_best(collect_highest(rows, columns, data, gold.shape))
    calibration = fit(scores, gold)
    shares = sizes / np.bincount(own, minlength=len(lessons.channels))[channel]
    thresholds, hits, given, refused = choose(calibration.apply(scores), gold, shares, precision)

    prior, pairs = np.zeros(len(words), np.float32), found[:1]
    for posts, some, columns in blocks:
        shown = columns[thresholds[columns] > 0]
        if not len(shown):
            continue
        weights, prior[shown] = weigh(heard[posts][:, some], gold[posts][:, shown])
        coo = weights.tocoo()
        pairs.append((coo.row + some.start, shown[coo.col], coo.data))
    rows, columns, data = (np.concatenate(column) for column in zip(*pairs, strict=True))
    used, places = np.unique(rows, return_inverse=True)
    weights = csr_matrix((data, (places, columns)), shape=(len(used), len(words)))

    names = list(lessons.channels)
    shown = thresholds > 0
    figures = (np.where(shown, values, np.nan) for values in (thresholds, divide(hits, given), divide(hits, sizes)))
    listed = [
        pa.array([names[number] for number in channel.tolist()], pa.string()),
        pa.array(words, pa.string()),
        pa.array(sizes),
        *(pa.array(values.astype(np.float32), from_pandas=True) for values in figures),
        pa.array(refused, pa.string()),
    ]
    keywords = pa.table(listed, schema=LEARNT)
    return PictureMap(names, keywords, keys[used], weights, prior, calibration), {
        "posts": lessons.posts,
        "channels": len(names),
        "keywords": len(words),
        "shown": int(shown.sum()),
        "precision": float(divide(hits.sum(), given.sum())),
        "recall": float(divide(hits.sum(), gold.nnz)),
    }


def part(
    own: np.ndarray, keys: np.ndarray, channel: np.ndarray, sizes: np.ndarray, width: float
) -> Iterator[tuple[np.ndarray, slice, np.ndarray]]:
    """Give posts of a channel, the range of its keys, and as many of its keywords as can be counted at once.

    `own` is the channel of each post, `channel` and `sizes` those of each keyword, `width` the features of a post.
    """
    for number in np.unique(channel).tolist():
        words = np.flatnonzero((channel == number) & (sizes >= FEWEST_POSTS))
        low, high = np.searchsorted(keys, [number << BITS, (number + 1) << BITS]).tolist()
        groups = np.cumsum(sizes[words] * width) // MOST_PAIRS
        for group in np.unique(groups):
            yield np.flatnonzero(own == number), slice(low, high), words[groups == group]


def weigh(heard: csr_matrix, gold: csr_matrix) -> tuple[csr_matrix, np.ndarray]:
    """Return weights (keys x keywords) and prior as `add_up` takes them, from what posts say and their keywords.

    Naive Bayes, as if one post more with each keyword and one without it said what is usual. A feature that never met a
    keyword says nothing of it, so the matrix stays sparse.
    """
    posts = heard.shape[0]
    with_key = np.bincount(heard.indices, minlength=heard.shape[1])
    with_word = np.bincount(gold.indices, minlength=gold.shape[1])
    ones = csr_matrix((np.ones(heard.nnz, np.int32), heard.indices, heard.indptr), shape=heard.shape)
    pairs = csr_matrix(ones.T @ gold).tocoo()
    met = pairs.data >= FEWEST_TOGETHER
    keys, words, both = pairs.row[met], pairs.col[met], pairs.data[met]
    usual = (with_key[keys] + 1) / (posts + 2)
    inside = (both + usual) / (with_word[words] + 1)
    outside = (with_key[keys] - both + usual) / (posts - with_word[words] + 1)
    weights = csr_matrix((np.log(inside / outside).astype(np.float32), (keys, words)), shape=pairs.shape)
    return weights, np.log((with_word + 0.5) / (posts - with_word + 0.5))


def score_unseen(heard: csr_matrix, gold: csr_matrix, folds: np.ndarray) -> csr_matrix:
    """Return raw scores (posts x keywords) of each fold by weights that the others gave."""
    parts = [add_up(heard[folds == fold], *weigh(heard[folds != fold], gold[folds != fold])) for fold in range(FOLDS)]
    places = np.argsort(np.argsort(folds, kind="stable"), kind="stable")
    return csr_matrix(vstack(parts, format="csr")[places])


def choose(
    scores: csr_matrix, gold: csr_matrix, shares: np.ndarray, precision: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str | None]]:
    """Return the lowest threshold of each keyword at which enough of the held-out posts are right (0: refused), how many
    are right, how many it is given to, and why it is refused.

    `scores` and `gold` are posts x keywords, `shares` the shares of the channels' posts that have the keyword.
    """
    columns = scores.tocsc()
    right = csr_matrix((mark_right(scores, gold), scores.indices, scores.indptr), scores.shape).tocsc()
    total = scores.shape[1]
    sizes = np.bincount(gold.indices, minlength=total)
    threshold, hits, given = np.zeros(total, np.float32), np.zeros(total, np.int64), np.zeros(total, np.int64)
    refused: list[str | None] = [None] * total
    for word in range(total):
        if sizes[word] < FEWEST_POSTS:
            refused[word] = f"{sizes[word]} posts; needed: {FEWEST_POSTS}"
            continue
        low, high = columns.indptr[word], columns.indptr[word + 1]
        order = np.argsort(-columns.data[low:high], kind="stable")
        data, found = columns.data[low:high][order], np.cumsum(right.data[low:high][order])
        shown = np.arange(1, len(data) + 1)
        share = float(shares[word])
        needed = max(precision, 1 - (1 - share) / 2)
        sure = (found + PRIOR_POSTS * share) / (shown + PRIOR_POSTS)
        # Equal scores pass together: only the last of them is a cut.
        cuts = np.append(np.diff(data) < 0, True)[: len(data)] & (found >= FEWEST_HITS) & (data >= LEAST_SCORE)
        passing = np.flatnonzero(cuts & (sure >= needed))
        if not len(passing):
            best = f"right {sure[cuts].max():.0%} of the time at best" if cuts.any() else "no wording speaks for it"
            usual = f", as {share:.0%} of the channel's posts have it" if needed > precision else ""
            refused[word] = f"{best}; needed: {needed:.0%}{usual}"
            continue
        last = passing[-1]
        below = data[last + 1] if last + 1 < len(data) else 0
        threshold[word] = max(LEAST_SCORE, (data[last] + below) / 2)
        hits[word], given[word] = found[last], shown[last]
    return threshold, hits, given, refused
