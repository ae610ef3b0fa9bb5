"""Back from pictures to posts: what the store knows of a post's pictures becomes its wordings."""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.coverage import mark_files, mark_posts
from weibotag.extraction.schedule import read_links
from weibotag.features.post_arrays import collect_vectors
from weibotag.features.wordings import Findings, WordsOfPictures, collect_wordings
from weibotag.posts.supplied_words import add_given
from weibotag.runtime.run_folder import Run
from weibotag.vision.face_gallery import name_faces, open_gallery

# Posts whose pictures' findings are in memory at once.
ROWS = 5_000
# A table of schema "embed" to what its vectors say.
Coder = Callable[[pa.Table], WordsOfPictures]


def gather(
    posts: pa.Table, links: pa.Table, context: ExtractionContext, code: Coder | None, with_vectors: bool = False
) -> pa.Table:
    """Return a posts table with the columns `wordings` and `wordings_error` added, and where a network reads them `vectors`.

    Then the column `looked` has, as bits in the order of the fingerprints, the stages that have seen all its pictures, and
    `pictured` tells whether it has any.
    `code` says what the vectors of a table of schema "embed" say.
    """
    files = links["file_id"].drop_null()
    media = context.store.read("media", context.media, files)
    frames = media.filter(pc.is_null(media["media_error"]))["media_id"]
    findings = {name: read_found(name, frames, context) for name in context.fingerprints if name != "embed"}
    said: WordsOfPictures = {}
    if "embed" in context.fingerprints and (code is not None or with_vectors):
        embedded = read_found("embed", frames, context)
        said = {} if code is None else code(embedded)
        if with_vectors:
            vectors = collect_vectors(posts["post_id"].to_pylist(), links, media, embedded)
            posts = posts.append_column("vectors", vectors)
            findings["embed"] = embedded
    if with_vectors:
        missing = (frames.filter(pc.invert(pc.is_in(frames, findings[name]["media_id"]))) for name in context.fingerprints)
        looked = mark_files(pc.unique(files), media, missing)
        bits, has = mark_posts(posts["post_id"].combine_chunks(), links, looked, (1 << len(context.fingerprints)) - 1)
        posts = posts.append_column("looked", pa.array(bits)).append_column("pictured", pa.array(has))
        findings.pop("embed", None)
    expected = () if context.sparing or context.late else ("media", *findings)
    known = Findings(media, findings, said, context.unseen, expected)
    wordings = collect_wordings(posts["post_id"].to_pylist(), links, known)
    for name in ("wordings", "wordings_error"):
        posts = posts.append_column(wordings.schema.field(name), wordings[name])
    return posts


def read_found(stage: str, media_ids: pa.Array | pa.ChunkedArray, context: ExtractionContext) -> pa.Table:
    """Return what a stage found in these pictures, in the schema of the stage; faces with their names by the gallery."""
    found = context.store.read(stage, context.fingerprints[stage], media_ids)
    if stage != "faces" or context.pipeline.gallery is None:
        return found

    return name_faces(found, open_gallery(context.pipeline.gallery))


def gather_part(
    run: Run, part: str, context: ExtractionContext, code: Coder | None, with_vectors: bool = False
) -> Iterator[pa.Table]:
    """Give the posts of a part with their wordings, some at a time; without those columns where no post has pictures.

    Words that the posts bring along (`Pipeline.words`) are among the wordings.
    With `with_vectors` they also have the column `vectors`, which networks read: see `collect_vectors`.
    """
    posts = pq.read_table(run.path("posts", part))
    links = read_links(run, part)
    for start in range(0, len(posts), ROWS):
        some = posts.slice(start, ROWS)
        if len(links):
            own = links.filter(pc.is_in(links["post_id"], some["post_id"].combine_chunks()))
            some = gather(some, own, context, code, with_vectors)
        yield add_given(some, context.pipeline.words)
