"""Labelled posts to a trained tagger: losses of tags and tasks, figures, the network as ONNX."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor, nn
from torch.nn import functional

from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of, write_json
from weibotag.features.post_batches import INPUTS, Features, Posts, join_posts
from weibotag.scoring.thresholds import shared_f1
from weibotag.taggers.network import NETWORK, SHARES, TASKS, FusedTagger
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.network.architectures import NETWORKS, Network, Shape
from weibotag.training.network.export import export
from weibotag.training.network.layers import asymmetric_loss, drop_modalities
from weibotag.training.network.loop import Settings, TrainingLoop, digest_of, to_tensors
from weibotag.training.network.loss_balance import OWN
from weibotag.training.network.pretrained import PretrainedNetwork
from weibotag.training.network.start_vectors import start_from_vectors
from weibotag.vision.backends.torch_device import choose_device, limit_threads
from weibotag.vision.backends.transformers_model import find_folder

# Of the n-grams: a post has about a hundred new ones, but a network makes do with fewer numbers for them than fastText.
BUCKETS_PER_POST, BUCKETS = 8, (2**12, 2**18)
# A task's classes on the posts to train on and on those held out, null or empty where it is not known.
Classes = tuple[Sequence[str | None], Sequence[str | None]]


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
    *,
    tasks: Mapping[str, Classes] | None = None,
    start: Path | None = None,
    encoder: str = "",
    **how: Any,
) -> tuple[FusedTagger, dict[str, Any]]:
    """Return a tagger, trained in `folder`, and figures of its training; `start` and `how` as for `train_network`,
    `encoder` as for `Features`.

    `trained` and `held` are tables (see `features.read`) and their gold tags (posts x tags). Features are learnt on the
    first, calibration and thresholds on the second. Classes of `tasks` that are not among those to train on are unknown.
    """
    features = Features.learn(trained[0], encoder)
    if start is not None:
        features = PretrainedNetwork.load(start, network, settings.width).widen(features)
    names = {name: name_classes(name, known) for name, (known, _) in (tasks or {}).items()}
    learn, choose = (
        Labelled(
            join_posts([features.encode(table) for table in tables]),
            gold,
            {name: number_classes(sides[at], names[name]) for name, sides in (tasks or {}).items()},
        )
        for at, (tables, gold) in enumerate((trained, held))
    )
    about = train_network(learn, choose, taxonomy, features, network, settings, folder, start=start, **how)
    write_json(names, folder / TASKS)
    tagger = FusedTagger(taxonomy, folder)
    tagger.decide(csr_matrix(vstack([tagger.raw_scores(table) for table in held[0]])), held[1])
    if names:
        told = [tagger.answers(table) for table in held[0]]
        found = {name: [answer for some in told for answer in some[name][0]] for name in names}
        about["tasks"] = {
            name: {"classes": len(own), "accuracy": _accuracy(found[name], (tasks or {})[name][1], own)}
            for name, own in names.items()
        }
    return tagger, about


def name_classes(task: str, labels: Sequence[str | None]) -> list[str]:
    """Return the classes of a task in order; RequestError for fewer than two, or a name that a network can't have."""
    taken = (*INPUTS, *SHARES, "tags", "loss", "match", OWN)
    if not task.isidentifier() or task in taken or task.startswith("attention_") or hasattr(nn.ModuleDict(), task):
        raise RequestError(f"task {task!r}: can't be called so: use letters, digits and _, and no word that networks use")
    classes = sorted({label for label in labels if label})
    if len(classes) < 2:
        known = sum(1 for label in labels if label)
        raise RequestError(f"task {task!r}: {known:,} of the posts to train on have a class, expected at least two classes")
    return classes


def number_classes(labels: Sequence[str | None], classes: Sequence[str]) -> np.ndarray:
    """Return the place of each label among the classes, int64, -1 for one that is not there."""
    places = {name: place for place, name in enumerate(classes)}
    return np.array([places.get(label or "", -1) for label in labels], np.int64)


def _accuracy(told: Sequence[str], labels: Sequence[str | None], classes: Sequence[str]) -> float | None:
    """Return the share of posts with a known class whose class was told; None where there is none."""
    right = [one == label for one, label in zip(told, labels, strict=True) if label in classes]
    return round(float(np.mean(right)), 4) if right else None


def train_network(
    train: Labelled,
    valid: Labelled,
    taxonomy: Taxonomy,
    features: Features,
    network: str,
    settings: Settings,
    folder: Path,
    *,
    start: Path | None = None,
    encoder_training: str = "frozen",
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a network of `NETWORKS`, write `network.onnx` and the features to `folder`, return figures of the training.

    After each epoch all that is needed to go on lies in `folder`: the same call after a kill gives the same network. On a
    CPU with one thread the same input and seed give the same network. `start` is a folder of `weibotag pretrain` whose
    weights are begun from; `features` are then what its `widen` returned. `encoder_training` says what is trained of the
    encoder that `features` name (see `TextEncoder`); it becomes part of `network.onnx`. Raises RequestError for a name that
    is not there, ModelError for a body of another network or width.
    """
    if network not in NETWORKS:
        raise RequestError(f"no network {network!r}; there are: {', '.join(NETWORKS)}")
    limit_threads(threads)
    place = choose_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    body = None if start is None else PretrainedNetwork.load(start, network, settings.width)
    buckets = int(np.clip(BUCKETS_PER_POST * len(train.posts), *BUCKETS))
    shape = Shape.of(
        features,
        taxonomy.parents,
        tasks={name: int(classes.max()) + 1 for name, classes in train.tasks.items()},
        width=settings.width,
        dropout=settings.dropout,
        buckets=buckets if body is None else body.about["shape"]["buckets"],
        encoder_training=encoder_training,
    )
    module = NETWORKS[network](shape)
    if body is not None:
        body.give(module)
    elif module.STARTS_FROM_VECTORS:
        start_from_vectors(module, train.posts, seed)
    course = TrainingLoop(module.to(place), settings, train.posts, seed, "micro_f1")
    learn = Learning(module, train, settings, course)

    def judge() -> dict[str, float]:
        return {"micro_f1": round(shared_f1(predict(module, valid.posts), valid.gold, taxonomy), 6)}

    said = [network, seed, list(train.tasks), "" if body is None else body.digest, encoder_training]
    if features.encoder:
        said += [sha256_of(path) for path in sorted(find_folder(features.encoder)[0].glob("*.safetensors"))]
    arrays = [array for side in (train, valid) for array in (side.gold.indptr, side.gold.indices, *side.tasks.values())]
    digest = digest_of(settings, said, (train.posts, valid.posts), arrays)
    course.run(learn.losses, judge, folder, digest, f"training {network}", quiet)
    features.save(folder)
    if module.encoder is not None:
        module.encoder.merge()
    export(module, train.posts, folder / NETWORK)
    return {
        "network": network,
        "micro_f1": course.best_epoch["micro_f1"],
        "epochs": course.epoch,
        "seconds": round(course.seconds, 1),
        "parameters": sum(part.numel() for part in module.parameters()),
        "settings": asdict(settings),
        "encoder_training": encoder_training if features.encoder else None,
        "seed": seed,
    }


class Learning:
    """What a network loses on batches of labelled posts."""

    def __init__(self, network: Network, train: Labelled, settings: Settings, course: TrainingLoop) -> None:
        self.network, self.train, self.settings, self.course = network, train, settings, course

    def losses(self, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """Return the losses of a batch: of tags, of each task that some of its posts know, and the network's own."""
        settings, device = self.settings, self.course.device
        batch = drop_modalities(to_tensors(self.train.posts.batch(rows), device), settings.missing)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            answer = self.network(batch)
        gold = torch.from_numpy(self.train.gold[rows].toarray().astype(np.float32)).to(device)
        losses = {"tags": asymmetric_loss(answer["tags"], gold, settings.ease)}
        for name, classes in self.train.tasks.items():
            target = torch.from_numpy(classes[rows]).to(device)
            if bool((target >= 0).any()):
                losses[name] = functional.cross_entropy(answer[name].float(), target, ignore_index=-1)
        if "loss" in answer:
            losses[OWN] = settings.reconstruction * answer["loss"]
        return losses


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
