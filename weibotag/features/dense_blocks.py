"""Vectors of a post's text and pictures as blocks of numbers beside its n-grams."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from weibotag.core.arrays import list_parts, rows_of
from weibotag.core.errors import ModelError
from weibotag.core.files import write_json
from weibotag.core.own_files import Origin, TensorTypes, read_json, read_tensors, write_tensors
from weibotag.features.text_vectors import Encoder, open_encoder
from weibotag.features.visual_codes import SEED, stack
from weibotag.vision.registry import USE
from weibotag.vision.weights.catalogue import refuse_unpinned

BLOCKS = ABOUT, MAP = "blocks.json", "blocks.safetensors"
WEIGHTS = "dense.safetensors"
ORIGIN = Origin("the vectors that a model reads", "train again")
TENSORS: TensorTypes = {"mean": ("float32", "d"), "axes": ("float32", "d", "k")}
# A block's length beside n-grams of length one; of texts the best of 0.25 to 1 on valid rows of two sets of posts.
TEXT_WEIGHT, PICTURE_WEIGHT = 0.5, 1.0
# Directions that are kept of the pictures' vectors, and pictures that these are learnt from.
AXES, MOST_PICTURES, FEWEST_PICTURES = 256, 20_000, 40
# Texts whose vectors are at hand for the next tagger that reads the same posts.
MOST_KEPT = 20_000


class BlocksAbout(TypedDict):
    """blocks.json: the encoder of texts and its fingerprint, empty where none is read."""

    encoder: str
    fingerprint: str


@dataclass(frozen=True)
class DenseBlocks:
    """Which vectors are read, and how: texts by an encoder (a name, or nothing), pictures by the main axes of their vectors.

    `mean` float32 (d,) and `axes` float32 (d, k) turn the mean of a post's picture vectors into k numbers; d is 0 where no
    pictures are read.
    """

    encoder: str = ""
    mean: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    axes: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @property
    def reads_pictures(self) -> bool:
        """Tell whether the vectors of pictures are read."""
        return len(self.mean) > 0

    @property
    def width(self) -> int:
        """Return how many numbers a post has."""
        return (open_encoder(self.encoder).width if self.encoder else 0) + int(self.axes.shape[1])

    def read(self, table: pa.Table) -> np.ndarray:
        """Return the blocks of posts, float32 (posts, `width`); zeros for what a post does not say.

        `table` has text, and `vectors` where pictures were looked at. Raises ModelError for vectors of another length.
        """
        blocks = []
        if self.encoder:
            texts = pc.fill_null(table["text"], "").to_pylist()
            blocks.append(np.float32(TEXT_WEIGHT) * encode_kept(open_encoder(self.encoder), texts))
        if self.reads_pictures:
            has, means = mean_pictures(table)
            if has.any() and means.shape[1] != len(self.mean):
                raise ModelError(
                    f"picture vectors have {means.shape[1]} numbers, the model was trained on {len(self.mean)}: "
                    "look at the pictures with the model's own pipeline, or train again"
                )
            block = np.zeros((len(table), self.axes.shape[1]), np.float32)
            if has.any():
                block[has] = (means - self.mean) @ self.axes
            blocks.append(block)
        return np.hstack(blocks) if blocks else np.empty((len(table), 0), np.float32)

    def with_texts(self, encoder: str) -> "DenseBlocks":
        """Return these blocks and the vectors of texts by an encoder."""
        return replace(self, encoder=encoder)

    @classmethod
    def learn_pictures(cls, tables: Sequence[pa.Table]) -> "DenseBlocks | None":
        """Return blocks of pictures, their axes learnt from training posts; None for too few. Always the same."""
        found = [means for table in tables for has, means in [mean_pictures(table)] if has.any()]
        if sum(map(len, found)) < FEWEST_PICTURES:
            return None
        from sklearn.utils.extmath import randomized_svd

        vectors = np.concatenate(found)
        some = vectors[np.random.default_rng(SEED).permutation(len(vectors))[:MOST_PICTURES]]
        mean = some.mean(axis=0)
        count = min(AXES, *some.shape)
        _, _, axes = randomized_svd(some - mean, count, n_iter=3, random_state=SEED)
        kept = (some - mean) @ axes.T
        scale = PICTURE_WEIGHT / np.sqrt(np.mean((kept**2).sum(axis=1)) + 1e-9)
        return cls("", mean.astype(np.float32), np.ascontiguousarray(axes.T * scale, np.float32))

    def save(self, folder: Path) -> None:
        """Write blocks.json and blocks.safetensors, nothing where no vectors are read."""
        if not self.width:
            return
        mark = open_encoder(self.encoder).fingerprint if self.encoder else ""
        write_json({"encoder": self.encoder, "fingerprint": mark}, folder / ABOUT)
        write_tensors(folder / MAP, {"mean": self.mean, "axes": self.axes})

    @classmethod
    def load(cls, folder: Path) -> "DenseBlocks":
        """Read what `save` wrote; raises OwnFileError for anything else, ModelError for another encoder than in training."""
        if not (folder / ABOUT).is_file():
            return NOTHING
        about = read_json(folder / ABOUT, BlocksAbout, ORIGIN)
        tensors = read_tensors(folder / MAP, TENSORS, ORIGIN)
        name = about["encoder"]
        if name and name != USE:
            refuse_unpinned(name)
        if name and (found := open_encoder(name).fingerprint) != about["fingerprint"]:
            raise ModelError(
                f"{folder}: was trained on texts by {name}-{about['fingerprint']}, here it is {found}: "
                "use the package versions of the training, or train again"
            )
        return cls(name, tensors["mean"], tensors["axes"])


# No vectors at all.
NOTHING = DenseBlocks()


@dataclass(frozen=True)
class DenseWeights:
    """Which vectors a linear model reads, and its weights of their numbers, float32 (numbers x outputs)."""

    blocks: DenseBlocks
    weights: np.ndarray

    def save(self, folder: Path) -> None:
        """Write the blocks and dense.safetensors."""
        self.blocks.save(folder)
        write_tensors(folder / WEIGHTS, {"dense": self.weights})

    @classmethod
    def load(cls, folder: Path, outputs: int) -> "DenseWeights | None":
        """Read what `save` wrote; None where the model reads no vectors. Raises as `DenseBlocks.load` does."""
        blocks = DenseBlocks.load(folder)
        if not blocks.width:
            return None
        sizes = {"numbers": blocks.width, "outputs": outputs}
        types: TensorTypes = {"dense": ("float32", "numbers", "outputs")}
        return cls(blocks, read_tensors(folder / WEIGHTS, types, ORIGIN, sizes)["dense"])


def mean_pictures(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return which posts have picture vectors, bool (posts,), and the means of those, float32 (posts that have some, d)."""
    nothing = np.zeros(len(table), bool), np.empty((0, 0), np.float32)
    if "vectors" not in table.column_names:
        return nothing
    offsets, values = list_parts(table["vectors"].combine_chunks())
    vectors = values.field("vector")
    known = vectors.is_valid().to_numpy(zero_copy_only=False)
    if not known.any():
        return nothing
    rows = rows_of(offsets)[known]
    numbers = stack(vectors.filter(pa.array(known))).astype(np.float32)
    has = np.zeros(len(table), bool)
    has[rows] = True
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(np.append(starts, len(rows)))
    return has, np.add.reduceat(numbers, starts, axis=0) / counts[:, None].astype(np.float32)


_kept: dict[tuple[str, str], np.ndarray] = {}


def encode_kept(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Return vectors of texts (see `Encoder`), those of texts that were read lately without reading them again."""
    fresh = list(dict.fromkeys(text for text in texts if (encoder.fingerprint, text) not in _kept))
    if len(_kept) + len(fresh) > MOST_KEPT:
        forget_texts()
        fresh = list(dict.fromkeys(texts))
    found = dict(zip(fresh, encoder(fresh), strict=True))
    known = [found[text] if text in found else _kept[encoder.fingerprint, text] for text in texts]
    if len(found) <= MOST_KEPT:
        _kept.update({(encoder.fingerprint, text): vector.astype(np.float32) for text, vector in found.items()})
    return np.stack(known) if known else np.empty((0, encoder.width), np.float32)


def forget_texts() -> None:
    """Let the vectors of texts go, so that what they take can be measured."""
    _kept.clear()
