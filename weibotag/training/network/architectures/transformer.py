"""A transformer over text and pictures, of which published ones are presets (`settings.PRESETS`)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.features.post_arrays import MOST_CELLS, MOST_CHARACTERS, MOST_GRIDS
from weibotag.training.network.architectures.network import AttentionLayer, Network, Shape, pool_mean
from weibotag.training.network.settings import TransformerOptions

HEADS = 4
# Numbers of the embeddings of inputs, by `TransformerOptions.segments`.
SEGMENTS = {
    "inputs": {"text": 0, "print": 1, "pictures": 2, "names": 3},
    "sides": {"text": 0, "print": 0, "pictures": 1, "names": 0},
}
# An input's tokens (n, t, width), and their mask (n, t).
Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Encoded:
    """What a transformer makes of a batch: `first` (n, width) for the whole post, `tokens` (n, t, width), `mask` (n, t).

    `spans` has the slice of t of each input that the network keeps as tokens: "text", "print", "words", "pictures",
    "patches".
    """

    first: Tensor
    tokens: Tensor
    mask: Tensor
    spans: dict[str, slice]


class CrossLayer(nn.Module):
    """Each of two streams asks the other (keys and values swapped), then itself.

    A co-attention layer (Lu et al., 2019), or with `is_shared` a cross-modality layer (Tan and Bansal, 2019), whose
    attention across has the same weights in both directions and no feed-forward part.
    """

    def __init__(self, width: int, dropout: float, is_shared: bool) -> None:
        super().__init__()
        layer = partial(AttentionLayer, width, HEADS, dropout)
        self.across = nn.ModuleList([layer(feeds=not is_shared) for _ in range(1 if is_shared else 2)])
        self.within = nn.ModuleList([layer(), layer()])

    def forward(self, language: Tensor, vision: Tensor, language_mask: Tensor, vision_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams (n, t, width) after this layer."""
        language, vision = self.across[0](language, vision, vision_mask), self.across[-1](vision, language, language_mask)
        return self.within[0](language, language, language_mask), self.within[1](vision, vision, vision_mask)


class Transformer(Network):
    """A network whose tokens know each other: it can be trained on posts without tags, too (`pretraining`).

    A token is what it says + its kind + its place in the text or in its picture.
    """

    def __init__(self, shape: Shape, options: TransformerOptions) -> None:
        super().__init__(shape)
        width, self.options = shape.width, options
        self.project = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.vector, width))
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.places, self.segments = nn.Embedding(MOST_CHARACTERS, width), nn.Embedding(4, width)
        # Small, or what a token says would drown in where it stands.
        for table in (self.places, self.segments):
            nn.init.normal_(table.weight, std=0.02)
        self.print_place = nn.Linear(5, width, bias=False)
        if options.whole == "text":
            # As in VL-BERT: what is added to every character begins at nothing, or the text would drown in it.
            self.at_text = nn.LayerNorm(width)
            nn.init.zeros_(self.at_text.weight)
        if options.patches:
            self.project_patch = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.patch, width))
            self.cells = nn.Embedding(MOST_GRIDS * MOST_CELLS + 1, width, padding_idx=0)
            nn.init.normal_(self.cells.weight, std=0.1)
        layer = partial(AttentionLayer, width, HEADS, shape.dropout / 3)
        self.text_layers = nn.ModuleList([layer() for _ in range(options.text_layers)])
        self.picture_layers = nn.ModuleList([layer() for _ in range(options.picture_layers)])
        if options.streams == "one":
            self.layers = nn.ModuleList([layer() for _ in range(options.layers)])
        else:
            # A stream without any token would give padding to whoever asks it.
            self.scene = nn.Parameter(torch.randn(1, 1, width) * 0.1)
            meet = partial(CrossLayer, width, shape.dropout / 3, options.streams == "cross-modality")
            self.layers = nn.ModuleList([meet() for _ in range(options.layers)])
        self.norm, self.norm_last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = self.make_heads(2 * width, shape)

    def read(self, batch: dict[str, Tensor]) -> tuple[dict[str, Part], dict[str, Part]]:
        """Return the tokens of each input before the first layer: language ("post" is for all), and vision."""
        options = self.options
        text, print_ = (self._at_places(tokens) for tokens in (self.read_text(batch), self.text(batch["print"])))
        names = torch.stack([self.author(batch["author"]), self.channel(batch["channel"])], dim=1)
        named = torch.stack([batch["author"], batch["channel"]], dim=1) > 0
        meaning, known = self.read_meaning(batch)
        pictures, seen = self.project(batch["pictures"]), batch["seen"]
        whole = pool_mean(pictures, seen).unsqueeze(1)
        boxes = batch["word_boxes"] if options.boxes else torch.zeros_like(batch["word_boxes"])
        words = self.words(batch["words"], batch["word_kinds"], boxes)
        if options.boxes:
            print_ = print_ + self.print_place(batch["print_boxes"])
        if options.whole == "text":
            text = text + self.at_text(whole)
        if options.mentions == "place":
            words = words + self._places_of(batch["word_mentions"])
        post = self.first.expand(text.shape[0], -1, -1), torch.ones_like(named[:, :1])
        language = {
            "post": post,
            "text": (text + self._segment("text"), batch["text"] > 0),
            "print": (print_ + self._segment("print"), batch["print"] > 0),
            "names": (names + self._segment("names"), named),
            "meaning": (meaning.unsqueeze(1), known.unsqueeze(1)),
        }
        vision = {"words": (words, batch["words"] > 0), "pictures": (pictures + self._segment("pictures"), seen)}
        if options.streams != "one":
            scene = self.scene + whole if options.whole == "first" else self.scene.expand_as(post[0])
            vision = {"scene": (scene, post[1]), **vision}
        if options.mentions == "fuse":
            self._fuse(batch, language, vision)
        if options.patches:
            self._cut_up(batch, vision)
        return language, vision

    def _at_places(self, tokens: Tensor) -> Tensor:
        return torch.add(tokens, self.places(torch.arange(tokens.shape[1], device=tokens.device)))

    def _places_of(self, mentions: Tensor) -> Tensor:
        """Return the embeddings of places in the text (from 1), zeros for 0."""
        return torch.mul(self.places((mentions - 1).clamp(min=0)), (mentions > 0).unsqueeze(-1))

    def _segment(self, name: str) -> Tensor | float:
        """Return the embedding of an input, 0 where inputs have none."""
        kind = self.options.segments
        return 0.0 if kind == "none" else self.segments.weight[SEGMENTS[kind][name]]

    def _fuse(self, batch: dict[str, Tensor], language: dict[str, Part], vision: dict[str, Part]) -> None:
        """Add a word, with the vector of its picture, and a character of print to the character of the text that mentions
        it, and mask it where it was.
        """
        pictures, seen = vision["pictures"]
        words, mask = vision["words"]
        # A word that stands in no picture gets the zeros in front.
        vectors = functional.pad(pictures * seen.unsqueeze(-1), (0, 0, 1, 0))
        words = words + vectors.gather(1, batch["word_pictures"].unsqueeze(-1).expand_as(words))
        vision["words"] = words, mask
        text, written = language["text"]
        places = torch.arange(1, text.shape[1] + 1, device=text.device)
        for side, name, mentions in ((vision, "words", "word_mentions"), (language, "print", "print_mentions")):
            tokens, mask = side[name]
            moves = (batch[mentions].unsqueeze(2) == places) & written.unsqueeze(1) & mask.unsqueeze(2)
            text = text + moves.to(tokens.dtype).transpose(1, 2) @ tokens
            side[name] = tokens, mask & ~moves.any(2)
        language["text"] = text, written

    def _cut_up(self, batch: dict[str, Tensor], vision: dict[str, Part]) -> None:
        """Put the patches of each picture that has some in the place of its vector."""
        pictures, seen = vision["pictures"]
        cells = batch["patch_cells"]
        there = (cells > 0) & seen.any(1, keepdim=True)
        patches = self.project_patch(batch["patches"]) + self.cells(cells) + self._segment("pictures")
        numbers = torch.arange(seen.shape[1], device=seen.device)
        parted = (((cells - 1) // MOST_CELLS).unsqueeze(2) == numbers) & there.unsqueeze(2)
        vision["patches"], vision["pictures"] = (patches, there), (pictures, seen & ~parted.any(1))

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """Return the tokens of a batch after all layers."""
        sides = self.read(batch)
        spans, end = {}, 0
        for name, (_, mask) in (sides[0] | sides[1]).items():
            spans[name] = slice(end, end := end + mask.shape[1])
        # Each side is joined by itself: lengths that the exporter took for numbers would stand in its file.
        (language, language_mask), (vision, vision_mask) = (self._join(side) for side in sides)
        mask = torch.cat([language_mask, vision_mask], dim=1)
        for layer in self.text_layers:
            language = layer(language, language, language_mask)
        for layer in self.picture_layers:
            vision = layer(vision, vision, vision_mask)
        if self.options.streams == "one":
            tokens = torch.cat([language, vision], dim=1)
            for layer in self.layers:
                tokens = layer(tokens, tokens, mask)
        else:
            for layer in self.layers:
                language, vision = layer(language, vision, language_mask, vision_mask)
            tokens = torch.cat([language, vision], dim=1)
        tokens = self.norm_last(tokens)
        first = tokens[:, 0]
        if self.options.pool == "product":
            first = first * self.norm_last(vision[:, 0])
        return Encoded(first, tokens, mask, spans)

    def _join(self, parts: dict[str, Part]) -> Part:
        tokens, masks = (torch.cat(some, dim=1) for some in zip(*parts.values(), strict=True))
        return self.dropout(self.norm(tokens)), masks

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch: heads over what is pooled and the mean of all tokens."""
        encoded = self.encode(batch)
        vector = self.dropout(torch.cat([encoded.first, pool_mean(encoded.tokens, encoded.mask)], dim=1))
        return {name: head(vector) for name, head in self.heads.items()}
