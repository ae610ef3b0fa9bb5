"""What every network of the fused tagger has: the embeddings of its inputs, and its heads."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from weibotag.features.post_batches import MOST_CHARACTERS, Features
from weibotag.training.network.architectures.encoder import TextEncoder
from weibotag.training.network.layers import NgramEmbedding, TokenEmbedding, TreeHead, pool_mean


@dataclass(frozen=True)
class Shape:
    """What a network is built for: sizes of its inputs, the tree, and classes by the name of each further task.

    `encoder` names a language model whose states take the place of a text's characters; for `encoder_training` see
    `TextEncoder`.
    """

    characters: int
    words: int
    authors: int
    channels: int
    vector: int
    parents: np.ndarray
    patch: int = 1
    tasks: dict[str, int] = field(default_factory=dict)
    width: int = 128
    dropout: float = 0.3
    buckets: int = 2**16
    encoder: str = ""
    encoder_training: str = "frozen"

    @classmethod
    def of(cls, features: Features, parents: np.ndarray, **others: object) -> "Shape":
        """Return the shape for features; `others` are further fields."""
        sizes = {name: len(getattr(features, name)) for name in ("characters", "words", "authors", "channels")}
        widths = {"vector": len(features.mean), "patch": len(features.patch_mean)}
        return cls(**sizes, **widths, parents=parents, encoder=features.encoder, **others)  # type: ignore[arg-type]


class Network(nn.Module):
    """What every network has: embeddings of all inputs, and a head for tags and for each further task.

    `forward` returns a dict: "tags" (n, tags) log-probabilities, a task's name (n, classes) logits, "attention_<what>"
    (n, length) weights over an input's tokens, and "loss", a loss of the network's own, where it has one. "share_print" and
    "share_words" (n, length) say how much of all the attention for tags each token got, where a network has such.
    """

    # Whether the tables of characters and words start from vectors that were learnt without tags.
    STARTS_FROM_VECTORS = False
    heads: nn.ModuleDict

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.encoder = TextEncoder(shape.encoder, shape.width, shape.encoder_training) if shape.encoder else None
        self.text = NgramEmbedding(shape.characters, shape.width, shape.buckets)
        self.words = TokenEmbedding(shape.words, shape.width)
        self.author = nn.Embedding(shape.authors, shape.width, padding_idx=0)
        self.channel = nn.Embedding(shape.channels, shape.width, padding_idx=0)
        for table in (self.author, self.channel):
            nn.init.normal_(table.weight, std=0.1)
            table.weight.data[0] = 0
        self.dropout = nn.Dropout(shape.dropout)

    def read_text(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the text's characters as vectors (n, t, width): of n-grams, or of the states of the encoder."""
        if self.encoder is None:
            return self.text(batch["text"])
        return self.encoder(batch["tokens"], batch["token_of"])

    def make_heads(self, width: int, shape: Shape) -> nn.ModuleDict:
        """Return a head for tags and one for each task, over vectors of `width`."""
        heads = {"tags": TreeHead(width, shape.parents)} | {name: nn.Linear(width, n) for name, n in shape.tasks.items()}
        return nn.ModuleDict(heads)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        raise NotImplementedError


@dataclass(frozen=True)
class Encoded:
    """What a transformer makes of a batch: `tokens` (n, t, width), `mask` (n, t), and which of them are an input's.

    `spans` has the slice of t of each input: "text", "print", "words", "pictures" (those that the network keeps as tokens);
    token 0 stands for the whole post.
    """

    tokens: Tensor
    mask: Tensor
    spans: dict[str, slice]


def join_tokens(parts: dict[str, tuple[Tensor, Tensor]]) -> Encoded:
    """Return the tokens (n, t, width) and masks (n, t) of several inputs as one sequence, in their order."""
    ends = np.cumsum([mask.shape[1] for _, mask in parts.values()])
    spans = {
        name: slice(int(end) - mask.shape[1], int(end)) for (name, (_, mask)), end in zip(parts.items(), ends, strict=True)
    }
    tokens, masks = (torch.cat(some, dim=1) for some in zip(*parts.values(), strict=True))
    return Encoded(tokens, masks, spans)


class Transformer(Network):
    """A network whose tokens know each other: it can be trained on posts without tags, too (`pretraining`).

    A token is what it says + its kind + its place in the text or in its picture.
    """

    LAYERS, HEADS = 2, 4

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        width = shape.width
        self.project = nn.Sequential(nn.Dropout(shape.dropout), nn.Linear(shape.vector, width))
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.places = nn.Embedding(MOST_CHARACTERS, width)
        self.segments = nn.Embedding(4, width)
        # Small, or what a token says would drown in where it stands.
        for table in (self.places, self.segments):
            nn.init.normal_(table.weight, std=0.02)
        self.print_place = nn.Linear(5, width, bias=False)
        self.norm, self.norm_last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = self.make_heads(2 * width, shape)

    def read(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each input's tokens (n, t, width) before the first layer, and their mask (n, t); "post" is for all."""
        text, print_ = (self._at_places(tokens) for tokens in (self.read_text(batch), self.text(batch["print"])))
        said = torch.stack([self.author(batch["author"]), self.channel(batch["channel"])], dim=1)
        named = torch.stack([batch["author"], batch["channel"]], dim=1) > 0
        first = self.first.expand(text.shape[0], -1, -1)
        return {
            "post": (first, torch.ones_like(named[:, :1])),
            "text": (text + self.segments.weight[0], batch["text"] > 0),
            "print": (print_ + self.print_place(batch["print_boxes"]) + self.segments.weight[1], batch["print"] > 0),
            "names": (said + self.segments.weight[3], named),
            "words": (self.words(batch["words"], batch["word_kinds"], batch["word_boxes"]), batch["words"] > 0),
            "pictures": (self.project(batch["pictures"]) + self.segments.weight[2], batch["seen"]),
        }

    def _at_places(self, tokens: Tensor) -> Tensor:
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        return tokens + self.places(steps)

    def encode(self, batch: dict[str, Tensor]) -> Encoded:
        """Return the tokens of a batch after all layers."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch: heads over the first token and the mean of all."""
        encoded = self.encode(batch)
        vector = self.dropout(torch.cat([encoded.tokens[:, 0], pool_mean(encoded.tokens, encoded.mask)], dim=1))
        return {name: head(vector) for name, head in self.heads.items()}
