"""The kinds of words that pictures say. A new kind is a line here, and its name in `kinds` of the stage that finds it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """How words of a kind are read.

    `evidence` is what a match counts to the tagger by rules where one in a text counts 1, `trust` what a mention counts as a
    keyword, likewise. `whole`: its words are names, one a wording, and not print to be read. `thing`: they name what is
    seen, which may bear the name of a company or a work but is none.
    """

    evidence: float
    trust: float
    whole: bool = True
    thing: bool = False


# In the order of the numbers that networks learn: a new one comes last. Visual codes are no words, and not among them.
KINDS = {
    "ocr": Kind(0.7, 0.8, whole=False),
    "object": Kind(1.0, 0.8, thing=True),
    "face": Kind(1.5, 0.9),
    "clip": Kind(0.8, 0.3),
    # What a picture looks like as a whole, where that is sure, and where it is not: that is no keyword.
    "looks": Kind(1.0, 0.8, thing=True),
    "guess": Kind(1.0, 0.0, thing=True),
}
LISTED = ", ".join(KINDS)
KEYWORDS = ", ".join(name for name, kind in KINDS.items() if kind.trust)
