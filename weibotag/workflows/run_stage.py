"""What pictures say, without tagging: posts in, the findings of one stage, or wordings, out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from weibotag.core.errors import PartialError
from weibotag.core.progress import bar
from weibotag.core.schema import arrow_schema
from weibotag.extraction.context import ExtractionContext, open_context
from weibotag.extraction.ingest import ingest, open_run
from weibotag.extraction.picture_table import list_pictures, pictures_schema
from weibotag.extraction.post_table import Coder, gather_part, read_found
from weibotag.extraction.requests import StageRequest
from weibotag.extraction.schedule import link, look, read_links
from weibotag.extraction.settings import Pipeline
from weibotag.posts.source import PostsSource
from weibotag.posts.writer import write_tables
from weibotag.runtime.run_folder import Run
from weibotag.taggers.tagger_ref import TaggerRef
from weibotag.workflows.picture_words import coder_of

# Pictures whose findings are in memory at once; a vector has some 4 KB.
PICTURE_ROWS = 2_000
WORDINGS = "wordings"


def look_only(request: StageRequest, answer: str, pipeline: Pipeline, tagger: TaggerRef | None = None) -> dict[str, Any]:
    """Look at the pictures of posts and write what `answer` (a stage of `pipeline`, or "wordings") found.

    A stage gives a row of `pictures_schema` per picture or frame, "wordings" a row of that schema per post, with the visual
    codes of the model that `tagger` names. Returns the run's summary. Raises PartialError, after all else is written, when
    a picture could not be looked at.
    """
    context = open_context(pipeline, quiet=request.quiet)
    if answer == WORDINGS:
        coder = None if tagger is None else coder_of(tagger, context)
        schema, list_rows = arrow_schema(WORDINGS), partial(list_wordings, context=context, coder=coder)
    else:
        schema, list_rows = pictures_schema(answer), partial(list_found, context=context, stage=answer)
    asked = None if tagger is None else tagger.request()
    return look_and_list(request.source, request.out, answer, context, list_rows, schema, request.run, asked)


def look_and_list(
    source: PostsSource,
    out: str,
    answer: str,
    context: ExtractionContext,
    list_rows: Callable[[Run, str], Iterable[pa.Table]],
    schema: pa.Schema,
    run_folder: Path | None,
    asked: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Look at the pictures of posts and write the rows that `list_rows` gives for each part; return the run's summary.

    The file has the columns of the first table, or those of `schema` without any. `asked` is what the rows depend on
    besides posts and pictures. Raises PartialError as `look_only` does.
    """
    started = perf_counter()
    with open_run(answer, source, out, context, run_folder, asked) as run:
        parts = ingest(run, source, None, context.quiet, answer)
        link(run, parts, context.limits, context.quiet)
        faults = look(run, parts, context)
        tables = _list_parts(run, parts, answer, context, list_rows)
        first = next(tables, schema.empty_table())
        rows = write_tables(chain([first], tables), out, first.schema.remove_metadata())
        summary = {
            "rows": rows,
            "posts": sum(pq.read_metadata(run.path("posts", part)).num_rows for part in parts),
            "rejects": (run.plan or {}).get("rejects", 0),
            **context.summary(),
            "seconds": round(perf_counter() - started, 3),
            "out": out,
            "run": str(run.folder),
        }
        if faults:
            raise PartialError(
                f"{len(faults)} pictures could not be done, all else is in {out}; "
                f"the same command tries them again; the first: {faults[0]}"
            )
        run.finish(summary)
    return summary


def _list_parts(
    run: Run, parts: list[str], answer: str, context: ExtractionContext, list_rows: Callable[[Run, str], Iterable[pa.Table]]
) -> Iterator[pa.Table]:
    """Give the rows of all parts, some at a time, with a receipt for each part that is through."""
    with bar(len(parts), f"writing {answer}, parts", context.quiet) as progress:
        for part in parts:
            rows = 0
            for table in list_rows(run, part):
                rows += len(table)
                yield table
            run.receipt(answer, part, {"status": "ok", "rows": rows})
            progress.advance()


def list_found(run: Run, part: str, context: ExtractionContext, stage: str) -> Iterator[pa.Table]:
    """Give what a stage found in the pictures of a part's posts, as tables of `pictures_schema`."""
    links = read_links(run, part)
    for start in range(0, len(links), PICTURE_ROWS):
        some = links.slice(start, PICTURE_ROWS)
        media = context.store.read("media", context.media, some["file_id"].drop_null())
        found = read_found(stage, media["media_id"].drop_null(), context)
        yield list_pictures(some, media, found, stage, context.unseen)


def list_wordings(run: Run, part: str, context: ExtractionContext, coder: Coder | None) -> Iterator[pa.Table]:
    """Give the wordings of a part's posts, as tables of schema "wordings"."""
    schema = arrow_schema(WORDINGS)
    for posts in gather_part(run, part, context, coder):
        if WORDINGS not in posts.column_names:
            none = {WORDINGS: [[]] * len(posts), "wordings_error": [None] * len(posts)}
            posts = pa.table({"post_id": posts["post_id"], **none}, schema=schema)
        yield posts.select(schema.names)
