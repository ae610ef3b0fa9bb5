"""What trainings of networks are asked for, and what comes of them. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.training.dataset import Dataset
from weibotag.training.lesson import NetworkOptions
from weibotag.training.network.architectures.presets import resolve
from weibotag.vision.backends.transformers_model import find_folder

# A task's classes of the posts to train on and of those held out, None where it is not known.
Classes = tuple[list[str | None], list[str | None]]


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters: `patience` is epochs without a better score, `minutes` what training may take (None: as it will).

    `missing` is the share of each input that is left out, `ease` is that of the asymmetric loss, `reconstruction` the weight
    of a network's own loss.
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


@dataclass(frozen=True)
class TrainingRun:
    """Where a training runs: `folder` takes what comes of it, and after each epoch all that is needed to go on.

    The same training with the same folder goes on after a kill and gives the same files. On a CPU with one thread the same
    posts and seed do.
    """

    folder: Path
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    quiet: bool = False


@dataclass(frozen=True)
class TaskFigures:
    """Of a further task: its classes, and the share of held-out posts whose class was right (None: none has one)."""

    classes: int
    accuracy: float | None


@dataclass(frozen=True)
class NetworkSummary:
    """What came of a training with tags; `micro_f1` is of the held-out posts in the best epoch."""

    network: str
    micro_f1: float
    epochs: int
    seconds: float
    parameters: int
    encoder_training: str | None
    tasks: dict[str, TaskFigures]


@dataclass(frozen=True)
class PretrainSummary:
    """What came of a training without tags: figures of the held-out posts in the best epoch, posts on each side."""

    network: str
    figures: dict[str, float]
    epochs: int
    seconds: float
    posts: dict[str, int]


def check_beyond(tagger: str, beyond: NetworkOptions) -> None:
    """Raise RequestError before any work for what can't be asked of a network, MissingExtraError for lacking libraries."""
    if beyond.start is not None and not beyond.start.is_dir():
        raise RequestError(f"{beyond.start}: no folder there; --start takes one that weibotag pretrain made")
    if tagger not in ("fused", "cascade"):
        if beyond != NetworkOptions():
            raise RequestError(
                "--network, --minutes, --task, --seed, --start, --encoder, --encoder-training are of a network: "
                "give --tagger fused or cascade"
            )
        return
    resolve(beyond.network)
    if not beyond.encoder:
        if beyond.encoder_training != "frozen":
            raise RequestError(f"--encoder-training {beyond.encoder_training}: of which language model? Give --encoder, too")
        return
    if beyond.start is not None:
        raise RequestError(
            "--encoder does not go with --start: a pretrained network reads characters itself; give one of them"
        )
    if find_spec("transformers") is None:
        raise MissingExtraError("--encoder", "hf")
    if beyond.encoder_training == "lora" and find_spec("peft") is None:
        raise MissingExtraError("--encoder-training lora", "hf")
    find_folder(beyond.encoder)


def read_tasks(beyond: NetworkOptions, trained: Dataset, held: Dataset) -> dict[str, Classes]:
    """Return the classes of each task's posts, those to train on and those held out; RequestError for an absent column."""
    return {name: (_labels(trained.tables, column), _labels(held.tables, column)) for name, column in beyond.tasks.items()}


def _labels(tables: Sequence[pa.Table], column: str) -> list[str | None]:
    """Return a column of posts as text; RequestError where it is not there."""
    for table in tables:
        if column not in table.column_names:
            raise RequestError(f"--task: no column {column!r}; there are: {', '.join(table.column_names)}")
    return [None if value is None else str(value) for table in tables for value in table[column].to_pylist()]
