"""The order of things for `pretrain`."""

import shutil
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from weibotag import __version__
from weibotag.core.errors import ModelError, RequestError
from weibotag.core.files import replace_folder
from weibotag.extraction.context import open_context
from weibotag.extraction.ingest import ingest
from weibotag.extraction.post_table import gather_part
from weibotag.extraction.schedule import link, look
from weibotag.extraction.settings import Pipeline
from weibotag.posts.source import PostsSource, describe_input, refuse_outputs
from weibotag.runtime.run_folder import Run
from weibotag.taggers.match_model import CALIBRATION
from weibotag.training.dataset import draw_valid
from weibotag.training.network.loop import CHECKPOINT, CURVES, Settings
from weibotag.training.network.pretrained import ABOUT
from weibotag.training.network.pretraining import check_network, log, pretrain
from weibotag.workflows.similarity import note_looks


def pretrain_posts(
    source: PostsSource,
    out: Path,
    pipeline: Pipeline,
    network: str,
    settings: Settings,
    *,
    device: str = "auto",
    threads: int = 1,
    store: Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Look at the pictures of posts, pretrain a network on them, put its body in the place of the folder `out`.

    A tenth of the posts, by a hash of the id, is held out to judge by. Returns what body.json says.
    """
    check_network(network)
    strange = out.exists() and not any((out / name).is_file() for name in (ABOUT, CALIBRATION))
    if strange and not (out.is_dir() and not any(out.iterdir())):
        raise ModelError(f"{out}: exists and is no body; give another folder with -o")
    folder = Path(f"{out}.run")
    refuse_outputs(source, out, folder)
    context = open_context(pipeline, store, workers, quiet)
    request = {"command": "pretrain", "version": __version__, "input": describe_input(source), **context.request()}
    started = perf_counter()
    with Run.open(folder, request) as run:
        parts = ingest(run, source, None, quiet)
        link(run, parts, context.limits, quiet)
        for fault in look(run, parts, context):
            log.warning("not looked at: %s", fault)
        tables = [table for part in parts for table in gather_part(run, part, context, None, with_vectors=True)]
        post_ids = [post_id for table in tables for post_id in table["post_id"].to_pylist()]
        is_held = draw_valid(post_ids, [""] * len(post_ids), np.ones(len(post_ids), bool))
        sides: tuple[list[pa.Table], list[pa.Table]] = [], []
        for table in tables:
            held, is_held = np.split(is_held, [len(table)])
            for side, mask in zip(sides, (~held, held), strict=True):
                side.append(table.filter(pa.array(mask)))
        if not sum(map(len, sides[1])):
            raise RequestError(f"{len(post_ids):,} posts to pretrain on, expected at least five, and better many thousands")
        work = folder / "body"
        how: dict[str, Any] = {"device": device, "threads": threads, "quiet": quiet}
        about = pretrain(*sides, network, settings, work, **how)
        if (work / CALIBRATION).is_file():
            note_looks(work, context)
        with replace_folder(out) as fresh:
            for path in work.iterdir():
                if path.name not in (CHECKPOINT, CURVES):
                    shutil.copyfile(path, fresh / path.name)
        shutil.rmtree(work)
        about |= {"looked": context.summary(), "seconds": round(perf_counter() - started, 1)}
        run.finish(about)
    return about
