"""Do text and pictures belong together? Learnt on posts without tags: true pairs against pairs with others' pictures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional

from weibotag.core.errors import RequestError
from weibotag.core.files import write_json
from weibotag.features.post_batches import INPUTS, Features, Posts, Ragged, join_posts
from weibotag.taggers.match_model import CALIBRATION, MATCH, find_pairs
from weibotag.training.network.architectures import NETWORKS, Shape
from weibotag.training.network.architectures.sm_lstm import SmLstm
from weibotag.training.network.export import export
from weibotag.training.network.fit import BUCKETS, BUCKETS_PER_POST
from weibotag.training.network.loop import Settings, TrainingLoop, digest_of, to_tensors
from weibotag.vision.backends.torch_device import choose_device, limit_threads

# Inputs that are the post's text, author and channel; all others are what its pictures say.
TEXT_SIDE = ("text", "tokens", "token_of", "author", "channel")
PICTURE_SIDE = tuple(name for name in INPUTS if name not in TEXT_SIDE)
# Where text and pictures of one post share a word: with the pictures of another it would tell by itself that they are.
MENTIONS = ("print_mentions", "word_mentions")
# Pairs with another post's pictures for each true one, to learn from and to judge by.
OTHERS = 4
JUDGED = 64
# The share of characters, words and pictures that are left out in training, or rare n-grams would tell pairs by heart.
LEFT_OUT = 0.3
# The network needs a higher rate than a transformer does.
SETTINGS = Settings(epochs=30, patience=4, lr=4e-3, dropout=0.1)


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
        both = _take(posts, find_pairs(posts))
        at, characters = both.text.offsets, both.text.values
        texts = np.array([characters[start:end].tobytes() for start, end in pairwise(at.tolist())], object)
        distinct, keys = np.unique(texts, return_inverse=True)
        if len(distinct) < 2:
            raise RequestError(
                f"{len(both):,} of {len(posts):,} posts have both a text and a picture that says something, and "
                f"{len(distinct):,} different texts: what belongs together is learnt and judged by at least two"
            )
        return cls(both, torch.from_numpy(keys))

    def batch(self, texts: np.ndarray, pictures: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """Return a batch with the texts of some posts and the pictures of others, by their rows."""
        said, shown = self.posts.batch(texts), self.posts.batch(pictures)
        return to_tensors({name: (said if name in TEXT_SIDE else shown)[name] for name in INPUTS}, device)

    def draw(self, seed: int) -> np.ndarray:
        """Return, for each post, its own row and rows of `OTHERS` with another text, int64 (1 + OTHERS, posts)."""
        partners = draw_partners(self.keys, OTHERS, torch.Generator().manual_seed(seed))
        return np.vstack([np.arange(len(self.keys)), partners.T.numpy()])

    def score(self, network: nn.Module, pictures: np.ndarray, missing: float = 0.0) -> Tensor:
        """Return the logits of the pairs that `draw` gave, or some columns of it, in its shape.

        `missing` is the share of characters, words and pictures that are left out.
        """
        device = next(network.parameters()).device
        batch = self.batch(np.tile(pictures[0], len(pictures)), pictures.ravel(), device)
        if missing:
            for name in ("text", "print", "words", "seen"):
                batch[name] = batch[name] * (torch.rand(batch[name].shape).to(device) >= missing)
        logits: Tensor = network(batch)["match"].float().reshape(pictures.shape)
        return logits


def _take(posts: Posts, chosen: np.ndarray) -> Posts:
    """Return the posts where `chosen` holds."""

    def take(part: Ragged) -> Ragged:
        offsets = np.concatenate([[0], np.cumsum(part.lengths[chosen])])
        return Ragged(offsets, part.values[np.repeat(chosen, part.lengths)])

    parts = {name: getattr(posts, name) for name in INPUTS if name != "seen"}
    taken: Any = {name: take(part) if isinstance(part, Ragged) else part[chosen] for name, part in parts.items()}
    return replace(posts, **taken)


def draw_partners(keys: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return for each of n keys the places of `count` with another key (there is one), drawn evenly, int64 (n, count)."""
    order = torch.argsort(keys, stable=True)
    first, last = (torch.searchsorted(keys[order], keys, right=right) for right in (False, True))
    alike = (last - first)[:, None]
    drawn = (torch.rand(len(keys), count, generator=generator, dtype=torch.float64) * (len(keys) - alike)).long()
    # Those with the same key stand together: what is drawn skips them.
    return order[drawn + alike * (drawn >= first[:, None])]


class Matching(nn.Module):
    """What a network answers to the question alone: "match", and what it attended to; it is told of no mentions."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Answer for a batch."""
        answer = self.network(batch | {name: torch.zeros_like(batch[name]) for name in MENTIONS})
        return {name: told for name, told in answer.items() if name == "match" or name.startswith("attention_")}


def train_matching(
    trained: Sequence[pa.Table],
    held: Sequence[pa.Table],
    network: str,
    settings: Settings,
    folder: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a network that answers "match" on posts without tags, export it with its features, return figures.

    `trained` and `held` are tables as `features.read` takes them. Each true pair is told from those with the pictures of
    `OTHERS` posts by the logistic loss, which separated held pairs better than the paper's ranking loss with the hardest of
    them. The best epoch is that of the highest AUC over held pairs. Of the settings epochs, patience, minutes, batch, lr,
    weight_decay, width and dropout count. After each epoch all that is needed to go on lies in `folder`. Raises RequestError
    for a network without such an answer, and for posts that make no pairs.
    """
    if network not in NETWORKS or not issubclass(NETWORKS[network], SmLstm):
        raise RequestError(f"no network {network!r} that learns to match text and pictures; there is: sm-lstm")
    limit_threads(threads)
    place = choose_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    features = Features.learn(trained)
    posts, others = (join_posts([features.encode(table) for table in tables]) for tables in (trained, held))
    pairs, judged = Pairs.of(posts), Pairs.of(others)
    shape = Shape.of(
        features,
        np.full(1, -1),
        width=settings.width,
        dropout=settings.dropout,
        buckets=int(np.clip(BUCKETS_PER_POST * len(posts), *BUCKETS)),
    )
    module = Matching(NETWORKS[network](shape)).to(place)
    course = TrainingLoop(module, settings, pairs.posts, seed, "auc")

    @lru_cache(maxsize=1)
    def draw(epoch: int) -> np.ndarray:
        return pairs.draw(100_003 * seed + epoch)

    def losses(rows: np.ndarray, step: int) -> dict[str, Tensor]:
        logits = pairs.score(module, draw(course.epoch)[:, rows], LEFT_OUT)
        return {"match": functional.softplus(-logits[0]).mean() + functional.softplus(logits[1:]).mean()}

    digest = digest_of(settings, ["matching", network, seed], (pairs.posts, judged.posts))
    course.run(losses, lambda: {"auc": judge(module, judged)[0]}, folder, digest, f"training {network} to match", quiet)
    features.save(folder)
    about = {
        "network": network,
        "epochs": course.epoch,
        "seconds": round(course.seconds, 1),
        "settings": asdict(settings),
        "seed": seed,
        "pairs": {"train": len(pairs.posts), "valid": len(judged.posts)},
    }
    return export_match(module, pairs.posts, folder, judged.posts, about)


def judge(network: nn.Module, pairs: Pairs) -> tuple[float, np.ndarray]:
    """Return the chance that a true pair is above one with another's pictures (AUC), and the logits (1 + OTHERS, posts)."""
    from sklearn.metrics import roc_auc_score

    network.eval()
    drawn = pairs.draw(0)
    with torch.inference_mode():
        starts = range(0, drawn.shape[1], JUDGED)
        logits = np.hstack([pairs.score(network, drawn[:, start : start + JUDGED]).cpu().numpy() for start in starts])
    return round(float(roc_auc_score(_is_true(logits), logits.ravel())), 6), logits


def _is_true(logits: np.ndarray) -> np.ndarray:
    return np.arange(logits.size) < logits.shape[1]


def export_match(
    network: nn.Module, posts: Posts, folder: Path, valid_posts: Posts, about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write match.onnx and match.json for a network that answers "match"; return what match.json says, `about` included.

    The file answers "match" (n,), a logit. Its calibration (Platt, 1999) is learnt on pairs of `valid_posts`, true ones and
    others weighing the same: sigmoid(slope * logit + offset) is the probability of a true pair at odds of one to one.
    Raises RequestError for held posts that make no pairs.
    """
    from sklearn.linear_model import LogisticRegression

    pairs = Pairs.of(valid_posts)
    module = network if isinstance(network, Matching) else Matching(network)
    export(module, posts, folder / MATCH)
    auc, logits = judge(module, pairs)
    is_true = _is_true(logits)
    fitted = LogisticRegression(C=1e4).fit(logits.reshape(-1, 1), is_true, np.where(is_true, OTHERS, 1.0))
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    # What separates nothing says nothing: never that what fits less is likelier.
    calibration = {"slope": slope, "offset": offset} if slope > 0 else {"slope": 0.0, "offset": 0.0}
    about = {**(about or {}), "auc": auc, "odds": 1.0, **calibration}
    write_json(about, folder / CALIBRATION)
    return about
