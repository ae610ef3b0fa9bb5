"""Posts without tags to a BODY: networks learn what goes with what, and know it when tags come.

The objectives of VL-BERT (Su et al., 2020), VisualBERT (Li et al., 2019) and Unicoder-VL (Li et al., 2020), each with clues
from the other side: masked characters and words are guessed by their numbers, a masked picture by the cluster of its vector,
and the first token answers whether text and pictures are of one post. How much each counts: `loop.weigh`.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.core.errors import RequestError
from weibotag.features.post_arrays import Ragged
from weibotag.features.post_batches import VECTORS, Features, Posts
from weibotag.training.network.architectures.fusions import build
from weibotag.training.network.architectures.network import Shape
from weibotag.training.network.architectures.transformer import Transformer
from weibotag.training.network.export import save_body
from weibotag.training.network.loop import TrainingLoop, begin, device_of, digest_of, half_precision, shape_of, to_tensors
from weibotag.training.network.matching import MENTIONS, PICTURE_SIDE, AnswerMatch, Matching, draw_partners, export_match
from weibotag.training.network.matching import SETTINGS as MATCHING
from weibotag.training.network.settings import PRESETS, PretrainSummary, Settings, TrainingRun, resolve

# What is learnt from which inputs, and the share of each input that is masked: a post has few pictures.
OBJECTIVES = {"characters": ("text", "print"), "words": ("words",), "pictures": ("pictures",), "patches": ("patches",)}
MASKED = {"text": 0.15, "print": 0.15, "words": 0.15, "pictures": 0.3, "patches": 0.3}
# Whose place in the text is known where the text says the same: that would give away what is masked.
MENTIONED = dict(zip(("print", "words"), MENTIONS, strict=True))
# The share of pairs that are asked about; half of these show another's pictures.
ASKED = 0.5
CLUSTERS, VECTORS_PER_CLUSTER, VECTORS_TO_CLUSTER = 256, 20, 20_000
# The network that learns to match alone; all others of `PRETRAINED` are transformers.
MATCHER = "sm-lstm"
PRETRAINED = (*PRESETS, MATCHER)
SETTINGS = Settings(epochs=30, patience=4, lr=1e-3, dropout=0.1)
JUDGED = 128
# By objective, logits (m, classes) of the m things that are asked, and what is right, int64 (m,).
Answers = dict[str, tuple[Tensor, Tensor]]

log = logging.getLogger(__name__)


def choose_settings(network: str, epochs: int, minutes: float | None) -> Settings:
    """Return the settings to pretrain a network with; raises RequestError for one that can't be pretrained."""
    chosen = MATCHING if resolve(network, PRETRAINED, " to pretrain") == MATCHER else SETTINGS
    return replace(chosen, epochs=epochs, minutes=minutes)


def pretrain(
    trained: Sequence[pa.Table], held: Sequence[pa.Table], network: str, settings: Settings, run: TrainingRun
) -> PretrainSummary:
    """Train a network on posts without tags; write match.onnx, and of a transformer its body, to the folder of `run`.

    `trained` and `held` are tables as `read_arrays` takes them. Figures are of the held posts in the best epoch:
    `likelihood`, the geometric mean of the probabilities of what was asked, one objective like the other, and the share that
    was right for each; of sm-lstm, which learns to match and nothing else, the `auc`. Raises RequestError for any other
    network, and for posts that have nothing to learn from.
    """
    network, device = resolve(network, PRETRAINED, " to pretrain"), begin(run)
    features = Features.learn(trained)
    learn, judged = features.join(trained), features.join(held)
    shape = shape_of(features, np.full(1, -1), learn, settings)
    learnt: Matching | Masking
    if network == MATCHER:
        learnt = Matching(build(network, shape), learn, judged, run.seed)
    else:
        learnt = Masking(network, shape, learn, judged, run.seed)
    learnt.network.to(device)
    loop = TrainingLoop(learnt, settings, run)
    digest = digest_of(settings, ["pretraining", network, run.seed], [*learn.arrays(), *judged.arrays()])
    loop.run(digest, f"pretraining {network}")
    posts = {"train": len(learnt.posts), "valid": len(learnt.held.posts)}
    summary = PretrainSummary(network, loop.figures, loop.epoch, round(loop.seconds, 1), posts)
    if isinstance(learnt, Matching):
        features.save(run.folder)
        export_match(learnt.network, learn, judged, run.folder)
        return summary
    body = learnt.body.cpu().eval()
    if "match_right" in loop.figures:
        head = learnt.network.get_submodule("match").cpu()
        export_match(AnswerMatch(Matcher(body, head)), learn, judged, run.folder)
    else:
        log.warning("no match.onnx: no two of the posts that are held out have pictures and different texts")
    save_body(body, shape, features, summary, run.folder)
    return summary


@dataclass(frozen=True)
class Unlabelled:
    """Posts, and the clusters of their pictures and patches, int64."""

    posts: Posts
    clusters: dict[str, Ragged]

    def spoil(
        self, rows: np.ndarray, marks: dict[str, int], draw: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
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
            betrays = np.take_along_axis(hidden, batch[mentions], axis=1) | (batch[name] == marks[name])
            batch[mentions] = np.where(betrays | (match >= 0)[:, None], 0, batch[mentions])
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

    def forward(self, batch: dict[str, Tensor], targets: dict[str, Tensor]) -> Answers:
        """Return the answers for a batch, those of objectives that are asked about."""
        encoded = self.network.encode(batch)
        tables = {"characters": self.network.text.characters.weight, "words": self.network.words.words.weight}
        tables |= {name: head.get_parameter("weight") for name, head in self.clusters.items()}
        asked = targets["match"] >= 0
        logit = self.match(encoded.first[asked])
        answers: Answers = {"match": (torch.cat([torch.zeros_like(logit), logit], dim=1), targets["match"][asked])}
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

    def __init__(self, network: Transformer, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        return {"match": self.head(self.network.encode(batch).first).squeeze(-1)}


class Masking:
    """What a transformer loses on batches of posts of which some is masked, and how much of held-out ones it guesses."""

    aim = "likelihood"

    def __init__(self, name: str, shape: Shape, learn: Posts, held: Posts, seed: int) -> None:
        self.posts, self.seed = learn, seed
        self.learn, self.held = map(Unlabelled, (learn, held), cluster_vectors(learn, held))
        self.marks = {"text": shape.characters - 1, "print": shape.characters - 1, "words": shape.words - 1}
        self.body = cast(Transformer, build(name, shape))
        counts = {part: 1 + int(own.values.max(initial=0)) for part, own in self.learn.clusters.items()}
        self.network: nn.Module = Objectives(self.body, shape.width, counts)

    def ask(self, posts: Unlabelled, rows: np.ndarray, draw: np.random.Generator) -> Answers:
        """Return the answers for a batch of which some is masked."""
        device = device_of(self.network)
        batch, targets = (to_tensors(arrays, device) for arrays in posts.spoil(rows, self.marks, draw))
        with half_precision(device):
            answers: Answers = self.network(batch, targets)
        return answers

    def losses(self, rows: np.ndarray, epoch: int, step: int) -> dict[str, Tensor]:
        """Return the loss of each objective in a batch."""
        answers = self.ask(self.learn, rows, np.random.default_rng([self.seed, epoch, step]))
        return {name: functional.cross_entropy(*answer) for name, answer in answers.items()}

    def judge(self) -> dict[str, float]:
        """Return the figures of held posts, of which the same is masked every time."""
        self.network.eval()
        sums: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            for number, rows in enumerate(self.held.posts.shelves(JUDGED)):
                for name, (logits, right) in self.ask(self.held, rows, np.random.default_rng([0, number])).items():
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
    for name in VECTORS:
        vectors, standard = learn.parts[name].values, learn.standards[name]
        count = min(CLUSTERS, len(vectors) // VECTORS_PER_CLUSTER)
        means: Any = None
        if count > 1:
            chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[:VECTORS_TO_CLUSTER])
            means = MiniBatchKMeans(count, n_init=3, random_state=0).fit(standard.apply(vectors[chosen]))
        for side, posts in zip(found, (learn, held), strict=True):
            own = posts.parts[name]
            numbers = np.full(len(own.values), -1)
            for start in range(0, len(numbers) if means else 0, VECTORS_TO_CLUSTER):
                some = slice(start, start + VECTORS_TO_CLUSTER)
                numbers[some] = means.predict(standard.apply(own.values[some]))
            side[name] = Ragged(own.offsets, numbers)
    return found
