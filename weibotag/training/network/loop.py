"""A training under way: epochs, early stopping, and checkpoints that a killed training goes on from."""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from weibotag.core.files import atomic
from weibotag.core.progress import bar
from weibotag.features.post_batches import Posts
from weibotag.training.network.architectures.encoder import TextEncoder
from weibotag.training.network.loss_balance import Balance

CHECKPOINT, LOSSES, CURVES = "checkpoint.safetensors", "losses.csv", "tensorboard"
WARM_UP = 0.05
# The losses of a batch by name, for the rows of its posts and its number in the epoch.
Learn = Callable[[np.ndarray, int], dict[str, Tensor]]


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters: `patience` is epochs without a better score, `minutes` what training may take (None: as it will).

    `ease` is that of the asymmetric loss.
    """

    epochs: int = 30
    patience: int = 6
    minutes: float | None = None
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.02
    width: int = 128
    dropout: float = 0.3
    missing: float = 0.15
    ease: float = 1.0
    reconstruction: float = 0.1


class TrainingLoop:
    """A network, its optimiser, how far training is, and its weights when `aim`, a figure of held-out posts, was best."""

    def __init__(self, network: nn.Module, settings: Settings, posts: Posts, seed: int, aim: str) -> None:
        self.network, self.settings, self.posts, self.seed, self.aim = network, settings, posts, seed, aim
        self.device = next(network.parameters()).device
        self.optimizer = torch.optim.AdamW(group_parameters(network, settings), lr=settings.lr, fused=True)
        self.balance = Balance(network.parameters())
        self.best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self.history: list[dict[str, Any]] = []

    @property
    def epoch(self) -> int:
        """Return how many epochs are done."""
        return len(self.history)

    @property
    def best_epoch(self) -> dict[str, Any]:
        """Return the losses and figures of the best epoch so far; there must be one."""
        return max(self.history, key=lambda epoch: epoch[self.aim])

    @property
    def seconds(self) -> float:
        """Return what the training took, in all processes that worked on it."""
        return float(sum(epoch["seconds"] for epoch in self.history))

    def is_over(self) -> bool:
        """Tell whether all epochs are done, the last few brought nothing, or the time is up; one there is in any case."""
        if not self.history:
            return False
        stale = self.epoch - self.best_epoch["epoch"] >= self.settings.patience
        late = self.settings.minutes is not None and self.seconds >= 60 * self.settings.minutes
        return self.epoch >= self.settings.epochs or stale or late

    def run(
        self, learn: Learn, judge: Callable[[], dict[str, float]], folder: Path, digest: str, label: str, quiet: bool
    ) -> None:
        """Train to the end and take the best weights; `judge` gives figures of held-out posts, `aim` among them.

        After each epoch all that is needed to go on lies in `folder`, for a call with the same `digest`.
        """
        self.load(folder / CHECKPOINT, digest)
        with bar(self.settings.epochs, f"{label}, epochs", quiet) as progress:
            progress.advance(self.epoch)
            while not self.is_over():
                started = perf_counter()
                losses = self.run_epoch(learn)
                figures = judge()
                if self.epoch == 0 or figures[self.aim] > self.best_epoch[self.aim]:
                    self.best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
                seconds = round(perf_counter() - started, 3)
                self.history.append({"epoch": self.epoch + 1, **losses, **figures, "seconds": seconds})
                self.save(folder / CHECKPOINT, digest)
                self._write_losses(folder)
                progress.advance()
        self.network.load_state_dict(self.best)

    def run_epoch(self, learn: Learn) -> dict[str, float]:
        """Go once through the posts; return the mean of each loss."""
        self.network.train()
        started = perf_counter()
        batches = self.posts.order(self.settings.batch, seed=100_003 * self.seed + self.epoch)
        sums: dict[str, list[float]] = {}
        for step, rows in enumerate(batches):
            self._set_rate((self.epoch + step / len(batches)) / self.settings.epochs, perf_counter() - started)
            losses = learn(rows, step)
            self.optimizer.zero_grad()
            self.balance.total(losses).backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            for name, loss in losses.items():
                told = sums.setdefault(name, [0.0, 0.0])
                told[0] += float(loss.detach()) * len(rows)
                told[1] += len(rows)
        return {name: total / count for name, (total, count) in sums.items()}

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
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.device)
        balance = {"norms": self.balance.norms, "steps": self.balance.steps}
        about = {"digest": digest, "history": json.dumps(self.history), "balance": json.dumps(balance)}
        with atomic(path) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}, about))

    def load(self, path: Path, digest: str) -> None:
        """Go on from a file that `save` wrote for the same `digest`; of another training it is left alone."""
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            about = file.metadata()
            if about["digest"] != digest:
                return
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.history = json.loads(about["history"])
        balance = json.loads(about["balance"])
        self.balance.norms, self.balance.steps = balance["norms"], balance["steps"]
        parts = {start: _below(tensors, start) for start in ("network", "best", "optimizer")}
        self.network.load_state_dict(parts["network"])
        self.best = {name: tensor.to(self.device) for name, tensor in parts["best"].items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["random"])
        if "random_cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random_cuda"], self.device)

    def _write_losses(self, folder: Path) -> None:
        """Write the history as CSV, and its last epoch for TensorBoard where that is installed."""
        with atomic(folder / LOSSES, "w") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for epoch in self.history for name in epoch)))
            writer.writeheader()
            writer.writerows(self.history)
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(str(folder / CURVES), purge_step=self.epoch) as curves:
                for name, value in self.history[-1].items():
                    curves.add_scalar(name, value, self.epoch)


def group_parameters(network: nn.Module, settings: Settings) -> list[dict[str, Any]]:
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


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{start}."): tensor for name, tensor in tensors.items() if name.startswith(f"{start}.")}


def to_tensors(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Return a batch of arrays as tensors on a device."""
    return {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in batch.items()}


def digest_of(settings: Settings, said: Sequence[Any], posts: Iterable[Posts], arrays: Iterable[np.ndarray] = ()) -> str:
    """Return a hash of all that the outcome of a training depends on: `said` is what JSON can hold."""
    asked = asdict(settings)
    # A training may be given more time and goes on.
    del asked["minutes"]
    found = hashlib.sha256(json.dumps([asked, *said, torch.__version__]).encode())
    parts = [getattr(some, name) for some in posts for name in Posts.__dataclass_fields__]
    flat = [one for part in parts for one in ((part,) if isinstance(part, np.ndarray) else (part.offsets, part.values))]
    for array in (*flat, *arrays):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
