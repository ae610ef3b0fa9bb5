"""What all networks share: layers, losses, embeddings of their inputs, heads, a language model that reads for them."""

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.features.post_arrays import TOKENS
from weibotag.features.post_batches import LEXICONS, VECTORS, Features
from weibotag.vision.backends.transformers_model import find_folder, load_pretrained

# What of an encoder is trained, and its learning rate as a share of the network's own.
RATES = {"frozen": 0.0, "full": 0.02, "lora": 0.25}
RANK = 8
# Odd numbers far apart, so that n-grams fall into buckets as if by chance.
STRIDES = (1_000_003, 777_767_777, 2_654_435_761)
# What stands for minus infinity in a softmax: finite, so that a row without any token gives no NaN.
FAR_BELOW = -1e4
# The deviation of weights that make a text's vector, half of unit length, as long as what characters start with.
MEANING = 0.2
# A probability is kept this far below 1, because log(1 - p) has an end.
EDGE = -1e-6


class NgramEmbedding(nn.Module):
    """Characters to vectors: each place is the mean of its character, bigram and trigram, those two hashed.

    The n-grams of fastText (Joulin et al., 2017), kept at their places so that they can be attended to.
    """

    def __init__(self, characters: int, width: int, buckets: int, orders: int = 3) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width, padding_idx=0)
        self.ngrams = nn.Embedding(buckets, width)
        self.orders = orders
        self.buckets = buckets
        nn.init.normal_(self.characters.weight, std=0.1)
        nn.init.normal_(self.ngrams.weight, std=0.1)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return (n, t, width) for numbers of characters (n, t), 0 where there is none."""
        total = self.characters(numbers)
        hashed = numbers * STRIDES[0]
        for order in range(1, self.orders):
            before = functional.pad(numbers, (order, 0))[:, : numbers.shape[1]]
            hashed = hashed + before * STRIDES[order]
            total = total + self.ngrams(hashed % self.buckets)
        return torch.mul(total / self.orders, (numbers > 0).unsqueeze(-1))


class TokenEmbedding(nn.Module):
    """Whole words to vectors: the word, its kind, and where in the picture it stands (x1/W, y1/H, x2/W, y2/H, area)."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.kinds = nn.Embedding(len(TOKENS), width)
        self.place = nn.Linear(5, width, bias=False)
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.normal_(self.kinds.weight, std=0.1)

    def forward(self, numbers: Tensor, kinds: Tensor, boxes: Tensor) -> Tensor:
        """Return (n, w, width) for words and kinds (n, w) and boxes (n, w, 5)."""
        embedded = self.words(numbers) + self.kinds(kinds) + self.place(boxes)
        return torch.mul(embedded, (numbers > 0).unsqueeze(-1))


def pool_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (n, width) of the tokens (n, t, width) where `mask` (n, t) holds; zeros for none."""
    kept = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * kept).sum(1) / kept.sum(1).clamp(min=1)


def attend(scores: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of tokens (n, t, width) by the softmax of scores (n, t) where `mask` (n, t) holds, and that softmax.

    Both are zeros for a row without tokens.
    """
    attention = torch.softmax(scores.float().masked_fill(~mask, FAR_BELOW), dim=1) * mask
    return (attention.unsqueeze(-1) * tokens).sum(1), attention


class AttentionPooling(nn.Module):
    """Tokens to one vector by a learnt kernel q: p_j = q . z_j, a = softmax(p), sum of a_j z_j (Zhang et al., 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return (n, width), zeros for a row without tokens, and the attention a (n, t)."""
        return attend(self.kernel(tokens).squeeze(-1), tokens, mask)


class AttentionLayer(nn.Module):
    """One layer of a transformer, normed first: tokens ask other tokens (their own, or another stream's).

    With `feeds` a feed-forward part follows.
    """

    def __init__(self, width: int, heads: int, dropout: float, feeds: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_others = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        feed = nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width), nn.Dropout(dropout)
        self.after = nn.Sequential(nn.LayerNorm(width), *feed) if feeds else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        """Return (n, t, width) for tokens (n, t, width) that ask `others` (n, o, width) where `mask` (n, o) holds."""
        own, asked = self.norm(tokens), self.norm_others(others)
        query, key, value = (self._split(part) for part in (self.query(own), self.key(asked), self.value(asked)))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        attention = torch.softmax(scores.masked_fill(~mask[:, None, None, :], FAR_BELOW), dim=-1)
        # Shapes are left to -1, because the exporter would write the example's into the file.
        mixed = (self.dropout(attention) @ value).transpose(1, 2).flatten(2)
        tokens = tokens + self.dropout(self.out(mixed))
        return tokens if self.after is None else tokens + self.after(tokens)

    def _split(self, part: Tensor) -> Tensor:
        return torch.unflatten(part, 2, (self.heads, -1)).transpose(1, 2)


class TreeHead(nn.Module):
    """One vector to log-probabilities of tags: each is that of the tag given its parent, times its parent's.

    So no child is above its parent, by construction (the WordTree of Redmon and Farhadi, 2017, for tags that may be true
    together). `parents` is int (tags,), -1 for a channel.
    """

    path: Tensor

    def __init__(self, width: int, parents: np.ndarray) -> None:
        super().__init__()
        self.own = nn.Linear(width, len(parents))
        path = torch.eye(len(parents))
        here = parents.copy()
        while (here >= 0).any():
            rows = np.flatnonzero(here >= 0)
            path[rows, here[rows]] = 1
            here[rows] = parents[here[rows]]
        self.register_buffer("path", path.T.contiguous(), persistent=False)

    def forward(self, vector: Tensor) -> Tensor:
        """Return log p (n, tags) float32, at most 0."""
        # In half precision the sums along a path would put a child above its parent.
        with torch.autocast(vector.device.type, enabled=False):
            # The exporter writes logsigmoid as log(sigmoid(x)), which is -inf from -90 on.
            return -functional.softplus(-self.own(vector.float())) @ self.path


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
    meaning: int = 1
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
        return cls(*sizes, parents, patch, max(1, features.blocks.width), encoder=features.encoder, **others)


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
        self.meaning = nn.Linear(shape.meaning, shape.width, bias=False)
        nn.init.normal_(self.meaning.weight, std=MEANING)
        self.dropout = nn.Dropout(shape.dropout)

    def read_text(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the text's characters as vectors (n, t, width): of n-grams, or of the states of the encoder."""
        encoder = self.encoder
        read: Tensor = self.text(batch["text"]) if encoder is None else encoder(batch["tokens"], batch["token_of"])
        return read

    def read_meaning(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what the whole text means (n, width), and for which posts that is known (n,); zeros for others."""
        known = (batch["meaning"] != 0).any(1) & (batch["text"] > 0).any(1)
        return self.meaning(self.dropout(batch["meaning"])) * known.unsqueeze(1), known

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


def asymmetric_loss(log_p: Tensor, gold: Tensor, ease: float) -> Tensor:
    """Return the asymmetric loss (Ridnik et al., 2021, "Asymmetric Loss For Multi-Label Classification"), mean over posts.

    Positives (`gold` 1) cost -log p, negatives (0) -p^ease log(1 - p): easy negatives, most of a long tail, cost next to
    nothing. Of the paper's parts the margin is left out: it brought no micro-F1.
    """
    p = log_p.clamp(max=EDGE).exp()
    # The factor is a weight, not a way to lower the loss.
    negative = -(p.detach() ** ease) * torch.log1p(-p)
    return torch.where(gold == 1, -log_p, negative).sum(1).mean()


def drop_modalities(batch: dict[str, Tensor], rate: float) -> dict[str, Tensor]:
    """Return a batch in which each post's text, print, words, pictures, author and channel are missing at a rate.

    A post that would have nothing left keeps all, so the network learns to do without each but never from nothing.
    """
    parts = ("text", "print", "words", "seen", "author", "channel")
    has = torch.stack([batch[name].reshape(len(batch["author"]), -1).any(1) for name in parts], dim=1)
    kept = torch.rand(has.shape).to(has.device) >= rate
    kept = kept | ~(kept & has)[:, :4].any(1, keepdim=True)
    dropped = dict(batch)
    for number, name in enumerate(parts):
        own = kept[:, number].reshape(-1, *[1] * (batch[name].dim() - 1))
        dropped[name] = batch[name] * own
    return dropped
