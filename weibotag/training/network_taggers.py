"""What is asked of a network, checked before any work. Needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.training.dataset import Dataset
from weibotag.training.network.architectures.presets import resolve
from weibotag.vision.backends.transformers_model import find_folder
from weibotag.vision.stage import hash_weights

# A task's classes of the posts to train on and of those held out, None where it is not known.
Classes = tuple[list[str | None], list[str | None]]


@dataclass(frozen=True)
class NetworkOptions:
    """What is trained beyond the fast tagger: the network's name, minutes at most, further tasks (name: column), a seed.

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


def check_beyond(tagger: str, beyond: NetworkOptions) -> None:
    """Raise before any work what would keep the network from being trained."""
    if beyond.start is not None and not beyond.start.is_dir():
        raise RequestError(f"{beyond.start}: no folder there; --start takes one that weibotag pretrain made")
    if tagger not in ("fused", "cascade"):
        if beyond != NetworkOptions():
            raise RequestError(
                "--network, --minutes, --task, --seed, --start, --encoder, --encoder-training are of a network: "
                "give --tagger fused or cascade"
            )
        return
    if find_spec("torch") is None:
        raise MissingExtraError(f"training the {tagger} tagger", "torch")
    check_encoder(beyond)
    resolve(beyond.network)


def check_encoder(beyond: NetworkOptions) -> None:
    """Raise RequestError for an encoder that can't be used, MissingExtraError without the libraries that it needs."""
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
