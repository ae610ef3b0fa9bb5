"""Where torch runs a model, and how many pictures go through it together."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from weibotag.core.errors import RequestError
from weibotag.vision.backend import Answer, Backend

if TYPE_CHECKING:
    import torch

# On a GPU every batch is filled up to so many: of other numbers of pictures the last bits differ.
GPU_BATCH = 16
BLANK = np.zeros((1, 1, 3), np.uint8)


class TorchBackend(Backend[Answer]):
    """A backend on torch whose `open` sets `_find`, from `_batch` pictures, which may become fewer, to their answers."""

    _find: Callable[[Sequence[np.ndarray]], list[Answer]]
    # One by one: on a CPU a batch is no faster.
    _batch = 1

    def look(self, pictures: Sequence[np.ndarray]) -> list[Answer]:
        """Return the answer for each picture, uint8 RGB (height, width, 3) of any size, which depends on it alone."""
        import torch

        answers: list[Answer] = []
        while len(answers) < len(pictures):
            some = pictures[len(answers) : len(answers) + self._batch]
            try:
                answers += self._find([*some, *[BLANK] * (self._batch - len(some))])[: len(some)]
            except torch.cuda.OutOfMemoryError:
                # Fewer pictures from outside would be filled up again to as many.
                if self._batch == 1:
                    raise
                self._batch //= 2
        return answers

    def _start(self, threads: int) -> None:
        """Let torch use so many threads, and name what it raises for a batch: a GPU without memory included."""
        import torch

        limit_threads(threads)
        self.errors = (torch.cuda.OutOfMemoryError, RuntimeError, ValueError)


def choose_device(asked: str) -> "torch.device":
    """Return the torch device for auto (CUDA where there is one), cpu or cuda[:N]; RequestError where there is none."""
    import torch

    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise RequestError(f"device {asked!r}: torch sees no GPU here: choose device auto or cpu, or install torch for CUDA")
    return torch.device("cuda" if asked == "auto" and torch.cuda.is_available() else "cpu" if asked == "auto" else asked)


def choose_precision(device: "torch.device") -> "torch.dtype":
    """Return float16 on a GPU, float32 on a CPU: what detectors run in."""
    import torch

    return torch.float16 if device.type == "cuda" else torch.float32


def limit_threads(threads: int) -> None:
    """Let torch use so many threads in this process."""
    import torch

    torch.set_num_threads(threads)
