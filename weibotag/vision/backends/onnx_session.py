"""ONNX networks on onnxruntime: one way to open them for every backend, and to take other outputs than they have."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weibotag.core.errors import RequestError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

GPU = "CUDAExecutionProvider"
# A batch in, the network's outputs out.
Network = Callable[[np.ndarray], list[np.ndarray]]


def open_session(model: Path | bytes, threads: int = 1, device: str = "auto") -> Any:
    """Return an InferenceSession of a file, or of the bytes of one, on `threads` threads.

    `device` is cpu, cuda or auto: CUDA where onnxruntime has it. Raises RequestError where CUDA is asked for by name and
    can't be used; onnxruntime itself would go on with the CPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Above the number of cores onnxruntime spins threads against each other.
    options.intra_op_num_threads = min(threads, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    providers = choose_providers(device)
    if GPU in providers:
        # CUDA's libraries may have come with pip, which puts them where the system does not look.
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(source, options, providers=providers)
    if device == "cuda" and GPU not in session.get_providers():
        raise RequestError(
            "device cuda: onnxruntime can't use CUDA here: look at the driver, at weibotag doctor, and whether there are "
            "CUDA and cuDNN: pip install 'onnxruntime-gpu[cuda,cudnn]'; or choose auto or cpu"
        )
    return session


def open_network(model: Path | bytes, threads: int = 1, device: str = "auto") -> Network:
    """Return a network of one input as a call; `open_session` has the rest."""
    session = open_session(model, threads, device)
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})


def cut_network(model: "ModelProto", outputs: Iterable[str]) -> bytes:
    """Return the part of a network that leads from its first input to inner outputs, float32, as the bytes of a file."""
    from onnx import TensorProto
    from onnx.utils import Extractor

    kinds = dict.fromkeys(outputs, int(TensorProto.FLOAT))
    set_outputs(model.graph, kinds)
    return bytes(Extractor(model).extract_model([model.graph.input[0].name], list(kinds)).SerializeToString())


def set_outputs(graph: "GraphProto", kinds: Mapping[str, int]) -> None:
    """Give a graph the outputs of these names and element types in place of its own."""
    from onnx.helper import make_tensor_value_info

    del graph.output[:]
    graph.output.extend(make_tensor_value_info(name, kind, None) for name, kind in kinds.items())


def choose_providers(device: str) -> list[str]:
    """Return the execution providers for cpu, cuda or auto."""
    import onnxruntime

    if device == "cuda" or (device == "auto" and GPU in onnxruntime.get_available_providers()):
        return [GPU, "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def session_errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises for one input that it can't work on, its being out of memory included."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    return Fail, InvalidArgument, RuntimeException
