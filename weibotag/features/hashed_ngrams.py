"""Posts as hashed n-grams of characters and words, and as vectors of them."""

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, vstack

from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.own_files import Origin
from weibotag.core.text_matching import edge_kinds, spell_out

# n-grams of words are hashed to so many bits; those of one post only are not kept, and of more than so many the rarest.
BITS = 22
FEWEST_POSTS = 2
MOST_FEATURES = 1_000_000
MOST_WORDS = 3
# Of the print of a post's pictures so much is read: screenshots of whole articles would drown the post.
MOST_OCR_CHARACTERS = 300
# Posts that are read, and scored over all tags, at once: what they take stays in the processor's cache.
ROWS = 1_000
BLANK = ord(" ")
READ = ("text", "author", "channel", "wordings")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Features that could be taken for each other start from another number.
TRIPLE, WHOLE = np.uint64(1 << 40), np.uint64(1 << 41)
POWERS = np.cumprod(np.full(32, 0x100000001B3, np.uint64))


def mix(numbers: np.ndarray) -> np.ndarray:
    """Return uint64 numbers whose bits, the high ones above all, depend on all bits of the given."""
    numbers = numbers * MULTIPLIER
    return np.asarray(numbers ^ (numbers >> np.uint64(32)))


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
        rows.append(rows_of(offsets)[~printed])
        numbers.append(_hash_whole(kinds.filter(is_whole), words.filter(is_whole)))
    return pc.utf8_lower(text).to_pylist(), rows, numbers


def _hash_whole(kinds: pa.Array | str, words: pa.Array) -> np.ndarray:
    coded = pc.binary_join_element_wise(kinds, words, "_").dictionary_encode()
    hashes = np.array([crc32(word.encode()) for word in coded.dictionary.to_pylist()], np.uint64) + WHOLE
    return np.asarray(hashes[coded.indices.to_numpy()])


def collect(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    """Return the csr_matrix of ones, float32, at these places, each once."""
    keys = np.sort(rows << 32 | columns)
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    indptr = np.searchsorted(keys, np.arange(shape[0] + 1) << 32)
    return csr_matrix((np.ones(len(keys), np.float32), (keys & 0xFFFFFFFF).astype(np.int32), indptr), shape=shape)


def check_features(features: np.ndarray, path: Path, origin: Origin) -> None:
    """Raise OwnFileError unless hashed features that a file knows are ascending and of `BITS` bits."""
    holds = (np.diff(features.astype(np.int64)) > 0).all() and (not len(features) or features[-1] < 1 << BITS)
    origin.need(path, holds, "found features out of order")


def number(features: np.ndarray) -> np.ndarray:
    """Return each hashed feature's place among those known, int32; -1 for a strange one."""
    places = np.full(1 << BITS, -1, np.int32)
    places[features] = np.arange(len(features), dtype=np.int32)
    return places


def read_counts(table: pa.Table, places: np.ndarray, features: int) -> csr_matrix:
    """Return which features posts have: ones, float32 csr_matrix (posts x features); `places` number hashed features."""
    blocks = [csr_matrix((0, features), dtype=np.float32)]
    for start in range(0, len(table), ROWS):
        part = table.slice(start, ROWS)
        rows, hashed = hash_features(part)
        columns = places[hashed]
        known = columns >= 0
        blocks.append(collect(rows[known], columns[known], (len(part), features)))
    return csr_matrix(vstack(blocks))


def read_all(table: pa.Table) -> csr_matrix:
    """Return which of all hashed features posts have: ones, float32 csr_matrix (posts x 2**`BITS`)."""
    return read_counts(table, np.arange(1 << BITS, dtype=np.int32), 1 << BITS)


def weigh(counts: csr_matrix, posts: int) -> np.ndarray:
    """Return features' inverse document frequencies, float32; the matrix's ones become these, its rows unit vectors."""
    frequencies = (1 + np.log((1 + posts) / (1 + np.bincount(counts.indices, minlength=counts.shape[1])))).astype(np.float32)
    counts.data = frequencies[counts.indices]
    lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1)).ravel())
    counts.data /= np.repeat(lengths, np.diff(counts.indptr)).astype(np.float32)
    return frequencies


@dataclass(frozen=True)
class Vectors:
    """Unit TF-IDF vectors of posts: `matrix` (posts x features, float32), `features` the numbers (int64, ascending) of its
    columns among hashed features, `frequencies` (float32) the inverse document frequency of each."""

    matrix: csr_matrix
    features: np.ndarray
    frequencies: np.ndarray


def vectorise(table: pa.Table) -> Vectors:
    """Return the vectors of a table with the columns `READ` (wordings may be absent).

    Features of fewer than `FEWEST_POSTS` posts are left out, and of more than `MOST_FEATURES` the rarest.
    """
    matrix = read_all(table)
    counts = np.bincount(matrix.indices, minlength=1 << BITS)
    features = np.flatnonzero(counts >= FEWEST_POSTS)
    features = np.sort(features[np.argsort(-counts[features], kind="stable")[:MOST_FEATURES]])
    matrix = matrix[:, features]
    frequencies = weigh(matrix, len(table))
    return Vectors(matrix, features, frequencies)
