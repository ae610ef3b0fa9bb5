"""Words that a model or a taxonomy finds in picture vectors."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.post_table import Coder
from weibotag.features.joint_space import open_zero_shot
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.stage import Wording


def zero_shot_of(taxonomy: Taxonomy, context: ExtractionContext) -> Coder | None:
    """Return the tag names that pictures show, or None where the vectors are in no space with texts."""
    embed: Any = context.stages.get("embed")
    if embed is None or not embed.reads_texts:
        return None

    encode = partial(embed.encode_texts, threads=context.threads * max(1, context.workers))
    return open_zero_shot(taxonomy, context.fingerprints["embed"], encode, context.store.root).words


def join_coders(coders: Sequence[Coder]) -> Coder | None:
    """Return a coder that says all that these say, in their order; None for none."""
    if not coders:
        return None

    def say(table: pa.Table) -> dict[str, list[Wording]]:
        said: dict[str, list[Wording]] = {}
        for coder in coders:
            for media_id, words in coder(table).items():
                said.setdefault(media_id, []).extend(words)
        return said

    return say


def say_codes(codes: dict[str, list[str]]) -> dict[str, list[Wording]]:
    """Return visual codes by media_id as a coder answers."""
    return {media_id: [Wording(word, "code", 1.0) for word in words] for media_id, words in codes.items()}
