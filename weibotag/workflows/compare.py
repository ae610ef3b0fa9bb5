"""Several taggers on the same rows: trained and chosen alike, scored and timed on the same test rows."""

import csv
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from weibotag.core import __version__
from weibotag.core.files import atomic
from weibotag.core.schema import arrow_schema
from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.ingest import ingest
from weibotag.extraction.post_table import open_vector_words
from weibotag.extraction.schedule import link_and_look
from weibotag.extraction.settings import Pipeline
from weibotag.posts.source import PostsSource, describe_input
from weibotag.runtime.run_folder import Run
from weibotag.scoring.report import MODALITIES, evaluate, find_modality
from weibotag.taggers.answering import list_tags
from weibotag.taggers.model_folder import CASCADE, FUSED, TEXT
from weibotag.taxonomy.tree import Taxonomy
from weibotag.training.cascade_tagger import answer_known, train_cascade
from weibotag.training.dataset import (
    Dataset,
    LearningOptions,
    Lesson,
    NetworkOptions,
    draw_sides,
    gold_matrix,
    hide_author_and_channel,
)
from weibotag.training.learners import Trainer, check_names
from weibotag.training.train import learn_codes, read_rows
from weibotag.workflows.plots import check_plot, draw_scatter

TUNE_SECONDS = 120.0
# Posts that taggers are timed on, and how often each: another program's noise hits one round, not all.
TIMED, ROUNDS = 2_000, 5
PICTURES = [number for number, name in enumerate(MODALITIES) if "pictures" in name]
TEXT_ONLY = [MODALITIES.index("text only")]
# What is said of a tagger: its title in tables, and how it is written there.
FIGURES = {
    "micro_f1": ("micro-F1", "{:.3f}"),
    "micro_f1_pictures": ("with pictures", "{:.3f}"),
    "micro_f1_text_only": ("text only", "{:.3f}"),
    "micro_f1_no_channel": ("no channel", "{:.3f}"),
    "macro_f1": ("macro-F1", "{:.3f}"),
    "leaf_p_at_1": ("P@1", "{:.3f}"),
    "ece": ("ECE", "{:.3f}"),
    "training_seconds": ("training s", "{:.0f}"),
    "microseconds": ("µs/post", "{:.0f}"),
    "parameters": ("parameters", "{:,}"),
}


# Returns the tags of posts, csr_matrix (posts x tags).
Answer = Callable[[pa.Table], csr_matrix]


@dataclass(frozen=True)
class Contender:
    """How a trained tagger answers, its seconds of training, and how many numbers of four bytes its files are."""

    answer: Answer
    training_seconds: float
    parameters: int


class ContenderFigures(TypedDict):
    """What is said of a tagger: see `FIGURES`; null where no post is of the kind."""

    micro_f1: float | None
    micro_f1_pictures: float | None
    micro_f1_text_only: float | None
    micro_f1_no_channel: float | None
    macro_f1: float | None
    leaf_p_at_1: float | None
    ece: float | None
    training_seconds: float
    microseconds: float
    parameters: int


class Comparison(TypedDict):
    """Numbers of labelled posts by side, and the figures of taggers by name."""

    posts: dict[str, int]
    taggers: dict[str, ContenderFigures]


def compare(
    source: PostsSource,
    taxonomy: Taxonomy,
    names: Sequence[str],
    pipeline: Pipeline,
    *,
    valid: str | None = None,
    test: str | None = None,
    minutes: float | None = None,
    seed: int = 0,
    store: Path | None = None,
    folder: Path | None = None,
    quiet: bool = False,
) -> Comparison:
    """Train taggers, by the names that `train` knows and rules, and return figures of each on the test rows.

    Rows where the expression `test` is true are tested on, else about a fifth of each first tag, by a hash of the id; those
    where `valid` is true, else a tenth of the rest, are what settings and thresholds are chosen on. No training begins
    another trial or epoch after `minutes`. "micro_f1_no_channel" is of posts without author and channel, "microseconds" CPU
    time a post on one thread where it is known what pictures say. `folder` gets compare.md, .csv, .png and .svg. Raises,
    before any work, RequestError for a name that is not there and MissingExtraError.
    """
    check_names(names)
    if folder is not None:
        check_plot(folder / "compare.png")
    if source.where is not None:
        source = replace(source, where=" OR ".join(f"(\n{part}\n)" for part in (source.where, valid, test) if part))
    context = open_context(pipeline, store, quiet=quiet)
    request = {
        "command": "compare",
        "version": __version__,
        "input": describe_input(source),
        "taxonomy": taxonomy.digest,
        "valid": valid,
        "test": test,
        **context.request(),
    }
    with ExitStack() as stack:
        place = Path(f"{folder}.run") if folder else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        run = stack.enter_context(Run.open(place, request))
        trained, held, tests = prepare(run, source, context, taxonomy, valid, test)
        seconds = TUNE_SECONDS if minutes is None else min(TUNE_SECONDS, 60 * minutes)
        network = NetworkOptions(minutes=minutes, seed=seed)
        options = LearningOptions(seconds, quiet=quiet, network=network, folder=place / "training")
        trainer = Trainer(Lesson(trained, held, taxonomy, options))
        contenders = {name: train_contender(name, trainer, context) for name in names}
        report: Comparison = {
            "posts": {"train": trained.gold.shape[0], "valid": held.gold.shape[0], "test": sum(map(len, tests))},
            "taggers": measure(contenders, tests, taxonomy),
        }
        if folder is not None:
            write(report, folder)
        run.finish(report)
        shutil.rmtree(place / "training", ignore_errors=True)
    return report


def prepare(
    run: Run, source: PostsSource, context: ExtractionContext, taxonomy: Taxonomy, valid: str | None, test: str | None
) -> tuple[Dataset, Dataset, list[pa.Table]]:
    """Return the rows to train on, to choose on, the posts to test on, with wordings and vectors."""
    parts = ingest(run, source, None, context.quiet)
    is_held, tested = draw_sides(run, parts, taxonomy, valid, test)
    link_and_look(run, parts, context)
    # Codes are learnt without the rows to choose on and those to test on.
    codebook, learnt = learn_codes(run, parts, context, taxonomy, is_held)
    words = open_vector_words(taxonomy, codebook, context, learnt)
    trained, held = read_rows(run, parts, context, taxonomy, is_held, words, with_vectors=True)
    is_test = [pc.is_in(table["post_id"], tested) for table in held.tables]
    chosen = [table.filter(pc.invert(mask)) for table, mask in zip(held.tables, is_test, strict=True)]
    tests = [table.filter(mask) for table, mask in zip(held.tables, is_test, strict=True)]
    return trained, Dataset(chosen, gold_matrix(chosen, taxonomy)), tests


def train_contender(name: str, trainer: Trainer, context: ExtractionContext) -> Contender:
    """Return a tagger that has learnt; what it shares with those before it has learnt once, and counts for both."""
    started = perf_counter()
    if name == CASCADE:
        parts = [trainer.train(one) for one in (TEXT, trainer.best_reader(), FUSED)]
        cascade = train_cascade(trainer, context)
        answer: Answer = partial(answer_known, cascade)
    else:
        parts, cascade = [trainer.train(name)], None
        answer = parts[0].tagger.decide
    scorers = {place: scorer for one in parts for place, scorer in one.tagger.scorer.scorers.items()}
    with tempfile.TemporaryDirectory(prefix="weibotag-") as folder:
        for place, scorer in scorers.items():
            (Path(folder) / place).mkdir(parents=True)
            scorer.save(Path(folder) / place)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    seconds = max(perf_counter() - started, sum(one.about["seconds"] for one in parts))
    return Contender(answer, round(seconds, 1), size // 4)


def measure(
    contenders: Mapping[str, Contender], tests: Sequence[pa.Table], taxonomy: Taxonomy
) -> dict[str, ContenderFigures]:
    """Return the figures of taggers on posts."""
    spent = time_taggers(contenders, tests)
    return {name: score(name, one, tests, taxonomy, spent[name]) for name, one in contenders.items()}


def time_taggers(contenders: Mapping[str, Contender], tests: Sequence[pa.Table]) -> dict[str, float]:
    """Return microseconds of CPU time a post by name: the least of some rounds, in each of which the taggers take turns."""
    step = max(1, sum(map(len, tests)) // TIMED)
    some = [table.take(pa.array(range(0, len(table), step))) for table in tests]
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            started = process_time()
            for table in some:
                contender.answer(table)
            spent[name].append((process_time() - started) / sum(map(len, some)) * 1e6)
    return {name: min(rounds) for name, rounds in spent.items()}


def score(
    name: str, contender: Contender, tests: Sequence[pa.Table], taxonomy: Taxonomy, microseconds: float
) -> ContenderFigures:
    """Return the figures of a tagger."""
    answers = [predict(name, contender, table, taxonomy) for table in tests]
    whole = evaluate(answers, tests, taxonomy)
    silent = [predict(name, contender, hide_author_and_channel(table, 1.0), taxonomy) for table in tests]
    modality = [find_modality(table) for table in tests]

    def part(kinds: list[int]) -> float | None:
        masks = [np.isin(own, kinds) for own in modality]
        if not any(mask.any() for mask in masks):
            return None
        some = [table.filter(pa.array(mask)) for table, mask in zip(tests, masks, strict=True)]
        return evaluate(answers, some, taxonomy)["micro_f1"]

    return {
        "micro_f1": whole["micro_f1"],
        "micro_f1_pictures": part(PICTURES),
        "micro_f1_text_only": part(TEXT_ONLY),
        "micro_f1_no_channel": evaluate(silent, tests, taxonomy)["micro_f1"],
        "macro_f1": whole["macro_f1"],
        "leaf_p_at_1": whole["leaf_p_at_1"],
        "ece": whole["ece"],
        "training_seconds": contender.training_seconds,
        "microseconds": round(microseconds, 1),
        "parameters": contender.parameters,
    }


def predict(name: str, contender: Contender, table: pa.Table, taxonomy: Taxonomy) -> pa.Table:
    """Return a tagger's tags of posts, schema "tags" without keywords and evidence."""
    columns = {
        "post_id": table["post_id"],
        "tags": list_tags(contender.answer(table), taxonomy),
        "route": pa.array([name] * len(table)),
    }
    schema = arrow_schema("tags")
    return pa.table({one.name: columns.get(one.name, pa.nulls(len(table), one.type)) for one in schema}, schema=schema)


def write_markdown(report: Comparison) -> str:
    """Return the table as Markdown, its columns aligned."""
    rows = [["tagger", *(title for title, _ in FIGURES.values())]]
    for name, figures in report["taggers"].items():
        rows.append([name, *("-" if value is None else FIGURES[key][1].format(value) for key, value in figures.items())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])])
    lines = (
        " | ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return "".join(f"| {line} |\n" for line in lines)


def write(report: Comparison, folder: Path) -> None:
    """Write the table as compare.md and compare.csv, and quality against cost as compare.png and compare.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "compare.md", "w") as file:
        file.write(write_markdown(report))
    with atomic(folder / "compare.csv", "w") as file:
        writer = csv.writer(file)
        writer.writerow(["tagger", *FIGURES])
        writer.writerows([name, *own.values()] for name, own in report["taggers"].items())
    points = {name: (own["microseconds"], own["micro_f1"] or 0.0) for name, own in report["taggers"].items()}
    for suffix in (".png", ".svg"):
        draw_scatter(
            folder / f"compare{suffix}", points, "microseconds a post", "micro-F1", "Quality of taggers against their cost"
        )
