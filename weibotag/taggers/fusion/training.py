"""Labelled posts to a trained network: epochs, early stopping, checkpoints that a killed training goes on from, ONNX."""

import csv
import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save
from scipy.sparse import csr_matrix, vstack
from torch import Tensor
from torch.nn import functional

from weibotag.backends.torch_device import choose_device, limit_threads
from weibotag.errors import RequestError
from weibotag.files import atomic
from weibotag.progress import bar
from weibotag.taggers import thresholds
from weibotag.taggers.fused import NETWORK, FusedTagger
from weibotag.taggers.fusion.features import INPUTS, Features, Posts, join_posts
from weibotag.taggers.fusion.networks import NETWORKS, Network, Shape
from weibotag.taggers.fusion.trunk import asymmetric_loss, drop_modalities, suspect_missing, weigh_tags
from weibotag.taxonomy.tree import Taxonomy

CHECKPOINT, LOSSES = "checkpoint.safetensors", "losses.csv"
OPSET = 17
WARM_UP = 0.05
# The share of epochs after which the network knows enough to suspect the annotators.
INNOCENT = 0.3
# Of the n-grams: a post has about a hundred new ones, but a network makes do with fewer numbers for them than fastText.
BUCKETS_PER_POST, BUCKETS = 8, (2**12, 2**18)
# What onnxruntime may answer differently from torch.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters: `patience` is epochs without a better micro-F1, `minutes` what training may take (None: as it will).

    `ease` and `margin` are those of the asymmetric loss, `rarity` the beta of the weights per tag, `suspects` how many
    missing tags a post is suspected of, where the network gives them more than `suspicion`.
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
    margin: float = 0.0
    rarity: float = 0.0
    suspects: int = 1
    suspicion: float = 0.95
    reconstruction: float = 0.1


@dataclass(frozen=True)
class Labelled:
    """Posts with their gold tags (posts x tags, ancestors included), and classes by task, int64 (posts,), -1 for unknown."""

    posts: Posts
    gold: csr_matrix
    tasks: dict[str, np.ndarray] = field(default_factory=dict)


def train_fused(
    trained: tuple[Sequence[pa.Table], csr_matrix],
    held: tuple[Sequence[pa.Table], csr_matrix],
    taxonomy: Taxonomy,
    network: str,
    settings: Settings,
    folder: Path,
    **how: Any,
) -> tuple[FusedTagger, dict[str, Any]]:
    """Return a tagger, trained in `folder`, and figures of its training; `how` as for `train_network`.

    `trained` and `held` are tables (see `features.read`) and their gold tags (posts x tags). Features are learnt on the
    first, calibration and thresholds on the second.
    """
    features = Features.learn(trained[0])
    learn, choose = (
        Labelled(join_posts([features.encode(table) for table in tables]), gold) for tables, gold in (trained, held)
    )
    about = train_network(learn, choose, taxonomy, features, network, settings, folder, **how)
    tagger = FusedTagger(taxonomy, folder)
    tagger.decide(csr_matrix(vstack([tagger.raw_scores(table) for table in held[0]])), held[1])
    return tagger, about


def train_network(
    train: Labelled,
    valid: Labelled,
    taxonomy: Taxonomy,
    features: Features,
    network: str,
    settings: Settings,
    folder: Path,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a network of `NETWORKS`, write `network.onnx` and the features to `folder`, return figures of the training.

    After each epoch all that is needed to go on lies in `folder`: the same call after a kill gives the same network. On a
    CPU with one thread the same input and seed give the same network. Raises RequestError for a name that is not there.
    """
    if network not in NETWORKS:
        raise RequestError(f"no network {network!r}; there are: {', '.join(NETWORKS)}")
    limit_threads(threads)
    place = choose_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tasks = {name: int(classes.max()) + 1 for name, classes in train.tasks.items()}
    shape = Shape.of(
        features,
        taxonomy.parents,
        tasks=tasks,
        width=settings.width,
        dropout=settings.dropout,
        buckets=int(np.clip(BUCKETS_PER_POST * len(train.posts), *BUCKETS)),
    )
    course = Course(NETWORKS[network](shape).to(place), settings, train, seed)
    course.load(folder / CHECKPOINT, _digest(train, valid, network, settings, seed))
    with bar(settings.epochs, f"training {network}, epochs", quiet) as progress:
        progress.advance(course.epoch)
        while not course.is_over():
            started = perf_counter()
            losses = course.run_epoch()
            course.judge(losses, predict(course.network, valid.posts), valid.gold, taxonomy, perf_counter() - started)
            course.save(folder / CHECKPOINT)
            _write_losses(course.history, folder / LOSSES)
            progress.advance()
    course.network.load_state_dict(course.best)
    features.save(folder)
    export(course.network, train.posts, folder / NETWORK)
    seconds = sum(epoch["seconds"] for epoch in course.history)
    parameters = sum(part.numel() for part in course.network.parameters())
    return {
        "network": network,
        "micro_f1": course.best_score,
        "epochs": course.epoch,
        "seconds": round(seconds, 1),
        "parameters": parameters,
        "settings": asdict(settings),
        "seed": seed,
    }


class Course:
    """A training under way: the network, its optimiser, how far it is, and the best weights so far."""

    def __init__(self, network: Network, settings: Settings, train: Labelled, seed: int) -> None:
        self.network, self.settings, self.train, self.seed = network, settings, train, seed
        self.device = next(network.parameters()).device
        decayed = [part for part in network.parameters() if part.dim() > 1]
        others = [part for part in network.parameters() if part.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
        counts = np.asarray(train.gold.sum(axis=0)).ravel()
        self.weights = torch.from_numpy(weigh_tags(counts, settings.rarity)).to(self.device)
        self.best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self.history: list[dict[str, Any]] = []
        self.digest = ""

    @property
    def epoch(self) -> int:
        """Return how many epochs are done."""
        return len(self.history)

    @property
    def best_score(self) -> float:
        """Return the best micro-F1 so far."""
        return max((epoch["micro_f1"] for epoch in self.history), default=-1.0)

    def is_over(self) -> bool:
        """Tell whether all epochs are done, the last few brought nothing, or the time is up."""
        scores = [epoch["micro_f1"] for epoch in self.history]
        stale = bool(scores) and len(scores) - 1 - int(np.argmax(scores)) >= self.settings.patience
        minutes = self.settings.minutes
        late = minutes is not None and sum(epoch["seconds"] for epoch in self.history) >= 60 * minutes
        return self.epoch >= self.settings.epochs or stale or late

    def run_epoch(self) -> dict[str, float]:
        """Go once through the posts; return the mean of each loss."""
        self.network.train()
        batches = self.train.posts.order(self.settings.batch, seed=100_003 * self.seed + self.epoch)
        sums: dict[str, float] = {}
        for step, rows in enumerate(batches):
            self._set_rate((self.epoch + step / len(batches)) / self.settings.epochs)
            batch = drop_modalities(to_tensors(self.train.posts.batch(rows), self.device), self.settings.missing)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                answer = self.network(batch)
            losses = self._losses(answer, rows)
            self.optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach()) * len(rows)
        return {name: total / len(self.train.posts) for name, total in sums.items()}

    def _set_rate(self, done: float) -> None:
        """Warm up, then go down along a cosine."""
        factor = min(done / WARM_UP, 1.0) * (0.5 + 0.5 * math.cos(math.pi * done))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * max(factor, 0.01)

    def _losses(self, answer: dict[str, Tensor], rows: np.ndarray) -> dict[str, Tensor]:
        gold = torch.from_numpy(self.train.gold[rows].toarray().astype(np.float32)).to(self.device)
        settings = self.settings
        if self.epoch >= INNOCENT * settings.epochs:
            gold = suspect_missing(answer["tags"], gold, settings.suspects, settings.suspicion)
        losses = {"tags": asymmetric_loss(answer["tags"], gold, self.weights, settings.ease, settings.margin)}
        for name, classes in self.train.tasks.items():
            target = torch.from_numpy(classes[rows]).to(self.device)
            if bool((target >= 0).any()):
                losses[name] = functional.cross_entropy(answer[name].float(), target, ignore_index=-1)
        if "loss" in answer:
            losses["own"] = settings.reconstruction * answer["loss"]
        return losses

    def judge(
        self, losses: dict[str, float], scores: csr_matrix, gold: csr_matrix, taxonomy: Taxonomy, seconds: float
    ) -> None:
        """Write the epoch down with the micro-F1 of scores of the valid rows, and keep the weights if they are the best."""
        cut = thresholds.best_shared(scores, gold, taxonomy)
        chosen = thresholds.decide(scores, np.full(len(taxonomy), cut), taxonomy)
        score = round(thresholds.micro_f1(chosen, gold), 6)
        if score > self.best_score:
            self.best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.history.append({"epoch": self.epoch + 1, **losses, "micro_f1": score, "seconds": round(seconds, 3)})

    def save(self, path: Path) -> None:
        """Write all that is needed to go on to one file, whole or not at all."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.device)
        about = {"digest": self.digest, "history": json.dumps(self.history)}
        with atomic(path) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}, about))

    def load(self, path: Path, digest: str) -> None:
        """Go on from a file that `save` wrote for the same `digest`; of another training it is left alone."""
        self.digest = digest
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            about = file.metadata()
            if about["digest"] != digest:
                return
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.history = json.loads(about["history"])
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


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{start}."): tensor for name, tensor in tensors.items() if name.startswith(f"{start}.")}


def to_tensors(batch: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Return a batch of arrays as tensors on a device."""
    return {name: torch.from_numpy(array).to(device, non_blocking=True) for name, array in batch.items()}


def predict(network: Network, posts: Posts, size: int = 256) -> csr_matrix:
    """Return the network's own probabilities, float32 csr_matrix (posts x tags)."""
    network.eval()
    device = next(network.parameters()).device
    found: np.ndarray | None = None
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for rows in posts.shelves(size):
            scores = network(to_tensors(posts.batch(rows), device))["tags"].exp().float().cpu().numpy()
            if found is None:
                found = np.zeros((len(posts), scores.shape[1]), np.float32)
            found[rows] = scores
    return csr_matrix(found if found is not None else (0, 0))


class _Exported(torch.nn.Module):
    """A network with its inputs one by one and its answers in a fixed order, as ONNX has them."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.names: list[str] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        answer = self.network(dict(zip(INPUTS, inputs, strict=True)))
        self.names = [name for name in answer if name != "loss"]
        return tuple(answer[name] for name in self.names)


def export(network: Network, posts: Posts, path: Path) -> None:
    """Write the network as ONNX for batches of any size; raises RequestError where onnxruntime answers differently."""
    from weibotag.backends.onnx_session import open_session

    wrapped = _Exported(network.cpu()).eval()
    rows = posts.order(4, seed=0)[0]
    inputs = tuple(to_tensors(posts.batch(rows), torch.device("cpu")).values())
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
    told = session.run(["tags"], {name: array for name, array in others.items() if name in asked})[0]
    with torch.inference_mode():
        expected = network(to_tensors(others, torch.device("cpu")))["tags"].numpy()
    gap = float(np.abs(told - expected).max())
    if not gap <= TOLERANCE:
        raise RequestError(
            f"{path}: onnxruntime differs from torch by {gap:.4f}: another version of torch or onnxruntime may do"
        )


def _write_losses(history: Sequence[dict[str, Any]], path: Path) -> None:
    with atomic(path, "w") as file:
        names = list(dict.fromkeys(name for epoch in history for name in epoch))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(history)


def _digest(train: Labelled, valid: Labelled, network: str, settings: Settings, seed: int) -> str:
    """Return a hash of all that the outcome of a training depends on."""
    asked = asdict(settings)
    # A training may be given more time and goes on.
    del asked["minutes"]
    found = hashlib.sha256(json.dumps([network, asked, seed, torch.__version__]).encode())
    for side in (train, valid):
        parts = [getattr(side.posts, name) for name in Posts.__dataclass_fields__]
        arrays = [
            one for part in parts for one in ((part,) if isinstance(part, np.ndarray) else (part.offsets, part.values))
        ]
        for array in (*arrays, side.gold.indptr, side.gold.indices, *side.tasks.values()):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
