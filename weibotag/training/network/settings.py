"""The networks by name, what their trainings are asked for, and what comes of them. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pyarrow as pa

from weibotag.core.errors import MissingExtraError, RequestError
from weibotag.posts.passing import find_column, known_names
from weibotag.training.dataset import Dataset, NetworkOptions
from weibotag.vision.backends.transformers_model import find_folder

# A task's classes of the posts to train on and of those held out, None where it is not known.
Classes = tuple[list[str | None], list[str | None]]


@dataclass(frozen=True)
class TransformerOptions:
    """What published transformers over text and pictures do differently.

    `streams`: all tokens in one, or language (text, print, names) and vision (words and pictures) in two, which meet in
    `layers` layers: by co-attention of both and a layer of each after it, or by cross-modality layers, whose attention
    across has the same weights in both directions and no feed-forward part. `text_layers` and `picture_layers` are those of
    each stream before they meet. `whole`: where the mean of a post's pictures goes besides their own tokens: to every
    character of the text, or to the first token of vision. `mentions`: what a picture's word or line of print does where
    the text names it: nothing, it takes the place that the name has in the text, or it is added to the character there and
    is no token of its own. `boxes`: whether tokens know where in their picture they stand. `patches`: whether the cells of a
    picture's grid, in order, are tokens in place of its one vector. `segments`: an embedding for each input, one for
    language and one for vision, or none. `pool`: the first token, or its product with the first of vision.
    """

    streams: Literal["one", "co-attention", "cross-modality"] = "one"
    layers: int = 2
    text_layers: int = 0
    picture_layers: int = 0
    whole: Literal["nowhere", "text", "first"] = "nowhere"
    mentions: Literal["nothing", "place", "fuse"] = "nothing"
    boxes: bool = True
    patches: bool = False
    segments: Literal["inputs", "sides", "none"] = "inputs"
    pool: Literal["first", "product"] = "first"


PRESETS = {
    # Su et al., 2020: the whole picture at every character, boxes, a segment for each input.
    "vl-bert": TransformerOptions(whole="text"),
    # Li et al., 2019: no geometry; a region takes the places of the words that it is aligned with.
    "visualbert": TransformerOptions(mentions="place", boxes=False, segments="sides"),
    # Li et al., 2020: five numbers of a box beside what a region shows.
    "unicoder-vl": TransformerOptions(segments="sides"),
    # Lu et al., 2019: keys and values change sides; the first token shown is the mean of the pictures.
    "vilbert": TransformerOptions("co-attention", text_layers=1, whole="first", segments="none", pool="product"),
    # Tan and Bansal, 2019: words, and objects, are related among themselves first.
    "lxmert": TransformerOptions("cross-modality", text_layers=1, picture_layers=1, segments="none"),
    # Alberti et al., 2019: early fusion.
    "b2t2": TransformerOptions(mentions="fuse"),
    # Gao et al., 2020: patches in order, no detector.
    "fashionbert": TransformerOptions(patches=True, boxes=False, segments="sides"),
}
NETWORKS = ("concat", "hma", "sm-lstm", *PRESETS)
# Names that users may have in their scripts.
ALIASES = {"single-stream": "vl-bert", "two-stream": "vilbert", "early": "b2t2", "patches": "fashionbert"}


def resolve(name: str, known: tuple[str, ...] = NETWORKS, purpose: str = "") -> str:
    """Return the name of a network, an older one's newer; raises RequestError for one that is not among those known."""
    found = ALIASES.get(name, name)
    if found not in known:
        raise RequestError(f"no network {name!r}{purpose}; there are: {', '.join(known)}")
    return found


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
    labels: list[str | None] = []
    for table in tables:
        cells = find_column(table, column)
        if cells is None:
            raise RequestError(f"--task: no column {column!r}; there are: {', '.join(known_names(table))}")
        labels += [None if value is None else str(value) for value in cells.to_pylist()]
    return labels
