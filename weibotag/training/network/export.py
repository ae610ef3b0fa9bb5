"""A trained network in files: as ONNX, and as a BODY folder, where it learnt without tags, for others to begin from."""

import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NotRequired

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from weibotag.core.errors import ModelError, RequestError
from weibotag.core.files import atomic, write_json
from weibotag.core.own_files import Origin, check_digests, list_digests, read_json, read_tensors, write_tensors
from weibotag.features.post_batches import FEATURES, INPUTS, STANDARD, Features, Lexicon, Posts
from weibotag.training.network.architectures.fusions import build
from weibotag.training.network.architectures.network import Network, Shape
from weibotag.training.network.loop import BUCKETS, to_tensors
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
# What a body does not have: heads, and what reads the vectors of texts.
HEADS = ("heads.", "meaning.")
ORIGIN = Origin("a body", "make one with `weibotag pretrain`")


class BodyShape(TypedDict):
    """Sizes of a body: see `Shape`."""

    width: int
    buckets: int


class BodyAbout(TypedDict):
    """What body.json says: the network, its sizes, and digests of the other files."""

    format: int
    network: str
    shape: BodyShape
    files: NotRequired[dict[str, str]]


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
        about = read_json(folder / ABOUT, BodyAbout, ORIGIN)
        found = about["format"], about["network"], about["shape"]["width"]
        expected = FORMAT, network, width
        if found != expected:
            named = (f"format {one}, network {two}, width {three}" for one, two, three in (found, expected))
            raise ModelError(f"{folder}: has {', asked for is '.join(named)}: pretrain that one with `weibotag pretrain`")
        if "files" in about:
            check_digests(folder, about["files"], (FEATURES, STANDARD, WEIGHTS), ORIGIN)
        features, buckets = Features.load(folder), about["shape"]["buckets"]
        # The name of a language model would be looked up, and what it names loaded.
        ORIGIN.need(folder / FEATURES, not features.encoder and not features.tokenizer, "found a language model")
        ORIGIN.need(folder / ABOUT, 0 < buckets <= BUCKETS[1], f"found {buckets:,} n-gram buckets")
        weights = read_tensors(folder / WEIGHTS, None, ORIGIN)
        return cls(folder, network, buckets, features, {name: torch.from_numpy(part) for name, part in weights.items()})

    def widen(self, learnt: Features) -> Features:
        """Return the body's features with those words, authors and channels of `learnt` that it does not know."""
        lexicons = dict(self.features.lexicons)
        for name in GROWING:
            own, known = lexicons[name], set(lexicons[name].words)
            strange = tuple(word for word in learnt.lexicons[name].words if word not in known)
            lexicons[name] = Lexicon(own.words + strange, own.buckets)
        return replace(self.features, lexicons=lexicons, blocks=learnt.blocks)

    def build(self, shape: Shape) -> Network:
        """Return a network with the body's weights; rows of new words, and heads, are random.

        `shape` is that of what `widen` returned. Raises ModelError for weights that do not fit.
        """
        network = build(self.network, replace(shape, buckets=self.buckets))
        own, fitted = network.state_dict(), dict(self.weights)
        try:
            for name, table in GROWING.items():
                known = 1 + len(self.features.lexicons[name].words)
                old = fitted[table]
                rest = len(own[table]) - (len(old) - known)
                fitted[table] = torch.cat([old[:known], own[table][known:rest], old[known:]])
            wrong = network.load_state_dict(fitted, strict=False)
        except (RuntimeError, KeyError, TypeError) as error:
            raise ORIGIN.fault(self.folder / WEIGHTS, f"do not fit ({str(error).splitlines()[-1].strip()})") from error
        strange = [*wrong.unexpected_keys, *(name for name in wrong.missing_keys if not name.startswith(HEADS))]
        if strange:
            raise ModelError(f"{self.folder}: was written by another version ({strange[0]}): pretrain again")
        return network


def save_body(network: Network, shape: Shape, features: Features, summary: PretrainSummary, folder: Path) -> None:
    """Write the body of a network that was trained: all but its heads."""
    features.save(folder)
    kept = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items() if not name.startswith(HEADS)}
    write_tensors(folder / WEIGHTS, {name: tensor.numpy() for name, tensor in kept.items()})
    sizes = {"width": shape.width, "buckets": shape.buckets}
    files = list_digests(folder, (FEATURES, STANDARD, WEIGHTS))
    write_json({"format": FORMAT, "shape": sizes, "files": files, **asdict(summary)}, folder / ABOUT)
