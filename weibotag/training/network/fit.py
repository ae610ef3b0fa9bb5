"""Labelled posts to a trained tagger: losses of tags and tasks, figures, the network as ONNX."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional

from weibotag.core.errors import RequestError
from weibotag.core.files import sha256_of, write_json
from weibotag.features.dense_blocks import NOTHING, DenseBlocks
from weibotag.features.post_batches import INPUTS, Features, Posts
from weibotag.scoring.decision import shared_f1
from weibotag.taggers.network import NETWORK, SHARES, TASKS, NetworkScorer
from weibotag.taggers.tagger import Ensemble
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.dataset import Dataset, Learnt, Lesson, NetworkOptions
from weibotag.training.network.architectures.fusions import build
from weibotag.training.network.architectures.network import Network, asymmetric_loss, drop_modalities
from weibotag.training.network.export import WEIGHTS, PretrainedNetwork, export
from weibotag.training.network.loop import (
    OWN,
    TrainingLoop,
    begin,
    device_of,
    digest_of,
    half_precision,
    shape_of,
    to_tensors,
)
from weibotag.training.network.settings import NetworkSummary, Settings, TaskFigures, TrainingRun, read_tasks, resolve
from weibotag.training.vector_choice import choose_vectors, may_read_vectors
from weibotag.vision.backends.transformers_model import find_folder

# Tokens that fastText reads at most, all passes together (some ten seconds on one thread), and passes.
TOKENS, MOST = 2_000_000, 15
# Characters are fewer than words, so each is more frequent: by fastText's own threshold it would hardly read them.
FREQUENT = 1e-3
# The deviation of the numbers that the tables of networks start with.
DEVIATION = 0.1
# Held-out posts that are judged at once.
JUDGED = 256


@dataclass(frozen=True)
class Labelled:
    """Posts with their gold tags (posts x tags, ancestors included), and classes by task, int64 (posts,), -1 for unknown."""

    posts: Posts
    gold: csr_matrix
    tasks: dict[str, np.ndarray]

    def arrays(self) -> list[np.ndarray]:
        """Return all arrays that the posts, their tags and classes are made of, in a fixed order."""
        return [*self.posts.arrays(), self.gold.indptr, self.gold.indices, *self.tasks.values()]


def fit_fused(lesson: Lesson) -> Learnt:
    """Return the network that the options name; after a kill its training goes on where it was.

    It reads the vectors of texts where that brings `WORTHWHILE`; each way may take half of the minutes that were asked for.
    """
    asked, options, place = lesson.options.network, lesson.options, lesson.options.folder
    if place is None:
        raise RequestError("training a network needs a folder in which it can go on after a kill")
    run = TrainingRun(place, asked.seed, threads=options.threads, quiet=options.quiet)
    # A language model that was asked for reads the text already.
    kinds = ("texts",) if may_read_vectors(lesson) and not asked.encoder else ()
    settings = Settings(minutes=None if asked.minutes is None else asked.minutes / (1 + len(kinds)))
    summaries: dict[Path, NetworkSummary] = {}

    def learn(posts: Dataset, blocks: DenseBlocks) -> NetworkScorer:
        own = replace(run, folder=place / f"{asked.network}{'+texts' * bool(blocks.width)}")
        network, summary = train_fused(posts, lesson.held, lesson.taxonomy, asked, settings, own, blocks)
        summaries[own.folder] = summary
        return network

    # Folds of a network would take too long.
    best, _, reached = choose_vectors(lesson, learn, kinds, crosses=False)
    return Learnt(Ensemble.alone("fused", best), {**asdict(summaries[best.folder]), "reached": reached})


def train_fused(
    trained: Dataset,
    held: Dataset,
    taxonomy: Taxonomy,
    options: NetworkOptions,
    settings: Settings,
    run: TrainingRun,
    blocks: DenseBlocks = NOTHING,
) -> tuple[NetworkScorer, NetworkSummary]:
    """Return a network, trained in the folder of `run`, and figures of its training.

    Features and the network are learnt on the posts of `trained`; the best epoch is chosen on those of `held`. Classes of
    tasks that are not among those to train on are unknown. Time and seed are those of `settings` and `run`; `blocks` are
    vectors of texts that are read, too. Raises RequestError for a network or a task that can't be, ModelError for a
    pretrained network of another kind or width.
    """
    network, device, tasks = resolve(options.network), begin(run), read_tasks(options, trained, held)
    body = None if options.start is None else PretrainedNetwork.load(options.start, network, settings.width)
    features = Features.learn(trained.tables, options.encoder, blocks)
    if body is not None:
        features = body.widen(features)
    names = {name: name_classes(name, known) for name, (known, _) in tasks.items()}
    learn, judged = (
        Labelled(
            features.join(rows.tables),
            rows.gold,
            {name: pd.Index(classes).get_indexer(pd.Index(tasks[name][side])) for name, classes in names.items()},
        )
        for side, rows in enumerate((trained, held))
    )
    sizes = {name: len(classes) for name, classes in names.items()}
    how = {"tasks": sizes, "encoder_training": options.encoder_training}
    shape = shape_of(features, taxonomy.parents, learn.posts, settings, **how)
    module = build(network, shape) if body is None else body.build(shape)
    if body is None and module.STARTS_FROM_VECTORS:
        start_from_vectors(module, learn.posts, run.seed)
    loop = TrainingLoop(Tagging(module.to(device), learn, judged, taxonomy, settings), settings, run)
    weights = "" if body is None else sha256_of(body.folder / WEIGHTS)
    begun_from = [network, run.seed, list(names), weights, options.encoder_training]
    if options.encoder:
        begun_from += [sha256_of(path) for path in sorted(find_folder(options.encoder)[0].glob("*.safetensors"))]
    loop.run(digest_of(settings, begun_from, [*learn.arrays(), *judged.arrays()]), f"training {network}")
    features.save(run.folder)
    write_json(names, run.folder / TASKS)
    if module.encoder is not None:
        module.encoder.merge()
    export(module, learn.posts, run.folder / NETWORK)
    scorer = NetworkScorer(taxonomy, run.folder)
    return scorer, NetworkSummary(
        network,
        loop.figures["micro_f1"],
        loop.epoch,
        round(loop.seconds, 1),
        sum(part.numel() for part in module.parameters()),
        options.encoder_training if options.encoder else None,
        measure_tasks(scorer, held, {name: tasks[name][1] for name in names}),
    )


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


def measure_tasks(
    scorer: NetworkScorer, held: Dataset, labels: Mapping[str, Sequence[str | None]]
) -> dict[str, TaskFigures]:
    """Return the figures of each task on held-out posts, whose classes are `labels`."""
    answers = [scorer.answers(table) for table in held.tables]
    figures = {}
    for name, known in labels.items():
        answered = [one for some in answers for one in some[name][0]]
        classes = scorer.tasks[name]
        right = [one == label for one, label in zip(answered, known, strict=True) if label in classes]
        figures[name] = TaskFigures(len(classes), round(float(np.mean(right)), 4) if right else None)
    return figures


class Tagging:
    """What a network loses on batches of labelled posts, and how well it tags those held out."""

    aim = "micro_f1"

    def __init__(self, network: Network, train: Labelled, held: Labelled, taxonomy: Taxonomy, settings: Settings) -> None:
        self.network: nn.Module = network
        self.posts = train.posts
        self.train, self.held, self.taxonomy, self.settings = train, held, taxonomy, settings

    def losses(self, rows: np.ndarray, epoch: int, step: int) -> dict[str, Tensor]:
        """Return the losses of a batch: of tags, of each task that some of its posts know, and the network's own."""
        device = device_of(self.network)
        batch = drop_modalities(to_tensors(self.posts.batch(rows), device), self.settings.missing)
        with half_precision(device):
            answer = self.network(batch)
        gold = torch.from_numpy(self.train.gold[rows].toarray().astype(np.float32)).to(device)
        losses = {"tags": asymmetric_loss(answer["tags"], gold, self.settings.ease)}
        for name, classes in self.train.tasks.items():
            target = torch.from_numpy(classes[rows]).to(device)
            if bool((target >= 0).any()):
                losses[name] = functional.cross_entropy(answer[name].float(), target, ignore_index=-1)
        if "loss" in answer:
            losses[OWN] = self.settings.reconstruction * answer["loss"]
        return losses

    def judge(self) -> dict[str, float]:
        """Return micro-F1 of the held-out posts at the best shared threshold."""
        self.network.eval()
        device, posts = device_of(self.network), self.held.posts
        found = np.zeros(self.held.gold.shape, np.float32)
        with torch.inference_mode(), half_precision(device):
            for rows in posts.shelves(JUDGED):
                found[rows] = self.network(to_tensors(posts.batch(rows), device))["tags"].exp().float().cpu().numpy()
        return {"micro_f1": round(shared_f1(csr_matrix(found), self.held.gold, self.taxonomy), 6)}


def start_from_vectors(network: Network, posts: Posts, seed: int) -> None:
    """Put vectors of the posts' characters and words in the place of the random ones that a network starts with.

    Learnt without tags by fastText's skipgram (Bojanowski et al., 2017) on one thread: the same posts and seed give the same
    vectors. A token is a character, of text and print alike, as there is no segmenter, or a wording that is no print. What
    the posts do not have keeps its random vector, and so do hashed n-grams.
    """
    import fasttext

    parts = [(posts.parts[name], mark) for name, mark in (("text", "c"), ("print", "c"), ("words", "w"))]
    size = sum(len(part.values) for part, _ in parts)
    if not size:
        return
    rows = np.random.default_rng(seed).permutation(len(posts))[: max(1, len(posts) * TOKENS // max(size, TOKENS))]
    with tempfile.TemporaryDirectory(prefix="weibotag-") as folder:
        path = Path(folder) / "posts.txt"
        with path.open("w", encoding="ascii") as file:
            for row in rows.tolist():
                file.write(" ".join(f"{mark}{number}" for part, mark in parts for number in part.row(row).tolist()) + "\n")
        model = fasttext.train_unsupervised(
            str(path),
            model="skipgram",
            dim=network.words.words.embedding_dim,
            epoch=int(np.clip(TOKENS // size, 1, MOST)),
            minCount=1,
            minn=0,
            maxn=0,
            t=FREQUENT,
            thread=1,
            verbose=0,
        )
    names, vectors = model.get_words(), torch.from_numpy(model.get_input_matrix())
    # What all have in common tells none from another.
    vectors -= vectors.mean(0)
    vectors *= DEVIATION / vectors.std().clamp(min=1e-6)
    for mark, table in (("c", network.text.characters), ("w", network.words.words)):
        own = [(int(name[1:]), place) for place, name in enumerate(names) if name.startswith(mark)]
        numbers, places = np.array(own, np.int64).reshape(-1, 2).T
        table.weight.data[numbers] = vectors[places]
