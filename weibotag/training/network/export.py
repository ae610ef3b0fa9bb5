"""A trained network as an ONNX file."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from weibotag.core.errors import RequestError
from weibotag.core.files import atomic
from weibotag.features.post_batches import INPUTS, Posts
from weibotag.training.network.loop import to_tensors
from weibotag.vision.backends.onnx_session import open_session

OPSET = 17
# What onnxruntime may answer differently from torch: of an answer, and where it is below 1 of 1.
TOLERANCE = 1e-3


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
