"""Runs one stage, joins wordings, or measures similarity, without tagging: posts in, a row for each picture or post out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weibotag.core.errors import PartialError
from weibotag.core.files import sha256_of, write_json
from weibotag.core.own_files import list_digests, read_json
from weibotag.core.progress import bar
from weibotag.core.schema import arrow_schema
from weibotag.extraction.context import ExtractionContext, LookSummary, open_context
from weibotag.extraction.findings import read_findings
from weibotag.extraction.ingest import count_posts, ingest, link, open_run, read_links
from weibotag.extraction.post_table import VectorWords, open_vector_words, read_part
from weibotag.extraction.requests import StageRequest
from weibotag.extraction.schedule import look
from weibotag.extraction.settings import Pipeline, check_looks, look_as_trained
from weibotag.features.post_batches import FEATURES, STANDARD
from weibotag.posts.passing import pass_through
from weibotag.posts.source import PostsSource
from weibotag.posts.writer import write_tables
from weibotag.runtime.run_folder import Run
from weibotag.taggers.answering import TaggerRef, open_codebook, open_taxonomy
from weibotag.taggers.network import CALIBRATION, MATCH, MATCHER, Calibrated, MatchAbout, Matcher

# Pictures whose findings are in memory at once; a vector has some 4 KB.
PICTURE_ROWS = 2_000
WORDINGS = "wordings"
# What to do where no reason is known.
AGAIN = "give the same command again"
SIMILARITY = "similarity"
# A table of posts (see `read_arrays`) to float64 (posts,), NaN where a post has no text or no picture that says something.
Measure = Callable[[pa.Table], np.ndarray]


def pictures_schema(stage: str) -> pa.Schema:
    """Return the columns of a stage's output: those of links, then of media, then of the stage, each once."""
    fields = [field for table in ("links", "media", stage) for field in arrow_schema(table)]
    return pa.schema({field.name: field for field in fields}.values())


def list_pictures(links: pa.Table, media: pa.Table, found: pa.Table, stage: str, unseen: Mapping[str, str]) -> pa.Table:
    """Return a row of `pictures_schema` for each frame of each link, in their order; a picture that has none has one row.

    `media` are the frames of the links' files, `found` (schema of the stage) what was seen in them, `unseen` why files were
    not looked at, by file_id.
    """
    frames: dict[str, list[int | None]] = {}
    for row, file_id in enumerate(media["file_id"].to_pylist()):
        frames.setdefault(file_id, []).append(row)
    pairs = [
        (link, frame) for link, file_id in enumerate(links["file_id"].to_pylist()) for frame in frames.get(file_id, [None])
    ]
    link_rows = links.take(pa.array([link for link, _ in pairs], pa.int64()))
    media_rows = media.drop_columns("file_id").take(pa.array([frame for _, frame in pairs], pa.int64()))
    row_of = {media_id: row for row, media_id in enumerate(found["media_id"].to_pylist())}
    seen = pa.array([row_of.get(media_id) for media_id in media_rows["media_id"].to_pylist()], pa.int64())
    found_rows = found.drop_columns("media_id").take(seen)
    columns = {name: table[name] for table in (link_rows, media_rows, found_rows) for name in table.column_names}
    why = pa.array(
        [f"not looked at: {unseen.get(file_id, AGAIN)}" for file_id in columns["file_id"].to_pylist()], pa.string()
    )
    looked, read = pc.is_valid(columns["media_id"]), pc.is_null(columns["media_error"])
    no_frame = pc.and_(pc.is_valid(columns["file_id"]), pc.and_(read, pc.invert(looked)))
    columns["media_error"] = pc.if_else(no_frame, why, columns["media_error"])
    not_found = pc.and_(pc.is_null(seen), pc.and_(read, looked))
    columns[f"{stage}_error"] = pc.if_else(not_found, why, columns[f"{stage}_error"])
    return pa.table(columns).select(pictures_schema(stage).names).cast(pictures_schema(stage))


class StageSummary(LookSummary):
    """What a run came to: rows written, posts read, rows rejected, seconds; where the output and the run folder are."""

    rows: int
    posts: int
    rejects: int
    seconds: float
    out: str
    run: str


# Gives the rows of a part of a run.
RowsOfPart = Callable[[Run, str], Iterable[pa.Table]]


def look_only(request: StageRequest, answer: str, pipeline: Pipeline, tagger: TaggerRef | None = None) -> StageSummary:
    """Look at the pictures of posts and write what `answer` (a stage of `pipeline`, or "wordings") found.

    A stage gives a row of `pictures_schema` per picture or frame, "wordings" a row of that schema per post, with the visual
    codes of the model that `tagger` names. Returns the run's summary. Raises PartialError, after all else is written, when
    a picture could not be looked at.
    """
    context = open_context(pipeline, quiet=request.quiet)
    if answer == WORDINGS:
        words = None if tagger is None else open_vector_words(open_taxonomy(tagger), open_codebook(tagger), context)
        schema, list_rows = arrow_schema(WORDINGS), partial(list_wordings, context=context, words=words)
    else:
        schema, list_rows = pictures_schema(answer), partial(list_found, context=context, stage=answer)
    asked = None if tagger is None else tagger.request()
    return look_and_list(request.source, request.out, answer, context, list_rows, schema, request.run, asked)


def look_and_list(
    source: PostsSource,
    out: str,
    answer: str,
    context: ExtractionContext,
    list_rows: RowsOfPart,
    schema: pa.Schema,
    run_folder: Path | None,
    asked: Mapping[str, object] | None,
) -> StageSummary:
    """Look at the pictures of posts and write the rows that `list_rows` gives for each part; return the run's summary.

    The file has the columns of the first table, or those of `schema` without any. `asked` is what the rows depend on
    besides posts and pictures. Raises PartialError as `look_only` does.
    """
    started = perf_counter()
    with open_run(answer, source, out, context, run_folder, asked) as run:
        parts = ingest(run, source, None, context.quiet, answer)
        link(run, parts, context)
        look(run, parts, context)
        tables = _list_parts(run, parts, answer, context, list_rows)
        first = next(tables, schema.empty_table())
        rows = write_tables(chain([first], tables), out, first.schema.remove_metadata())
        summary: StageSummary = {
            "rows": rows,
            "posts": count_posts(run, parts),
            "rejects": run.rejects,
            **context.stats.summary(),
            "seconds": round(perf_counter() - started, 3),
            "out": out,
            "run": str(run.folder),
        }
        if faults := context.stats.faults:
            raise PartialError(
                f"{len(faults)} pictures could not be done, all else is in {out}; "
                f"the same command tries them again; the first: {next(iter(faults.values()))}"
            )
        run.finish(summary)
    return summary


def _list_parts(
    run: Run, parts: list[str], answer: str, context: ExtractionContext, list_rows: RowsOfPart
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
        some, media, found = read_findings(run, some, context, [stage])
        yield list_pictures(some, media, found[stage], stage, context.stats.unseen)


def list_wordings(run: Run, part: str, context: ExtractionContext, words: VectorWords | None) -> Iterator[pa.Table]:
    """Give the wordings of a part's posts, as tables of schema "wordings"."""
    schema = arrow_schema(WORDINGS)
    for posts in read_part(run, part, context, words):
        if WORDINGS not in posts.column_names:
            none = {WORDINGS: [[]] * len(posts), "wordings_error": [None] * len(posts)}
            posts = pa.table({"post_id": posts["post_id"], **none}, schema=schema)
        yield posts.select(schema.names)


def note_looks(folder: Path, context: ExtractionContext) -> None:
    """Write into match.json how the pictures were looked at that the network was trained on."""
    calibrated = read_json(folder / CALIBRATION, Calibrated, MATCHER)
    about: MatchAbout = {**calibrated, **context.describe(), "files": list_digests(folder, (MATCH, FEATURES, STANDARD))}
    write_json(about, folder / CALIBRATION)


def measure_similarity(
    source: PostsSource, out: str, model: Path, pipeline: Pipeline, *, run_folder: Path | None = None, quiet: bool = False
) -> StageSummary:
    """Write a row of schema "similarity" for each post to `out`, its other columns after; return the run's summary.

    `model` is a folder with match.onnx. Raises PartialError, after all else is written, when a picture could not be looked
    at.
    """
    matcher = Matcher(model)
    pipeline = look_as_trained(pipeline, matcher.about, model)
    check_looks(pipeline, matcher.about, model)
    context = open_context(pipeline, quiet=quiet)
    asked = {"model": str(model), "digest": sha256_of(model / MATCH) + sha256_of(model / CALIBRATION)}

    def list_rows(run: Run, part: str) -> Iterator[pa.Table]:
        for table in read_part(run, part, context, None, with_vectors=True):
            yield pass_through(list_similarity(table, matcher.measure), table)

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


def _explain(post: Mapping[str, object], fault: str | None) -> str:
    """Return why a post has no similarity."""
    if not post["text"]:
        return "no text"
    if not post["images"] and not post["videos"]:
        return "no picture"
    return f"no picture that says anything{f': {fault}' if fault else ''}"
