"""ONNX files on onnxruntime: one way to open them for every backend."""

import os
from pathlib import Path
from typing import Any

from weibotag.core.errors import RequestError

GPU = "CUDAExecutionProvider"


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
