"""Pictures as words, by their vectors: codes of the clusters that these fall into, and names of tags that they are near to.

The names are zero-shot words, by a model that puts pictures and texts into one space.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, diags

from weibotag.core.errors import ModelError, OwnFileError
from weibotag.core.own_files import Origin, TensorTypes, read_metadata, read_tensors, write_tensors
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.stage import FINGERPRINT_LENGTH, Wording

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

log = logging.getLogger(__name__)

SIZES = (64, 256)
FOLDS = 5
# Standardised vectors have as many units of variance as dimensions (some two thousand); half of that as penalty.
RIDGE = 1000.0
MOST_TAGS = 512
FEWEST_PICTURES = 3
MOST_PICTURES = 50_000
SEED = 0
# What a name stands in when its vector is made; the mean of several is surer than one (Radford et al., 2021).
TEMPLATES = ("{}", "一张{}的照片", "一张关于{}的图片")
KIND = "clip"
ORIGIN = Origin("a codebook", "train again")
NAMES: TensorTypes = {"vectors": ("float32|float64", "names", "d"), "scale": ("float64", 1)}
MOST_WORDS = 3
# Below it a name is a guess among a thousand others.
LEAST_PROBABILITY = 0.1
# Pictures whose scores for all names are in memory at once.
ROWS = 2_000
Encode = Callable[[Sequence[str]], tuple[np.ndarray, float]]


@dataclass(frozen=True)
class Codebook:
    """A linear map from vectors to tags, learnt from labelled pictures, and centres of clusters in the space it spans.

    `mean`, `scale`: (d,) float32, standardise a vector; `weights`: (d + 1, t) float32, the map, the last row its
    offset; `levels`: (t,) int32, how deep in the tree each tag is; `centres`: one (k, t) float32 array for each size k.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    levels: np.ndarray
    centres: tuple[np.ndarray, ...]

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Return (n, t) float32 for vectors (n, d)."""
        if len(vectors) and vectors.shape[1] != len(self.mean):
            raise ModelError(
                f"picture vectors have {vectors.shape[1]:,} numbers, the model was trained on {len(self.mean):,}: "
                "look at the pictures with the model's own pipeline, or train again"
            )
        return np.asarray(standardise(vectors, self.mean, self.scale) @ self.weights[:-1] + self.weights[-1], np.float32)

    def codes(self, vectors: np.ndarray) -> list[list[str]]:
        """Return for each of the vectors (n, d) its words: the likeliest tag of each level, and the nearest cluster of each
        size: b1_4, b2_19 …, v64_17, v256_3."""
        return self.name_codes(self.project(vectors))

    def code_table(self, table: pa.Table) -> dict[str, list[str]]:
        """Return the codes by media_id for a table of schema "embed"; pictures without a vector have none."""
        media, vectors = stack_vectors(table)
        return dict(zip(media, self.codes(vectors), strict=True)) if media else {}

    def name_codes(self, projected: np.ndarray) -> list[list[str]]:
        """Return the words of points (n, t) of the learnt space."""
        named: list[list[str]] = [[] for _ in projected]
        # The only tag of a level would say nothing.
        levels, counts = np.unique(self.levels, return_counts=True)
        for level in levels[counts > 1].tolist():
            own = np.flatnonzero(self.levels == level)
            for words, best in zip(named, own[projected[:, own].argmax(axis=1)].tolist(), strict=True):
                words.append(f"b{level}_{best}")
        for centres in self.centres:
            distances = (centres**2).sum(axis=1)[None] - 2 * projected @ centres.T
            for words, nearest in zip(named, distances.argmin(axis=1).tolist(), strict=True):
                words.append(f"v{len(centres)}_{nearest}")
        return named

    def save(self, path: Path) -> None:
        """Write the codebook as safetensors."""
        tensors = {"mean": self.mean, "scale": self.scale, "weights": self.weights, "levels": self.levels}
        write_tensors(path, tensors | {f"centres_{number}": centres for number, centres in enumerate(self.centres)})

    @classmethod
    def load(cls, path: Path) -> "Codebook":
        """Read a codebook that `save` wrote; raises OwnFileError for anything else."""
        tensors = read_tensors(path, list_types, ORIGIN)
        ORIGIN.need(path, (tensors["scale"] > 0).all(), "found a scale of 0")
        centres = tuple(tensors[f"centres_{number}"] for number in range(len(tensors) - 4))
        return cls(tensors["mean"], tensors["scale"], tensors["weights"], tensors["levels"], centres)


def list_types(names: Collection[str]) -> TensorTypes:
    """Return the arrays of a codebook with as many sizes of clusters as these names tell."""
    sizes = max(1, len(names) - 4)
    centres = {f"centres_{number}": ("float32", f"clusters {number}", "t") for number in range(sizes)}
    learnt: TensorTypes = {"mean": ("float32", "d"), "scale": ("float32", "d"), "weights": ("float32", "d+1", "t")}
    return {**learnt, "levels": ("int32", "t"), **centres}


def stack_vectors(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """Return the media_ids that have a vector in a table of schema "embed", and their vectors (n, d) float16."""
    table = table.filter(pc.is_valid(table["embed_vector"]))
    return table["media_id"].to_pylist(), stack(table["embed_vector"].combine_chunks())


def stack(vectors: pa.ListArray) -> np.ndarray:
    """Return vectors of one length as an array (n, d) float16."""
    if not len(vectors):
        return np.empty((0, 0), np.float16)
    return np.reshape(vectors.flatten().to_numpy(zero_copy_only=False), (len(vectors), -1))


def standardise(vectors: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return vectors (n, d) with the mean taken off and divided by the scale, float32."""
    return np.asarray((vectors.astype(np.float32) - mean) / scale)


def learn_centres(
    vectors: np.ndarray, size: int, iterations: int, starts: np.ndarray | None = None, tries: int = 1
) -> "KMeans":
    """Return k-means of vectors (n, d) in `size` clusters, on one thread and with a fixed seed; `starts` (size, d)."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    means = KMeans(
        size, init="k-means++" if starts is None else starts, n_init=tries, max_iter=iterations, random_state=SEED
    )
    # Sums of several threads are rounded in another order, and k-means makes much of little.
    with threadpool_limits(1), warnings.catch_warnings():
        # There may be fewer distinct vectors than clusters; those that nothing falls into do no harm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return means.fit(vectors)


def fit(vectors: np.ndarray, labels: csr_matrix, levels: np.ndarray) -> tuple[Codebook, list[list[str]]] | None:
    """Learn a codebook from labelled pictures; return it with the pictures' own codes, or None for too few pictures.

    `vectors`: (n, d); `labels`: (n, tags) 0/1, those of the posts that show the pictures; `levels`: (tags,), from 1. The map
    is a ridge regression from vectors to tags, so that clusters part what tags part, each divided by the root of its
    pictures' number, so that rare tags count as well. The codes that come back are those of each picture under a
    map that was fitted without it (out of fold): a classifier trained on codes of a map that had seen the labels would
    trust them too much. Deterministic.
    """
    counts = np.asarray(labels.sum(axis=0)).ravel()
    tags = np.sort(np.argsort(-counts, kind="stable")[:MOST_TAGS])
    tags = tags[counts[tags] >= FEWEST_PICTURES]
    if len(vectors) < 2 * FOLDS or len(tags) < 2:
        return None
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(vectors))[:MOST_PICTURES])
    folds = np.full(len(vectors), -1)
    folds[chosen] = np.random.default_rng(SEED).permutation(len(chosen)) % FOLDS
    mean = vectors[chosen].mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = vectors[chosen].std(axis=0, dtype=np.float64).astype(np.float32) + np.float32(1e-3)
    targets = labels[:, tags] @ diags(counts[tags] ** -0.5)

    span = None
    if len(vectors) < len(mean):
        # A ridge needs no more than what fewer pictures than numbers span.
        span = np.linalg.qr(standardise(vectors, mean, scale).T)[0]

    def read(some: np.ndarray) -> np.ndarray:
        rows = standardise(some, mean, scale)
        return rows if span is None else rows @ span

    grams, products = zip(
        *(_accumulate(read(vectors[folds == fold]), targets[folds == fold]) for fold in range(FOLDS)),
        strict=True,
    )
    gram, product = np.sum(grams, axis=0), np.sum(products, axis=0)
    weights = _solve(gram, product)
    projected = (read(vectors) @ weights[:-1] + weights[-1]).astype(np.float32)
    for fold in range(FOLDS):
        held = folds == fold
        unseen = _solve(gram - grams[fold], product - products[fold])
        projected[held] = read(vectors[held]) @ unseen[:-1] + unseen[-1]
    if span is not None:
        weights = np.vstack([span @ weights[:-1], weights[-1:]])

    sizes = [size for size in SIZES if size <= len(chosen) // 4] or [max(2, len(chosen) // 4)]
    centres = tuple(
        learn_centres(projected[chosen], size, 50, tries=2).cluster_centers_.astype(np.float32) for size in sizes
    )
    book = Codebook(mean, scale, weights, levels[tags].astype(np.int32), centres)
    return book, book.name_codes(projected)


def _accumulate(rows: np.ndarray, targets: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return rows' rows (d + 1, d + 1) and rows' targets (d + 1, t), with a column of ones for the offset."""
    padded = np.hstack([rows, np.ones((len(rows), 1), np.float32)])
    return (padded.T @ padded).astype(np.float64), (targets.T @ padded).T.astype(np.float64)


def _solve(gram: np.ndarray, product: np.ndarray) -> np.ndarray:
    penalised = gram + RIDGE * np.eye(len(gram))
    penalised[-1, -1] -= RIDGE - 1e-3
    return np.linalg.solve(penalised, product).astype(np.float32)


@dataclass(frozen=True)
class ZeroShot:
    """Names and their vectors, (n, d) float32 of unit length; `scale` is what cosines are multiplied with."""

    names: tuple[str, ...]
    vectors: np.ndarray
    scale: float

    def words(self, table: pa.Table) -> dict[str, list[Wording]]:
        """Return names and probabilities by media_id for a table of schema "embed": three at most, likeliest first."""
        media, vectors = stack_vectors(table)
        words: dict[str, list[Wording]] = {}
        for start in range(0, len(media), ROWS):
            probabilities = self.score(vectors[start : start + ROWS])
            best = np.argsort(-probabilities, axis=1, kind="stable")[:, :MOST_WORDS]
            scores = np.take_along_axis(probabilities, best, axis=1)
            for row, place in np.argwhere(scores >= LEAST_PROBABILITY).tolist():
                word = Wording(self.names[best[row, place]], KIND, float(scores[row, place]))
                words.setdefault(media[start + row], []).append(word)
        return words

    def score(self, vectors: np.ndarray) -> np.ndarray:
        """Return the probabilities of the names, (m, n) float64 with four decimals, for pictures' vectors (m, d)."""
        # In double precision, so that after rounding nothing is left of how many pictures were scored together.
        logits = self.scale * (vectors.astype(np.float64) @ self.vectors.T.astype(np.float64))
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray((shares / shares.sum(axis=1, keepdims=True)).round(4))


def open_zero_shot(taxonomy: Taxonomy, fingerprint: str, encode: Encode, folder: Path) -> ZeroShot:
    """Return the names of a taxonomy with their vectors, read from `folder` where an earlier call left them.

    `fingerprint` is that of the stage whose vectors will be compared; `encode` gives texts vectors in their space, and the
    scale.
    """
    names = tuple(dict.fromkeys(tag.name for tag in taxonomy.tags))
    asked = json.dumps([fingerprint, TEMPLATES, names], ensure_ascii=True)
    path = folder / f"{KIND}-{hashlib.sha256(asked.encode()).hexdigest()[:FINGERPRINT_LENGTH]}.safetensors"
    try:
        # Names of before there were digests are made again.
        read_metadata(path, KIND, dict[str, str], ORIGIN)
        tensors = read_tensors(path, NAMES, ORIGIN, {"names": len(names)})
        return ZeroShot(names, tensors["vectors"], float(tensors["scale"][0]))
    except OwnFileError:
        # Not there yet, or damaged.
        zero_shot = encode_names(names, encode)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"vectors": zero_shot.vectors, "scale": np.array([zero_shot.scale])}, (KIND, {}))
    except OSError as error:
        log.warning("%s: can't be kept for the next run (%s)", path, error.strerror)
    return zero_shot


def encode_names(names: tuple[str, ...], encode: Encode) -> ZeroShot:
    """Return names with the means of their vectors in all templates."""
    vectors, scale = encode([template.format(name) for name in names for template in TEMPLATES])
    means = vectors.reshape(len(names), len(TEMPLATES), -1).mean(axis=1)
    return ZeroShot(names, means / np.linalg.norm(means, axis=1, keepdims=True), scale)
