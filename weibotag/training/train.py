"""From labelled posts to a model: look, learn codes and keywords, train taggers."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core import __version__
from weibotag.core.errors import RequestError
from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.findings import read_findings
from weibotag.extraction.ingest import ingest, read_links
from weibotag.extraction.pipeline_files import choose_pipeline
from weibotag.extraction.post_table import VectorWords, open_vector_words, read_part
from weibotag.extraction.requests import TrainRequest
from weibotag.extraction.schedule import link_and_look
from weibotag.features import visual_codes
from weibotag.features.vocabulary import learn_keywords
from weibotag.posts.source import describe_input
from weibotag.runtime.run_folder import Run
from weibotag.taggers.cascade.policy import Cascade
from weibotag.taggers.model_folder import CASCADE, FUSED, PLAIN, TEXT, Model, ModelAbout, ModelLearnt
from weibotag.taggers.tagger import Tagger
from weibotag.taxonomy.tree import Taxonomy, load
from weibotag.training.cascade_tagger import describe_cascade, train_cascade
from weibotag.training.dataset import (
    Dataset,
    LearningOptions,
    Lesson,
    NetworkOptions,
    gold_matrix,
    hide_author_and_channel,
    mark_valid,
)
from weibotag.training.learners import WITHOUT_TORCH, Trainer, check_names
from weibotag.training.network.settings import check_beyond, read_tasks
from weibotag.training.vector_choice import MOST_WITH_VECTORS

# Taggers that xmc may be part of.
BOUNDED = ("xmc", "average", "auto")
# Taggers that read no vectors, and those that do whatever the number of posts; for others see `MOST_WITH_VECTORS`.
BY_WORDS, BY_VECTORS = ("fast", "text"), (FUSED, CASCADE)
PACKAGES = ("fasttext-community", "numpy", "onnxruntime", "pyarrow", "rapidocr", "scikit-learn")


def train_model(order: TrainRequest) -> ModelAbout:
    """Train a tagger on labelled posts, write the model's folder, return what model.json says.

    A model of fused has fast, too, and one of cascade has fast, text, linear where it reads best, and fused. `memory` bounds
    the training of xmc, in bytes. Hyper-parameters, calibration and thresholds are chosen on the rows where the expression
    `valid` is true, else on a tenth of the posts of each first tag, taken by a hash of the id. Hyper-parameters are tried
    for `tune_seconds` at most.
    """
    taxonomy, out, quiet = load(order.taxonomy), order.model, order.quiet
    tagger, beyond = check_request(order)
    source = order.source
    if order.valid is not None and source.where is not None:
        source = replace(source, where=f"(\n{source.where}\n) OR (\n{order.valid}\n)")
    context = open_context(choose_pipeline(order), quiet=quiet)
    request = {
        "command": "train",
        "version": __version__,
        "input": describe_input(source),
        "taxonomy": taxonomy.digest,
        "tagger": tagger,
        "beyond": beyond.request(),
        **({} if order.memory is None else {"memory": order.memory}),
        **context.request(),
    }
    started = perf_counter()
    with Run.open(Path(f"{out}.run"), request) as run:
        parts = ingest(run, source, None, quiet)
        link_and_look(run, parts, context)
        is_valid = mark_valid(run, parts, order.valid, taxonomy)
        codebook, learnt_codes = learn_codes(run, parts, context, taxonomy, is_valid)
        words = open_vector_words(taxonomy, codebook, context, learnt_codes)
        few = sum(int((~held).sum()) for held in is_valid.values()) <= MOST_WITH_VECTORS
        with_vectors = tagger in BY_VECTORS or (few and tagger not in BY_WORDS)
        sides = read_rows(run, parts, context, taxonomy, is_valid, words, with_vectors)
        read_tasks(beyond, *sides)
        keywords = learn_keywords(sides[0].tables, taxonomy)
        options = LearningOptions(order.tune_seconds, order.threads, order.memory, quiet, beyond, run.folder / "network")
        taggers, cascade, learnt = train_taggers(tagger, Trainer(Lesson(*sides, taxonomy, options)), context)
        found = {
            **learnt,
            **context.describe(),
            **context.stats.summary(),
            "version": __version__,
            "packages": {name: version(name) for name in PACKAGES},
            "posts": {"train": sides[0].gold.shape[0], "valid": sides[1].gold.shape[0]},
            "rejects": run.rejects,
            "seconds": round(perf_counter() - started, 1),
        }
        about = cast(ModelAbout, found)
        Model(taxonomy, taggers, codebook, keywords, about, cascade).save(out)
        run.finish(about)
    return about


def check_request(order: TrainRequest) -> tuple[str, NetworkOptions]:
    """Return the tagger and what is asked of its network; raise before any work what would keep it from being trained."""
    tagger = order.tagger
    beyond = NetworkOptions(
        order.network, order.minutes, order.tasks, order.seed, order.start, order.encoder, order.encoder_training
    )
    check_names([tagger])
    if tagger not in (*WITHOUT_TORCH, FUSED, CASCADE):
        tagger, beyond = FUSED, replace(beyond, network=tagger)
    check_beyond(tagger, beyond)
    if tagger == "rules":
        raise RequestError("rules need no training: tag with --taxonomy, or with --route rules of any model")
    if order.memory is not None and tagger not in BOUNDED:
        raise RequestError("--memory bounds the training of xmc: give --tagger xmc, average or auto")
    return tagger, beyond


def train_taggers(
    name: str, trainer: Trainer, context: ExtractionContext
) -> tuple[dict[str, Tagger], Cascade | None, ModelLearnt]:
    """Return the taggers of a model by route, its cascade where that was asked for, and what model.json says of them."""
    names = ["fast", TEXT, trainer.best_reader(), FUSED] if name == CASCADE else ["fast", FUSED] if name == FUSED else [name]
    trained = {one.route: one for one in map(trainer.train, names)}
    route = next(reversed(trained))
    # Parts of a mean are routes, too.
    trained = {part: trainer.train(part) for part in trained[route].parts} | trained
    learnt: ModelLearnt = {
        "tagger": CASCADE if name == CASCADE else route,
        "valid": trained[route].about["valid"],
        "taggers": {own: one.about for own, one in trained.items()},
    }
    taggers = {own: one.tagger for own, one in trained.items()}
    if name != CASCADE:
        return taggers, None, learnt
    cascade = train_cascade(trainer, context)
    taggers |= dict(zip(PLAIN, cascade.plain or (), strict=False))
    return taggers, cascade, {**learnt, "cascade": describe_cascade(cascade)}


def learn_codes(
    run: Run, parts: Sequence[str], context: ExtractionContext, taxonomy: Taxonomy, is_valid: dict[str, np.ndarray]
) -> tuple[visual_codes.Codebook | None, dict[str, list[str]]]:
    """Return the codebook of the training posts' pictures (None for too few), and their own out-of-fold codes."""
    if "embed" not in context.fingerprints:
        return None, {}
    tags_of: dict[str, np.ndarray] = {}
    paths: dict[str, str] = {}
    for part in parts:
        posts = run.read("posts", part, ["post_id", "tags"])
        posts = posts.filter(pa.array(~is_valid[part]))
        gold = gold_matrix([posts], taxonomy)
        place = {post_id: row for row, post_id in enumerate(posts["post_id"].to_pylist())}
        for link_row in read_links(run, part).select(["post_id", "file_id", "path"]).to_pylist():
            row = place.get(link_row["post_id"])
            if row is None or link_row["file_id"] is None or gold.indptr[row] == gold.indptr[row + 1]:
                continue
            tags = gold.indices[gold.indptr[row] : gold.indptr[row + 1]]
            paths.setdefault(link_row["file_id"], link_row["path"])
            tags_of[link_row["file_id"]] = np.union1d(tags_of.get(link_row["file_id"], tags), tags)
    named = pa.table({"file_id": pa.array(list(tags_of), pa.string()), "path": pa.array(list(paths.values()), pa.string())})
    _, media, known = read_findings(run, named, context, ["embed"])
    frames = media.filter(pc.is_null(media["media_error"]))
    file_of = dict(zip(frames["media_id"].to_pylist(), frames["file_id"].to_pylist(), strict=True))
    media_ids, vectors = visual_codes.stack_vectors(known["embed"])
    if not media_ids:
        return None, {}
    tags = [tags_of[file_of[media_id]] for media_id in media_ids]
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in tags])])
    labels = csr_matrix(
        (np.ones(indptr[-1], np.float32), np.concatenate(tags), indptr), shape=(len(media_ids), len(taxonomy))
    )
    fitted = visual_codes.fit(vectors, labels, taxonomy.depth)
    if fitted is None:
        return None, {}
    return fitted[0], dict(zip(media_ids, fitted[1], strict=True))


def read_rows(
    run: Run,
    parts: Sequence[str],
    context: ExtractionContext,
    taxonomy: Taxonomy,
    is_valid: dict[str, np.ndarray],
    words: VectorWords | None,
    with_vectors: bool = False,
) -> tuple[Dataset, Dataset]:
    """Return the labelled posts to train on and those held out; `with_vectors` as for `read_part`."""
    sides: tuple[list[pa.Table], list[pa.Table]] = [], []
    for part in parts:
        start = 0
        for table in read_part(run, part, context, words, with_vectors):
            held = is_valid[part][start : start + len(table)]
            start += len(table)
            taught = np.diff(gold_matrix([table], taxonomy).indptr) > 0
            # A post whose tags are all strange to the taxonomy teaches fastText nothing, but thresholds what to leave alone.
            judged = pc.greater(pc.list_value_length(table["tags"]), 0).fill_null(False).to_numpy(zero_copy_only=False)
            for side, mask in zip(sides, (~held & taught, held & judged), strict=True):
                if mask.any():
                    side.append(table.filter(pa.array(mask)))
    trained, held_out = sides
    return (
        Dataset([hide_author_and_channel(table) for table in trained], gold_matrix(trained, taxonomy)),
        Dataset(held_out, gold_matrix(held_out, taxonomy)),
    )
