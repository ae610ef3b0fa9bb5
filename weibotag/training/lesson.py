"""What learners are given, and what they return."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from weibotag.taggers.fasttext import Settings
from weibotag.taggers.tagger import Ensemble
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.dataset import Dataset
from weibotag.training.network_taggers import NetworkOptions


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
