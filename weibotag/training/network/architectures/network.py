"""What every network of the fused tagger has: the embeddings of its inputs, and its heads."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from weibotag.features.post_batches import LEXICONS, VECTORS, Features
from weibotag.training.network.architectures.encoder import TextEncoder
from weibotag.training.network.layers import NgramEmbedding, TokenEmbedding, TreeHead


@dataclass(frozen=True)
class Shape:
    """What a network is built for: sizes of its inputs, the tree, and classes by the name of each further task.

    The last of the `characters` and of the `words` stands for what is masked in pretraining.
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
    def of(cls, features: Features, parents: np.ndarray, **others: Any) -> "Shape":
        """Return the shape for features; `others` are further fields."""
        characters, words, authors, channels = (len(features.lexicons[name]) for name in LEXICONS)
        vector, patch = (len(features.standards[name].mean) for name in VECTORS)
        sizes = characters + 1, words + 1, authors, channels, vector
        return cls(*sizes, parents, patch, encoder=features.encoder, **others)


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
        encoder = self.encoder
        read: Tensor = self.text(batch["text"]) if encoder is None else encoder(batch["tokens"], batch["token_of"])
        return read

    def make_heads(self, width: int, shape: Shape) -> nn.ModuleDict:
        """Return a head for tags and one for each task, over vectors of `width`."""
        heads = {"tags": TreeHead(width, shape.parents)} | {name: nn.Linear(width, n) for name, n in shape.tasks.items()}
        return nn.ModuleDict(heads)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        raise NotImplementedError
