"""The words of pictures that a tagger asks for."""

from weibotag.extraction.context import ExtractionContext
from weibotag.extraction.picture_words import join_coders, say_codes, zero_shot_of
from weibotag.extraction.post_table import Coder
from weibotag.taggers.answering import open_model, open_taxonomy
from weibotag.taggers.tagger_ref import TaggerRef


def coder_of(tagger: TaggerRef, context: ExtractionContext) -> Coder | None:
    """Return what vectors say: by the model's codebook, and by the names of its tags where the vectors know texts.

    None where they say nothing to this tagger.
    """

    coders = [zero_shot_of(open_taxonomy(tagger), context)]
    if tagger.route != "rules":
        codebook = open_model(tagger).codebook
        coders.append(None if codebook is None else lambda table: say_codes(codebook.code_table(table)))
    return join_coders([coder for coder in coders if coder is not None])
