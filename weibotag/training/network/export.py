"""A trained network in files: as ONNX, and as a BODY folder, where it learnt without tags, for others to begin from."""

import json
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weibotag.core.errors import ModelError, RequestError
from weibotag.core.files import atomic, write_json
from weibotag.features.post_batches import INPUTS, Features, Lexicon, Posts
from weibotag.training.network.architectures.fusions import build
from weibotag.training.network.architectures.network import Network, Shape
from weibotag.training.network.loop import to_tensors
from weibotag.training.network.settings import PretrainSummary
from weibotag.vision.backends.onnx_session import open_session

OPSET = 17
# What onnxruntime may answer differently from torch: of an answer, and where it is below 1 of 1.
TOLERANCE = 1e-3
ABOUT, WEIGHTS = "body.json", "body.safetensors"
FORMAT = 2
# Lexicons that take in the words of the posts to be learnt, and the tables of the network that have a row for each of them.
# Not characters: all n-grams of strange ones are hashed by their numbers.
GROWING = {"words": "words.words.weight", "authors": "author.weight", "channels": "channel.weight"}
HEADS = "heads."


class _Exported(nn.Module):
    """A network with its inputs one by one and its answers in a fixed order, as ONNX has them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.names: list[str] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        answer = self.network(dict(zip(INPUTS, inputs, strict=True)))
        self.names = [name for name in answer if name != "loss"]
        return tuple(answer[name] for name in self.names)


def export(network: nn.Module, posts: Posts, path: Path) -> None:
    """Write a network as ONNX for batches of any size; raises RequestError where onnxruntime answers differently."""
    wrapped = _Exported(network.cpu()).eval()
    inputs = tuple(to_tensors(posts.batch(posts.order(4, seed=0)[0]), torch.device("cpu")).values())
    with torch.inference_mode():
        wrapped(*inputs)
    axes = {
        name: {0: "posts"} | ({1: name} if tensor.dim() > 1 else {}) for name, tensor in zip(INPUTS, inputs, strict=True)
    }
    with atomic(path) as file, warnings.catch_warnings(), torch.no_grad():
        # The exporter that needs no further library, writes LSTMs as one node, and warns that it is the older one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapped,
            inputs,
            file.name,
            input_names=list(INPUTS),
            output_names=wrapped.names,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    session = open_session(path)
    others = posts.batch(posts.order(7, seed=1)[-1])
    asked = {one.name for one in session.get_inputs()}
    found = session.run(wrapped.names, {name: array for name, array in others.items() if name in asked})
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in wrapped(*to_tensors(others, torch.device("cpu")).values())]
    for name, own, right in zip(wrapped.names, found, expected, strict=True):
        gap = float((np.abs(own - right) / np.maximum(np.abs(right), 1)).max(initial=0))
        if not gap <= TOLERANCE:
            raise RequestError(
                f"{path}: {name} of onnxruntime differs from torch by {gap:.4f}: "
                "another version of torch or onnxruntime may do"
            )


@dataclass(frozen=True)
class PretrainedNetwork:
    """A trained body: its network's name and number of n-gram buckets, its features, its weights by name, without heads."""

    folder: Path
    network: str
    buckets: int
    features: Features
    weights: dict[str, Tensor]

    @classmethod
    def load(cls, folder: Path, network: str, width: int) -> "PretrainedNetwork":
        """Read a folder that `save_body` wrote; raises ModelError where it is none, or of another network, width, format."""
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            found = about["format"], about["network"], about["shape"]["width"]
            expected = FORMAT, network, width
            if found != expected:
                named = (f"format {one}, network {two}, width {three}" for one, two, three in (found, expected))
                raise ModelError(
                    f"{folder}: has {', asked for is '.join(named)}: pretrain that one with `weibotag pretrain`"
                )
            return cls(folder, network, about["shape"]["buckets"], Features.load(folder), load_file(folder / WEIGHTS))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(f"{folder}: is no body ({error}): expected a folder that `weibotag pretrain` wrote") from error

    def widen(self, learnt: Features) -> Features:
        """Return the body's features with those words, authors and channels of `learnt` that it does not know."""
        lexicons = dict(self.features.lexicons)
        for name in GROWING:
            own, known = lexicons[name], set(lexicons[name].words)
            strange = tuple(word for word in learnt.lexicons[name].words if word not in known)
            lexicons[name] = Lexicon(own.words + strange, own.buckets)
        return replace(self.features, lexicons=lexicons)

    def build(self, shape: Shape) -> Network:
        """Return a network with the body's weights; rows of new words, and heads, are random.

        `shape` is that of what `widen` returned. Raises ModelError for weights that do not fit.
        """
        network = build(self.network, replace(shape, buckets=self.buckets))
        own, fitted = network.state_dict(), dict(self.weights)
        for name, table in GROWING.items():
            known = 1 + len(self.features.lexicons[name].words)
            old = fitted[table]
            rest = len(own[table]) - (len(old) - known)
            fitted[table] = torch.cat([old[:known], own[table][known:rest], old[known:]])
        try:
            wrong = network.load_state_dict(fitted, strict=False)
        except RuntimeError as error:
            raise ModelError(f"{self.folder}: its weights do not fit ({str(error).splitlines()[-1].strip()})") from error
        strange = [*wrong.unexpected_keys, *(name for name in wrong.missing_keys if not name.startswith(HEADS))]
        if strange:
            raise ModelError(f"{self.folder}: was written by another version ({strange[0]}): pretrain again")
        return network


def save_body(network: Network, shape: Shape, features: Features, summary: PretrainSummary, folder: Path) -> None:
    """Write the body of a network that was trained: all but its heads."""
    features.save(folder)
    kept = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items() if not name.startswith(HEADS)}
    save_file(kept, folder / WEIGHTS)
    sizes = {"width": shape.width, "buckets": shape.buckets}
    write_json({"format": FORMAT, "shape": sizes, **asdict(summary)}, folder / ABOUT)
