"""From labelled posts to a model: look, learn codes and keywords, choose hyper-parameters and thresholds on valid."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix, vstack

from weibotag import __version__
from weibotag.core.errors import RequestError
from weibotag.core.progress import bar
from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.ingest import ingest, link, read_links
from weibotag.extraction.picture_words import VectorWords, open_vector_words
from weibotag.extraction.pipeline_files import choose_pipeline
from weibotag.extraction.post_table import read_part
from weibotag.extraction.requests import TrainRequest
from weibotag.extraction.schedule import look
from weibotag.extraction.stats import ExtractionStats
from weibotag.features import visual_codes
from weibotag.features.keywords import learn_keywords
from weibotag.features.vocabulary import Vocabulary
from weibotag.posts.source import describe_input, refuse_outputs
from weibotag.runtime.run_folder import Run
from weibotag.scoring import calibration, thresholds
from weibotag.scoring.blend import blend
from weibotag.taggers.fasttext import DivergedError, FastTagger, Settings, train
from weibotag.taggers.model_folder import Model, refuse_stranger
from weibotag.taggers.rules import RulesTagger
from weibotag.taxonomy.tree import Taxonomy, load
from weibotag.training.choose import choose, describe, is_fast_affordable, train_alone
from weibotag.training.dataset import WORTHWHILE, Dataset, gold_matrix, hide_author_and_channel, mark_valid
from weibotag.training.network_taggers import NetworkOptions, check_beyond, go_beyond, read_tasks

# fastText's hashed n-grams: about a hundred new ones a post, within these bounds.
BUCKETS = (100_000, 2_000_000)
# Of the n-grams' vectors: more would not leave a tagger its place in 1.5 GB.
MOST_BYTES = 600_000_000
# What is tried after the defaults, in this order: a factor on one setting of the best so far, or another value for it,
# until the time is up.
TRIALS: tuple[tuple[str, float | str], ...] = (
    ("spacing", "words"),
    ("lr", 0.5),
    ("epoch", 2.0),
    ("lr", 2.0),
    ("epoch", 0.5),
    ("dim", 2.0),
    ("wordNgrams", 2 / 3),
    ("dim", 0.5),
)
# What the words of the taxonomy may weigh beside fastText; they take as long again, so they must bring this much micro-F1.
RULES_SHARES = (0.25, 0.5, 0.75)
# Taggers that are trained without a network, and those with one.
SPARSE, NETWORKED = ("xmc", "auto"), ("fused", "cascade")
PACKAGES = ("fasttext-community", "numpy", "onnxruntime", "pyarrow", "rapidocr", "scikit-learn")

log = logging.getLogger(__name__)


def train_model(order: TrainRequest) -> dict[str, Any]:
    """Train a tagger (fast, xmc, fused, cascade) on labelled posts, write the model's folder, return what model.json says.

    fused and cascade have those before them but xmc, too. auto takes fast, xmc or their mean, whichever is best on the
    held-out rows; `memory` bounds the training of xmc, in bytes.
    Hyper-parameters, calibration and thresholds are chosen on the rows where the expression `valid` is true, else on a
    tenth of the posts of each first tag, taken by a hash of the id. Hyper-parameters are tried for `tune_seconds` at most.
    """
    source, taxonomy, out, pipeline = order.source, load(order.taxonomy), order.model, choose_pipeline(order)
    tagger, memory, valid, tune_seconds = order.tagger, order.memory, order.valid, order.tune_seconds
    threads, quiet = order.threads, order.quiet
    beyond = NetworkOptions(
        order.network, order.minutes, order.tasks, order.seed, order.start, order.encoder, order.encoder_training
    )
    refuse_stranger(out)
    check_beyond("fast" if tagger in SPARSE else tagger, beyond)
    if memory is not None and tagger not in SPARSE:
        raise RequestError("--memory bounds the training of xmc: give --tagger xmc or auto")
    if valid is not None and source.where is not None:
        source = replace(source, where=f"(\n{source.where}\n) OR (\n{valid}\n)")
    refuse_outputs(source, out, Path(f"{out}.run"))
    context = open_context(pipeline, quiet=quiet)
    request = {
        "command": "train",
        "version": __version__,
        "input": describe_input(source),
        "taxonomy": taxonomy.digest,
        "tagger": tagger,
        "beyond": beyond.request(),
        **({} if memory is None else {"memory": memory}),
        **context.request(),
    }
    started = perf_counter()
    with Run.open(Path(f"{out}.run"), request) as run:
        parts = ingest(run, source, None, quiet)
        link(run, parts, context.limits, quiet)
        stats = look(run, parts, context)
        for fault in stats.faults.values():
            log.warning("not looked at: %s", fault)
        is_valid = mark_valid(run, parts, valid, taxonomy)
        codebook, learnt_codes = learn_codes(run, parts, context, taxonomy, is_valid)
        words = open_vector_words(taxonomy, codebook, context, learnt_codes)
        trained, held = read_rows(run, parts, context, stats, taxonomy, is_valid, words, tagger in NETWORKED)
        tasks = read_tasks(beyond, (trained, held))
        keywords = learn_keywords(trained.tables, Vocabulary(taxonomy))
        if tagger == "xmc" or (tagger == "auto" and not can_be_fast(trained, tune_seconds)):
            model = train_alone(trained, held, taxonomy, codebook, keywords, memory, quiet)
            if tagger == "auto" and not quiet:
                log.warning("took xmc: fastText would need too long for %s tags", f"{len(taxonomy):,}")
        else:
            network, settings, trials = tune(trained, held, taxonomy, tune_seconds, threads, quiet)
            model = settle(network, settings, held, taxonomy, codebook, keywords)
            model.about.update(tagger=tagger, settings=asdict(settings), trials=trials)
        if tagger == "auto" and model.fast is not None:
            model = choose(model, trained, held, memory, quiet)
        if tagger in NETWORKED:
            sides, course = (trained, held), run.folder / "network"
            model = go_beyond(
                model, sides, tagger, beyond, tasks, context, stats, course, tune_seconds=tune_seconds, threads=threads
            )
        model.about.update(
            {
                "version": __version__,
                "packages": {name: version(name) for name in PACKAGES},
                **context.describe(),
                "posts": {"train": trained.gold.shape[0], "valid": held.gold.shape[0]},
                "rejects": run.rejects,
                **stats.summary(),
                "seconds": round(perf_counter() - started, 1),
            }
        )
        model.save(out)
        run.finish(model.about)
    return model.about


def learn_codes(
    run: Run, parts: Sequence[str], context: ExtractionContext, taxonomy: Taxonomy, is_valid: dict[str, np.ndarray]
) -> tuple[visual_codes.Codebook | None, dict[str, list[str]]]:
    """Return the codebook of the training posts' pictures (None for too few), and their own out-of-fold codes."""
    if "embed" not in context.fingerprints:
        return None, {}
    tags_of: dict[str, np.ndarray] = {}
    for part in parts:
        posts = pq.read_table(run.path("posts", part), columns=["post_id", "tags"])
        posts = posts.filter(pa.array(~is_valid[part]))
        gold = gold_matrix([posts], taxonomy)
        place = {post_id: row for row, post_id in enumerate(posts["post_id"].to_pylist())}
        for link_row in read_links(run, part).select(["post_id", "file_id"]).to_pylist():
            row = place.get(link_row["post_id"])
            if row is None or link_row["file_id"] is None or gold.indptr[row] == gold.indptr[row + 1]:
                continue
            tags = gold.indices[gold.indptr[row] : gold.indptr[row + 1]]
            tags_of[link_row["file_id"]] = np.union1d(tags_of.get(link_row["file_id"], tags), tags)
    media = context.store.read("media", context.media, pa.array(list(tags_of), pa.string()))
    frames = media.filter(pc.is_null(media["media_error"]))
    file_of = dict(zip(frames["media_id"].to_pylist(), frames["file_id"].to_pylist(), strict=True))
    found = context.store.read("embed", context.fingerprints["embed"], frames["media_id"])
    media_ids, vectors = visual_codes.stack_vectors(found)
    if not media_ids:
        return None, {}
    tags = [tags_of[file_of[media_id]] for media_id in media_ids]
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in tags])])
    labels = csr_matrix(
        (np.ones(indptr[-1], np.float32), np.concatenate(tags), indptr), shape=(len(media_ids), len(taxonomy))
    )
    fitted = visual_codes.fit(vectors, labels)
    if fitted is None:
        return None, {}
    return fitted[0], dict(zip(media_ids, fitted[1], strict=True))


def read_rows(
    run: Run,
    parts: Sequence[str],
    context: ExtractionContext,
    stats: ExtractionStats,
    taxonomy: Taxonomy,
    is_valid: dict[str, np.ndarray],
    words: VectorWords | None,
    with_vectors: bool = False,
) -> tuple[Dataset, Dataset]:
    """Return the labelled posts to train on and those held out; `with_vectors` as for `read_part`."""
    sides: tuple[list[pa.Table], list[pa.Table]] = [], []
    for part in parts:
        start = 0
        for table in read_part(run, part, context, stats, words, with_vectors):
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


def first_settings(posts: int) -> Settings:
    """Return the settings to begin with: fewer posts are read more often, more posts have more n-grams."""
    epoch = int(np.clip(1900 / np.sqrt(posts), 5, 100))
    return Settings(epoch=epoch, bucket=int(np.clip(100 * posts, *BUCKETS)))


def can_be_fast(trained: Dataset, seconds: float) -> bool:
    """Tell whether fastText can be trained on these posts in reasonable time."""
    posts, tags = trained.gold.shape
    settings = first_settings(posts)
    return is_fast_affordable(posts, settings.epoch, tags, settings.dim, seconds)


def tune(
    trained: Dataset, held: Dataset, taxonomy: Taxonomy, seconds: float, threads: int, quiet: bool
) -> tuple[Any, Settings, list[dict[str, Any]]]:
    """Return the network with the best micro-F1 on the held-out rows, its settings, and all trials.

    The first settings are always tried; each of `TRIALS` changes the best so far; none is begun that would end too late.
    """
    started = perf_counter()
    best = first_settings(trained.gold.shape[0])
    best_network, best_score = None, -1.0
    trials: list[dict[str, Any]] = []
    pace = 0.0
    lines = {}
    with bar(1 + len(TRIALS), "choosing hyper-parameters", quiet) as progress:
        for name, change in (("epoch", 1.0), *TRIALS):
            progress.advance()
            old = getattr(best, name)
            value: Any = change if isinstance(change, str) else type(old)(round(old * change, 4))
            settings = replace(best, **{name: value})
            late = perf_counter() - started + pace * settings.epoch * settings.dim > seconds
            if best_network is not None and (late or 4 * settings.bucket * settings.dim > MOST_BYTES):
                continue
            begun = perf_counter()
            if settings.spacing not in lines:
                lines[settings.spacing] = trained.write_lines(settings.spacing)
            try:
                network = train(lines[settings.spacing], trained.gold, settings, threads)
            except DivergedError:
                trials.append({name: value, "micro_f1": None, "seconds": round(perf_counter() - begun, 2)})
                # Nothing has worked yet: the next trials begin with half the learning rate.
                if best_network is None:
                    best = replace(best, lr=best.lr / 2)
                continue
            score = thresholds.shared_f1(plain_scores(network, settings, held, taxonomy), held.gold, taxonomy)
            spent = perf_counter() - begun
            pace = max(pace, spent / (settings.epoch * settings.dim))
            trials.append({name: getattr(settings, name), "micro_f1": round(score, 4), "seconds": round(spent, 2)})
            if score > best_score:
                best, best_network, best_score = settings, network, score
    if best_network is None:
        raise DivergedError("fastText ran away with every learning rate tried: are labels or texts of the posts broken?")
    return best_network, best, trials


def plain_scores(network: Any, settings: Settings, held: Dataset, taxonomy: Taxonomy) -> csr_matrix:
    """Return a network's own scores of the held-out rows, closed over parents."""
    tagger = FastTagger(taxonomy, network)
    return tagger.settle(tagger.score_lines(held.write_lines(settings.spacing)))


def settle(
    network: Any,
    settings: Settings,
    held: Dataset,
    taxonomy: Taxonomy,
    codebook: visual_codes.Codebook | None,
    keywords: pa.Table,
) -> Model:
    """Return the model with rules share, calibration and thresholds chosen on the held-out rows, and its figures there."""
    plain = FastTagger(taxonomy, network)
    raw = plain.score_lines(held.write_lines(settings.spacing))
    by_rules = RulesTagger(taxonomy)
    rules = csr_matrix(vstack([by_rules.scores(table) for table in held.tables]))
    share, score = 0.0, thresholds.shared_f1(plain.settle(raw), held.gold, taxonomy) + WORTHWHILE
    for other in RULES_SHARES:
        value = thresholds.shared_f1(plain.settle(blend(raw, rules, other)), held.gold, taxonomy)
        if value > score:
            share, score = other, value
    if share:
        raw = blend(raw, rules, share)
    calibrated = calibration.fit(raw, held.gold)
    tagger = FastTagger(taxonomy, network, calibrated, share, settings.spacing)
    scores = tagger.settle(raw)
    cuts = thresholds.choose(scores, held.gold, taxonomy)
    chosen = thresholds.decide(scores, cuts, taxonomy)
    about = {"valid": describe(chosen, held.gold), "rules_share": share}
    return Model(taxonomy, tagger, calibrated, cuts, codebook, keywords, about)
