"""The order of things for `pretrain`."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa

from weibotag.core import __version__
from weibotag.core.errors import RequestError
from weibotag.core.files import BODY, replace_folder
from weibotag.extraction.context import ExtractionContext, LookSummary, open_context
from weibotag.extraction.ingest import ingest
from weibotag.extraction.post_table import read_part
from weibotag.extraction.schedule import link_and_look
from weibotag.extraction.settings import Pipeline
from weibotag.posts.source import PostsSource, describe_input
from weibotag.runtime.run_folder import Run
from weibotag.taggers.network import CALIBRATION
from weibotag.training.dataset import draw_valid
from weibotag.training.network.loop import CHECKPOINT
from weibotag.training.network.pretraining import choose_settings, pretrain
from weibotag.training.network.settings import PretrainSummary, TrainingRun
from weibotag.workflows.run_stage import note_looks


@dataclass(frozen=True)
class PretrainOutcome(PretrainSummary):
    """What came of `pretrain`: seconds of all its steps, and what looking at the pictures came to."""

    looked: LookSummary


def pretrain_posts(
    source: PostsSource,
    out: Path,
    pipeline: Pipeline,
    network: str,
    *,
    epochs: int = 30,
    minutes: float | None = None,
    device: str = "auto",
    threads: int = 1,
    quiet: bool = False,
) -> PretrainOutcome:
    """Look at the pictures of posts, pretrain a network on them, put its body in the place of the folder `out`.

    A tenth of the posts, by a hash of the id, is held out to judge by. The seconds that are returned are those of all.
    """
    settings = choose_settings(network, epochs, minutes)
    folder = Path(f"{out}.run")
    context = open_context(pipeline, quiet=quiet)
    request = {"command": "pretrain", "version": __version__, "input": describe_input(source), **context.request()}
    started = perf_counter()
    with Run.open(folder, request) as run:
        trained, held = read_sides(run, source, context)
        work = folder / "body"
        summary = pretrain(trained, held, network, settings, TrainingRun(work, 0, device, threads, quiet))
        if (work / CALIBRATION).is_file():
            note_looks(work, context)
        with replace_folder(out, BODY) as fresh:
            for path in work.iterdir():
                if path.name != CHECKPOINT:
                    shutil.copyfile(path, fresh / path.name)
        shutil.rmtree(work)
        seconds = round(perf_counter() - started, 1)
        outcome = PretrainOutcome(**vars(summary) | {"seconds": seconds}, looked=context.stats.summary())
        run.finish(asdict(outcome))
    return outcome


def read_sides(run: Run, source: PostsSource, context: ExtractionContext) -> tuple[list[pa.Table], list[pa.Table]]:
    """Return the posts to train on and those held out, with what their pictures say and their vectors.

    Raises RequestError for fewer than five posts.
    """
    parts = ingest(run, source, None, context.quiet)
    link_and_look(run, parts, context)
    tables = [table for part in parts for table in read_part(run, part, context, None, with_vectors=True)]
    post_ids = [post_id for table in tables for post_id in table["post_id"].to_pylist()]
    is_held = draw_valid(post_ids, [""] * len(post_ids), np.ones(len(post_ids), bool))
    if not is_held.any():
        raise RequestError(f"{len(post_ids):,} posts to pretrain on, expected at least five, and better many thousands")
    masks = np.split(is_held, np.cumsum([len(table) for table in tables])[:-1])
    pairs = list(zip(tables, masks, strict=True))
    trained = [table.filter(pa.array(~mask)) for table, mask in pairs]
    return trained, [table.filter(pa.array(mask)) for table, mask in pairs]
