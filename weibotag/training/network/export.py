"""A trained network as an ONNX file, in eight bits where that is worth it."""

import logging
import os
import warnings
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from weibotag.core.errors import RequestError
from weibotag.core.files import atomic
from weibotag.features.post_batches import INPUTS, Posts
from weibotag.scoring import thresholds
from weibotag.scoring.blend import FLOOR
from weibotag.taggers.network import BATCH
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.network.loop import to_tensors
from weibotag.vision.backends.onnx_session import open_session

OPSET = 17
# What onnxruntime may answer differently from torch: of an answer, and where it is below 1 of 1.
TOLERANCE = 1e-3
# Eight bits may cost this much micro-F1, and must save this share of the time: less is within the noise of a busy machine.
LOSS, GAIN = 0.002, 0.2
# Batches that ranges are learnt from.
RANGES = 16


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
    told = session.run(wrapped.names, {name: array for name, array in others.items() if name in asked})
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in wrapped(*to_tensors(others, torch.device("cpu")).values())]
    for name, own, right in zip(wrapped.names, told, expected, strict=True):
        gap = float((np.abs(own - right) / np.maximum(np.abs(right), 1)).max(initial=0))
        if not gap <= TOLERANCE:
            raise RequestError(
                f"{path}: {name} of onnxruntime differs from torch by {gap:.4f}: "
                "another version of torch or onnxruntime may do"
            )


class _Batches(CalibrationDataReader):
    """Posts from which the ranges of a network's activations are learnt."""

    def __init__(self, posts: Posts, asked: list[str]) -> None:
        some = list(posts.shelves(BATCH))
        some = [some[place] for place in np.unique(np.linspace(0, len(some) - 1, RANGES).astype(int))]
        self._batches = ({name: batch[name] for name in asked} for batch in map(posts.batch, some))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def quantise(path: Path, posts: Posts, gold: csr_matrix, taxonomy: Taxonomy) -> dict[str, Any]:
    """Put a network that multiplies in eight bits in the place of one where that is worth it; return what was measured.

    Ranges of activations are fixed, learnt from the posts: dynamic ones would make a post's scores depend on its
    neighbours. Heads stay as they are, because what they say is summed along the tree. Both networks take turns over the
    batches of posts in this process, in CPU time. Returns `kept`, `micro_f1` of both, and `speed`, how many times as fast
    eight bits are.
    """
    small = path.with_name(f".{path.stem}.int8.tmp")
    heads = [node.name for node in onnx.load(path).graph.node if "/heads." in node.name]
    whole = open_session(path)
    asked = [one.name for one in whole.get_inputs()]
    try:
        # It asks for a preparation that takes longer than it helps, in the name of the root logger.
        logging.disable(logging.WARNING)
        quantize_static(
            path,
            small,
            _Batches(posts, asked),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=heads,
            extra_options={"MatMulConstBOnly": True},
        )
        sessions = [whole, open_session(small)]
        found = [np.zeros((len(posts), len(taxonomy)), np.float32) for _ in sessions]
        spent = [0.0, 0.0]
        for turn, rows in enumerate(posts.shelves(BATCH)):
            batch = posts.batch(rows)
            for which in (0, 1) if turn % 2 else (1, 0):
                start = process_time()
                found[which][rows] = np.exp(sessions[which].run(["tags"], {name: batch[name] for name in asked})[0])
                spent[which] += process_time() - start
        scores = [thresholds.shared_f1(csr_matrix(np.where(one < FLOOR, 0, one)), gold, taxonomy) for one in found]
        kept = scores[1] > scores[0] - LOSS and spent[1] < (1 - GAIN) * spent[0]
        if kept:
            os.replace(small, path)
    finally:
        logging.disable(logging.NOTSET)
        small.unlink(missing_ok=True)
    return {"kept": kept, "micro_f1": [round(score, 4) for score in scores], "speed": round(spent[0] / spent[1], 2)}
