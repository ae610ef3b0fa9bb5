"""Joins what the store knows of pictures to the posts that show them: wordings, and the vectors that networks read."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.coverage import mark_files, mark_posts
from weibotag.extraction.ingest import read_links
from weibotag.extraction.picture_words import VectorWords
from weibotag.extraction.stats import ExtractionStats
from weibotag.features.post_arrays import collect_vectors
from weibotag.features.wordings import Findings, collect_wordings
from weibotag.posts.supplied_words import add_given
from weibotag.runtime.run_folder import Run
from weibotag.vision.face_gallery import name_faces, open_gallery

# Posts whose pictures' findings are in memory at once.
ROWS = 5_000


def add_findings(
    posts: pa.Table,
    links: pa.Table,
    context: ExtractionContext,
    stats: ExtractionStats,
    words: VectorWords | None,
    with_vectors: bool = False,
) -> pa.Table:
    """Return a posts table with the columns `wordings` and `wordings_error`, and where a network reads them `vectors`.

    Then the column `looked` has, as bits in the order of the fingerprints, the stages that have seen all its pictures, and
    `pictured` tells whether it has any. `words` says what vectors say; nothing where it is None.
    """
    post_ids, files = posts["post_id"].combine_chunks(), links["file_id"].drop_null()
    media = context.store.read("media", context.media, files)
    frames = media.filter(pc.is_null(media["media_error"]))["media_id"]
    read_vectors = with_vectors or words is not None
    found = {name: read_found(name, frames, context) for name in context.fingerprints if name != "embed" or read_vectors}
    vector_words = {} if words is None or "embed" not in found else words.find(found["embed"])
    if with_vectors:
        if "embed" in found:
            vectors = collect_vectors(post_ids.to_pylist(), links, media, found["embed"])
            posts = posts.append_column("vectors", vectors)
        missing = (frames.filter(pc.invert(pc.is_in(frames, table["media_id"]))) for table in found.values())
        bits, has = mark_posts(post_ids, links, mark_files(pc.unique(files), media, missing), context.every_bit)
        posts = posts.append_column("looked", pa.array(bits)).append_column("pictured", pa.array(has))
    found.pop("embed", None)
    expected = () if context.partial or stats.late else ("media", *found)
    wordings = collect_wordings(post_ids.to_pylist(), links, Findings(media, found, vector_words, stats.unseen, expected))
    for name in ("wordings", "wordings_error"):
        posts = posts.append_column(wordings.schema.field(name), wordings[name])
    return posts


def read_found(stage: str, media_ids: pa.Array | pa.ChunkedArray, context: ExtractionContext) -> pa.Table:
    """Return what a stage found in these pictures, in the schema of the stage; faces with their names by the gallery."""
    found = context.store.read(stage, context.fingerprints[stage], media_ids)
    if stage != "faces" or context.pipeline.gallery is None:
        return found
    return name_faces(found, open_gallery(context.pipeline.gallery))


def read_part(
    run: Run,
    part: str,
    context: ExtractionContext,
    stats: ExtractionStats,
    words: VectorWords | None,
    with_vectors: bool = False,
) -> Iterator[pa.Table]:
    """Give the posts of a part with what was found in their pictures (see `add_findings`), some at a time.

    Words that the posts bring along (`Pipeline.words`) are among the wordings. Without those columns where no post of the
    part has pictures.
    """
    posts = pq.read_table(run.path("posts", part))
    links = read_links(run, part)
    for start in range(0, len(posts), ROWS):
        some = posts.slice(start, ROWS)
        if len(links):
            own = links.filter(pc.is_in(links["post_id"], some["post_id"].combine_chunks()))
            some = add_findings(some, own, context, stats, words, with_vectors)
        yield add_given(some, context.pipeline.words)
