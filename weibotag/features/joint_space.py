"""Pictures as vectors in the space of texts: what they look like, in words, weighed by how likely it is.

ConSE (Norouzi et al., 2014, https://arxiv.org/abs/1312.5650): the vectors of the names of a picture's likeliest classes, in
the shares of their probabilities, stand for the picture. So pictures, texts and tags can be compared without any label.
"""

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.arrays import list_parts, rows_of, unit
from weibotag.core.kinds import KINDS
from weibotag.features.plain_text import hide_mentions
from weibotag.features.text_vectors import WIDTH, Encoder
from weibotag.vision.object_names import read_things

# The kinds of wordings that name what is seen.
THINGS = pa.array([name for name, kind in KINDS.items() if kind.thing])
# Vectors of names that are kept for the next posts, 2 kB each.
MOST_NAMES = 20_000


class JointSpace:
    """Texts and pictures of posts as vectors (posts, WIDTH) float32, less what all texts, or all names of things, share.

    Those of texts are of unit length, those of pictures as long as it is likely that anything of what they are said to show
    is there; both are zero for a post without. `shared` (WIDTH,) is what texts share.
    """

    def __init__(self, encode: Encoder, shared: np.ndarray) -> None:
        self._encode, self._shared = encode, shared
        self._words: dict[str, np.ndarray] = {}

    def read_texts(self, table: pa.Table) -> np.ndarray:
        """Return the vectors of the texts of a posts table."""
        vectors = self._encode(hide_mentions([text or "" for text in table["text"].to_pylist()]))
        return unit(np.where(vectors.any(axis=1, keepdims=True), vectors - self._shared, 0))

    def read_pictures(self, table: pa.Table) -> np.ndarray:
        """Return the vectors of what the posts' pictures show, by their wordings that are names of things."""
        total, unsure = np.zeros((len(table), WIDTH), np.float32), np.ones(len(table), np.float32)
        if "wordings" not in table.column_names:
            return total
        offsets, values = list_parts(table["wordings"].combine_chunks())
        seen = pc.is_in(values.field("kind"), THINGS).to_numpy(zero_copy_only=False)
        named = np.flatnonzero(seen & values.field("word").is_valid().to_numpy(zero_copy_only=False))
        if len(named):
            words = values.field("word").take(pa.array(named)).to_pylist()
            scores = pc.fill_null(values.field("score"), 1).to_numpy(zero_copy_only=False)[named]
            rows = rows_of(offsets)[named]
            np.add.at(total, rows, scores[:, None] * (self._name(words) - self._things))
            np.multiply.at(unsure, rows, 1 - np.clip(scores, 0, 1))
        return np.asarray(unit(total) * (1 - unsure)[:, None])

    def _name(self, words: list[str]) -> np.ndarray:
        if len(self._words) > MOST_NAMES:
            self._words.clear()
        new = [word for word in dict.fromkeys(words) if word not in self._words]
        self._words |= dict(zip(new, self._encode(new), strict=True))
        return np.stack([self._words[word] for word in words])

    @cached_property
    def _things(self) -> np.ndarray:
        """Return the mean of things' names, one in ten of them."""
        return np.asarray(self._encode([thing.chinese[0] for thing in read_things()[0][::10]]).mean(axis=0))
