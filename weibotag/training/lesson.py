"""What learners are given, and what they return."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from weibotag.taggers.fasttext import Settings
from weibotag.taggers.tagger import Ensemble
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.dataset import Dataset
from weibotag.vision.stage import hash_weights


@dataclass(frozen=True)
class NetworkOptions:
    """Which network is trained, by its name, for how many minutes at most, with further tasks (name: column), and a seed.

    `start` is a folder of `weibotag pretrain`, whose weights the network begins from; `encoder` a language model (a folder,
    or hf:owner/name) that reads the text for the network, `encoder_training` what of it is trained: frozen, full or lora.
    """

    network: str = "concat"
    minutes: float | None = None
    tasks: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    start: Path | None = None
    encoder: str = ""
    encoder_training: str = "frozen"

    def request(self) -> dict[str, Any]:
        """Return all that a training depends on, the weights that it begins from by their hashes."""
        files = () if self.start is None else sorted(path for path in self.start.iterdir() if path.is_file())
        return asdict(self) | {"start": {path.name: hash_weights(path) for path in files}}


@dataclass(frozen=True)
class LearningOptions:
    """How learners learn.

    `tune_seconds` is the time for trying hyper-parameters, `threads` those of fastText and networks, `memory` the bytes that
    training xmc may take, `network` what is asked of a network, and `folder` where its training goes on after a kill.
    """

    tune_seconds: float = 120
    threads: int = 1
    memory: float | None = None
    quiet: bool = False
    network: NetworkOptions = field(default_factory=NetworkOptions)
    folder: Path | None = None


@dataclass(frozen=True)
class Lesson:
    """Posts to train on and posts held out, to choose by, and how to learn; `settings` of fastText where they are known."""

    trained: Dataset
    held: Dataset
    taxonomy: Taxonomy
    options: LearningOptions
    settings: Settings | None = None


@dataclass(frozen=True)
class Learnt:
    """What a learner returns: what scores posts, a report for model.json, and fastText's settings where it chose some."""

    scorer: Ensemble
    report: Mapping[str, object] = field(default_factory=dict)
    settings: Settings | None = None


Learner = Callable[[Lesson], Learnt]
