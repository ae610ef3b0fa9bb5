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
import pyarrow.compute as pc

from weibotag.errors import ModelError
from weibotag.files import write_json
from weibotag.keywords.codes import standardise
from weibotag.keywords.matching import spell_out
from weibotag.posts import list_parts
from weibotag.schema import VECTOR, WORDING

FEATURES, STANDARD = "features.json", "features.safetensors"
# More than a post holds but for screenshots of whole articles.
MOST_CHARACTERS = 128
MOST_WORDS = 64
MOST_PICTURES = 9
# Which of a post's tokens says what; the number of a kind is its place. Kinds that are not named here are "other".
KINDS = ("text", "ocr", "picture", "object", "face", "code", "clip", "other")
# Width and height in pixels of a post's picture, by the post's row and the media_id.
Sizes = dict[tuple[int, str], tuple[int, int]]
PICTURE = pa.struct([("media_id", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("vector", VECTOR)])
# What `Posts.batch` gives, in the order in which a network's ONNX file takes it.
INPUTS = ("text", "print", "print_boxes", "words", "word_kinds", "word_boxes", "pictures", "seen", "author", "channel")
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
class Ragged:
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`; `offsets` is int64 (rows + 1,)."""

    offsets: np.ndarray
    values: Any

    @property
    def lengths(self) -> np.ndarray:
        """Return the length of each row."""
        return np.diff(self.offsets)

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for rows padded to the longest (at least one wide), places in `values`, and where there is one."""
        lengths = self.lengths[rows]
        steps = np.arange(max(1, int(lengths.max(initial=0))))
        return self.offsets[rows][:, None] + steps, steps < lengths[:, None]

    def pad(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows (len(rows), longest, …) with zeros after their ends."""
        at, inside = self.places(rows)
        padded = np.zeros((*at.shape, *self.values.shape[1:]), self.values.dtype)
        padded[inside] = self.values[at[inside]]
        return padded


@dataclass(frozen=True)
class Posts:
    """Posts as numbers. `text`, `print`, `words`, `word_kinds`: int64; boxes: (…, 5) float32; `pictures`: (…, d) float16.

    `author` and `channel` are int64 (posts,), 0 where the post says none.
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
    mean: np.ndarray
    scale: np.ndarray

    def __len__(self) -> int:
        return len(self.author)

    @property
    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each post."""
        return np.sum([part.lengths for part in (self.text, self.print, self.words, self.pictures)], axis=0)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of `INPUTS` for some posts: vectors standardised, `seen` tells (bool) where there is one."""
        ragged = {name: getattr(self, name) for name in INPUTS if name not in ("pictures", "seen", "author", "channel")}
        at, seen = self.pictures.places(rows)
        pictures = np.zeros((*seen.shape, len(self.mean)), np.float32)
        pictures[seen] = standardise(self.pictures.values[at[seen]], self.mean, self.scale)
        alone = {"pictures": pictures, "seen": seen, "author": self.author[rows], "channel": self.channel[rows]}
        return {name: ragged[name].pad(rows) if name in ragged else alone[name] for name in INPUTS}

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


def join_posts(some: Sequence[Posts]) -> Posts:
    """Return the posts of several, which one `Features` made, in their order."""

    def join(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
        return Ragged(offsets, np.concatenate([part.values for part in parts]))

    own = [name for name in Posts.__dataclass_fields__ if name not in ("mean", "scale")]
    return Posts(
        **{name: join([getattr(posts, name) for posts in some]) for name in own}, mean=some[0].mean, scale=some[0].scale
    )


@dataclass(frozen=True)
class Features:
    """How posts become numbers, learnt on the training posts: lexicons, and `mean` and `scale` (d,) of picture vectors."""

    characters: Lexicon
    words: Lexicon
    authors: Lexicon
    channels: Lexicon
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def learn(cls, tables: Sequence[pa.Table]) -> "Features":
        """Learn from training posts: see `read` for the tables."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in ("characters", "words", "authors", "channels")}
        stacks = []
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
            if len(posts["pictures"].values):
                stacks.append(posts["pictures"].values)
        # Without any vector there is still a place for one, because networks of width 0 can't be exported.
        mean, scale = np.zeros(1, np.float32), np.ones(1, np.float32)
        if stacks:
            vectors = np.concatenate(stacks)
            mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
            scale = vectors.std(axis=0, dtype=np.float64).astype(np.float32) + np.float32(1e-3)
        return cls(
            Lexicon.learn(counts["characters"], 8_000, 64),
            Lexicon.learn(counts["words"], 20_000, 64),
            Lexicon.learn(counts["authors"], 20_000, 1),
            Lexicon.learn(counts["channels"], 1_000, 1),
            mean,
            scale,
        )

    def encode(self, table: pa.Table) -> Posts:
        """Return a table's posts (see `read`) as numbers; raises ModelError for vectors of another length."""
        posts = read(table)
        pictures = posts["pictures"]
        if not len(pictures.values):
            pictures = Ragged(pictures.offsets, np.empty((0, len(self.mean)), np.float16))
        if pictures.values.shape[1] != len(self.mean):
            raise ModelError(
                f"picture vectors have {pictures.values.shape[1]} numbers, the model was trained on {len(self.mean)}: "
                "look at the pictures with the model's own pipeline, or train again"
            )
        return Posts(
            text=_number_characters(posts["text"], self.characters),
            print=_number_characters(posts["print"], self.characters),
            print_boxes=posts["print_boxes"],
            words=_number_words(posts["words"], self.words),
            word_kinds=posts["word_kinds"],
            word_boxes=posts["word_boxes"],
            pictures=pictures,
            author=_number_names(posts["author"], self.authors),
            channel=_number_names(posts["channel"], self.channels),
            mean=self.mean,
            scale=self.scale,
        )

    def save(self, folder: Path) -> None:
        """Write features.json and features.safetensors."""
        from safetensors.numpy import save_file

        lexicons = {name: getattr(self, name) for name in ("characters", "words", "authors", "channels")}
        about = {name: {"words": list(kept.words), "buckets": kept.buckets} for name, kept in lexicons.items()}
        write_json(about, folder / FEATURES)
        save_file({"mean": self.mean, "scale": self.scale}, folder / STANDARD)

    @classmethod
    def load(cls, folder: Path) -> "Features":
        """Read what `save` wrote."""
        import json

        from safetensors.numpy import load_file

        about = json.loads((folder / FEATURES).read_text(encoding="utf-8"))
        lexicons = {name: Lexicon(tuple(kept["words"]), kept["buckets"]) for name, kept in about.items()}
        standard = load_file(folder / STANDARD)
        return cls(**lexicons, mean=standard["mean"], scale=standard["scale"])


def read(table: pa.Table) -> dict[str, Any]:
    """Return what a table of posts says, not yet numbered, as the fields of `Posts`.

    `table` has text, author and channel, and, where pictures were looked at, wordings and `vectors` (list<PICTURE>: width
    and height in pixels or null, vector or null). Characters are code points, words are strings. A box is x1/W, y1/H,
    x2/W, y2/H and its share of the area; zeros where there is none, or its picture's size is not known.
    """
    texts = [text[:MOST_CHARACTERS] for text in pc.fill_null(table["text"], "").to_pylist()]
    pictures, sizes = _read_pictures(table)
    names = {name: pc.fill_null(table[name], "").to_pylist() for name in ("author", "channel")}
    text = Ragged(np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)]), spell_out("".join(texts)))
    return {"text": text, **_read_wordings(table, sizes), "pictures": pictures, **names}


def _read_pictures(table: pa.Table) -> tuple[Ragged, Sizes]:
    """Return the vectors of each post's pictures (…, d) float16, and the sizes that are known."""
    if "vectors" not in table.column_names:
        return Ragged(np.zeros(len(table) + 1, np.int64), np.empty((0, 0), np.float16)), {}
    offsets, values = list_parts(table["vectors"].combine_chunks().cast(pa.list_(PICTURE)))
    media, widths, heights = (values.field(name).to_pylist() for name in ("media_id", "width", "height"))
    rows = np.repeat(np.arange(len(table)), np.diff(offsets))
    columns = zip(rows.tolist(), media, widths, heights, strict=True)
    sizes = {(row, name): (width, height) for row, name, width, height in columns if width and height}
    has = values.field("vector").is_valid().to_numpy(zero_copy_only=False)
    at, kept = _cut(rows[has], MOST_PICTURES, len(table))
    vectors = values.field("vector").filter(pa.array(has))
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    return Ragged(at, flat.reshape(len(vectors), -1)[kept] if len(vectors) else np.empty((0, 0), np.float16)), sizes


def _read_wordings(table: pa.Table, sizes: Sizes) -> dict[str, Ragged]:
    """Return print as characters, each with the box of its line, and all other wordings as whole words."""
    nothing = pa.nulls(len(table), pa.list_(WORDING))
    column = table["wordings"].combine_chunks() if "wordings" in table.column_names else nothing
    offsets, values = list_parts(column)
    rows = np.repeat(np.arange(len(table)), np.diff(offsets))
    words, kinds = pc.fill_null(values.field("word"), ""), values.field("kind")
    boxes = _measure_boxes(values, rows, sizes)
    is_print = pc.equal(kinds, "ocr").to_numpy(zero_copy_only=False)
    lines = [line[:MOST_CHARACTERS] + "\n" for line in words.filter(pa.array(is_print)).to_pylist()]
    line_of = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    print_at, kept = _cut(rows[is_print][line_of], MOST_CHARACTERS, len(table))
    words_at, kept_words = _cut(rows[~is_print], MOST_WORDS, len(table))
    whole = np.flatnonzero(~is_print)[kept_words]
    named = pc.binary_join_element_wise(kinds, words, "_").take(pa.array(whole))
    numbers = pc.fill_null(pc.index_in(kinds.take(pa.array(whole)), pa.array(KINDS)), len(KINDS) - 1)
    return {
        "print": Ragged(print_at, spell_out("".join(lines))[kept]),
        "print_boxes": Ragged(print_at, boxes[is_print][line_of][kept]),
        "words": Ragged(words_at, named),
        "word_kinds": Ragged(words_at, numbers.to_numpy(zero_copy_only=False).astype(np.int64)),
        "word_boxes": Ragged(words_at, boxes[whole]),
    }


def _measure_boxes(wordings: pa.StructArray, rows: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Return the place of each wording in its picture, (n, 5) float32: see `read`."""
    offsets, flat = list_parts(wordings.field("box").cast(WORDING.field("box").type))
    numbers, lengths = flat.to_numpy(zero_copy_only=False), np.diff(offsets)
    corners = np.zeros((len(wordings), 4), np.float32)
    upright, pointed = np.flatnonzero(lengths == 4), np.flatnonzero(lengths == 8)
    x, y, width, height = numbers[offsets[upright][:, None] + np.arange(4)].T
    corners[upright] = np.stack([x, y, x + width, y + height], axis=1)
    points = numbers[offsets[pointed][:, None] + np.arange(8)].reshape(-1, 4, 2)
    corners[pointed] = np.hstack([points.min(axis=1), points.max(axis=1)])
    # A picture of unknown size is endless: all its boxes are at 0.
    media = zip(rows.tolist(), wordings.field("media_id").to_pylist(), strict=True)
    of = np.array([sizes.get(own, (np.inf, np.inf)) for own in media], np.float32).reshape(-1, 2)
    corners = np.clip(corners / np.hstack([of, of]), 0, 1)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return np.hstack([corners, area[:, None]]).astype(np.float32)


def _cut(rows: np.ndarray, most: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of `total` rows that keep their first `most` values, and which those are; `rows` are ascending."""
    kept = np.arange(len(rows)) - np.searchsorted(rows, rows) < most
    return np.searchsorted(rows[kept], np.arange(total + 1)), kept


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


def collect_vectors(post_ids: Sequence[str], links: pa.Table, media: pa.Table, found: pa.Table) -> pa.Array:
    """Return the column `vectors`, list<PICTURE>: for each post its first nine pictures and frames, each once.

    `links` names each post's files, `media` their frames, `found` (schema "embed") their vectors.
    """
    frames: dict[str, list[dict[str, Any]]] = {}
    for row in media.filter(pc.is_null(media["media_error"])).to_pylist():
        frames.setdefault(row["file_id"], []).append(row)
    shown: dict[str, dict[str, dict[str, Any]]] = {}
    for link in links.sort_by([("post_id", "ascending"), ("position", "ascending")]).to_pylist():
        own = shown.setdefault(link["post_id"], {})
        for row in sorted(frames.get(link["file_id"], ()), key=lambda row: row["frame"]):
            own[row["media_id"]] = row
    rows = [list(shown.get(post_id, {}).values())[:MOST_PICTURES] for post_id in post_ids]
    flat = [row for own in rows for row in own]
    names = pa.array([row["media_id"] for row in flat], pa.string())
    columns = [
        names,
        pa.array([row["width"] for row in flat], pa.int32()),
        pa.array([row["height"] for row in flat], pa.int32()),
        found["embed_vector"].combine_chunks().take(pc.index_in(names, found["media_id"])),
    ]
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in rows])])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, fields=list(PICTURE)))
