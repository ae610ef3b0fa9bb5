"""Posts as padded arrays: what every network of the fused tagger reads. Needs no torch."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa

from weibotag.core.errors import ModelError
from weibotag.core.files import write_json
from weibotag.features.picture_vectors import MOST_CELLS, MOST_GRIDS, MOST_PICTURES, PICTURE, collect_vectors
from weibotag.features.post_arrays import KINDS, MOST_CHARACTERS, MOST_WORDS, PLACES, Ragged, read
from weibotag.features.tokens import read_tokenizer, tokenise
from weibotag.features.visual_codes import standardise

# What comes from `tables` is part of this module's own interface.
__all__ = [
    "FEATURES",
    "INPUTS",
    "KINDS",
    "MOST_CELLS",
    "MOST_CHARACTERS",
    "MOST_GRIDS",
    "MOST_PICTURES",
    "MOST_WORDS",
    "PICTURE",
    "PLACES",
    "STANDARD",
    "Features",
    "Lexicon",
    "Posts",
    "Ragged",
    "collect_vectors",
    "join_posts",
    "read",
]

FEATURES, STANDARD = "features.json", "features.safetensors"
# What `Posts.batch` gives, in the order in which a network's ONNX file takes it.
INPUTS = (
    *("text", "print", "print_boxes", "words", "word_kinds", "word_boxes", "pictures", "seen", "author", "channel"),
    *("print_mentions", "word_mentions", "word_pictures", "patches", "patch_cells"),
    *("tokens", "token_of"),
)
# A batch is padded to its longest post, so posts of like length go together, out of so many batches at a time.
BATCHES_SORTED = 32
FEWEST_POSTS = 2


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
class Posts:
    """Posts as numbers. `text`, `print`, `words`, `word_kinds`: int64; boxes: (…, 5) float32; `pictures`: (…, d) float16.

    `author` and `channel` are int64 (posts,), 0 where the post says none. Further int64, each from 1 and 0 for none: where
    the text mentions a word (its last character) or repeats a character of print, and which picture a word stands in.
    `patches`: (…, d) float16, row by row, those of the first two pictures; `patch_cells`: which cell of its picture, from 1,
    those of the second picture from 17. `tokens`: see `tokens.tokenise`.
    """

    text: Ragged
    print: Ragged
    print_boxes: Ragged
    words: Ragged
    word_kinds: Ragged
    word_boxes: Ragged
    pictures: Ragged
    author: np.ndarray
    channel: np.ndarray
    print_mentions: Ragged
    word_mentions: Ragged
    word_pictures: Ragged
    patches: Ragged
    patch_cells: Ragged
    tokens: Ragged
    token_of: Ragged
    mean: np.ndarray
    scale: np.ndarray
    patch_mean: np.ndarray
    patch_scale: np.ndarray

    def __len__(self) -> int:
        return len(self.author)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each post."""
        return np.sum([part.lengths for part in (self.text, self.print, self.words, self.pictures)], axis=0)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of `INPUTS` for some posts: vectors standardised, `seen` tells (bool) where there is one."""
        pictures, seen = _pad_standardised(self.pictures, rows, self.mean, self.scale)
        patches, _ = _pad_standardised(self.patches, rows, self.patch_mean, self.patch_scale)
        ready = {"pictures": pictures, "seen": seen, "patches": patches}
        ready |= {"author": self.author[rows], "channel": self.channel[rows]}
        return {name: ready[name] if name in ready else getattr(self, name).pad(rows) for name in INPUTS}

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


def _pad_standardised(
    vectors: Ragged, rows: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows' standardised vectors, float32, zeros after their ends, and where there is one."""
    at, inside = vectors.places(rows)
    padded = np.zeros((*inside.shape, len(mean)), np.float32)
    padded[inside] = standardise(vectors.values[at[inside]], mean, scale)
    return padded, inside


def join_posts(some: Sequence[Posts]) -> Posts:
    """Return the posts of several, which one `Features` made, in their order."""

    def join(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
        return Ragged(offsets, np.concatenate([part.values for part in parts]))

    fields, shared = Posts.__dataclass_fields__, ("mean", "scale", "patch_mean", "patch_scale")
    own = {name: join([getattr(posts, name) for posts in some]) for name in fields if name not in shared}
    return Posts(**own, **{name: getattr(some[0], name) for name in shared})


class Moments:
    """Mean and deviation of vectors that come some at a time."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Any = 0.0
        self.squares: Any = 0.0

    def add(self, vectors: np.ndarray) -> None:
        """Count in vectors (n, d)."""
        for start in range(0, len(vectors), 4096):
            some = vectors[start : start + 4096].astype(np.float64)
            self.count += len(some)
            self.sums = self.sums + some.sum(axis=0)
            self.squares = self.squares + (some**2).sum(axis=0)

    def standard(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale (d,) float32; without any vector for d = 1, as networks of width 0 can't be exported."""
        if not self.count:
            return np.zeros(1, np.float32), np.ones(1, np.float32)
        mean = self.sums / self.count
        scale = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0)) + 1e-3
        return mean.astype(np.float32), scale.astype(np.float32)


@dataclass(frozen=True)
class Features:
    """How posts become numbers, learnt on the training posts: lexicons, and means and scales (d,) of vectors.

    `encoder` names a language model (a folder, or hf:owner/name) that reads the text for the network, `tokenizer` is the
    JSON of its tokenizer; both are empty where there is none.
    """

    characters: Lexicon
    words: Lexicon
    authors: Lexicon
    channels: Lexicon
    mean: np.ndarray
    scale: np.ndarray
    patch_mean: np.ndarray
    patch_scale: np.ndarray
    encoder: str = ""
    tokenizer: str = ""

    @classmethod
    def learn(cls, tables: Sequence[pa.Table], encoder: str = "") -> "Features":
        """Learn from training posts: see `read` for the tables."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in ("characters", "words", "authors", "channels")}
        pictures, patches = Moments(), Moments()
        for table in tables:
            posts = read(table)
            rows = np.concatenate([_rows_of(posts["text"]), _rows_of(posts["print"])])
            codes = np.concatenate([posts["text"].values, posts["print"].values]).astype(np.int64)
            distinct = np.unique(np.stack([rows, codes]), axis=1)[1]
            # Half of a character can't be written into the model's JSON, and a bucket is good enough for it.
            found = Counter(distinct[(distinct < 0xD800) | (distinct > 0xDFFF)].tolist())
            counts["characters"].update({chr(code): number for code, number in found.items()})
            pairs = set(zip(_rows_of(posts["words"]).tolist(), posts["words"].values.to_pylist(), strict=True))
            counts["words"].update(word for _, word in pairs)
            for name in ("author", "channel"):
                counts[f"{name}s"].update(filter(None, posts[name]))
            pictures.add(posts["pictures"].values)
            patches.add(posts["patches"].values)
        return cls(
            Lexicon.learn(counts["characters"], 8_000, 64),
            Lexicon.learn(counts["words"], 20_000, 64),
            Lexicon.learn(counts["authors"], 20_000, 1),
            Lexicon.learn(counts["channels"], 1_000, 1),
            *pictures.standard(),
            *patches.standard(),
            encoder,
            read_tokenizer(encoder) if encoder else "",
        )

    def encode(self, table: pa.Table) -> Posts:
        """Return a table's posts (see `read`) as numbers; raises ModelError for vectors of another length."""
        return self.number(read(table))

    def number(self, said: Mapping[str, Any]) -> Posts:
        """Return what `read` gave as numbers; raises as `encode` does."""
        posts = {name: part for name, part in said.items() if name not in PLACES}
        posts |= tokenise(posts["text"], self.tokenizer)
        posts |= {
            "text": _number_characters(posts["text"], self.characters),
            "print": _number_characters(posts["print"], self.characters),
            "words": _number_words(posts["words"], self.words),
            "pictures": _expect("picture vectors", posts["pictures"], len(self.mean)),
            "patches": _expect("patches of pictures", posts["patches"], len(self.patch_mean)),
            "author": _number_names(posts["author"], self.authors),
            "channel": _number_names(posts["channel"], self.channels),
        }
        shared = {name: getattr(self, name) for name in ("mean", "scale", "patch_mean", "patch_scale")}
        return Posts(**posts, **shared)

    def save(self, folder: Path) -> None:
        """Write features.json and features.safetensors."""
        from safetensors.numpy import save_file

        lexicons = {name: getattr(self, name) for name in ("characters", "words", "authors", "channels")}
        about = {name: {"words": list(kept.words), "buckets": kept.buckets} for name, kept in lexicons.items()}
        write_json({**about, "encoder": self.encoder, "tokenizer": self.tokenizer}, folder / FEATURES)
        vectors = ("mean", "scale", "patch_mean", "patch_scale")
        save_file({name: getattr(self, name) for name in vectors}, folder / STANDARD)

    @classmethod
    def load(cls, folder: Path) -> "Features":
        """Read what `save` wrote."""
        import json

        from safetensors.numpy import load_file

        about: dict[str, Any] = json.loads((folder / FEATURES).read_text(encoding="utf-8"))
        for name in ("characters", "words", "authors", "channels"):
            about[name] = Lexicon(tuple(about[name]["words"]), about[name]["buckets"])
        return cls(**about | load_file(folder / STANDARD))


def _expect(what: str, vectors: Ragged, width: int) -> Ragged:
    """Return the vectors where there is none or each has `width` numbers; raises ModelError else."""
    if not len(vectors.values):
        return Ragged(vectors.offsets, np.empty((0, width), np.float16))
    if vectors.values.shape[1] != width:
        raise ModelError(
            f"{what} have {vectors.values.shape[1]} numbers, the model was trained on {width}: "
            "look at the pictures with the model's own pipeline, or train again"
        )
    return vectors


def _rows_of(ragged: Ragged) -> np.ndarray:
    return np.repeat(np.arange(len(ragged.lengths)), ragged.lengths)


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
