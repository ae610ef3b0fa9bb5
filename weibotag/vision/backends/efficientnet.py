"""EfficientNet-Lite (Google's TPU repository; arXiv:1905.11946) as an ONNX graph, from the tensors of a file.

Its blocks are those of MobileNetV2 (arXiv:1801.04381), without squeeze and excitation, ended by ReLU6. Nothing but the
tensors is read: how often a stage repeats its block, and how wide it is, is seen by their shapes.
"""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.weights.torch_tensors import read_tensors

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

# By which each stage's first block divides the side; that of a batch normalisation.
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EPSILON = 1e-3
PICTURE, MEANS, CLASSES = "picture", "means", "classes"


def stage_name(stage: int) -> str:
    """Return the name of the output of a stage, 0 to 6."""
    return f"stage{stage}"


def read_network(path: Path) -> bytes:
    """Return the bytes of an ONNX file: float32 (1, 3, side, side) in, `stage0` to `stage6`, `means`, `classes` out.

    `means` (1, 1280) are those of the last map, `classes` (1, 1000) probabilities. RequestError for other tensors.
    """
    import onnx
    from onnx import helper

    tensors = read_tensors(path)
    try:
        graph = Graph(tensors)
        graph.add_network()
    except (KeyError, ValueError) as error:
        raise RequestError(f"{path}: these are not the tensors of an EfficientNet-Lite: {error}") from error
    shape = (1, 3, "side", "side")
    outputs = [*map(stage_name, range(len(STRIDES))), MEANS, CLASSES]
    made = helper.make_graph(
        graph.nodes,
        "efficientnet",
        [helper.make_tensor_value_info(PICTURE, onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        list(graph.weights.values()),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


class Graph:
    """Nodes and weights of a network that grows by its end, `last`."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors, self.last = tensors, PICTURE
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def add_network(self) -> None:
        """Add all layers."""
        self.add_convolution("_conv_stem", "_bn0", stride=2)
        stage, wide = -1, 0
        for block in count():
            name = f"_blocks.{block}."
            if f"{name}_project_conv.weight" not in self.tensors:
                break
            first, wide = wide, len(self.tensors[f"{name}_project_conv.weight"])
            if first != wide:
                self.name_last(stage)
                stage += 1
            self.add_block(name, STRIDES[stage] if first != wide else 1, repeats=first == wide)
        if stage != len(STRIDES) - 1:
            raise ValueError(f"{stage + 1} stages")
        self.name_last(stage)
        self.add_convolution("_conv_head", "_bn1")
        self.add("GlobalAveragePool", [self.last])
        self.add("Flatten", [self.last], output=MEANS)
        head = [self.keep("_fc.weight", self.tensors["_fc.weight"]), self.keep("_fc.bias", self.tensors["_fc.bias"])]
        self.add("Gemm", [MEANS, *head], transB=1)
        self.add("Softmax", [self.last], output=CLASSES)

    def add_block(self, name: str, stride: int, repeats: bool) -> None:
        """Add a block: wider, by place, narrower; where it `repeats` what was before it, that is added."""
        before = self.last
        if f"{name}_expand_conv.weight" in self.tensors:
            self.add_convolution(f"{name}_expand_conv", f"{name}_bn0")
        self.add_convolution(f"{name}_depthwise_conv", f"{name}_bn1", stride)
        self.add_convolution(f"{name}_project_conv", f"{name}_bn2", bounded=False)
        if repeats:
            self.add("Add", [self.last, before])

    def add_convolution(self, name: str, norm: str, stride: int = 1, bounded: bool = True) -> None:
        """Add a convolution with its batch normalisation in it, and a ReLU6 where its values are bounded."""
        weight = self.tensors[f"{name}.weight"]
        scale = self.tensors[f"{norm}.weight"] / np.sqrt(self.tensors[f"{norm}.running_var"] + EPSILON)
        bias = self.tensors[f"{norm}.bias"] - self.tensors[f"{norm}.running_mean"] * scale
        inputs = [self.last, self.keep(f"{name}.w", weight * scale[:, None, None, None]), self.keep(f"{name}.b", bias)]
        # Of a depthwise one each filter sees one channel.
        groups = len(weight) if weight.shape[1] == 1 else 1
        self.add(
            "Conv", inputs, group=groups, strides=[stride, stride], auto_pad="SAME_UPPER", kernel_shape=weight.shape[2:]
        )
        if bounded:
            bounds = [self.keep(bound, np.array(value)) for bound, value in (("zero", 0.0), ("six", 6.0))]
            self.add("Clip", [self.last, *bounds])

    def name_last(self, stage: int) -> None:
        """Let a stage's output have its name."""
        if stage >= 0:
            self.add("Identity", [self.last], output=stage_name(stage))

    def keep(self, name: str, numbers: np.ndarray) -> str:
        """Keep weights under a name, once; return it."""
        from onnx.numpy_helper import from_array

        if name not in self.weights:
            self.weights[name] = from_array(np.ascontiguousarray(numbers, np.float32), name)
        return name

    def add(self, kind: str, inputs: list[str], output: str | None = None, **settings: Any) -> None:
        """Add a node; its output is the last then."""
        from onnx.helper import make_node

        self.last = output or f"value{len(self.nodes)}"
        self.nodes.append(make_node(kind, inputs, [self.last], **settings))
