"""Posts as padded arrays: what every network of the fused tagger reads. Needs no torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from weibotag.core.errors import MissingExtraError, ModelError, RequestError
from weibotag.core.files import write_json
from weibotag.core.own_files import Origin, TensorTypes, read_json, read_tensors, write_tensors
from weibotag.core.text_matching import CODES
from weibotag.features.dense_blocks import NOTHING, DenseBlocks
from weibotag.features.post_arrays import PostArrays, Ragged, offsets_of, read_arrays
from weibotag.features.visual_codes import standardise
from weibotag.vision.backends.transformers_model import find_folder, first_line

FEATURES, STANDARD = "features.json", "features.safetensors"
# What `Posts.batch` gives, in the order in which a network's ONNX file takes it.
INPUTS = (
    *("text", "print", "print_boxes", "words", "word_kinds", "word_boxes", "pictures", "seen", "author", "channel"),
    *("print_mentions", "word_mentions", "word_pictures", "patches", "patch_cells"),
    *("tokens", "token_of", "meaning"),
)
# Those of `Posts.parts`.
PARTS = tuple(name for name in INPUTS if name not in ("seen", "author", "channel", "meaning"))
# Of each lexicon: how many words it has at most, and how many numbers all others share.
LEXICONS = {"characters": (8_000, 64), "words": (20_000, 64), "authors": (20_000, 1), "channels": (1_000, 1)}
# What an error calls the vectors of each input that has some.
VECTORS = {"pictures": "picture vectors", "patches": "patches of pictures"}
# A batch is padded to its longest post, so posts of like length go together, out of so many batches at a time.
BATCHES_SORTED = 32
FEWEST_POSTS = 2
MOST_BUCKETS = 1 << 20
ORIGIN = Origin("features of a network", "its network was damaged or made by another version, train it again")
STANDARDS: TensorTypes = {f"{name}.{part}": ("float32", name) for name in VECTORS for part in ("mean", "scale")}


class LexiconAbout(TypedDict):
    """A lexicon in features.json."""

    words: list[str]
    buckets: int


class FeaturesAbout(TypedDict):
    """features.json: lexicons by name, the language model whose tokens are read (or nothing), its tokenizer (JSON)."""

    lexicons: dict[str, LexiconAbout]
    encoder: str
    tokenizer: str


@dataclass(frozen=True)
class Lexicon:
    """Words that have a number: from 1 by their place, 0 is padding; all others share some numbers after them, by a hash."""

    words: tuple[str, ...]
    buckets: int

    @classmethod
    def learn(cls, counts: Mapping[str, int], most: int, buckets: int) -> "Lexicon":
        """Keep the words that at least two posts have, the most frequent first; `counts` are numbers of posts."""
        ranked = sorted((-count, word) for word, count in counts.items() if count >= FEWEST_POSTS)
        return cls(tuple(word for _, word in ranked[:most]), buckets)

    def __len__(self) -> int:
        return 1 + len(self.words) + self.buckets

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words, start=1)}

    def number(self, words: Sequence[str]) -> np.ndarray:
        """Return the numbers of words, int64."""
        places, first = self._places, 1 + len(self.words)
        found = [places.get(word) or first + crc32(word.encode("utf-8", "surrogatepass")) % self.buckets for word in words]
        return np.array(found, np.int64)


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of vectors of one kind in the training posts, both float32 (d,)."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def learn(cls, arrays: Sequence[np.ndarray]) -> "Standard":
        """Learn from arrays (n, d); d is 1 where there is no vector, as networks of width 0 can't be exported."""
        count, sums, squares = sum(map(len, arrays)), 0.0, 0.0
        if not count:
            return cls(np.zeros(1, np.float32), np.ones(1, np.float32))
        for array in arrays:
            for start in range(0, len(array), 4096):
                some = array[start : start + 4096].astype(np.float64)
                sums, squares = sums + some.sum(axis=0), squares + (some**2).sum(axis=0)
        mean = sums / count
        scale = np.sqrt(np.maximum(squares / count - mean**2, 0)) + 1e-3
        return cls(np.asarray(mean, np.float32), np.asarray(scale, np.float32))

    def check(self, what: str, vectors: Ragged) -> Ragged:
        """Return the vectors where there is none or each has d numbers; raises ModelError else."""
        width = len(self.mean)
        if not len(vectors.values):
            return Ragged(vectors.offsets, np.empty((0, width), np.float16))
        if vectors.values.shape[1] != width:
            raise ModelError(
                f"{what} have {vectors.values.shape[1]} numbers, the model was trained on {width}: "
                "look at the pictures with the model's own pipeline, or train again"
            )
        return vectors

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors (n, d) standardised, float32."""
        return standardise(vectors, self.mean, self.scale)

    def pad(self, vectors: Ragged, rows: np.ndarray) -> np.ndarray:
        """Return the rows' vectors standardised, float32 (len(rows), longest, d), zeros after their ends."""
        at, inside = vectors.places(rows)
        padded = np.zeros((*inside.shape, len(self.mean)), np.float32)
        padded[inside] = self.apply(vectors.values[at[inside]])
        return padded


@dataclass(frozen=True)
class Posts:
    """Posts as numbers: `parts` has `PARTS`, `names` author and channel, int64 (posts,), 0 where the post says none.

    Besides, `names` has `meaning`, the vector of the text, float32 (posts, d), zeros where none is read.
    Parts are int64, but boxes (…, 5) float32, `pictures` and `patches` (…, d) float16. From 1 and 0 for none: `…_mentions`,
    where the text mentions a word (its last character) or repeats a character of print; `word_pictures`, which picture a
    word stands in; `patch_cells`, which cell of its picture a patch is, row by row, those of the second picture from 17.
    `tokens` and `token_of`: see `tokenise`. `standards` are those of pictures and patches.
    """

    parts: dict[str, Ragged]
    names: dict[str, np.ndarray]
    standards: dict[str, Standard]

    def __len__(self) -> int:
        return len(self.names["author"])

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each post."""
        parts = (self.parts[name].lengths for name in ("text", "print", "words", "pictures"))
        lengths: np.ndarray = np.sum(list(parts), axis=0)
        return lengths

    def arrays(self) -> Iterator[np.ndarray]:
        """Give all arrays that the posts are made of, in a fixed order."""
        for name in PARTS:
            yield from (self.parts[name].offsets, self.parts[name].values)
        yield from self.names.values()
        for standard in self.standards.values():
            yield from (standard.mean, standard.scale)

    def take(self, chosen: np.ndarray) -> "Posts":
        """Return the posts where `chosen`, bool (posts,), holds."""
        names = {name: numbers[chosen] for name, numbers in self.names.items()}
        return Posts({name: part.take(chosen) for name, part in self.parts.items()}, names, self.standards)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of `INPUTS` for some posts: vectors standardised, `seen` tells (bool) where there is one."""
        ready = {name: numbers[rows] for name, numbers in self.names.items()}
        ready |= {name: standard.pad(self.parts[name], rows) for name, standard in self.standards.items()}
        ready["seen"] = self.parts["pictures"].places(rows)[1]
        return {name: ready[name] if name in ready else self.parts[name].pad(rows) for name in INPUTS}

    def order(self, size: int, seed: int) -> list[np.ndarray]:
        """Return the rows of each batch of one pass over all posts, shuffled by the seed, like lengths together."""
        draw = np.random.default_rng(seed)
        shuffled = draw.permutation(len(self))
        batches: list[np.ndarray] = []
        for start in range(0, len(self), size * BATCHES_SORTED):
            some = shuffled[start : start + size * BATCHES_SORTED]
            some = some[np.argsort(self.lengths[some], kind="stable")]
            batches += [some[at : at + size] for at in range(0, len(some), size)]
        return [batches[place] for place in draw.permutation(len(batches))]

    def shelves(self, size: int) -> Iterator[np.ndarray]:
        """Give the rows of each batch, shortest posts first."""
        ranked = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(self), size):
            yield ranked[start : start + size]


@dataclass(frozen=True)
class Features:
    """How posts become numbers, learnt on the training posts: lexicons by `LEXICONS`, standards of vectors by `VECTORS`.

    `encoder` names a language model (a folder, or hf:owner/name) that reads the text for the network, `tokenizer` is the
    JSON of its tokenizer; both are empty where there is none. `blocks` says which vectors of texts are read.
    """

    lexicons: dict[str, Lexicon]
    standards: dict[str, Standard]
    encoder: str = ""
    tokenizer: str = ""
    blocks: DenseBlocks = NOTHING

    @classmethod
    def learn(cls, tables: Sequence[pa.Table], encoder: str = "", blocks: DenseBlocks = NOTHING) -> "Features":
        """Learn from training posts: see `read_arrays` for the tables."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in LEXICONS}
        vectors: dict[str, list[np.ndarray]] = {name: [] for name in VECTORS}
        for table in tables:
            posts = read_arrays(table)
            text, print_, words = (posts.parts[name] for name in ("text", "print", "words"))
            codes = np.concatenate([text.values, print_.values]).astype(np.int64)
            distinct = np.unique(np.stack([np.concatenate([text.rows, print_.rows]), codes]), axis=1)[1]
            # Half of a character can't be written into the model's JSON, and a bucket is good enough for it.
            found = Counter(distinct[(distinct < 0xD800) | (distinct > 0xDFFF)].tolist())
            counts["characters"].update({chr(code): number for code, number in found.items()})
            pairs = set(zip(words.rows.tolist(), words.values.to_pylist(), strict=True))
            counts["words"].update(word for _, word in pairs)
            counts["authors"].update(filter(None, posts.authors))
            counts["channels"].update(filter(None, posts.channels))
            for name, arrays in vectors.items():
                arrays.append(posts.parts[name].values)
        lexicons = {name: Lexicon.learn(counts[name], most, buckets) for name, (most, buckets) in LEXICONS.items()}
        standards = {name: Standard.learn(arrays) for name, arrays in vectors.items()}
        return cls(lexicons, standards, encoder, read_tokenizer(encoder) if encoder else "", blocks)

    def encode(self, table: pa.Table) -> Posts:
        """Return a table's posts (see `read_arrays`) as numbers; raises ModelError for vectors of another length."""
        return self.number(read_arrays(table), table)

    def join(self, tables: Sequence[pa.Table]) -> Posts:
        """Return the posts of several tables, in their order; raises as `encode` does."""
        some = [self.encode(table) for table in tables]
        parts = {}
        for name in PARTS:
            own = [posts.parts[name] for posts in some]
            lengths = np.concatenate([part.lengths for part in own])
            parts[name] = Ragged(offsets_of(lengths), np.concatenate([part.values for part in own]))
        names = {name: np.concatenate([posts.names[name] for posts in some]) for name in some[0].names}
        return Posts(parts, names, self.standards)

    def number(self, arrays: PostArrays, table: pa.Table) -> Posts:
        """Return the posts of a table, read already, as numbers; raises as `encode` does."""
        parts = arrays.parts | tokenise(arrays.parts["text"], self.tokenizer)
        parts |= {name: _number_characters(parts[name], self.lexicons["characters"]) for name in ("text", "print")}
        parts["words"] = _number_words(parts["words"], self.lexicons["words"])
        parts |= {name: self.standards[name].check(what, parts[name]) for name, what in VECTORS.items()}
        names = {
            "author": _number_names(arrays.authors, self.lexicons["authors"]),
            "channel": _number_names(arrays.channels, self.lexicons["channels"]),
            "meaning": self.blocks.read(table) if self.blocks.width else np.zeros((len(table), 1), np.float32),
        }
        return Posts({name: parts[name] for name in PARTS}, names, self.standards)

    def save(self, folder: Path) -> None:
        """Write features.json and features.safetensors."""
        lexicons = {name: {"words": kept.words, "buckets": kept.buckets} for name, kept in self.lexicons.items()}
        write_json({"lexicons": lexicons, "encoder": self.encoder, "tokenizer": self.tokenizer}, folder / FEATURES)
        kinds = self.standards.items()
        vectors = {f"{name}.{part}": array for name, kind in kinds for part, array in vars(kind).items()}
        write_tensors(folder / STANDARD, vectors)
        self.blocks.save(folder)

    @classmethod
    def load(cls, folder: Path) -> "Features":
        """Read what `save` wrote; raises OwnFileError for anything else, and what another version wrote."""
        path = folder / FEATURES
        about = read_json(path, FeaturesAbout, ORIGIN)
        lexicons = {name: Lexicon(tuple(kept["words"]), kept["buckets"]) for name, kept in about["lexicons"].items()}
        ORIGIN.need(path, lexicons.keys() == LEXICONS.keys(), f"found lexicons {', '.join(lexicons)}")
        for name, lexicon in lexicons.items():
            ORIGIN.need(path, 0 < lexicon.buckets <= MOST_BUCKETS, f"found {lexicon.buckets:,} numbers for strange {name}")
            ORIGIN.need(path, len(set(lexicon.words)) == len(lexicon.words), f"found {name} twice")
        vectors = read_tensors(folder / STANDARD, STANDARDS, ORIGIN)
        standards = {name: Standard(vectors[f"{name}.mean"], vectors[f"{name}.scale"]) for name in VECTORS}
        for standard in standards.values():
            ORIGIN.need(folder / STANDARD, (standard.scale > 0).all() and len(standard.mean) > 0, "found a scale of 0")
        return cls(lexicons, standards, about["encoder"], about["tokenizer"], DenseBlocks.load(folder))


def _number_characters(codes: Ragged, lexicon: Lexicon) -> Ragged:
    distinct, places = np.unique(codes.values, return_inverse=True)
    return Ragged(codes.offsets, lexicon.number([chr(code) for code in distinct.tolist()])[places])


def _number_words(words: Ragged, lexicon: Lexicon) -> Ragged:
    coded = words.values.dictionary_encode()
    return Ragged(words.offsets, lexicon.number(coded.dictionary.to_pylist())[coded.indices.to_numpy()])


def _number_names(names: list[str], lexicon: Lexicon) -> np.ndarray:
    numbers = lexicon.number(names)
    numbers[[not name for name in names]] = 0
    return numbers


def read_tokenizer(name: str) -> str:
    """Return the JSON of the tokenizer of a model: a folder, or hf:owner/name; raises RequestError where there is none."""
    folder, _ = find_folder(name)
    from transformers import AutoTokenizer

    try:
        read = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return str(read.backend_tokenizer.to_str())
    except Exception as error:
        raise RequestError(f"{folder}: expected a model with a tokenizer: {first_line(error)}") from error


def tokenise(text: Ragged, tokenizer: str) -> dict[str, Ragged]:
    """Return the numbers of the tokens of texts (code points), and which of them each character is in; int64, from 1.

    A character that is in none, as a blank, has 0. Without a tokenizer (its JSON) there are no tokens.
    """
    if not tokenizer:
        nothing = Ragged(np.zeros(len(text.offsets), np.int64), np.empty(0, np.int64))
        return {"tokens": nothing, "token_of": nothing}
    starts = text.offsets.tolist()
    # Half of a character would be refused; what takes its place is as long.
    texts = [text.values[start:end].tobytes().decode(CODES, "replace") for start, end in pairwise(starts)]
    found = _open(tokenizer).encode_batch(texts)
    token_of = np.zeros(len(text.values), np.int64)
    for start, one in zip(starts[:-1], found, strict=True):
        for number, (first, end) in enumerate(one.offsets, start=1):
            token_of[start + first : start + end] = number
    numbers = np.array([number + 1 for one in found for number in one.ids], np.int64)
    tokens = Ragged(offsets_of([len(one.ids) for one in found]), numbers)
    return {"tokens": tokens, "token_of": Ragged(text.offsets, token_of)}


@cache
def _open(tokenizer: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError("a network over tokens", "hf") from error
    try:
        return Tokenizer.from_str(tokenizer)
    except Exception as error:
        raise ModelError(f"{FEATURES}: its tokenizer can't be read ({first_line(error)}): train again") from error
