"""Where torch runs a model, and in which precision: one answer for every backend that uses torch."""

from typing import TYPE_CHECKING

from weibotag.core.errors import RequestError

if TYPE_CHECKING:
    import torch


def choose_device(asked: str) -> "torch.device":
    """Return the torch device for auto (CUDA where there is one), cpu or cuda[:N]; RequestError where there is none."""
    import torch

    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise RequestError(f"device {asked!r}: torch sees no GPU here: choose device auto or cpu, or install torch for CUDA")
    return torch.device("cuda" if asked == "auto" and torch.cuda.is_available() else "cpu" if asked == "auto" else asked)


def choose_precision(device: "torch.device") -> "torch.dtype":
    """Return float16 on a GPU, float32 on a CPU."""
    import torch

    return torch.float16 if device.type == "cuda" else torch.float32


def limit_threads(threads: int) -> None:
    """Let torch use so many threads in this process."""
    import torch

    torch.set_num_threads(threads)


def torch_errors() -> tuple[type[Exception], ...]:
    """Return what torch raises for one batch that it can't work on, a GPU without memory included."""
    import torch

    return torch.cuda.OutOfMemoryError, RuntimeError, ValueError
