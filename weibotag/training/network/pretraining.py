"""Posts without tags to a BODY: networks learn what goes with what, and know it when tags come.

The objectives of VL-BERT (Su et al., 2020), VisualBERT (Li et al., 2019) and Unicoder-VL (Li et al., 2020), each with clues
from the other side: masked characters and words are told by their numbers, a masked picture by the cluster of its vector,
and the first token tells whether text and pictures are of one post. How much each counts: `balance`.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag import __version__
from weibotag.core.errors import RequestError
from weibotag.features.post_batches import Features, Posts, Ragged, join_posts
from weibotag.features.visual_codes import standardise
from weibotag.training.network.architectures import NETWORKS, Network, Shape
from weibotag.training.network.architectures.network import Transformer
from weibotag.training.network.fit import BUCKETS, BUCKETS_PER_POST
from weibotag.training.network.loop import Settings, TrainingLoop, digest_of, to_tensors
from weibotag.training.network.matching import MENTIONS, PICTURE_SIDE, draw_partners, export_match, train_matching
from weibotag.training.network.matching import SETTINGS as MATCHING
from weibotag.training.network.pretrained import save_body
from weibotag.vision.backends.torch_device import choose_device, limit_threads

# What is learnt from which inputs, and the share of each input that is masked: a post has few pictures.
OBJECTIVES = {"characters": ("text", "print"), "words": ("words",), "pictures": ("pictures",), "patches": ("patches",)}
MASKED = {"text": 0.15, "print": 0.15, "words": 0.15, "pictures": 0.3, "patches": 0.3}
# Whose place in the text is told where the text says the same: that would give away what is masked.
MENTIONED = dict(zip(("print", "words"), MENTIONS, strict=True))
# The share of pairs that are asked about; half of these show another's pictures.
ASKED = 0.5
CLUSTERS, VECTORS_PER_CLUSTER, VECTORS_TO_CLUSTER = 256, 20, 20_000
# Rows of tables that only a masked character or word needs.
MASKS = ("text.characters.weight", "words.words.weight")
# The network that learns to match alone.
MATCHER = "sm-lstm"
SETTINGS = Settings(epochs=30, patience=4, lr=1e-3, dropout=0.1)
JUDGED = 128

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unlabelled:
    """Posts, and the clusters of their pictures and patches, int64."""

    posts: Posts
    clusters: dict[str, Ragged]

    def spoil(self, rows: np.ndarray, marks: dict[str, int], draw: np.random.Generator) -> tuple[Any, Any]:
        """Return a batch of which some is masked or another post's, and what was there: int64, -1 where nothing is asked.

        `marks` are the numbers that stand for what is masked. They take the place of numbers before anything is looked up,
        so no n-gram knows a masked character. Of posts with another's pictures nothing else is asked.
        """
        batch = self.posts.batch(rows)
        there = {name: batch[name] for name in marks}
        for name, inside in (("pictures", batch["seen"]), ("patches", batch["patch_cells"] > 0)):
            there[name] = np.where(inside, 1 + self.clusters[name].pad(rows), 0)
        match = swap_pictures(batch, draw)
        targets = {"match": match}
        for name, numbers in there.items():
            chosen = (draw.random(numbers.shape) < MASKED[name]) & (numbers > 0) & (match != 0)[:, None]
            targets[name] = np.where(chosen, numbers - (name not in marks), -1)
            batch[name] = np.where(chosen, marks[name], batch[name]) if name in marks else batch[name] * ~chosen[..., None]
        hidden = np.pad(targets["text"] >= 0, ((0, 0), (1, 0)))
        for name, mentions in MENTIONED.items():
            told = np.take_along_axis(hidden, batch[mentions], axis=1) | (batch[name] == marks[name])
            batch[mentions] = np.where(told | (match >= 0)[:, None], 0, batch[mentions])
        return batch, targets


def swap_pictures(batch: dict[str, np.ndarray], draw: np.random.Generator) -> np.ndarray:
    """Give some posts of a batch the pictures of others; return 0 for those, 1 for as many that keep theirs, else -1.

    Only posts take part that have a text and something that pictures say. Equal texts fit each other's pictures.
    """
    match = np.full(len(batch["text"]), -1)
    shown = np.any([batch[name].any(axis=1) for name in ("print", "words", "seen")], axis=0)
    pairs = np.flatnonzero(shown & batch["text"].any(axis=1))
    keys = np.unique(batch["text"][pairs], axis=0, return_inverse=True)[1].ravel()
    if not keys.any():
        return match
    generator = torch.Generator().manual_seed(int(draw.integers(2**31)))
    others = pairs[draw_partners(torch.from_numpy(keys), 1, generator)[:, 0].numpy()]
    lot = draw.random(len(pairs))
    swapped = lot < ASKED / 2
    source = np.arange(len(match))
    source[pairs[swapped]] = others[swapped]
    for name in PICTURE_SIDE:
        batch[name] = batch[name][source]
    match[pairs] = np.where(lot < ASKED, ~swapped, -1)
    return match


class Objectives(nn.Module):
    """A transformer with heads for what is masked; those of characters and words are their embeddings themselves."""

    def __init__(self, network: Transformer, width: int, clusters: dict[str, int]) -> None:
        super().__init__()
        self.network = network
        self.turn = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width)) for name in OBJECTIVES}
        )
        self.clusters = nn.ModuleDict({name: nn.Linear(width, count) for name, count in clusters.items()})
        self.match = nn.Linear(width, 1)

    def forward(self, batch: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return, by objective, logits (m, classes) of the m things that are asked, and what is right, int64 (m,)."""
        encoded = self.network.encode(batch)
        tables = {"characters": self.network.text.characters.weight, "words": self.network.words.words.weight}
        tables |= {name: head.get_parameter("weight") for name, head in self.clusters.items()}
        asked = targets["match"] >= 0
        logit = self.match(encoded.tokens[asked, 0])
        answers = {"match": (torch.cat([torch.zeros_like(logit), logit], dim=1), targets["match"][asked])}
        for objective, names in OBJECTIVES.items():
            hidden, right = [], []
            for name in names:
                # A network may not have an input, or have moved some of it into another's tokens.
                if name in encoded.spans:
                    span = encoded.spans[name]
                    asked = (targets[name] >= 0) & encoded.mask[:, span]
                    hidden.append(encoded.tokens[:, span][asked])
                    right.append(targets[name][asked])
            if hidden:
                logits = functional.linear(self.turn[objective](torch.cat(hidden)), tables[objective])
                answers[objective] = logits, torch.cat(right)
        return {name: (logits.float(), right) for name, (logits, right) in answers.items() if len(right)}


class Matcher(nn.Module):
    """A pretrained network that answers "match" (n,): the logit that text and pictures are of one post."""

    def __init__(self, network: Transformer, head: nn.Linear) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        return {"match": self.head(self.network.encode(batch).tokens[:, 0]).squeeze(-1)}


def pretrain(
    trained: Sequence[pa.Table],
    held: Sequence[pa.Table],
    network: str,
    settings: Settings,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a network on posts without tags, write its body and match.onnx to `folder`, return what body.json says.

    `trained` and `held` are tables as `features.read` takes them. After each epoch all that is needed to go on lies in
    `folder`. The figures are of the held posts in the best epoch: `likelihood`, the geometric mean of the probabilities of
    what was asked, one objective like the other, and the share that was right for each. A network that matches text and
    pictures but is no transformer learns only that (`matching`). Raises RequestError for any other network.
    """
    check_network(network)
    if network == MATCHER:
        how: dict[str, Any] = {"seed": seed, "device": device, "threads": threads, "quiet": quiet}
        told = train_matching(
            trained,
            held,
            network,
            replace(MATCHING, epochs=settings.epochs, patience=8, minutes=settings.minutes),
            folder,
            **how,
        )
        return {**told, "figures": {"auc": told["auc"]}, "posts": told["pairs"]}
    limit_threads(threads)
    place = choose_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    features = Features.learn(trained)
    posts, others = (join_posts([features.encode(table) for table in tables]) for tables in (trained, held))
    learn, judged = map(Unlabelled, (posts, others), cluster_vectors(posts, others))
    shape = Shape.of(
        features,
        np.full(1, -1),
        width=settings.width,
        dropout=settings.dropout,
        buckets=int(np.clip(BUCKETS_PER_POST * len(posts), *BUCKETS)),
    )
    masking: Any = NETWORKS[network](replace(shape, characters=shape.characters + 1, words=shape.words + 1))
    counts = {name: 1 + int(own.values.max(initial=0)) for name, own in learn.clusters.items()}
    marks = {"text": shape.characters, "print": shape.characters, "words": shape.words}
    objectives = Objectives(masking, settings.width, counts).to(place)
    course = TrainingLoop(objectives, settings, posts, seed, "likelihood")

    def losses(rows: np.ndarray, step: int) -> dict[str, Tensor]:
        spoilt = learn.spoil(rows, marks, np.random.default_rng([seed, course.epoch, step]))
        return {name: functional.cross_entropy(*answer) for name, answer in ask(objectives, spoilt).items()}

    digest = digest_of(settings, ["pretraining", network, seed], (posts, others))
    course.run(losses, lambda: judge(objectives, judged, marks), folder, digest, f"pretraining {network}", quiet)
    body = _trim(masking, network, shape)
    figures = {name: value for name, value in course.best_epoch.items() if name not in (*OBJECTIVES, "match")}
    about = {
        "network": network,
        "version": __version__,
        "shape": {name: value for name, value in asdict(shape).items() if name not in ("parents", "tasks")},
        "figures": figures,
        "epochs": course.epoch,
        "seconds": round(course.seconds, 1),
        "settings": asdict(settings),
        "seed": seed,
        "posts": {"train": len(posts), "valid": len(others)},
    }
    if "match_right" in figures:
        export_match(Matcher(body, objectives.match.cpu()), posts, folder, others, {"network": network})
    else:
        log.warning("no match.onnx: no two of the posts that are held out have pictures and different texts")
    save_body(body, features, about, folder)
    return about


def ask(objectives: Objectives, spoilt: tuple[Any, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the answers for a batch that `spoil` made."""
    device = next(objectives.parameters()).device
    batch, targets = (to_tensors(arrays, device) for arrays in spoilt)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        answers: dict[str, tuple[Tensor, Tensor]] = objectives(batch, targets)
    return answers


def judge(objectives: Objectives, posts: Unlabelled, marks: dict[str, int]) -> dict[str, float]:
    """Return the figures of held posts, of which the same is masked every time."""
    objectives.eval()
    sums: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for number, rows in enumerate(posts.posts.shelves(JUDGED)):
            spoilt = posts.spoil(rows, marks, np.random.default_rng([0, number]))
            for name, (logits, right) in ask(objectives, spoilt).items():
                loss = functional.cross_entropy(logits, right, reduction="sum")
                found = np.array([float(loss), float((logits.argmax(1) == right).sum()), len(right)])
                sums[name] = sums.get(name, np.zeros(3)) + found
    if not sums:
        raise RequestError("the posts that are held out have neither text nor pictures: nothing to judge pretraining by")
    mean = float(np.mean([loss / count for loss, _, count in sums.values()]))
    shares = {f"{name}_right": round(float(right / count), 4) for name, (_, right, count) in sums.items()}
    return {"likelihood": round(math.exp(-mean), 6), **shares}


def cluster_vectors(learn: Posts, held: Posts) -> tuple[dict[str, Ragged], dict[str, Ragged]]:
    """Return the clusters of pictures and patches of both posts: k-means learnt on the first; -1 where there are too few."""
    from sklearn.cluster import MiniBatchKMeans

    found: tuple[dict[str, Ragged], dict[str, Ragged]] = {}, {}
    for name, mean, scale in (("pictures", learn.mean, learn.scale), ("patches", learn.patch_mean, learn.patch_scale)):
        vectors = getattr(learn, name).values
        count = min(CLUSTERS, len(vectors) // VECTORS_PER_CLUSTER)
        means: Any = None
        if count > 1:
            chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[:VECTORS_TO_CLUSTER])
            means = MiniBatchKMeans(count, n_init=3, random_state=0).fit(standardise(vectors[chosen], mean, scale))
        for side, posts in zip(found, (learn, held), strict=True):
            own = getattr(posts, name)
            numbers = np.full(len(own.values), -1)
            for start in range(0, len(numbers) if means else 0, VECTORS_TO_CLUSTER):
                some = slice(start, start + VECTORS_TO_CLUSTER)
                numbers[some] = means.predict(standardise(own.values[some], mean, scale))
            side[name] = Ragged(own.offsets, numbers)
    return found


def _trim(masking: Network, network: str, shape: Shape) -> Any:
    """Return the network without the rows that only masks needed."""
    body = NETWORKS[network](shape)
    weights = masking.state_dict()
    body.load_state_dict({name: weight[:-1] if name in MASKS else weight for name, weight in weights.items()})
    return body.eval()


def check_network(network: str) -> None:
    """Raise RequestError for the name of a network that can't be pretrained."""
    known = [*(name for name, kind in NETWORKS.items() if issubclass(kind, Transformer)), MATCHER]
    if network not in known:
        raise RequestError(f"no network {network!r} to pretrain; there are: {', '.join(known)}")
