"""How much each of several losses counts: adaptive weights, by the gradients at what the losses share."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

# Gradients of each loss by itself are asked for once in so many steps, and what they say moves by this much.
EVERY, PACE = 20, 0.3
# A network's own loss is no task: it keeps its weight.
OWN = "own"


def weigh(norms: np.ndarray) -> np.ndarray:
    """Return weights, float64 (L,), at least 0, sum 1, for the squared norms |grad l_i|^2 (L,) of the gradients of L losses.

    w_i = (L - g_i)^-1 / sum_j (L - g_j)^-1, the adaptive loss of FashionBERT (Gao et al., SIGIR 2020), where g_i is
    |grad l_i|^2 over the sum of all. It minimises 1/4 sum_ij (w_i - w_j)^2 - 1/2 sum_i w_i^2 g_i over weights that sum to
    1: close to each other, more for the loss that goes down faster. For such weights sum_ij (w_i - w_j)^2 is
    2 L sum_i w_i^2 - 2, so but for a constant this is 1/2 sum_i (L - g_i) w_i^2, whose Lagrangian says
    (L - g_i) w_i = lambda for all i. It is convex while all g_i are below L. Over their sum they are at most 1, so from two
    losses on nothing is divided by less than 1, and no weight is more than L / (L - 1) times another.
    """
    if len(norms) == 1:
        return np.ones(1)
    shares = norms / max(float(norms.sum()), np.finfo(np.float64).tiny)
    inverse = 1 / (len(norms) - shares)
    weights: np.ndarray = inverse / inverse.sum()
    return weights


class Balance:
    """Weights of the losses of a training by name; `norms` and `steps` are all that a training needs to go on."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters = [part for part in parameters if part.requires_grad]
        self.norms: dict[str, float] = {}
        self.steps = 0

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the losses of a step, the weights scaled to sum to their number; before `backward`."""
        tasks = {name: loss for name, loss in losses.items() if name != OWN}
        if len(tasks) > 1:
            if self.steps % EVERY == 0 or not tasks.keys() <= self.norms.keys():
                self._measure(tasks)
            self.steps += 1
            weights = len(tasks) * weigh(np.array([self.norms[name] for name in tasks]))
            tasks = {name: loss * float(weight) for (name, loss), weight in zip(tasks.items(), weights, strict=True)}
        return torch.stack([*tasks.values(), *(loss for name, loss in losses.items() if name == OWN)]).sum()

    def _measure(self, tasks: dict[str, Tensor]) -> None:
        """Take in the squared norms of the gradients at those parameters that all of the losses reach."""
        found = {
            name: torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            for name, loss in tasks.items()
        }
        shared = [all(part is not None for part in parts) for parts in zip(*found.values(), strict=True)]
        for name, gradients in found.items():
            norm = sum(
                float(part.float().square().sum()) for part, is_shared in zip(gradients, shared, strict=True) if is_shared
            )
            self.norms[name] = self.norms.get(name, norm) * (1 - PACE) + PACE * norm
