"""What trainings of networks are asked for, and what comes of them. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path


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
class NetworkRecipe:
    """Which network is trained, by its name, and what it begins from.

    `start` is a folder of `weibotag pretrain` whose weights it begins from; `encoder` a language model (a folder, or
    hf:owner/name) that reads the text for it, `encoder_training` what of that is trained: frozen, full or lora.
    """

    network: str = "concat"
    start: Path | None = None
    encoder: str = ""
    encoder_training: str = "frozen"


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
