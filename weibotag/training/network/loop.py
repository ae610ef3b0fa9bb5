"""A training under way: epochs, early stopping, checkpoints to go on from after a kill, and how much each loss counts."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from weibotag.core.files import atomic
from weibotag.core.own_files import Origin
from weibotag.core.progress import bar
from weibotag.features.post_batches import Features, Posts
from weibotag.training.network.architectures.network import Shape, TextEncoder
from weibotag.training.network.settings import Settings, TrainingRun
from weibotag.vision.backends.torch_device import choose_device, limit_threads

CHECKPOINT, LOSSES = "checkpoint.pt", "losses.csv"
ORIGIN = Origin("the checkpoint of this training", "remove it, and the training begins anew")
WARM_UP = 0.05
# Of the n-grams: a post has about a hundred new ones, but a network makes do with fewer numbers for them than fastText.
BUCKETS_PER_POST, BUCKETS = 8, (2**12, 2**18)
# Gradients of each loss by itself are asked for once in so many steps, and what they say moves by this much.
EVERY, PACE = 20, 0.3
# A network's own loss is no task: it keeps its weight.
OWN = "own"


class Objective(Protocol):
    """What a network learns from which posts; `aim` names the figure of held-out posts that the best epoch has most of."""

    network: nn.Module
    posts: Posts
    aim: str

    def losses(self, rows: np.ndarray, epoch: int, step: int) -> dict[str, Tensor]:
        """Return the losses by name of a batch, for the rows of its posts and its number in the epoch."""

    def judge(self) -> dict[str, float]:
        """Return figures of the held-out posts, `aim` among them."""


@dataclass(frozen=True)
class Epoch:
    """The mean losses and the figures of an epoch, and what it took."""

    losses: dict[str, float]
    figures: dict[str, float]
    seconds: float


class TrainingLoop:
    """A network, its optimiser, how far training is, and its weights when the objective's aim was best."""

    def __init__(self, objective: Objective, settings: Settings, run: TrainingRun) -> None:
        self.objective, self.settings, self.place = objective, settings, run
        self.network = objective.network
        self.device = device_of(self.network)
        self.optimizer = torch.optim.AdamW(group_parameters(self.network, settings), lr=settings.lr, fused=True)
        self.balance = Balance(self.network.parameters())
        self.best = _copy(self.network)
        self.history: list[Epoch] = []

    @property
    def epoch(self) -> int:
        """Return how many epochs are done."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """Return the number, from 0, of the best epoch so far; there must be one."""
        return max(range(self.epoch), key=lambda number: self.history[number].figures[self.objective.aim])

    @property
    def figures(self) -> dict[str, float]:
        """Return the figures of the best epoch so far; there must be one."""
        return self.history[self.best_epoch].figures

    @property
    def seconds(self) -> float:
        """Return what the training took, in all processes that worked on it."""
        return sum(epoch.seconds for epoch in self.history)

    def is_over(self) -> bool:
        """Tell whether all epochs are done, the last few brought nothing, or the time is up; one there is in any case."""
        if not self.history:
            return False
        stale = self.epoch - 1 - self.best_epoch >= self.settings.patience
        late = self.settings.minutes is not None and self.seconds >= 60 * self.settings.minutes
        return self.epoch >= self.settings.epochs or stale or late

    def run(self, digest: str, label: str) -> None:
        """Train to the end and take the best weights, from where a call with the same `digest` was stopped."""
        path, aim = self.place.folder / CHECKPOINT, self.objective.aim
        self.load(path, digest)
        with bar(self.settings.epochs, f"{label}, epochs", self.place.quiet) as progress:
            progress.advance(self.epoch)
            while not self.is_over():
                started = perf_counter()
                losses = self.run_epoch()
                figures = self.objective.judge()
                if self.epoch == 0 or figures[aim] > self.figures[aim]:
                    self.best = _copy(self.network)
                self.history.append(Epoch(losses, figures, round(perf_counter() - started, 3)))
                self.save(path, digest)
                self._write_losses()
                progress.advance()
        self.network.load_state_dict(self.best)

    def run_epoch(self) -> dict[str, float]:
        """Go once through the posts; return the mean of each loss."""
        self.network.train()
        started = perf_counter()
        batches = self.objective.posts.order(self.settings.batch, seed=100_003 * self.place.seed + self.epoch)
        sums: dict[str, np.ndarray] = {}
        for step, rows in enumerate(batches):
            self._set_rate((self.epoch + step / len(batches)) / self.settings.epochs, perf_counter() - started)
            losses = self.objective.losses(rows, self.epoch, step)
            self.optimizer.zero_grad()
            torch.autograd.backward(self.balance.total(losses))
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            for name, loss in losses.items():
                sums[name] = sums.get(name, np.zeros(2)) + np.array([float(loss.detach()) * len(rows), len(rows)])
        return {name: float(total / count) for name, (total, count) in sums.items()}

    def _set_rate(self, done: float, seconds: float) -> None:
        """Warm up, then go down along a cosine to the end: of the epochs, or of the time where that comes first."""
        factor = min(done / WARM_UP, 1.0)
        if self.settings.minutes:
            done = max(done, min((self.seconds + seconds) / (60 * self.settings.minutes), 1.0))
        factor *= 0.5 + 0.5 * math.cos(math.pi * done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * group["rate"] * max(factor, 0.01)

    def save(self, path: Path, digest: str) -> None:
        """Write all that is needed to go on to one file, whole or not at all."""
        state = {
            "digest": digest,
            "network": self.network.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "random": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
            "history": [asdict(epoch) for epoch in self.history],
            "balance": {"norms": self.balance.norms, "steps": self.balance.steps},
        }
        with atomic(path) as file:
            torch.save(state, file)

    def load(self, path: Path, digest: str) -> None:
        """Go on from a file that `save` wrote for the same `digest`; of another training it is left alone."""
        if not path.is_file():
            return
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
            if state["digest"] == digest:
                self._take(state)
        except Exception as error:
            # Whatever torch and its unpickler of tensors make of a file that is damaged.
            raise ORIGIN.fault(path, f"{type(error).__name__} {error}") from error

    def _take(self, state: Any) -> None:
        """Go on from a state that `save` made; raises where it does not fit."""
        best, own = state["best"], self.network.state_dict()
        if {name: part.shape for name, part in best.items()} != {name: part.shape for name, part in own.items()}:
            raise ValueError("weights of another network")
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.balance.norms, self.balance.steps = state["balance"]["norms"], state["balance"]["steps"]
        self.network.load_state_dict(state["network"])
        self.best = {name: tensor.to(self.device) for name, tensor in state["best"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"][0])
        torch.cuda.set_rng_state_all(state["random"][1:])
        for part, kept in self.optimizer.state.items():
            if any(moment.dim() and moment.shape != part.shape for moment in kept.values()):
                raise ValueError("moments of another network")
        _ = self.figures[self.objective.aim] + self.seconds

    def _write_losses(self) -> None:
        """Write the history as CSV."""
        rows: list[dict[str, float]] = [
            {"epoch": number, **epoch.losses, **epoch.figures, "seconds": epoch.seconds}
            for number, epoch in enumerate(self.history, start=1)
        ]
        with atomic(self.place.folder / LOSSES, "w") as file:
            pd.DataFrame(rows).to_csv(file, index=False)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def group_parameters(network: nn.Module, settings: Settings) -> list[dict[str, object]]:
    """Return the groups of parameters of an optimiser: matrices decay, encoders learn at their own share of the rate."""
    rates = {
        part: module.rate
        for module in network.modules()
        if isinstance(module, TextEncoder)
        for part in module.model.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part in network.parameters():
        decay = settings.weight_decay if part.dim() > 1 else 0.0
        groups.setdefault((decay, rates.get(part, 1.0)), []).append(part)
    return [{"params": parts, "weight_decay": decay, "rate": rate} for (decay, rate), parts in groups.items()]


def begin(run: TrainingRun) -> torch.device:
    """Make the folder of a training, set threads and seed, and return the device."""
    limit_threads(run.threads)
    run.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.seed)
    return choose_device(run.device)


def shape_of(features: Features, parents: np.ndarray, posts: Posts, settings: Settings, **others: Any) -> Shape:
    """Return the shape of a network that is trained on posts; `others` are further fields."""
    buckets = int(np.clip(BUCKETS_PER_POST * len(posts), *BUCKETS))
    return replace(Shape.of(features, parents, width=settings.width, dropout=settings.dropout, buckets=buckets), **others)


def device_of(network: nn.Module) -> torch.device:
    """Return where a network's weights are."""
    return next(network.parameters()).device


def half_precision(device: torch.device) -> torch.autocast:
    """Return the context in which a GPU calculates in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def to_tensors(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Return a batch of arrays as tensors on a device."""
    return {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in batch.items()}


def digest_of(settings: Settings, asked: Sequence[object], arrays: Iterable[np.ndarray]) -> str:
    """Return a hash of all that the outcome of a training depends on: `asked` is what JSON can hold."""
    # A training may be given more time and goes on.
    known = asdict(replace(settings, minutes=None))
    found = hashlib.sha256(json.dumps([known, *asked, torch.__version__]).encode())
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


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
