"""The networks by name, and what makes published transformers different. Needs no torch."""

from dataclasses import dataclass
from typing import Literal

from weibotag.core.errors import RequestError


@dataclass(frozen=True)
class TransformerOptions:
    """What published transformers over text and pictures do differently.

    `streams`: all tokens in one, or language (text, print, names) and vision (words and pictures) in two, which meet in
    `layers` layers: by co-attention of both and a layer of each after it, or by cross-modality layers, whose attention
    across has the same weights in both directions and no feed-forward part. `text_layers` and `picture_layers` are those of
    each stream before they meet. `whole`: where the mean of a post's pictures goes besides their own tokens: to every
    character of the text, or to the first token of vision. `mentions`: what a picture's word or line of print does where
    the text names it: nothing, it takes the place that the name has in the text, or it is added to the character there and
    is no token of its own. `boxes`: whether tokens know where in their picture they stand. `patches`: whether the cells of a
    picture's grid, in order, are tokens in place of its one vector. `segments`: an embedding for each input, one for
    language and one for vision, or none. `pool`: the first token, or its product with the first of vision.
    """

    streams: Literal["one", "co-attention", "cross-modality"] = "one"
    layers: int = 2
    text_layers: int = 0
    picture_layers: int = 0
    whole: Literal["nowhere", "text", "first"] = "nowhere"
    mentions: Literal["nothing", "place", "fuse"] = "nothing"
    boxes: bool = True
    patches: bool = False
    segments: Literal["inputs", "sides", "none"] = "inputs"
    pool: Literal["first", "product"] = "first"


PRESETS = {
    # Su et al., 2020: the whole picture at every character, boxes, a segment for each input.
    "vl-bert": TransformerOptions(whole="text"),
    # Li et al., 2019: no geometry; a region takes the places of the words that it is aligned with.
    "visualbert": TransformerOptions(mentions="place", boxes=False, segments="sides"),
    # Li et al., 2020: five numbers of a box beside what a region shows.
    "unicoder-vl": TransformerOptions(segments="sides"),
    # Lu et al., 2019: keys and values change sides; the first token shown is the mean of the pictures.
    "vilbert": TransformerOptions("co-attention", text_layers=1, whole="first", segments="none", pool="product"),
    # Tan and Bansal, 2019: words, and objects, are related among themselves first.
    "lxmert": TransformerOptions("cross-modality", text_layers=1, picture_layers=1, segments="none"),
    # Alberti et al., 2019: early fusion.
    "b2t2": TransformerOptions(mentions="fuse"),
    # Gao et al., 2020: patches in order, no detector.
    "fashionbert": TransformerOptions(patches=True, boxes=False, segments="sides"),
}
NETWORKS = ("concat", "hma", "sm-lstm", *PRESETS)
# Names that users may have in their scripts.
ALIASES = {"single-stream": "vl-bert", "two-stream": "vilbert", "early": "b2t2", "patches": "fashionbert"}


def resolve(name: str, known: tuple[str, ...] = NETWORKS, purpose: str = "") -> str:
    """Return the name of a network, an older one's newer; raises RequestError for one that is not among those known."""
    found = ALIASES.get(name, name)
    if found not in known:
        raise RequestError(f"no network {name!r}{purpose}; there are: {', '.join(known)}")
    return found
