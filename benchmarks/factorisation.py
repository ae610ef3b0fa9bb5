"""A factorisation machine for many labels, in torch: what exported features are worth is measured with it.

The implementations that are kept (myfm, DeepCTR-Torch, vowpalwabbit) give one answer a row; here every tag is one.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from weibotag.core.arrays import rows_of


class FactorisationMachine(nn.Module):
    """Scores of tags as those of a factorisation machine whose row is the features of a post and one tag.

    w_tag + sum_f x_f w_f + sum_f x_f <v_f, u_tag> + sum_f<g x_f x_g <v_f, v_g>  (Rendle 2010). The features of a
    row are scaled to length 1.
    """

    def __init__(self, features: int, shares: Tensor, width: int) -> None:
        super().__init__()
        self.factors = nn.EmbeddingBag(features, width, mode="sum")
        self.weights = nn.EmbeddingBag(features, 1, mode="sum")
        self.tag_factors = nn.Parameter(torch.randn(len(shares), width) * 0.1)
        # The share of posts that have each tag: a rare tag has little to unlearn.
        self.tag_weights = nn.Parameter(torch.logit(shares))
        nn.init.normal_(self.factors.weight, std=0.1)
        nn.init.zeros_(self.weights.weight)

    def forward(self, places: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """Return logits (posts, tags) of features, their offsets (as of EmbeddingBag) and values."""
        summed = self.factors(places, offsets, per_sample_weights=values)
        squares = nn.functional.embedding_bag(
            places, self.factors.weight**2, offsets, mode="sum", per_sample_weights=values**2
        ).sum(dim=1)
        pairs = ((summed**2).sum(dim=1) - squares) / 2
        own = self.weights(places, offsets, per_sample_weights=values)
        return self.tag_weights + own + pairs[:, None] + summed @ self.tag_factors.T


@dataclass(frozen=True)
class Settings:
    """How a machine is trained; `dropout` is the share of a post's features that are left out each time."""

    width: int = 64
    rate: float = 0.003
    decay: float = 0.1
    dropout: float = 0.3
    epochs: int = 80
    patience: int = 10
    batch: int = 64


Posts = tuple[csr_matrix, csr_matrix]


def batch_of(
    matrix: csr_matrix, rows: np.ndarray, dropout: float, draws: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, offsets and values of some rows, some features left out, each row scaled to length 1."""
    some = matrix[rows]
    kept = draws.random(some.nnz) >= dropout
    at = rows_of(some.indptr)[kept]
    values = some.data[kept].astype(np.float64)
    length = np.sqrt(np.bincount(at, values**2, minlength=len(rows)))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(at, minlength=len(rows)))[:-1]])
    scaled = torch.from_numpy((values / length[at]).astype(np.float32))
    return torch.from_numpy(some.indices[kept].astype(np.int64)), torch.from_numpy(offsets), scaled


def train_and_score(
    learn: Posts, choose: Posts, tested: csr_matrix, settings: Settings, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Train on `learn` (features, tags), as long as the loss on `choose` falls; return logits of `choose` and `tested`, and
    that loss.
    """
    torch.manual_seed(seed)
    draws = np.random.default_rng(seed)
    shares = torch.from_numpy(np.asarray(learn[1].mean(axis=0)).ravel()).float().clamp(1e-4, 1 - 1e-4)
    machine = FactorisationMachine(learn[0].shape[1], shares, settings.width)
    optimiser = torch.optim.AdamW(machine.parameters(), lr=settings.rate, weight_decay=settings.decay)
    loss_of = nn.BCEWithLogitsLoss(reduction="sum")
    best, kept, waited = np.inf, {}, 0
    for _ in range(settings.epochs):
        order = draws.permutation(learn[0].shape[0])
        for start in range(0, len(order), settings.batch):
            rows = order[start : start + settings.batch]
            gold = torch.from_numpy(learn[1][rows].toarray().astype(np.float32))
            loss = loss_of(machine(*batch_of(learn[0], rows, settings.dropout, draws)), gold) / len(rows)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        held = float(loss_of(torch.from_numpy(score(machine, choose[0])), torch.from_numpy(choose[1].toarray()).float()))
        waited += 1
        if held < best:
            best, waited = held, 0
            kept = {name: tensor.clone() for name, tensor in machine.state_dict().items()}
        if waited > settings.patience:
            break
    machine.load_state_dict(kept)
    return score(machine, choose[0]), score(machine, tested), best / choose[0].shape[0]


def score(machine: FactorisationMachine, matrix: csr_matrix) -> np.ndarray:
    """Return logits (posts, tags) float32."""
    draws = np.random.default_rng(0)
    with torch.no_grad():
        return machine(*batch_of(matrix, np.arange(matrix.shape[0]), 0.0, draws)).numpy()
