"""Do text and pictures belong together? Learnt on posts without tags: true pairs against pairs with others' pictures."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.core.errors import RequestError
from weibotag.core.files import write_json
from weibotag.features.post_batches import INPUTS, Posts
from weibotag.taggers.network import CALIBRATION, MATCH, find_pairs
from weibotag.training.network.export import export
from weibotag.training.network.loop import device_of, to_tensors
from weibotag.training.network.settings import Settings

# Inputs that are the post's text, author and channel; all others are what its pictures say.
TEXT_SIDE = ("text", "tokens", "token_of", "meaning", "author", "channel")
PICTURE_SIDE = tuple(name for name in INPUTS if name not in TEXT_SIDE)
# Where text and pictures of one post share a word: with the pictures of another it would tell by itself that they are.
MENTIONS = ("print_mentions", "word_mentions")
# Pairs with another post's pictures for each true one, to learn from and to judge by.
OTHERS = 4
JUDGED = 64
# The share of characters, words and pictures that are left out in training, or rare n-grams would tell pairs by heart.
LEFT_OUT = 0.3
# The network needs a higher rate than a transformer does.
SETTINGS = Settings(epochs=30, patience=8, lr=4e-3, dropout=0.1)


@dataclass(frozen=True)
class Pairs:
    """Posts that have both a text and pictures that say something; equal `keys` (posts,) are equal texts.

    Texts that are the same (分享图片 under thousands of posts) fit each other's pictures as well as their own: they never
    swap pictures, for they would be true pairs that are called false. Texts that differ by a character do swap, and so some
    of what is called false is true: an AUC of 1 is out of reach where texts say little.
    """

    posts: Posts
    keys: Tensor

    @classmethod
    def of(cls, posts: Posts) -> "Pairs":
        """Find the pairs among posts; raises RequestError where no two of them have different texts."""
        both = posts.take(find_pairs(posts))
        text = both.parts["text"]
        texts = np.array([text.values[start:end].tobytes() for start, end in pairwise(text.offsets.tolist())], object)
        distinct, keys = np.unique(texts, return_inverse=True)
        if len(distinct) < 2:
            raise RequestError(
                f"{len(both):,} of {len(posts):,} posts have both a text and a picture that says something, and "
                f"{len(distinct):,} different texts: what belongs together is learnt and judged by at least two"
            )
        return cls(both, torch.from_numpy(keys))

    def batch(self, texts: np.ndarray, pictures: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """Return a batch with the texts of some posts and the pictures of others, by their rows."""
        sides = self.posts.batch(texts), self.posts.batch(pictures)
        return to_tensors({name: sides[name in PICTURE_SIDE][name] for name in INPUTS}, device)

    def draw(self, seed: int) -> np.ndarray:
        """Return, for each post, its own row and rows of `OTHERS` with another text, int64 (1 + OTHERS, posts)."""
        partners = draw_partners(self.keys, OTHERS, torch.Generator().manual_seed(seed))
        return np.vstack([np.arange(len(self.keys)), partners.T.numpy()])

    def score(self, network: nn.Module, pictures: np.ndarray, missing: float = 0.0) -> Tensor:
        """Return the logits of the pairs that `draw` gave, or some columns of it, in its shape.

        `missing` is the share of characters, words and pictures that are left out.
        """
        device = device_of(network)
        batch = self.batch(np.tile(pictures[0], len(pictures)), pictures.ravel(), device)
        if missing:
            for name in ("text", "print", "words", "seen"):
                batch[name] = batch[name] * (torch.rand(batch[name].shape).to(device) >= missing)
        logits: Tensor = network(batch)["match"].float().reshape(pictures.shape)
        return logits


def draw_partners(keys: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return for each of n keys the places of `count` with another key (there is one), drawn evenly, int64 (n, count)."""
    order = torch.argsort(keys, stable=True)
    first, last = (torch.searchsorted(keys[order], keys, right=right) for right in (False, True))
    alike = (last - first)[:, None]
    drawn = (torch.rand(len(keys), count, generator=generator, dtype=torch.float64) * (len(keys) - alike)).long()
    # Those with the same key stand together: what is drawn skips them.
    return order[drawn + alike * (drawn >= first[:, None])]


class AnswerMatch(nn.Module):
    """What a network answers to the question alone: "match", and what it attended to; mentions are hidden from it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        answer = self.network(batch | {name: torch.zeros_like(batch[name]) for name in MENTIONS})
        return {name: found for name, found in answer.items() if name == "match" or name.startswith("attention_")}


class Matching:
    """What a network that answers "match" loses on batches of pairs, and how well it tells held-out pairs apart.

    Each true pair is separated from those with the pictures of `OTHERS` posts by the logistic loss, which did that better
    for held pairs than the paper's ranking loss with the hardest of them.
    """

    aim = "auc"

    def __init__(self, network: nn.Module, learn: Posts, held: Posts, seed: int) -> None:
        self.network: nn.Module = AnswerMatch(network)
        self.pairs, self.held = Pairs.of(learn), Pairs.of(held)
        self.posts = self.pairs.posts
        self.draw = lru_cache(maxsize=1)(lambda epoch: self.pairs.draw(100_003 * seed + epoch))

    def losses(self, rows: np.ndarray, epoch: int, step: int) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        logits = self.pairs.score(self.network, self.draw(epoch)[:, rows], LEFT_OUT)
        return {"match": functional.softplus(-logits[0]).mean() + functional.softplus(logits[1:]).mean()}

    def judge(self) -> dict[str, float]:
        """Return the AUC over held-out pairs."""
        return {"auc": judge_pairs(self.network, self.held)[0]}


def judge_pairs(network: nn.Module, pairs: Pairs) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the chance that a true pair is above one with another's pictures (AUC), the pairs' logits, which are true."""
    from sklearn.metrics import roc_auc_score

    network.eval()
    drawn = pairs.draw(0)
    with torch.inference_mode():
        starts = range(0, drawn.shape[1], JUDGED)
        logits = np.hstack([pairs.score(network, drawn[:, start : start + JUDGED]).cpu().numpy() for start in starts])
    is_true = np.arange(logits.size) < logits.shape[1]
    return round(float(roc_auc_score(is_true, logits.ravel())), 6), logits.ravel(), is_true


def export_match(module: nn.Module, posts: Posts, held: Posts, folder: Path) -> float:
    """Write match.onnx and match.json for a network that answers "match", a logit (n,); return the AUC of held posts.

    Its calibration (Platt, 1999) is learnt on pairs of `held`, true ones and others weighing the same: sigmoid(slope * logit
    + offset) is the probability of a true pair at odds of one to one. Raises RequestError for held posts that make no pairs.
    """
    from sklearn.linear_model import LogisticRegression

    pairs = Pairs.of(held)
    export(module, posts, folder / MATCH)
    auc, logits, is_true = judge_pairs(module, pairs)
    fitted = LogisticRegression(C=1e4).fit(logits.reshape(-1, 1), is_true, np.where(is_true, OTHERS, 1.0))
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    # What separates nothing says nothing: never that what fits less is likelier.
    write_json({"auc": auc, "slope": max(slope, 0.0), "offset": offset if slope > 0 else 0.0}, folder / CALIBRATION)
    return auc
