"""Keywords of a channel gathered in clusters, by what they mean, what they are mentioned with and how they are spelled.

What tells most stays alone; the rest is gathered by what it is like (see `form_clusters`). Clusters of an earlier time stay
as they are, and new keywords join them (`join_clusters`).
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core.arrays import list_parts, rows_of, unit
from weibotag.core.errors import RequestError
from weibotag.core.progress import describe_cost
from weibotag.core.schema import arrow_schema
from weibotag.core.text_matching import fold
from weibotag.curation.keywords.extract import KeywordIndex, read_pictured
from weibotag.curation.keywords.phrases import mix
from weibotag.extraction.requests import WordingsRequest
from weibotag.features.text_vectors import open_encoder
from weibotag.features.visual_codes import learn_centres
from weibotag.posts.rejects import Rejects
from weibotag.posts.result_files import read_listing
from weibotag.posts.source import PostsSource, input_bytes
from weibotag.posts.writer import find_format, write_tables

CLUSTERS = arrow_schema("clusters")
SEED = 0
DIMENSIONS = 64
# Mentions that fastText reads: ten epochs, more where that is too little to learn from, fewer where it takes over a minute.
FEWEST_TOKENS, MOST_TOKENS, EPOCHS, RATE = 300_000, 8_000_000, 10, 0.1
ITERATIONS = 10
# How much of a cosine is that of what keywords mean, of what stands beside them means, and of fastText's vectors.
MEANING, COMPANY, SPELLING = 0.6, 0.2, 0.2
# Numbers of a meaning, and how many keywords are encoded at most.
MEANING_AXES, MOST_ENCODED = 128, 100_000
# The share of clusters that are for one keyword each.
ALONE = 0.5
# A keyword's tags are known as if three more of its posts had the tags of the channel.
PRIOR_TAGS = 3.0
# Nothing can be learnt of a tag that fewer posts have.
FEWEST_TAG_POSTS = 10
# Labelled posts that importance is learnt from.
MOST_LABELLED = 200_000
# A new keyword joins a cluster that is as near as all but this share of what is in clusters, or by this cosine without any.
LOOSE_SHARE, LOOSE_COSINE = 0.1, 0.5
ROWS = 4_096
# Multiplications, bytes of posts and keywords, as the encoder reads them, in a second.
PACE, READ_PACE, ENCODE_PACE = 1e10, 2e6, 2e3


def cost_of_clustering(keywords: int, size: int, source: PostsSource) -> str:
    """Return in one line what clustering so many keywords to so many clusters takes."""
    learning = 75 * min(1.0, keywords * EPOCHS * 10 / MOST_TOKENS)
    encoded = keywords <= MOST_ENCODED
    width = DIMENSIONS + 2 * MEANING_AXES * encoded
    gathering = max(0.0, keywords - size * ALONE) * size * (1 - ALONE) * 2 * width * ITERATIONS / PACE
    seconds = 5 + learning + keywords * encoded / ENCODE_PACE + gathering + input_bytes(source) / READ_PACE
    memory = 0.6e9 + keywords * (6e3 + 6e3 * encoded)
    return describe_cost(f"{keywords:,} keywords to {size:,} clusters", 1 + keywords, seconds, memory)


@dataclass(frozen=True)
class ClusteringSummary:
    """What was clustered: keywords, clusters, of these the new ones, rows of posts that could not be used, the file.

    `unread` says why it went without what keywords mean; it is empty where that was read.
    """

    keywords: int
    clusters: int
    new_keywords: int
    new_clusters: int
    rejects: int
    unread: str
    out: str


def cluster_keywords(
    keywords: pa.Table, request: WordingsRequest, out: Path, size: int, old: Path | None = None
) -> ClusteringSummary:
    """Write the clusters of keywords to `out` (schema "clusters"), by channel, cluster and posts.

    `keywords` has the columns channel, keyword and posts; the posts say what is mentioned with what, and by their tags,
    where they have any, what a keyword tells. `size` clusters are shared out by the keywords of each channel, at least one
    each; with `old` clusters there are as many as that has, and more where new keywords are like none of them. The same
    keywords and posts give the same clusters, in any order.
    """
    find_format(out)
    table = join_old(keywords, old)
    rejects = Rejects()
    lines, importance = read_mentions(read_pictured(request, rejects, "reading posts"), table)
    words = table["keyword"].to_pylist()
    vectors, unread = train_vectors(lines, words), ""
    try:
        vectors = unit(np.hstack([np.float32(SPELLING**0.5) * vectors, encode_keywords(lines, words)]))
    except RequestError as reason:
        unread = str(reason)
    columns = (np.array(table[name].to_pylist(), dtype=object) for name in ("keyword", "cluster", "channel"))
    names, clusters, channels = columns
    fresh, known = int((clusters == "").sum()), set(zip(channels, clusters, strict=True))
    posts = table["posts"].to_numpy()
    whole = round(size * len(table) / max(1, len(keywords)))
    alone = choose_alone(importance, posts, whole)
    _, starts = np.unique(channels.astype(str), return_index=True)
    slices = [slice(*ends) for ends in pairwise([*starts.tolist(), len(table)])]
    rest = [int((~alone[here]).sum()) for here in slices]
    for here, own in zip(slices, share_out(whole - int(alone.sum()), rest), strict=True):
        if (clusters[here] == "").all():
            groups = form_clusters(vectors[here], alone[here], own)
            clusters[here] = name_groups(groups, names[here], posts[here])
        else:
            clusters[here] = join_clusters(vectors[here], clusters[here], names[here], posts[here])
    table = table.set_column(2, "cluster", pa.array(clusters, pa.string()))
    order = ("channel", "ascending"), ("cluster", "ascending"), ("posts", "descending"), ("keyword", "ascending")
    write_tables([table.sort_by(list(order))], out, CLUSTERS)
    named = set(zip(channels, clusters, strict=True))
    return ClusteringSummary(len(table), len(named), fresh, len(named - known), rejects.count, unread, str(out))


def join_old(keywords: pa.Table, old: Path | None) -> pa.Table:
    """Return all keywords once (schema "clusters"), ordered by channel and folded keyword; without a cluster it is empty.

    Those of the file `old` come as it spells them, with today's posts where there are any.
    """
    rows: dict[tuple[str, str], tuple[str, str, str, int]] = {}
    if old is not None:
        known = read_listing(old, "clusters", ("channel", "keyword", "cluster"))
        for channel, keyword, cluster, posts in zip(*(column.to_pylist() for column in known.columns), strict=True):
            key = channel, fold(keyword).strip()
            if not cluster:
                raise RequestError(
                    f"{old}: keyword {keyword!r} in channel {channel!r} has no cluster; name it, or delete it"
                )
            if key in rows:
                raise RequestError(f"{old}: keyword {keyword!r} is there twice in channel {channel!r}; delete one")
            rows[key] = channel, keyword, cluster, posts or 0
    today = (keywords[name].to_pylist() for name in ("channel", "keyword", "posts"))
    for channel, keyword, posts in zip(*today, strict=True):
        key = channel, fold(keyword).strip()
        rows[key] = *rows.get(key, (channel, keyword, "", 0))[:3], posts or 0
    columns = zip(*(rows[key] for key in sorted(rows)), strict=True) if rows else [[]] * len(CLUSTERS)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, CLUSTERS.types, strict=True)], schema=CLUSTERS)


def share_out(size: int, keywords: list[int]) -> list[int]:
    """Return how many of `size` clusters each channel gets by its keywords: at least one, never more than keywords."""
    exact = np.array(keywords) * size / max(1, sum(keywords))
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: size - int(shares.sum())]] += 1
    return list(np.minimum(np.maximum(shares, 1), keywords).tolist())


def choose_alone(importance: np.ndarray, posts: np.ndarray, size: int) -> np.ndarray:
    """Return which keywords, of all channels, get one of `size` clusters for themselves, bool.

    Half of the clusters are for those that tell most of tags, then those of most posts: a channel of few but telling words
    keeps more of them than one of many words that are said once.
    """
    total = len(posts)
    alone = np.zeros(total, bool)
    alone[np.lexsort((np.arange(total), -posts, -importance))[: total if size >= total else int(size * ALONE)]] = True
    return alone


def read_mentions(tables: Iterable[pa.Table], keywords: pa.Table) -> tuple[list[str], np.ndarray]:
    """Return lines of keywords, one per post that mentions two, in an order of their own, and how much each keyword tells.

    What a keyword tells is how many of its posts have tags, times how far these are from the tags of its channel
    (Kullback-Leibler, nats): the loss if it could not be told from others. Where no post has tags it is zero for all.
    """
    index = KeywordIndex(keywords)
    tokens = np.array([spell_token(word) for word in keywords["keyword"].to_pylist()], dtype=object)
    tags: dict[str, int] = {}
    lines: list[str] = []
    # Keywords x tags: posts that have both; the last row counts all posts of a tag.
    counts = csr_matrix((len(tokens) + 1, 0), dtype=np.int64)
    labelled = 0
    for table in tables:
        posts, rows = index.find(table)
        # In an order by which neighbours are any two keywords of a post, whatever the order of the file.
        salt = np.bincount(posts, rows + 1, len(table)).astype(np.uint64)
        order = np.lexsort((mix(rows.astype(np.uint64) + (salt[posts] << np.uint64(24))), posts))
        ends = np.searchsorted(posts, np.arange(len(table) + 1)).tolist()
        words = tokens[rows[order]].tolist()
        lines += [" ".join(words[low:high]) for low, high in pairwise(ends) if high - low > 1]
        if labelled < MOST_LABELLED:
            labelled += len(table)
            offsets, values = list_parts(table["tags"].combine_chunks())
            given = np.array([tags.setdefault(tag, len(tags)) for tag in values.to_pylist()], np.int64)
            tagged = csr_matrix((np.ones(len(given), np.int64), given, offsets), shape=(len(table), len(tags)))
            everyone = np.arange(len(table))
            keyed = np.append(rows, np.full(len(table), len(tokens))), np.append(posts, everyone)
            mentioned = csr_matrix((np.ones(len(keyed[0]), np.int64), keyed), shape=(len(tokens) + 1, len(table)))
            counts.resize(len(tokens) + 1, len(tags))
            counts = csr_matrix(counts + mentioned @ tagged)
    often = np.asarray(counts[-1].todense()).ravel() >= FEWEST_TAG_POSTS
    channels = pc.dictionary_encode(keywords["channel"]).combine_chunks().indices.to_numpy().astype(np.int64)
    lines.sort(key=lambda line: (crc32(line.encode()), line))
    return lines, weigh_tags(csr_matrix(counts[:-1, often]), channels)


def spell_token(keyword: str) -> str:
    """Return a keyword as one word of fastText."""
    return "_".join(fold(keyword).split()).encode(errors="replace").decode()


def weigh_tags(counts: csr_matrix, channels: np.ndarray) -> np.ndarray:
    """Return what keywords tell of tags (`read_mentions`) by counts, keywords x tags; `channels` numbers each keyword's."""
    rows = rows_of(counts.indptr)
    among = np.zeros((channels.max(initial=0) + 1, counts.shape[1]))
    np.add.at(among, (channels[rows], counts.indices), counts.data)
    usual = (among / np.maximum(1, among.sum(axis=1, keepdims=True)))[channels[rows], counts.indices]
    total = np.bincount(rows, counts.data, len(channels))
    held = (counts.data + PRIOR_TAGS * usual) / (total[rows] + PRIOR_TAGS)
    seen = np.bincount(rows, held * np.log(held / usual), len(channels))
    share = PRIOR_TAGS / (total + PRIOR_TAGS)
    unseen = share * np.log(share) * (1 - np.bincount(rows, usual, len(channels)))
    return np.where(total > 0, total * (seen + unseen), 0.0)


def train_vectors(lines: list[str], keywords: list[str]) -> np.ndarray:
    """Return unit vectors (keywords x 64, float32) of fastText's skipgram (Bojanowski et al., 2017).

    A word is like another by the n-grams that they share and by the words beside which they stand.
    """
    import fasttext

    ends = np.cumsum([line.count(" ") + 1 for line in lines])
    if not lines:
        lines, ends = [" ".join(map(spell_token, keywords)) or "-"], np.array([len(keywords) or 1])
    kept = int(np.searchsorted(ends, MOST_TOKENS)) + 1
    total = int(ends[-1])
    epochs = max(1, min(MOST_TOKENS // total, max(EPOCHS, FEWEST_TOKENS // total)))
    with tempfile.TemporaryDirectory(prefix="weibotag-") as folder:
        path = Path(folder) / "mentions.txt"
        path.write_text("\n".join(lines[:kept]) + "\n", encoding="utf-8")
        network = fasttext.train_unsupervised(
            str(path),
            model="skipgram",
            dim=DIMENSIONS,
            epoch=epochs,
            lr=RATE,
            minCount=1,
            minn=1,
            maxn=3,
            bucket=200_000,
            thread=1,
            verbose=0,
        )
    vectors = [network.get_word_vector(spell_token(word)) for word in keywords]
    return unit(np.array(vectors, np.float32).reshape(-1, DIMENSIONS))


def encode_keywords(lines: list[str], keywords: list[str]) -> np.ndarray:
    """Return what keywords mean, and what the words beside them in lines mean (keywords x (128 + 128), float32).

    The squared length of each half is its share of a cosine. Axes are those on which an encoder's vectors are longest.
    Raises RequestError where its package is absent, or for more than `MOST_ENCODED`.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from threadpoolctl import threadpool_limits

    if len(keywords) > MOST_ENCODED:
        raise RequestError(f"more than {MOST_ENCODED:,} keywords")
    if not keywords:
        return np.empty((0, 2 * MEANING_AXES), np.float32)
    vectors = open_encoder()(keywords)
    tokens = [spell_token(word) for word in keywords]
    places = {token: place for place, token in enumerate(dict.fromkeys(tokens))}
    rows = np.array([places[token] for token in tokens], np.int64)
    with threadpool_limits(1):
        _, axes = np.linalg.eigh(vectors.T @ vectors)
        means = unit(vectors @ axes[:, -MEANING_AXES:])
    own = np.zeros((len(places), MEANING_AXES), np.float32)
    own[rows] = means - means.mean(axis=0)
    said = csr_matrix(CountVectorizer(analyzer=str.split, vocabulary=places, dtype=np.float32).transform(lines or [""]))
    company = said.T @ (said @ own) - np.asarray(said.sum(axis=0)).reshape(-1, 1) * own
    return np.hstack([np.float32(MEANING**0.5) * means, np.float32(COMPANY**0.5) * unit(company)[rows]])


def form_clusters(vectors: np.ndarray, alone: np.ndarray, size: int) -> np.ndarray:
    """Return the number of the cluster of each keyword, int64: one for each that is `alone` (bool), `size` for the others.

    Those are k-means, each keyword counting the same: rare ones are with rare ones, and drown in no frequent one.
    """
    groups = np.empty(len(vectors), np.int64)
    singles, rest = np.flatnonzero(alone), np.flatnonzero(~alone)
    groups[singles] = np.arange(len(singles))
    if size >= len(rest):
        groups[rest] = len(singles) + np.arange(len(rest))
        return groups
    starts = np.random.default_rng(SEED).permutation(len(rest))[:size]
    groups[rest] = len(singles) + learn_centres(vectors[rest], size, ITERATIONS, starts=vectors[rest[starts]]).labels_
    return groups


def name_groups(groups: np.ndarray, names: np.ndarray, posts: np.ndarray) -> np.ndarray:
    """Return for each keyword the name of its group: the member that most posts mention."""
    order = np.lexsort((np.arange(len(groups)), -posts))
    numbers, first = np.unique(groups[order], return_index=True)
    return np.take(names[order[first]], np.searchsorted(numbers, groups))


def join_clusters(vectors: np.ndarray, clusters: np.ndarray, names: np.ndarray, posts: np.ndarray) -> np.ndarray:
    """Return the clusters (names) of keywords of which some ("") have none yet; the others keep theirs.

    A new one of as many posts as is usual where a cluster is for one keyword opens its own. Any other joins the cluster
    whose mean is nearest, or, where none is near, opens one, which further ones may join.
    """
    clusters = clusters.copy()
    old = np.flatnonzero(clusters != "")
    known, numbers, sizes = np.unique(clusters[old].astype(str), return_inverse=True, return_counts=True)
    means = np.zeros((len(known), vectors.shape[1]), np.float32)
    np.add.at(means, numbers, vectors[old])
    means = unit(means)
    several = sizes[numbers] > 1
    gathered = (vectors[old] * means[numbers]).sum(axis=1)[several]
    near = float(np.quantile(gathered, LOOSE_SHARE)) if len(gathered) else LOOSE_COSINE
    often = float(np.median(posts[old][~several])) if not several.all() else np.inf
    own = np.flatnonzero((clusters == "") & (posts >= often))
    clusters[own] = names[own]
    known, means = np.concatenate([known, names[own]]), np.concatenate([means, vectors[own]])
    fresh = np.flatnonzero(clusters == "")
    far = []
    for start in range(0, len(fresh), ROWS):
        some = fresh[start : start + ROWS]
        cosines = vectors[some] @ means.T
        best = cosines.argmax(axis=1)
        joins = cosines[np.arange(len(some)), best] >= near
        clusters[some[joins]] = known[best[joins]]
        far.append(some[~joins])
    opened: list[int] = []
    left = np.concatenate([np.empty(0, np.int64), *far])
    for row in left[np.lexsort((left, -posts[left]))].tolist():
        cosines = vectors[opened] @ vectors[row]
        place = int(cosines.argmax()) if opened else -1
        if opened and cosines[place] >= near:
            clusters[row] = names[opened[place]]
        else:
            opened.append(row)
            clusters[row] = names[row]
    return clusters
