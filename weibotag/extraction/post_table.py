"""What the store knows of pictures, joined to the posts that show them: wordings, vectors, and which stages have looked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.coverage import mark_files, mark_posts
from weibotag.extraction.findings import read_findings
from weibotag.extraction.ingest import read_links, read_part_posts
from weibotag.features.post_arrays import collect_vectors
from weibotag.features.visual_codes import Codebook, ZeroShot, open_zero_shot
from weibotag.features.wordings import Findings, collect_wordings
from weibotag.posts.supplied_words import add_given
from weibotag.runtime.run_folder import Run
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.embed import Embed
from weibotag.vision.stage import Wording

# Posts whose pictures' findings are in memory at once.
ROWS = 5_000


@dataclass(frozen=True)
class VectorWords:
    """What the vectors of pictures say; `learnt` has the codes of pictures that a codebook was learnt from, by media_id."""

    zero_shot: ZeroShot | None
    codebook: Codebook | None
    learnt: Mapping[str, Sequence[str]]

    def find(self, table: pa.Table) -> dict[str, list[Wording]]:
        """Return the words by media_id for a table of schema "embed": names of tags, then codes."""
        words = {} if self.zero_shot is None else self.zero_shot.words(table)
        known = pc.is_in(table["media_id"], pa.array(list(self.learnt), pa.string()))
        codes = {media_id: self.learnt[media_id] for media_id in table.filter(known)["media_id"].to_pylist()}
        if self.codebook is not None:
            codes |= self.codebook.code_table(table.filter(pc.invert(known)))
        for media_id, own in codes.items():
            words.setdefault(media_id, []).extend(Wording(code, "code", 1.0) for code in own)
        return words


def open_vector_words(
    taxonomy: Taxonomy,
    codebook: Codebook | None,
    context: ExtractionContext,
    learnt: Mapping[str, Sequence[str]] | None = None,
) -> VectorWords | None:
    """Return what the vectors say by a codebook and by the names of the tags; None where they can't say anything."""
    embed = context.stages.get("embed")
    zero_shot = None
    if isinstance(embed, Embed) and embed.reads_texts:
        encode = partial(embed.encode_texts, threads=context.threads * max(1, context.workers))
        zero_shot = open_zero_shot(taxonomy, context.fingerprints["embed"], encode, context.store.root)
    return None if zero_shot is None and codebook is None else VectorWords(zero_shot, codebook, learnt or {})


def add_findings(
    run: Run,
    posts: pa.Table,
    links: pa.Table,
    context: ExtractionContext,
    words: VectorWords | None,
    with_vectors: bool = False,
) -> pa.Table:
    """Return posts of a run with the columns `wordings` and `wordings_error`, and where a network reads them `vectors`.

    Then the column `looked` has, as bits in the order of the fingerprints, the stages that have seen all its pictures, and
    `pictured` tells whether it has any. `words` says what vectors say; nothing where it is None.
    """
    read_vectors = with_vectors or words is not None
    embed = context.stages.get("embed")
    tells_classes = isinstance(embed, Embed) and embed.tells_classes
    names = [name for name in context.fingerprints if name != "embed" or read_vectors or tells_classes]
    links, media, found = read_findings(run, links, context, names)
    post_ids, files = posts["post_id"].combine_chunks(), links["file_id"].drop_null()
    frames = media.filter(pc.is_null(media["media_error"]))["media_id"]
    vector_words = {} if words is None or "embed" not in found else words.find(found["embed"])
    if with_vectors:
        if "embed" in found:
            vectors = collect_vectors(post_ids.to_pylist(), links, media, found["embed"])
            posts = posts.append_column("vectors", vectors)
        missing = (frames.filter(pc.invert(pc.is_in(frames, table["media_id"]))) for table in found.values())
        bits, has = mark_posts(post_ids, links, mark_files(pc.unique(files), media, missing), context.every_bit)
        posts = posts.append_column("looked", pa.array(bits)).append_column("pictured", pa.array(has))
    if "embed" in found:
        # What the vectors say is known; whether there are any is not.
        found["embed"] = found["embed"].select(["media_id", "embed_classes", "embed_error"])
    expected = () if context.partial or context.stats.late else ("media", *found)
    known = Findings(media, found, vector_words, context.stats.unseen, expected)
    wordings = collect_wordings(post_ids.to_pylist(), links, known)
    for name in ("wordings", "wordings_error"):
        posts = posts.append_column(wordings.schema.field(name), wordings[name])
    return posts


def read_part(
    run: Run, part: str, context: ExtractionContext, words: VectorWords | None, with_vectors: bool = False
) -> Iterator[pa.Table]:
    """Give the posts of a part with what was found in their pictures (see `add_findings`), some at a time.

    Words that the posts bring along (`Pipeline.words`) are among the wordings. Without those columns where no post of the
    part has pictures.
    """
    posts = read_part_posts(run, part)
    links = read_links(run, part)
    for start in range(0, len(posts), ROWS):
        some = posts.slice(start, ROWS)
        if len(links):
            own = links.filter(pc.is_in(links["post_id"], some["post_id"].combine_chunks()))
            some = add_findings(run, some, own, context, words, with_vectors)
        yield add_given(some, context.pipeline.words)
