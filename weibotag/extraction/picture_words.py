"""Words for picture vectors: codes of a codebook, and names of tags where vectors lie in one space with texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from weibotag.extraction.context import ExtractionContext
from weibotag.features.joint_space import ZeroShot, open_zero_shot
from weibotag.features.visual_codes import Codebook
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.embed import Embed
from weibotag.vision.stage import Wording


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
