"""How the linear models of `xmc` are learnt, and what memory that takes."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, hstack, vstack

from weibotag.core.arrays import rank_in_runs
from weibotag.core.errors import RequestError
from weibotag.core.progress import bar
from weibotag.features.dense_blocks import NOTHING, DenseBlocks, DenseWeights
from weibotag.features.hashed_ngrams import BITS, FEWEST_POSTS, READ, hash_features, read_all, weigh
from weibotag.taggers.linear import CERTAIN
from weibotag.taggers.linear_tree import TreeModel, XmcScorer, list_below
from weibotag.taxonomy.tree import Taxonomy

# Tags with fewer posts than this are learnt from their name, aliases and keywords too, as if those were one more post.
COLD = 5
# More siblings than this are parted into groups of alike ones.
MOST_BELOW = 256
# Rounds of 2-means, on features hashed to so many.
ROUNDS, FOLDED = 6, 1 << 14
# What a wrong post costs beside short weights: 1 where tags have so many posts, and more, up to this, where they have fewer.
COST, MANY = 10.0, 30.0
# liblinear goes over the posts of a fork so often; more rounds change no figure.
PASSES = 8
# Of a tag's weights so many are kept, and so many for each of its posts, none smaller than this.
MOST_WEIGHTS, MORE_WEIGHTS, SMALL = 100, 20, 0.05
FEWEST_WEIGHTS = 20
# Pairs of a post and a tag that a fork learns from at most; of its frequent tags some posts are left out then.
MOST_PAIRS = 10_000_000
# A tree of so few nodes is learnt sooner than other processes could be started.
FEW_NODES = 20_000
# Bytes: of a feature of a post, a weight with its share of places, a hashed place, the interpreter; of a post or tag itself.
FEATURE_BYTES, WEIGHT_BYTES, PLACE_BYTES, BASE_BYTES = 8, 16, 40, 500_000_000
# Of a number of a post's vectors: itself, and twice, with its column, in what liblinear reads; of its weights, twice.
NUMBER_BYTES, DENSE_BYTES = 32, 8
READINGS = 4
POST_BYTES, TAG_BYTES = 400, 1_200
SAMPLE = 2_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needs:
    """What a training takes: posts, features of one, tags, weights that are kept of each, numbers of a post's vectors."""

    posts: int
    features: float
    tags: int
    weights: int
    numbers: int = 0

    @property
    def model_bytes(self) -> float:
        """Return the size of the model at most, in bytes."""
        return self.tags * self.weights * WEIGHT_BYTES + 8 * min(1 << BITS, self.posts * self.features)

    @property
    def bytes(self) -> float:
        """Return the memory that training takes at most."""
        kept = self.posts * self.features * FEATURE_BYTES
        # Reading holds features several times over, learning holds them once, and the weights twice.
        most = max(READINGS * kept, kept + 2 * self.model_bytes)
        own = self.posts * POST_BYTES + self.tags * TAG_BYTES
        own += self.numbers * (self.posts * NUMBER_BYTES + self.tags * DENSE_BYTES)
        return BASE_BYTES + PLACE_BYTES * (1 << BITS) + own + most

    def __str__(self) -> str:
        return (
            f"{self.posts:,} posts of about {self.features:.0f} features, {self.tags:,} tags of {self.weights} weights: "
            f"at most {self.bytes / 1e9:.1f} GB to train, a model of {self.model_bytes / 1e9:.2f} GB"
        )


def fit_memory(needs: Needs, memory: float) -> Needs:
    """Return needs that stay within `memory` bytes: fewer weights of a tag first, then fewer posts.

    Raises RequestError where a tenth of the posts would not fit either.
    """
    fitted = needs
    while fitted.bytes > memory and fitted.weights > FEWEST_WEIGHTS:
        fitted = replace(fitted, weights=max(FEWEST_WEIGHTS, fitted.weights // 2))
    while fitted.bytes > memory:
        smaller = replace(fitted, posts=fitted.posts * 9 // 10)
        if smaller.posts < needs.posts // 10 or not smaller.posts:
            raise RequestError(f"--memory {memory / 1e9:g}GB is too little; the least is: {fitted}")
        fitted = smaller
    return fitted


def train_xmc(
    tables: Sequence[pa.Table],
    gold: csr_matrix,
    taxonomy: Taxonomy,
    memory: float | None = None,
    quiet: bool = True,
    blocks: DenseBlocks = NOTHING,
) -> XmcScorer:
    """Return a scorer trained on posts (tables as for `Scorer`) and gold tags (posts x tags).

    The tags come with their ancestors. `memory` bounds training, in bytes: see `fit_memory`. `blocks` are vectors that are
    read beside the n-grams. The same input gives the same scorer.
    """
    own = [one.select([name for name in READ if name in one.column_names]) for one in tables]
    table = pa.concat_tables(own, promote_options="default")
    sample = table.take(pa.array(np.linspace(0, len(table), min(SAMPLE, len(table)), endpoint=False).astype(np.int64)))
    needs = Needs(len(table), len(hash_features(sample)[0]) / len(sample), len(taxonomy), MOST_WEIGHTS, blocks.width)
    fitted = fit_memory(needs, memory) if memory else needs
    log.log(logging.INFO if quiet else logging.WARNING, "xmc: %s", fitted)
    numbers = np.concatenate([blocks.read(one) for one in tables])
    if fitted.posts < len(table):
        kept = np.linspace(0, len(table), fitted.posts, endpoint=False).astype(np.int64)
        table, gold, numbers = table.take(pa.array(kept)), gold[kept], numbers[kept]
    cold, names = write_names(taxonomy, np.asarray(gold.sum(axis=0)).ravel())
    counts, features = read_features(table, names)
    frequencies = weigh(counts, len(table))
    own = csr_matrix((np.ones(len(cold), np.float32), (np.arange(len(cold)), cold)), shape=(len(cold), len(taxonomy)))
    members = Members(csr_matrix(vstack([gold, own])), taxonomy)
    above = part_siblings(counts, members, taxonomy.parents)
    tree, dense = learn(counts, np.vstack([numbers, blocks.read(names)]), members, above, frequencies, fitted.weights, quiet)
    whole = DenseWeights(blocks, dense) if blocks.width else None
    return XmcScorer(taxonomy, features.astype(np.uint32), frequencies**2, tree, whole)


def write_names(taxonomy: Taxonomy, posts: np.ndarray) -> tuple[np.ndarray, pa.Table]:
    """Return the tags of few posts, and what they are called as a table of posts; `posts` (tags,) are their posts."""
    cold = np.flatnonzero(posts < COLD)
    tags = [taxonomy.tags[number] for number in cold]
    texts = [" ".join((tag.name, *tag.aliases, *tag.keywords)) for tag in tags]
    columns = {name: texts if name == "text" else [""] * len(texts) for name in ("text", "author", "channel")}
    return cold, pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def read_features(table: pa.Table, names: pa.Table) -> tuple[csr_matrix, np.ndarray]:
    """Return which features posts and then names have (ones, csr_matrix), and those: of two posts at least, or a name."""
    posts, called = read_all(table), read_all(names)
    seen = np.bincount(posts.indices, minlength=1 << BITS) >= FEWEST_POSTS
    seen[called.indices] = True
    features = np.flatnonzero(seen)
    return csr_matrix(vstack([posts[:, features], called[:, features]])), features


class Members:
    """The documents (posts, then names) of each node of the tree, ascending."""

    def __init__(self, gold: csr_matrix, taxonomy: Taxonomy) -> None:
        by_tag = gold.tocsc()
        by_tag.sort_indices()
        self._of = np.split(by_tag.indices, by_tag.indptr[1:-1])
        self._groups: dict[int, np.ndarray] = {}
        self.tags = len(taxonomy)

    def of(self, node: int) -> np.ndarray:
        """Return the documents of a tag or a group; none of the root (-1), whose nodes below have all."""
        if node < 0:
            return np.empty(0, np.int32)
        return self._of[node] if node < self.tags else self._groups[node]

    def add(self, group: int, nodes: np.ndarray) -> None:
        """Make a group of nodes a node, with the documents that any of them has."""
        self._groups[group] = np.unique(np.concatenate([self.of(int(node)) for node in nodes]))


def part_siblings(counts: csr_matrix, members: Members, parents: np.ndarray) -> np.ndarray:
    """Return the node above each tag and group: siblings that are too many are parted until no node has more below it."""
    above = list(parents.astype(np.int64))
    for parent, siblings in zip(*list_below(parents), strict=True):
        if len(siblings) <= MOST_BELOW:
            continue
        queue = [(int(parent), siblings, _centre(counts, members, siblings))]
        while queue:
            node, nodes, centres = queue.pop(0)
            # As few groups as can be parted further into full ones: the way to a tag has few steps.
            size = MOST_BELOW
            while size * MOST_BELOW < len(nodes):
                size *= MOST_BELOW
            parts = _bisect(centres, np.arange(len(nodes)), size)
            for part in parts:
                group = len(above)
                above.append(node)
                members.add(group, nodes[part])
                for one in nodes[part].tolist():
                    above[one] = group
                if len(part) > MOST_BELOW:
                    queue.append((group, nodes[part], centres[part]))
    return np.array(above, np.int32)


def _centre(counts: csr_matrix, members: Members, nodes: np.ndarray) -> csr_matrix:
    """Return the mean direction of each node's documents, features folded: float32 csr_matrix (nodes x `FOLDED`)."""
    own = [members.of(int(node)) for node in nodes]
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in own])])
    at = np.concatenate(own)
    picks = csr_matrix((np.ones(len(at), np.float32), at, indptr), shape=(len(nodes), counts.shape[0]))
    folded = csr_matrix((counts.data, counts.indices % FOLDED, counts.indptr), shape=(counts.shape[0], FOLDED))
    centres = csr_matrix(picks @ folded)
    lengths = np.sqrt(np.asarray(centres.multiply(centres).sum(axis=1)).ravel())
    centres.data /= np.repeat(np.maximum(lengths, 1e-9), np.diff(centres.indptr))
    return centres


def _bisect(centres: csr_matrix, nodes: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the nodes in equal halves of alike ones, and these again, until none is larger than `size`."""
    if len(nodes) <= size:
        return [nodes]
    own = centres[nodes]
    half = len(nodes) // 2
    # Any two begin; the same ones for the same nodes.
    difference = (own[0] - own[half]).toarray().ravel()
    for _ in range(ROUNDS):
        order = np.argsort(-(own @ difference), kind="stable")
        side = np.zeros(len(nodes), np.float32)
        side[order[:half]] = 1
        first, second = side @ own, (1 - side) @ own
        difference = first / max(1e-9, np.linalg.norm(first)) - second / max(1e-9, np.linalg.norm(second))
    return [*_bisect(centres, np.sort(nodes[order[:half]]), size), *_bisect(centres, np.sort(nodes[order[half:]]), size)]


def learn(
    counts: csr_matrix,
    numbers: np.ndarray,
    members: Members,
    above: np.ndarray,
    frequencies: np.ndarray,
    most: int,
    quiet: bool,
) -> tuple[TreeModel, np.ndarray]:
    """Return the tree with the models of all its forks, and weights of the documents' numbers, float32 (numbers x nodes).

    `frequencies` are made part of the weights of features, of which `most` are kept.

    Large trees are learnt by a process for each core: a fork's models depend on it alone, whoever learns them.
    """
    from joblib import Parallel, delayed

    inner, groups = list_below(above)
    offsets, dense = np.empty(len(above), np.float32), np.zeros((numbers.shape[1], len(above)), np.float32)
    found: list[tuple[np.ndarray, csr_matrix]] = []
    jobs = len(os.sched_getaffinity(0)) if len(above) > FEW_NODES else 1

    def forks() -> Iterator[Any]:
        for node, below in zip(inner.tolist(), groups, strict=True):
            documents, own = _choose_documents(members.of(node), [members.of(one) for one in below.tolist()])
            places = [np.searchsorted(documents, one) for one in own]
            yield delayed(_fit_fork)(counts[documents], numbers[documents], places, most)

    learnt = Parallel(jobs, return_as="generator", max_nbytes=None, batch_size=1)(forks())
    with bar(len(above), "learning forks of the tag tree", quiet) as progress:
        for (features, weights, own, offset), below in zip(learnt, groups, strict=True):
            offsets[below], dense[:, below] = offset, own
            weights.data *= np.repeat(frequencies[features], np.diff(weights.indptr))
            found.append((features, weights))
            progress.advance(len(below))
    starts = np.cumsum([0, *(weights.nnz for _, weights in found)])
    tree = TreeModel(
        above,
        np.cumsum([0, *(len(features) for features, _ in found)]),
        np.concatenate([features for features, _ in found]).astype(np.int32),
        np.concatenate([[0], *(weights.indptr[1:] + start for (_, weights), start in zip(found, starts, strict=False))]),
        np.concatenate([weights.indices for _, weights in found]).astype(np.uint16),
        np.concatenate([weights.data for _, weights in found]).astype(np.float32),
        offsets,
    )
    return tree, dense


def _fit_fork(
    vectors: csr_matrix, numbers: np.ndarray, own: list[np.ndarray], most: int
) -> tuple[np.ndarray, csr_matrix, np.ndarray, np.ndarray]:
    """Return the features of a fork, its weights (features x nodes below), those of numbers, and the nodes' offsets."""
    sizes = np.array([len(one) for one in own])
    label, at = np.repeat(np.arange(len(own)), sizes), np.concatenate(own)
    cost = float(np.clip(MANY * np.count_nonzero(sizes) / max(1, len(at)), 1, COST))
    features, columns = np.unique(vectors.indices, return_inverse=True)
    shape = (vectors.shape[0], len(features))
    vectors = csr_matrix((vectors.data.astype(np.float64), columns.astype(np.int32), vectors.indptr), shape=shape)
    if numbers.shape[1]:
        vectors = csr_matrix(hstack([vectors, csr_matrix(numbers)]))
    dense = np.zeros((numbers.shape[1], len(own)), np.float32)
    # A node that no document has is never given, one that all have is always given with the one above.
    offsets = np.full(len(own), -CERTAIN, np.float32)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for group in _part_labels(at, label, len(own)):
        classes = np.full(shape[0], -1)
        mine = group[label]
        classes[at[mine]] = label[mine]
        known = np.unique(classes)
        if len(known) == 1:
            offsets[known] = CERTAIN
            continue
        margins, begins = _separate(vectors, classes, cost)
        if len(known) == 2:
            margins, begins = np.concatenate([-margins, margins]), np.append(-begins, begins)
        labels = known[known >= 0]
        margins = margins[known >= 0]
        offsets[labels] = begins[known >= 0]
        margins, dense[:, labels] = margins[:, : len(features)], margins[:, len(features) :].T
        rows, kept = np.nonzero(np.abs(margins) >= SMALL)
        values = margins[rows, kept]
        order = np.lexsort((kept, -np.abs(values), rows))
        order = order[rank_in_runs(rows[order]) < np.maximum(most, MORE_WEIGHTS * sizes[labels])[rows[order]]]
        parts.append((kept[order], labels[rows[order]], values[order]))
    if not parts:
        return features[:0], csr_matrix((0, len(own)), dtype=np.float32), dense, offsets
    kept, labels, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    used, rows = np.unique(kept, return_inverse=True)
    weights = csr_matrix((values.astype(np.float32), (rows, labels)), shape=(len(used), len(own)))
    return features[used], weights, dense, offsets


def _separate(vectors: csr_matrix, classes: np.ndarray, cost: float) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and offsets of linear SVMs, each of one class against all others; of two classes, of the second."""
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    with config_context(assume_finite=True), warnings.catch_warnings():
        # That the passes are few is meant, and so are many tags of few posts.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        # The dual's order is drawn at random.
        machine = LinearSVC(C=cost, tol=0.1, dual=True, max_iter=PASSES, random_state=0).fit(vectors, classes)
    return machine.coef_, machine.intercept_


def _choose_documents(all_of: np.ndarray, own: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the documents that a fork is learnt from, ascending, and those of each node below; of too many some.

    `all_of` are those of the fork itself, of which some may be of no node below.
    """
    both = np.unique(np.concatenate([all_of, *own]))
    if len(both) * len(own) <= MOST_PAIRS:
        return both, own
    rest = np.setdiff1d(all_of, np.concatenate(own))
    lengths = np.array([len(one) for one in (rest, *own)])
    most = int(lengths.max())
    while most > 1 and np.minimum(lengths, most).sum() * len(own) > MOST_PAIRS:
        most = most * 3 // 4
    taken = [one[np.linspace(0, len(one), min(most, len(one)), endpoint=False).astype(np.int64)] for one in (rest, *own)]
    both = np.unique(np.concatenate(taken))
    return both, [one[np.isin(one, both)] for one in own]


def _part_labels(documents: np.ndarray, labels: np.ndarray, count: int) -> list[np.ndarray]:
    """Return masks over the labels that part them so that no document has two of one part, in few parts.

    Then each part is one problem of many classes, which liblinear is asked for once: a call for each label would take longer
    than its work.
    """
    pairs = csr_matrix(
        (np.ones(len(documents), np.float32), (labels, documents)), shape=(count, int(documents.max(initial=0)) + 1)
    )
    together = csr_matrix(pairs @ pairs.T)
    seen = np.bincount(labels, minlength=count) > 0
    parts: list[np.ndarray] = []
    for label in np.flatnonzero(seen):
        others = together.indices[together.indptr[label] : together.indptr[label + 1]]
        part = next((one for one in parts if not one[others].any()), None)
        if part is None:
            part = np.zeros(count, bool)
            parts.append(part)
        part[label] = True
    return parts
