"""Texts as the tokens of a language model that has read more than the posts at hand. Needs no torch."""

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.core.text_matching import CODES
from weibotag.features.post_arrays import Ragged, offsets_of
from weibotag.vision.backends.transformers_model import find_folder, first_line


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
    return Tokenizer.from_str(tokenizer)
