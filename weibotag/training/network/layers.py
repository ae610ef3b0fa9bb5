"""The parts that all networks share: embeddings, attention, the head over the tree, losses."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.features.post_arrays import KINDS

# Odd numbers far apart, so that n-grams fall into buckets as if by chance.
STRIDES = (1_000_003, 777_767_777, 2_654_435_761)
# What stands for minus infinity in a softmax: finite, so that a row without any token gives no NaN.
FAR_BELOW = -1e4
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
        self.kinds = nn.Embedding(len(KINDS), width)
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
