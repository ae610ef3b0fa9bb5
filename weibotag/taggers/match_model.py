"""Whether pictures show what texts say: a pretrained matcher's answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit

from weibotag.core.errors import ModelError
from weibotag.features.post_batches import Posts
from weibotag.taggers.network import PostNetwork

MATCH, CALIBRATION = "match.onnx", "match.json"


def find_pairs(posts: Posts) -> np.ndarray:
    """Tell which posts have both a text and pictures that say something, bool (posts,)."""
    print_, words, pictures, text = (posts.parts[name].lengths for name in ("print", "words", "pictures", "text"))
    return np.asarray((text > 0) & (print_ + words + pictures > 0))


class Matcher:
    """A network that was trained to match text and pictures, in a folder of `weibotag pretrain`. Needs no torch."""

    def __init__(self, folder: Path) -> None:
        self.about = read_match(folder)
        self.network = PostNetwork(folder / MATCH)

    def measure(self, table: pa.Table) -> np.ndarray:
        """Return the calibrated probability that text and pictures are of one post, at odds of one to one, float64 (posts,).

        NaN where a post has no text or no picture that says something.
        """
        posts = self.network.features.encode(table)
        is_pair = find_pairs(posts)
        both = np.flatnonzero(is_pair)
        similarity = np.full(len(posts), np.nan)
        for rows, (logits,) in self.network.ask(posts.take(is_pair), ["match"]):
            similarity[both[rows]] = expit(self.about["slope"] * logits.astype(np.float64) + self.about["offset"])
        return similarity


def read_match(folder: Path) -> dict[str, Any]:
    """Return what match.json says; raises ModelError for a folder that has no network to match with."""
    try:
        about: dict[str, Any] = json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
        about["slope"], about["offset"], about["stages"], about["fingerprints"], about["media"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder}: has no {CALIBRATION} that can be read ({error}): make one with weibotag pretrain --network sm-lstm"
        ) from error
    return about
