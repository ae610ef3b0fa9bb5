"""What every network of the fused tagger has: embeddings of its inputs, heads, a language model that reads for it."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.features.post_batches import LEXICONS, VECTORS, Features
from weibotag.training.network.layers import NgramEmbedding, TokenEmbedding, TreeHead
from weibotag.vision.backends.transformers_model import find_folder, load_pretrained

# What of an encoder is trained, and its learning rate as a share of the network's own.
RATES = {"frozen": 0.0, "full": 0.02, "lora": 0.25}
RANK = 8


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


class TextEncoder(nn.Module):
    """The states of an encoder of transformers (BERT and its like), each at the characters of its token.

    `training` says what of it is trained with the network: "frozen", nothing; "full", all its weights; "lora", low-rank
    additions to its linear layers (LoRA, Hu et al., 2022), which `merge` adds to the weights for good.
    """

    def __init__(self, name: str, width: int, training: str = "frozen") -> None:
        """Load a model from a folder or hf:owner/name; raises RequestError where there is none."""
        super().__init__()
        folder, _ = find_folder(name)
        self.model: Any = load_pretrained(folder, "AutoTokenizer", "AutoModel", attn_implementation="eager")[1]
        self.rate = RATES[training]
        self.model.requires_grad_(training == "full")
        if training == "lora":
            from peft import LoraConfig, get_peft_model

            with warnings.catch_warnings():
                # It asks transformers for something by its older name.
                warnings.simplefilter("ignore", FutureWarning)
                self.model = get_peft_model(self.model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
        self.project = nn.Linear(self.model.config.hidden_size, width)

    def train(self, mode: bool = True) -> "TextEncoder":
        """Set the mode; a frozen model stays as in use."""
        super().train(mode)
        self.model.train(mode and self.rate > 0)
        return self

    def merge(self) -> None:
        """Make an encoder with low-rank additions one without, that answers the same."""
        if hasattr(self.model, "merge_and_unload"):
            self.model = self.model.merge_and_unload()

    def forward(self, tokens: Tensor, token_of: Tensor) -> Tensor:
        """Return (n, t, width) for tokens (n, k) and the token of each character (n, t), both from 1; zeros for 0."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.rate > 0):
            states = self.model(input_ids=(tokens - 1).clamp(min=0), attention_mask=(tokens > 0).long()).last_hidden_state
        states = functional.pad(self.project(states), (0, 0, 1, 0))
        return states.gather(1, token_of.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
