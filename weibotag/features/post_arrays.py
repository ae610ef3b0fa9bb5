"""Posts as arrays, not yet numbered: their text, what their pictures say, and the pictures' vectors. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.kinds import KINDS
from weibotag.core.schema import VECTOR, WORDING
from weibotag.core.text_matching import edge_kind, fold, spell_out
from weibotag.features.visual_codes import stack
from weibotag.vision.stage import Row

# More than a post holds but for screenshots of whole articles.
MOST_CHARACTERS = 128
MOST_WORDS = 64
MOST_PICTURES = 9
# Of the first pictures, so that the patches of a hundred thousand posts fit into memory.
MOST_GRIDS, MOST_CELLS = 2, 16
# Which of a post's tokens says what; the number of a kind is its place. Kinds that are not named here are "other".
FIRST = ("text", "ocr", "picture", "object", "face", "code", "clip", "other")
TOKENS = (*FIRST, *(kind for kind in KINDS if kind not in FIRST))
# An element of the column `vectors`.
PICTURE = pa.struct(
    [
        ("media_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("vector", VECTOR),
        ("patches", pa.list_(VECTOR)),
    ]
)
# Of a post's picture, by the post's row and the media_id: width and height in pixels (endless where they are not known), and
# which of the post's vectors is its own, from 1, 0 for none.
Shown = dict[tuple[int, str], tuple[float, float, int]]


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`; `offsets` is int64 (rows + 1,)."""

    offsets: np.ndarray
    values: Any

    @property
    def lengths(self) -> np.ndarray:
        """Return the length of each row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """Return which row each value is of."""
        return rows_of(self.offsets)

    def row(self, number: int) -> Any:
        """Return the values of a row."""
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def take(self, chosen: np.ndarray) -> "Ragged":
        """Return the rows where `chosen`, bool (rows,), holds; values are a numpy array."""
        return Ragged(offsets_of(self.lengths[chosen]), self.values[np.repeat(chosen, self.lengths)])

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


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return where rows of these lengths begin, and the last ends, int64 (rows + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


@dataclass(frozen=True)
class PostArrays:
    """Posts as networks read them, not yet numbered; `authors` and `channels` are empty where a post says none.

    `parts` are inputs by name (see `Posts`): characters are code points, `words` strings. `print_places` and `word_places`
    tell which of the table's wordings each character of print and each word is of.
    """

    parts: dict[str, Ragged]
    authors: list[str]
    channels: list[str]


def read_arrays(table: pa.Table) -> PostArrays:
    """Return a table's posts as arrays.

    `table` has text, author and channel, and, where pictures were looked at, wordings and `vectors` (list<PICTURE>: width
    and height in pixels or null, vector or null, patches or null). A box is x1/W, y1/H, x2/W, y2/H and its share of the
    area; zeros where there is none, or its picture's size is not known.
    """
    texts = [text[:MOST_CHARACTERS] for text in pc.fill_null(table["text"], "").to_pylist()]
    pictures, shown = _read_pictures(table)
    text = Ragged(offsets_of([len(text) for text in texts]), spell_out("".join(texts)))
    authors, channels = (pc.fill_null(table[name], "").to_pylist() for name in ("author", "channel"))
    return PostArrays({"text": text, **_read_wordings(table, texts, shown), **pictures}, authors, channels)


def collect_vectors(post_ids: Sequence[str], links: pa.Table, media: pa.Table, found: pa.Table) -> pa.Array:
    """Return the column `vectors`, list<PICTURE>: for each post its first nine pictures and frames, each once.

    `links` names each post's files, `media` their frames, `found` (schema "embed") their vectors.
    """
    frames: dict[str, list[Row]] = {}
    for row in media.filter(pc.is_null(media["media_error"])).to_pylist():
        frames.setdefault(row["file_id"], []).append(row)
    shown: dict[str, dict[str, Row]] = {}
    for link in links.sort_by([("post_id", "ascending"), ("position", "ascending")]).to_pylist():
        own = shown.setdefault(link["post_id"], {})
        for row in sorted(frames.get(link["file_id"], ()), key=lambda row: row["frame"]):
            own[row["media_id"]] = row
    rows = [list(shown.get(post_id, {}).values())[:MOST_PICTURES] for post_id in post_ids]
    flat = [row for own in rows for row in own]
    names = pa.array([row["media_id"] for row in flat], pa.string())
    at = pc.index_in(names, found["media_id"])
    patches = pa.nulls(len(flat), pa.list_(VECTOR))
    if "embed_patches" in found.column_names:
        # No network looks at the patches of later pictures.
        first = np.concatenate([np.arange(len(own)) < MOST_GRIDS for own in rows]) if flat else np.zeros(0, bool)
        patches = found["embed_patches"].combine_chunks().take(pc.if_else(pa.array(first), at, None))
    columns = [
        names,
        pa.array([row["width"] for row in flat], pa.int32()),
        pa.array([row["height"] for row in flat], pa.int32()),
        found["embed_vector"].combine_chunks().take(at),
        patches,
    ]
    offsets = pa.array(offsets_of([len(own) for own in rows]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, fields=list(PICTURE)))


def _read_pictures(table: pa.Table) -> tuple[dict[str, Ragged], Shown]:
    """Return the vectors and patches of each post's pictures, and what is known of each picture."""
    nothing = pa.nulls(len(table), pa.list_(PICTURE))
    column = table["vectors"].combine_chunks().cast(nothing.type) if "vectors" in table.column_names else nothing
    offsets, values = list_parts(column)
    rows = rows_of(offsets)
    has = values.field("vector").is_valid().to_numpy(zero_copy_only=False)
    at, kept = _cut(rows[has], MOST_PICTURES, len(table))
    kept = np.flatnonzero(has)[kept]
    numbers = np.zeros(len(values), np.int64)
    numbers[kept] = np.arange(len(kept)) - at[rows[kept]] + 1
    media, widths, heights = (values.field(name).to_pylist() for name in ("media_id", "width", "height"))
    shown: Shown = {}
    for row, name, width, height, number in zip(rows.tolist(), media, widths, heights, numbers.tolist(), strict=True):
        shown[row, name] = (width, height, number) if width and height else (np.inf, np.inf, number)
    pictures = Ragged(at, stack(values.field("vector").take(pa.array(kept))))
    patches = values.field("patches")
    parted = kept[(numbers[kept] <= MOST_GRIDS) & patches.is_valid().to_numpy(zero_copy_only=False)[kept]]
    grids = patches.take(pa.array(parted))
    return {"pictures": pictures, **_read_patches(grids, rows[parted], numbers[parted], len(table))}, shown


def _read_patches(grids: pa.ListArray, rows: np.ndarray, numbers: np.ndarray, total: int) -> dict[str, Ragged]:
    """Return pictures' patches, at most `MOST_CELLS` of each, and their cells; pictures have posts (`rows`) and numbers."""
    offsets, patches = list_parts(grids)
    of = rows_of(offsets)
    steps = np.arange(len(of)) - offsets[of]
    kept = np.flatnonzero(steps < MOST_CELLS)
    at = np.searchsorted(rows[of[kept]], np.arange(total + 1))
    cells = (numbers[of] - 1) * MOST_CELLS + steps + 1
    return {"patches": Ragged(at, stack(patches.take(pa.array(kept)))), "patch_cells": Ragged(at, cells[kept])}


def _read_wordings(table: pa.Table, texts: Sequence[str], shown: Shown) -> dict[str, Ragged]:
    """Return print as characters, each with the box of its line, and all other wordings as whole words."""
    nothing = pa.nulls(len(table), pa.list_(WORDING))
    column = table["wordings"].combine_chunks() if "wordings" in table.column_names else nothing
    offsets, values = list_parts(column)
    rows = rows_of(offsets)
    words, kinds = pc.fill_null(values.field("word"), ""), values.field("kind")
    media = zip(rows.tolist(), values.field("media_id").to_pylist(), strict=True)
    standing = np.array([shown.get(own, (np.inf, np.inf, 0)) for own in media], np.float32).reshape(-1, 3)
    boxes = _measure_boxes(values, standing[:, :2])
    is_print = pc.equal(kinds, "ocr").to_numpy(zero_copy_only=False)
    lines = [line[:MOST_CHARACTERS] + "\n" for line in words.filter(pa.array(is_print)).to_pylist()]
    line_of = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    print_at, kept = _cut(rows[is_print][line_of], MOST_CHARACTERS, len(table))
    words_at, kept_words = _cut(rows[~is_print], MOST_WORDS, len(table))
    whole = np.flatnonzero(~is_print)[kept_words]
    named = pc.binary_join_element_wise(kinds, words, "_").take(pa.array(whole))
    numbers = pc.fill_null(pc.index_in(kinds.take(pa.array(whole)), pa.array(TOKENS)), TOKENS.index("other"))
    folded = [fold(text) for text in texts]
    spoken = zip(rows[is_print].tolist(), lines, strict=True)
    repeated = [_mention_line(folded[row], fold(line)) for row, line in spoken]
    named_words = zip(rows[whole].tolist(), words.take(pa.array(whole)).to_pylist(), strict=True)
    mentions = [find_mention(folded[row], fold(word)) for row, word in named_words]
    return {
        "print": Ragged(print_at, spell_out("".join(lines))[kept]),
        "print_boxes": Ragged(print_at, boxes[is_print][line_of][kept]),
        "print_places": Ragged(print_at, np.flatnonzero(is_print)[line_of][kept]),
        "print_mentions": Ragged(print_at, np.array([place for line in repeated for place in line], np.int64)[kept]),
        "words": Ragged(words_at, named),
        "word_places": Ragged(words_at, whole),
        "word_kinds": Ragged(words_at, numbers.to_numpy(zero_copy_only=False).astype(np.int64)),
        "word_boxes": Ragged(words_at, boxes[whole]),
        "word_mentions": Ragged(words_at, np.array(mentions, np.int64)),
        "word_pictures": Ragged(words_at, standing[whole, 2].astype(np.int64)),
    }


def _mention_line(text: str, line: str) -> Sequence[int]:
    """Return where each character of a line of print is repeated in a text, from 1; 0 for all where the line is not."""
    # Its last character is its line break; a single one says too little.
    end = find_mention(text, line[:-1]) if len(line) > 2 else 0
    return [*range(end - len(line) + 2, end + 1), 0] if end else [0] * len(line)


def find_mention(text: str, word: str) -> int:
    """Return where the first mention of a word in a text ends, in characters from 1; 0 for none. Both are folded.

    A word that begins or ends with a letter or digit is not found next to another of the same kind: cat is not in category.
    """
    start = text.find(word) if word else -1
    while start >= 0:
        end = start + len(word)
        edges = (text[start - 1 : start], word[0]), (word[-1], text[end : end + 1])
        if not any(left and right and edge_kind(left) and edge_kind(left) == edge_kind(right) for left, right in edges):
            return end
        start = text.find(word, start + 1)
    return 0


def _measure_boxes(wordings: pa.StructArray, sizes: np.ndarray) -> np.ndarray:
    """Return the place of each wording in its picture of a size (n, 2), (n, 5) float32: see `read`."""
    offsets, flat = list_parts(wordings.field("box").cast(WORDING.field("box").type))
    numbers, lengths = flat.to_numpy(zero_copy_only=False), np.diff(offsets)
    corners = np.zeros((len(wordings), 4), np.float32)
    upright, pointed = np.flatnonzero(lengths == 4), np.flatnonzero(lengths == 8)
    x, y, width, height = numbers[offsets[upright][:, None] + np.arange(4)].T
    corners[upright] = np.stack([x, y, x + width, y + height], axis=1)
    points = numbers[offsets[pointed][:, None] + np.arange(8)].reshape(-1, 4, 2)
    corners[pointed] = np.hstack([points.min(axis=1), points.max(axis=1)])
    # A picture of unknown size is endless: all its boxes are at 0.
    corners = np.clip(corners / np.hstack([sizes, sizes]), 0, 1)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return np.hstack([corners, area[:, None]]).astype(np.float32)


def _cut(rows: np.ndarray, most: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of `total` rows that keep their first `most` values, and which those are; `rows` are ascending."""
    kept = np.arange(len(rows)) - np.searchsorted(rows, rows) < most
    return np.searchsorted(rows[kept], np.arange(total + 1)), kept
