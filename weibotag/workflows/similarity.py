"""How well the text and the pictures of a post belong together, by a network that learnt it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from weibotag.core.files import sha256_of, write_json
from weibotag.core.schema import arrow_schema
from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.post_table import read_part
from weibotag.extraction.settings import Pipeline, check_looks, look_as_trained
from weibotag.posts.source import PostsSource
from weibotag.runtime.run_folder import Run
from weibotag.taggers.network import CALIBRATION, MATCH, Matcher
from weibotag.workflows.run_stage import StageSummary, look_and_list

SIMILARITY = "similarity"
# A table of posts (see `read_arrays`) to float64 (posts,), NaN where a post has no text or no picture that says something.
Measure = Callable[[pa.Table], np.ndarray]


def note_looks(folder: Path, context: ExtractionContext) -> None:
    """Write into match.json how the pictures were looked at that the network was trained on."""
    about = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
    write_json(about | context.describe(), folder / CALIBRATION)


def measure_similarity(
    source: PostsSource, out: str, model: Path, pipeline: Pipeline, *, run_folder: Path | None = None, quiet: bool = False
) -> StageSummary:
    """Write a row of schema "similarity" for each post to `out`, its other columns after; return the run's summary.

    `model` is a folder with match.onnx. Raises PartialError, after all else is written, when a picture could not be looked
    at.
    """
    matcher = Matcher(model)
    pipeline = look_as_trained(pipeline, matcher.about)
    check_looks(pipeline, matcher.about, model)
    context = open_context(pipeline, quiet=quiet)
    asked = {"model": str(model), "digest": sha256_of(model / MATCH) + sha256_of(model / CALIBRATION)}

    def list_rows(run: Run, part: str) -> Iterator[pa.Table]:
        own = arrow_schema("posts").names
        others = [name for name in pq.read_schema(run.path("posts", part)).names if name not in own]
        for table in read_part(run, part, context, None, with_vectors=True):
            answer = list_similarity(table, matcher.measure)
            for name in others:
                answer = answer.append_column(name, table[name])
            yield answer

    return look_and_list(source, out, SIMILARITY, context, list_rows, arrow_schema(SIMILARITY), run_folder, asked)


def list_similarity(table: pa.Table, measure: Measure) -> pa.Table:
    """Return rows of schema "similarity" for posts."""
    similarity = measure(table)
    faults = table["wordings_error"].to_pylist() if "wordings_error" in table.column_names else [None] * len(table)
    named = table.select(["text", "images", "videos"]).to_pylist()
    errors = [
        _explain(post, fault) if np.isnan(found) else fault
        for post, fault, found in zip(named, faults, similarity.tolist(), strict=True)
    ]
    columns = {
        "post_id": table["post_id"],
        "similarity": pa.array(similarity.astype(np.float32), from_pandas=True),
        "error": pa.array(errors, pa.string()),
    }
    return pa.table(columns, schema=arrow_schema(SIMILARITY))


def _explain(post: dict[str, Any], fault: str | None) -> str:
    """Return why a post has no similarity."""
    if not post["text"]:
        return "no text"
    if not post["images"] and not post["videos"]:
        return "no picture"
    return f"no picture that says anything{f': {fault}' if fault else ''}"
