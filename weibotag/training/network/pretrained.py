"""A BODY folder: a network that was trained on posts without tags, for others to begin from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from weibotag.core.errors import ModelError
from weibotag.core.files import sha256_of, write_json
from weibotag.features.post_batches import Features, Lexicon
from weibotag.training.network.architectures import Network

ABOUT, WEIGHTS = "body.json", "body.safetensors"
FORMAT = 1
# Lexicons that take in the words of the posts to be learnt, and the tables of the network that have a row for each of them.
# Not characters: all n-grams of strange ones are hashed by their numbers.
GROWING = {"words": "words.words.weight", "authors": "author.weight", "channels": "channel.weight"}
HEADS = "heads."


@dataclass(frozen=True)
class PretrainedNetwork:
    """A trained body: what body.json says, its features, and its weights by name, without heads."""

    folder: Path
    about: dict[str, Any]
    features: Features
    weights: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path, network: str, width: int) -> "PretrainedNetwork":
        """Read a folder that `save` wrote; raises ModelError where it is none, or of another network, width or format."""
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            found = about["format"], about["network"], about["shape"]["width"]
            expected = FORMAT, network, width
            if found != expected:
                named = (f"format {one}, network {two}, width {three}" for one, two, three in (found, expected))
                raise ModelError(
                    f"{folder}: has {', asked for is '.join(named)}: pretrain that one with `weibotag pretrain`"
                )
            return cls(folder, about, Features.load(folder), load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(f"{folder}: is no body ({error}): expected a folder that `weibotag pretrain` wrote") from error

    @property
    def digest(self) -> str:
        """Return the sha256 of the weights, hex."""
        return sha256_of(self.folder / WEIGHTS)

    def widen(self, learnt: Features) -> Features:
        """Return the body's features with those words, authors and channels of `learnt` that it does not know."""
        grown: dict[str, Any] = {}
        for name in GROWING:
            own, other = (getattr(features, name) for features in (self.features, learnt))
            known = set(own.words)
            grown[name] = Lexicon(own.words + tuple(word for word in other.words if word not in known), own.buckets)
        return replace(self.features, **grown)

    def give(self, network: Network) -> None:
        """Put the weights into a network of the shape of what `widen` returned; rows of new words and heads stay.

        Raises ModelError for weights that do not fit.
        """
        own = network.state_dict()
        fitted = dict(self.weights)
        for name, table in GROWING.items():
            known = 1 + len(getattr(self.features, name).words)
            old = fitted[table]
            rest = len(own[table]) - (len(old) - known)
            fitted[table] = torch.cat([old[:known], own[table][known:rest].cpu(), old[known:]])
        try:
            wrong = network.load_state_dict(fitted, strict=False)
        except RuntimeError as error:
            raise ModelError(f"{self.folder}: its weights do not fit ({str(error).splitlines()[-1].strip()})") from error
        strange = [*wrong.unexpected_keys, *(name for name in wrong.missing_keys if not name.startswith(HEADS))]
        if strange:
            raise ModelError(f"{self.folder}: was written by another version ({strange[0]}): pretrain again")


def save_body(network: Network, features: Features, about: Mapping[str, Any], folder: Path) -> None:
    """Write the body of a network that was trained: all but its heads."""
    features.save(folder)
    kept = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items() if not name.startswith(HEADS)}
    save_file(kept, folder / WEIGHTS)
    write_json({"format": FORMAT, **about}, folder / ABOUT)
