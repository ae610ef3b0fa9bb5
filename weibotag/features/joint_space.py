"""Zero-shot words: the names of tags that a picture looks like, by a model that puts pictures and texts into one space."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from weibotag.core.files import atomic
from weibotag.features.visual_codes import stack_vectors
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.stage import FINGERPRINT_LENGTH, Wording

# What a name stands in when its vector is made; the mean of several is surer than one (Radford et al., 2021).
TEMPLATES = ("{}", "一张{}的照片", "一张关于{}的图片")
KIND = "clip"
MOST_WORDS = 3
# Below it a name is a guess among a thousand others.
LEAST_PROBABILITY = 0.1
# Pictures whose scores for all names are in memory at once.
ROWS = 2_000

Encode = Callable[[Sequence[str]], tuple[np.ndarray, float]]


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
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save

    names = tuple(dict.fromkeys(tag.name for tag in taxonomy.tags))
    asked = json.dumps([fingerprint, TEMPLATES, names], ensure_ascii=True)
    path = folder / f"{KIND}-{hashlib.sha256(asked.encode()).hexdigest()[:FINGERPRINT_LENGTH]}.safetensors"
    try:
        tensors = load_file(path)
        return ZeroShot(names, tensors["vectors"], float(tensors["scale"][0]))
    except (FileNotFoundError, SafetensorError):
        # Not there yet, or damaged.
        zero_shot = encode_names(names, encode)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(save({"vectors": zero_shot.vectors, "scale": np.array([zero_shot.scale])}))
    return zero_shot


def encode_names(names: tuple[str, ...], encode: Encode) -> ZeroShot:
    """Return names with the means of their vectors in all templates."""
    vectors, scale = encode([template.format(name) for name in names for template in TEMPLATES])
    means = vectors.reshape(len(names), len(TEMPLATES), -1).mean(axis=1)
    return ZeroShot(names, means / np.linalg.norm(means, axis=1, keepdims=True), scale)
