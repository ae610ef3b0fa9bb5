"""Learn from posts that have pictures and keywords which wordings show which keyword, and which no picture shows."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.errors import RequestError
from weibotag.core.progress import describe_cost
from weibotag.core.text_matching import fold
from weibotag.curation.keywords.extract import KeywordIndex, find_keywords, read_keywords
from weibotag.curation.keywords.picture_keywords import (
    LEARNT,
    PictureMap,
    Pictures,
    add_up,
    need_pictures,
    place_blocks,
    read_pictures,
)
from weibotag.extraction.requests import WordingsRequest
from weibotag.features.hashed_ngrams import BITS
from weibotag.posts.encodings import STDIN
from weibotag.posts.rejects import Rejects
from weibotag.posts.source import resolve_files
from weibotag.scoring.closure import mark_right
from weibotag.scoring.decision import Calibration, fit_calibration

# Memory beside what posts take, and for each byte of wordings in Parquet; of text a part is wordings. Bytes a second.
MEMORY, MEMORY_BYTES, PACKED, PACE = 0.5e9, 75, 0.1, 1e5
FOLDS = 4
# Keywords and features of fewer posts are not learnt, nor what a feature says of a keyword that it met but once.
FEWEST_POSTS, FEWEST_WITH_FEATURE, FEWEST_TOGETHER = 5, 3, 2
# A held-out precision counts as if that many more posts were as right as the channel's average post.
PRIOR_POSTS, FEWEST_HITS = 2.0, 3
# A post is not given what it is likelier not to have, however sure the others are.
LEAST_SCORE = 0.5
# Pairs of features and keywords that are counted at once.
MOST_PAIRS = 20_000_000


def cost_of_learning(request: WordingsRequest) -> str:
    """Return in one line what learning from posts takes, by the files that have what their pictures say."""
    path = request.posts
    files = [request.wordings] if request.wordings else [] if path == str(STDIN) else resolve_files(path)
    size = sum(
        file.stat().st_size * (1 if file.suffix in (".gz", ".parquet") else PACKED) for file in files if file.is_file()
    )
    return describe_cost(path, size, 5 + size / PACE, MEMORY + size * MEMORY_BYTES)


@dataclass(frozen=True)
class LearningSummary:
    """What was learnt from how many posts, channels and keywords, of which `shown` were not refused; held-out figures."""

    posts: int
    channels: int
    keywords: int
    shown: int
    precision: float
    recall: float
    rejects: int = 0
    out: str = ""


@dataclass(frozen=True)
class Lessons:
    """Posts to learn from: their channels, the folds that they are scored in, what their pictures say, their keywords.

    `pictures` is posts x features (see `Pictures`), `features` the hashed ones that several posts have, ascending;
    `keyword_channels` and `words` are those of the keywords, by channel, frequent ones first; `gold` is posts x keywords.
    """

    channels: np.ndarray
    folds: np.ndarray
    features: np.ndarray
    pictures: csr_matrix
    keyword_channels: np.ndarray
    words: list[str]
    gold: csr_matrix

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Give the posts of a channel, and as many of its keywords of enough posts as can be counted at once."""
        sizes, width = np.bincount(self.gold.indices, minlength=len(self.words)), self.pictures.nnz / len(self.folds)
        for channel in dict.fromkeys(self.keyword_channels):
            words = np.flatnonzero((self.keyword_channels == channel) & (sizes >= FEWEST_POSTS))
            groups = np.cumsum(sizes[words] * width) // MOST_PAIRS
            for group in np.unique(groups):
                yield np.flatnonzero(self.channels == channel), words[groups == group]


def read_lessons(tables: Iterable[pa.Table], index: KeywordIndex | None) -> Lessons:
    """Return the posts that have wordings and keywords: those given by hand, or, by `index`, that the text mentions.

    A keyword is spelled as it came first. Raises RequestError where there is no such post.
    """
    read: list[tuple[Pictures, np.ndarray]] = []
    spelled: dict[tuple[str, str], tuple[int, str]] = {}
    total, rows, columns = 0, [np.empty(0, np.int64)], []
    everything = np.arange(1 << BITS, dtype=np.int32)
    for table in tables:
        if index is not None:
            mentioned = find_keywords(table.select(["text", "channel"]), index)
            given = pc.coalesce(table["keywords"].combine_chunks(), mentioned)
            table = table.set_column(table.column_names.index("keywords"), "keywords", given)
        table = table.filter(pc.and_(table["keywords"].is_valid(), pc.greater(pc.list_value_length(table["wordings"]), 0)))
        folds = [crc32(name.encode()) % FOLDS for name in table["post_id"].to_pylist()]
        read.append((read_pictures(table, everything, 1 << BITS), np.array(folds, np.int8)))
        offsets, words = list_parts(table["keywords"].combine_chunks())
        owner = rows_of(offsets)
        for channel, word in zip(read[-1][0].channels[owner], words.to_pylist(), strict=True):
            columns.append(spelled.setdefault((channel, fold(word).strip()), (len(spelled), word))[0])
        rows.append(owner + total)
        total += len(table)
    if not total:
        raise RequestError(
            "no post has both keywords and pictures that say something: give posts with a column keywords, or with "
            "--keywords KEYWORDS what `weibotag keywords extract` found"
        )
    places = np.concatenate(rows), np.array(columns, np.int64)
    gold = csr_matrix((np.ones(len(columns), np.float32), places), shape=(total, len(spelled)))
    gold.data[:] = 1
    channels = np.concatenate([pictures.channels for pictures, _ in read])
    ranks = {channel: rank for rank, channel in enumerate(dict.fromkeys(channels))}
    names = np.array([channel for channel, _ in spelled], dtype=object)
    order = np.lexsort((-np.bincount(gold.indices, minlength=len(names)), np.array([ranks[name] for name in names])))
    everyone = csr_matrix(vstack([pictures.posts for pictures, _ in read], format="csr"))
    features = np.flatnonzero(np.bincount(everyone.indices, minlength=1 << BITS) >= FEWEST_WITH_FEATURE)
    words = [word for _, word in spelled.values()]
    return Lessons(
        channels,
        np.concatenate([folds for _, folds in read]),
        features.astype(np.uint32),
        csr_matrix(everyone[:, features]),
        names[order],
        [words[place] for place in order.tolist()],
        csr_matrix(gold[:, order]),
    )


def train_map(request: WordingsRequest, out: Path, keywords: Path | None, precision: float) -> LearningSummary:
    """Learn a map from posts (see `learn_map`) and write it to the folder `out`; `keywords` is a file of them, or None."""
    index = None if keywords is None else KeywordIndex(read_keywords(keywords))
    rejects = Rejects(None)
    found, summary = learn_map(need_pictures(request, rejects), precision, index)
    found.save(out)
    return replace(summary, rejects=rejects.count, out=str(out))


def learn_map(
    tables: Iterable[pa.Table], precision: float, index: KeywordIndex | None = None
) -> tuple[PictureMap, LearningSummary]:
    """Return a map learnt from posts that have keywords and the column `wordings`, and what it is worth.

    Each channel learns for itself. Scores of all posts come from weights that were learnt without them (folds by a hash of
    the post id); on these the scores are calibrated, and each keyword gets the lowest threshold that reaches `precision`. A
    keyword is refused when it has fewer than five posts, when no threshold reaches that, or when what is reached does not
    at least halve the errors of giving it to every post of the channel: then it is the channel that knows it, not the
    picture. `index` finds keywords in the texts of posts that have none by hand. The same posts give the same map. Raises
    RequestError without a post to learn from.
    """
    lessons = read_lessons(tables, index)
    gold = lessons.gold
    blocks = [
        (score_unseen(lessons.pictures[posts], gold[posts][:, words], lessons.folds[posts]), posts, words)
        for posts, words in lessons.blocks()
    ]
    raw = place_blocks(blocks, gold.shape)
    calibration = fit_calibration(raw, gold)
    cuts = choose_cuts(calibration.apply(raw), lessons, precision)
    shown = np.array([cut.refused is None for cut in cuts], bool)
    weights, prior = learn_weights(lessons, shown)
    used = np.flatnonzero(np.diff(weights.indptr))
    keywords = pa.Table.from_pylist([asdict(cut) for cut in cuts], schema=LEARNT)
    calibrated = Calibration(calibration.slope[shown], calibration.offset[shown])
    learnt = PictureMap(keywords, lessons.features[used], weights[used][:, shown], prior[shown], calibrated)
    hits, given, channels = sum(cut.hits for cut in cuts), sum(cut.given for cut in cuts), len(set(lessons.channels))
    figures = hits / max(1, given), hits / max(1, gold.nnz)
    return learnt, LearningSummary(len(lessons.folds), channels, len(cuts), int(shown.sum()), *figures)


def learn_weights(lessons: Lessons, shown: np.ndarray) -> tuple[csr_matrix, np.ndarray]:
    """Return weights (features x keywords) and prior by all posts, for the keywords of a mask alone."""
    prior, everything = np.zeros(len(shown), np.float32), np.arange(len(lessons.features))
    blocks = []
    for posts, words in lessons.blocks():
        words = words[shown[words]]
        weights, prior[words] = weigh(lessons.pictures[posts], lessons.gold[posts][:, words])
        blocks.append((weights, everything, words))
    return place_blocks(blocks, (len(everything), len(shown))), prior


def weigh(pictures: csr_matrix, gold: csr_matrix) -> tuple[csr_matrix, np.ndarray]:
    """Return weights (features x keywords) and prior as `add_up` takes them, from what pictures say and posts' keywords.

    Naive Bayes, as if one post more with each keyword and one without it had each feature as often as is usual. A feature
    that never met a keyword says nothing of it, so the matrix stays sparse.
    """
    posts = pictures.shape[0]
    with_feature = np.bincount(pictures.indices, minlength=pictures.shape[1])
    with_word = np.bincount(gold.indices, minlength=gold.shape[1])
    ones = csr_matrix((np.ones(pictures.nnz, np.int32), pictures.indices, pictures.indptr), shape=pictures.shape)
    pairs = csr_matrix(ones.T @ gold.astype(np.int32)).tocoo()
    met = pairs.data >= FEWEST_TOGETHER
    features, words, both = pairs.row[met], pairs.col[met], pairs.data[met]
    usual = (with_feature[features] + 1) / (posts + 2)
    inside = (both + usual) / (with_word[words] + 1)
    outside = (with_feature[features] - both + usual) / (posts - with_word[words] + 1)
    weights = csr_matrix((np.log(inside / outside).astype(np.float32), (features, words)), shape=pairs.shape)
    return weights, np.log((with_word + 0.5) / (posts - with_word + 0.5))


def score_unseen(pictures: csr_matrix, gold: csr_matrix, folds: np.ndarray) -> csr_matrix:
    """Return raw scores (posts x keywords) of each fold by weights that the others gave."""
    parts = [add_up(pictures[folds == fold], *weigh(pictures[folds != fold], gold[folds != fold])) for fold in range(FOLDS)]
    places = np.argsort(np.argsort(folds, kind="stable"), kind="stable")
    return csr_matrix(vstack(parts, format="csr")[places])


@dataclass(frozen=True)
class Cut:
    """What is decided of a keyword (see schema "picture_keywords"): `hits` of the `given` held-out posts really have it."""

    channel: str
    keyword: str
    posts: int
    refused: str | None = None
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None
    hits: int = 0
    given: int = 0


def choose_cuts(scores: csr_matrix, lessons: Lessons, precision: float) -> list[Cut]:
    """Return what is decided of each keyword by the calibrated scores (posts x keywords) of held-out posts."""
    right = csr_matrix((mark_right(scores, lessons.gold), scores.indices, scores.indptr), scores.shape).tocsc()
    columns, posts = scores.tocsc(), Counter(lessons.channels.tolist())
    sizes = np.bincount(lessons.gold.indices, minlength=len(lessons.words)).tolist()
    cuts = []
    for word, cut in enumerate(map(Cut, lessons.keyword_channels, lessons.words, sizes)):
        own = slice(columns.indptr[word], columns.indptr[word + 1])
        cuts.append(choose_cut(cut, columns.data[own], right.data[own], cut.posts / posts[cut.channel], precision))
    return cuts


def choose_cut(cut: Cut, scores: np.ndarray, right: np.ndarray, share: float, precision: float) -> Cut:
    """Return a keyword's cut with the lowest threshold at which enough of the held-out posts are right, or refused.

    `scores` are those of posts that have any, `right` (bool) whether they have the keyword, as does `share` of all posts of
    the channel.
    """
    if cut.posts < FEWEST_POSTS:
        return replace(cut, refused=f"{cut.posts} posts; needed: {FEWEST_POSTS}")
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    given = np.arange(1, len(scores) + 1)
    needed = max(precision, 1 - (1 - share) / 2)
    sure = (found + PRIOR_POSTS * share) / (given + PRIOR_POSTS)
    # Equal scores pass together: only the last of them is a cut.
    cuts = np.append(np.diff(scores) < 0, True)[: len(scores)] & (found >= FEWEST_HITS) & (scores >= LEAST_SCORE)
    passing = np.flatnonzero(cuts & (sure >= needed))
    if not len(passing):
        best = f"right {sure[cuts].max():.0%} of the time at best" if cuts.any() else "no wording speaks for it"
        usual = f", as {share:.0%} of the channel's posts have it" if needed > precision else ""
        return replace(cut, refused=f"{best}; needed: {needed:.0%}{usual}")
    last, hits = passing[-1], int(found[passing[-1]])
    below = scores[last + 1] if last + 1 < len(scores) else 0
    threshold = max(LEAST_SCORE, float(scores[last] + below) / 2)
    figures = {"precision": hits / (last + 1), "recall": hits / cut.posts, "hits": hits, "given": int(last) + 1}
    return replace(cut, threshold=threshold, **figures)
