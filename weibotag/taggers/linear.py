"""A sparse linear tagger: hashed words and characters, TF-IDF, and for each tag a linear SVM among its parent's posts."""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack

from weibotag.errors import ModelError
from weibotag.keywords.matching import edge_kinds, spell_out
from weibotag.posts import list_parts
from weibotag.taggers.calibration import Calibration
from weibotag.taggers.fast import FLOOR, MOST_OCR_CHARACTERS
from weibotag.taggers.tagger import raise_parents
from weibotag.taxonomy.tree import Taxonomy

# n-grams of words are hashed to so many bits; those of one post only are not kept, and of more than so many the rarest.
BITS = 22
FEWEST_POSTS = 2
MOST_FEATURES = 1_000_000
MOST_WORDS = 3
# Posts that are read, and scored over all tags, at once: what they take stays in the processor's cache.
ROWS = 1_000
# The SVM has a weight of each feature for each tag; without those below this nine in ten are gone and no figure changes.
SMALL = 0.05
# A margin of 1, which is what the SVM asks for, is as good as certain: its sigmoid is 0.95.
STEEPNESS = 3.0
CERTAIN = 10.0
# What liblinear has for one post of one tag, and what it holds in memory.
PAIRS_A_SECOND = 100_000
MOST_POSTS = 200_000
BLANK = ord(" ")
READ = ("text", "author", "channel", "wordings")

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Features that could be taken for each other start from another number.
TRIPLE, WHOLE = np.uint64(1 << 40), np.uint64(1 << 41)
POWERS = np.cumprod(np.full(32, 0x100000001B3, np.uint64))


def mix(numbers: np.ndarray) -> np.ndarray:
    """Return uint64 numbers whose bits, the high ones above all, depend on all bits of the given."""
    numbers = numbers * MULTIPLIER
    return numbers ^ (numbers >> np.uint64(32))


def hash_features(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a table's features and the features, hashed to `BITS` bits (both int64), in no order.

    Features are the runs of one to three words, where each Chinese, Japanese and Korean character is one and a run of Latin
    letters and digits is one; three characters next to each other in such a run; and, each whole, author, channel and all
    wordings but print, which is read like the text. Case is ignored.
    """
    texts, rows, numbers = _read(table)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    codes = spell_out("".join(texts))
    at = np.repeat(np.arange(len(texts)), lengths)
    inside = edge_kinds(codes) > 0
    joined = inside[1:] & inside[:-1] & (at[1:] == at[:-1])
    characters = codes.astype(np.uint64)
    triples = np.flatnonzero(joined[1:] & joined[:-1])
    numbers.append(_run(characters, triples, 3) + TRIPLE)
    rows.append(at[triples])

    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(codes)), bool), ~joined]))
    places = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
    words = characters * POWERS[places % len(POWERS)]
    words = np.add.reduceat(words, starts) if len(starts) else words
    spoken = codes[starts] > BLANK
    words, at = words[spoken], at[starts[spoken]]
    for width in range(1, MOST_WORDS + 1):
        whole = np.flatnonzero(at[: len(at) - width + 1] == at[width - 1 :])
        numbers.append(_run(words, whole, width))
        rows.append(at[whole])
    return np.concatenate(rows), (mix(np.concatenate(numbers)) >> np.uint64(64 - BITS)).astype(np.int64)


def _run(words: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """Return a hash of the `width` words from each start."""
    hashed = np.full(len(starts), width, np.uint64)
    for step in range(width):
        hashed = mix(hashed + words[starts + step])
    return hashed


def _read(table: pa.Table) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Return what is read character by character, and rows and hashes of all that is taken whole."""
    text = pc.fill_null(table["text"].combine_chunks(), "")
    rows, numbers = [], []
    for name in ("author", "channel"):
        said = pc.fill_null(table[name].combine_chunks(), "")
        filled = pc.not_equal(said, "")
        rows.append(np.flatnonzero(filled.to_numpy(zero_copy_only=False)))
        numbers.append(_hash_whole(name, said.filter(filled)))
    if "wordings" in table.column_names:
        offsets, values = list_parts(table["wordings"].combine_chunks())
        kinds, words = values.field("kind"), pc.fill_null(values.field("word"), "")
        is_print, is_whole = pc.equal(kinds, "ocr"), pc.not_equal(kinds, "ocr")
        printed = is_print.to_numpy(zero_copy_only=False)
        ends = np.concatenate([[0], np.cumsum(printed)])[offsets]
        lines = pc.binary_join(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), words.filter(is_print)), " ")
        text = pc.binary_join_element_wise(text, pc.utf8_slice_codeunits(lines, 0, MOST_OCR_CHARACTERS), "\n")
        rows.append(np.repeat(np.arange(len(table)), np.diff(offsets))[~printed])
        numbers.append(_hash_whole(kinds.filter(is_whole), words.filter(is_whole)))
    return pc.utf8_lower(text).to_pylist(), rows, numbers


def _hash_whole(kinds: pa.Array | str, words: pa.Array) -> np.ndarray:
    coded = pc.binary_join_element_wise(kinds, words, "_").dictionary_encode()
    hashes = np.array([crc32(word.encode()) for word in coded.dictionary.to_pylist()], np.uint64)
    return hashes[coded.indices.to_numpy()] + WHOLE


def collect(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    """Return the csr_matrix of ones, float32, at these places, each once."""
    keys = np.sort(rows << 32 | columns)
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    indptr = np.searchsorted(keys, np.arange(shape[0] + 1) << 32)
    return csr_matrix((np.ones(len(keys), np.float32), (keys & 0xFFFFFFFF).astype(np.int32), indptr), shape=shape)


class LinearTagger:
    """Weights of features for tags, and what it takes to turn their sums into scores.

    `features` are the hashed features that it knows, ascending (uint32); `squares` (float32) the squares of their inverse
    document frequencies; `weights` (features x tags, float32 csr_matrix, small ones left out) have these frequencies in
    them; `offsets` (tags,) float32. The margin of a tag in a post is that of a linear SVM, the score its sigmoid times the
    score of the parent, on whose posts alone it was trained.
    """

    def __init__(
        self,
        taxonomy: Taxonomy,
        features: np.ndarray,
        squares: np.ndarray,
        weights: csr_matrix,
        offsets: np.ndarray,
        calibration: Calibration | None = None,
    ) -> None:
        if weights.shape != (len(features), len(taxonomy)):
            raise ModelError("the linear model knows another number of tags than the taxonomy beside it: train again")
        self.taxonomy = taxonomy
        self.features, self.squares, self.weights, self.offsets = features, squares, weights, offsets
        self.calibration = calibration
        self._places = np.full(1 << BITS, -1, np.int32)
        self._places[features] = np.arange(len(features), dtype=np.int32)
        depth = taxonomy.depth
        self._levels = [np.flatnonzero(depth == level) for level in range(2, int(depth.max(initial=1)) + 1)]

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return scores before calibration: float32 csr_matrix (posts x tags), those above 0.01.

        `table` has text, author, channel and, where pictures were looked at, wordings.
        """
        blocks = [self._score(table.slice(start, ROWS)) for start in range(0, len(table), ROWS)]
        return csr_matrix(vstack(blocks)) if blocks else csr_matrix((0, len(self.taxonomy)), dtype=np.float32)

    def _score(self, table: pa.Table) -> csr_matrix:
        rows, hashed = hash_features(table)
        columns = self._places[hashed]
        known = columns >= 0
        counts = collect(rows[known], columns[known], (len(table), len(self.features)))
        lengths = np.sqrt(counts @ self.squares)
        margins = (counts @ self.weights).toarray()
        margins /= np.where(lengths > 0, lengths, np.float32(1))[:, None]
        margins += self.offsets
        scores = 1 / (1 + np.exp(-STEEPNESS * margins))
        for tags in self._levels:
            scores[:, tags] *= scores[:, self.taxonomy.parents[tags]]
        scores[scores < FLOOR] = 0
        return csr_matrix(scores)

    def scores(self, table: pa.Table) -> csr_matrix:
        """Return probabilities, float32 csr_matrix (posts x tags), a child's never above its parent's."""
        return self.settle(self.raw_scores(table))

    def settle(self, raw: csr_matrix) -> csr_matrix:
        """Return raw scores calibrated and closed over parents."""
        return raise_parents(self.calibration.apply(raw) if self.calibration else raw, self.taxonomy)

    def save(self, path: Path) -> None:
        """Write all but the calibration to one file."""
        from safetensors.numpy import save_file

        weights = self.weights
        parts = {"features": self.features, "squares": self.squares, "offsets": self.offsets}
        save_file({**parts, "data": weights.data, "indices": weights.indices, "indptr": weights.indptr}, path)

    @classmethod
    def load(cls, path: Path, taxonomy: Taxonomy, calibration: Calibration | None = None) -> "LinearTagger":
        """Read what `save` wrote; raises ModelError when the file is none, or of another taxonomy."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            parts = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path}: not a linear model ({error}): train again") from error
        shape = (len(parts["features"]), len(parts["offsets"]))
        weights = csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=shape)
        return cls(taxonomy, parts["features"], parts["squares"], weights, parts["offsets"], calibration)


def train_linear(tables: Sequence[pa.Table], gold: csr_matrix, taxonomy: Taxonomy, seconds: float = 120) -> LinearTagger:
    """Return a tagger trained on posts (tables as for `raw_scores`) and gold tags (posts x tags, ancestors included).

    Of more posts than can be learnt from in about `seconds` every so many-th is. The same input gives the same tagger.
    """
    table = pa.concat_tables([one.select([name for name in READ if name in one.column_names]) for one in tables])
    kept = _choose_posts(gold, taxonomy, seconds)
    if len(kept) < len(table):
        table, gold = table.take(pa.array(kept)), gold[kept]
    posts = csr_matrix(
        vstack(
            [
                collect(*hash_features(part), (len(part), 1 << BITS))
                for part in (table.slice(start, ROWS) for start in range(0, len(table), ROWS))
            ]
        )
    )
    counts = np.bincount(posts.indices, minlength=1 << BITS)
    features = np.flatnonzero(counts >= FEWEST_POSTS)
    features = np.sort(features[np.argsort(-counts[features], kind="stable")[:MOST_FEATURES]])
    frequencies = (1 + np.log((1 + len(table)) / (1 + counts[features]))).astype(np.float32)
    posts = posts[:, features]
    posts.data = frequencies[posts.indices]
    lengths = np.sqrt(posts.multiply(posts).sum(axis=1).A1)
    posts.data /= np.repeat(lengths, np.diff(posts.indptr)).astype(np.float32)
    weights, offsets = _fit(posts, gold, taxonomy, frequencies)
    return LinearTagger(taxonomy, features.astype(np.uint32), frequencies**2, weights, offsets)


def _choose_posts(gold: csr_matrix, taxonomy: Taxonomy, seconds: float) -> np.ndarray:
    """Return the places of the posts to learn from."""
    total = gold.shape[0]
    sizes = np.asarray(gold.sum(axis=0)).ravel()
    pairs = np.where(taxonomy.parents >= 0, sizes[taxonomy.parents], total)[sizes > 0].sum()
    share = min(1.0, seconds * PAIRS_A_SECOND / max(1, pairs), MOST_POSTS / max(1, total))
    return np.linspace(0, total, int(total * share), endpoint=False).astype(np.int64)


def _fit(posts: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy, frequencies: np.ndarray) -> tuple[csr_matrix, np.ndarray]:
    """Return the weights and offsets of `LinearTagger` from unit vectors of posts."""
    from sklearn.svm import LinearSVC

    by_tag = gold.tocsc()
    members = np.split(by_tag.indices, by_tag.indptr[1:-1])
    # A tag that no post has is never given, one that all of its parent's posts have is always given with it.
    offsets = np.full(len(taxonomy), -CERTAIN, np.float32)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for tag, (own, parent) in enumerate(zip(members, taxonomy.parents.tolist(), strict=True)):
        among = members[parent] if parent >= 0 else np.arange(posts.shape[0])
        kept, values = np.empty(0, np.int64), np.empty(0, np.float32)
        if len(own) == len(among):
            offsets[tag] = CERTAIN
        elif len(own):
            # The dual's order is drawn at random.
            machine = LinearSVC(tol=0.1, dual=True, random_state=0).fit(posts[among], np.isin(among, own))
            offsets[tag] = machine.intercept_[0]
            kept = np.flatnonzero(np.abs(machine.coef_[0]) >= SMALL)
            values = machine.coef_[0][kept].astype(np.float32) * frequencies[kept]
        found.append((kept, values))
    indptr = np.concatenate([[0], np.cumsum([len(kept) for kept, _ in found])])
    columns = csr_matrix(
        (np.concatenate([values for _, values in found]), np.concatenate([kept for kept, _ in found]), indptr),
        shape=(len(taxonomy), posts.shape[1]),
    )
    return csr_matrix(columns.T), offsets
