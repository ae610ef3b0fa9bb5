"""ONNX files on onnxruntime: one way to open them for every backend."""

import os
from pathlib import Path
from typing import Any


def open_session(model: Path | bytes, threads: int = 1, device: str = "auto") -> Any:
    """Return an InferenceSession of a file, or of the bytes of one, on `threads` threads.

    `device` is cpu, cuda or auto: CUDA where onnxruntime has it. A device that is asked for by name and is not there falls
    back to nothing: onnxruntime's own error says why.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Above the number of cores onnxruntime spins threads against each other.
    options.intra_op_num_threads = min(threads, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=choose_providers(device))


def choose_providers(device: str) -> list[str]:
    """Return the execution providers for cpu, cuda or auto."""
    import onnxruntime

    if device == "cuda" or (device == "auto" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def session_errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises for one input that it can't work on, its being out of memory included."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    return Fail, InvalidArgument, RuntimeException
