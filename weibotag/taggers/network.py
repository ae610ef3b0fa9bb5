"""Networks over text, wordings and picture vectors, on onnxruntime: the fused tagger, and the matcher. Needs no torch."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix
from scipy.special import expit, softmax
from typing_extensions import TypedDict

from weibotag.core.own_files import MOST_TENSORS, Origin, check_digests, check_file, read_json
from weibotag.features.dense_blocks import BLOCKS
from weibotag.features.post_arrays import read_arrays
from weibotag.features.post_batches import FEATURES, INPUTS, STANDARD, Features, Posts
from weibotag.scoring.closure import FLOOR
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.backends.onnx_session import open_session
from weibotag.vision.stage import TrainedLooks

NETWORK, TASKS = "network.onnx", "tasks.json"
# Outputs of a network with attention, and the part of `PostArrays` that tells which wording each of its tokens is of.
SHARES = {"share_print": "print_places", "share_words": "word_places"}
BATCH = 64
MATCH, CALIBRATION = "match.onnx", "match.json"
ORIGIN = Origin("a network for the tags of the taxonomy beside it", "train again")
MATCHER = Origin("a network that matches text and pictures", "make one with weibotag pretrain --network sm-lstm")


class Calibrated(TypedDict):
    """What match.json says once the network is there: its AUC, and that the probability is
    sigmoid(slope * logit + offset).
    """

    auc: float
    slope: float
    offset: float


class MatchAbout(TrainedLooks, Calibrated):
    """match.json: that, how pictures were looked at, and digests of the other files."""

    files: NotRequired[dict[str, str]]


class PostNetwork:
    """A network over posts in a folder: an ONNX file, and the features by which posts become its inputs.

    `widths` has the last dimension of each output. Raises ModelError for what another version wrote.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.path = path
        self.features = Features.load(path.parent)
        check_file(path, ORIGIN, MOST_TENSORS)
        try:
            self._session: Any = open_session(path, threads)
        except Exception as error:
            # onnxruntime has a class of its own for each of its errors.
            raise ORIGIN.fault(path, error) from error
        self._inputs = [one.name for one in self._session.get_inputs()]
        outputs = {one.name: one.shape[-1:] for one in self._session.get_outputs()}
        self.widths = {name: width[0] if width and isinstance(width[0], int) else 0 for name, width in outputs.items()}
        ORIGIN.need(path, set(self._inputs) <= set(INPUTS), "found other inputs than posts have")

    def ask(self, posts: Posts, names: Sequence[str]) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Give the rows of each batch of posts, and the outputs of these names."""
        for rows in posts.shelves(BATCH):
            batch = posts.batch(rows)
            try:
                answers = self._session.run(names, {name: batch[name] for name in self._inputs})
            except Exception as error:
                raise ORIGIN.fault(self.path, error) from error
            for name, answer in zip(names, answers, strict=True):
                whole = answer.dtype == np.float32 and answer.shape[:1] == rows.shape and not np.isnan(answer).any()
                ORIGIN.need(self.path, whole, f"found {name} {answer.dtype} {answer.shape} of {len(rows)} posts")
            yield rows, answers


class NetworkScorer:
    """A trained network in a folder; `tasks` are the names of the classes of each further task that it was trained for."""

    def __init__(self, taxonomy: Taxonomy, folder: Path, threads: int = 1) -> None:
        self.taxonomy, self.folder = taxonomy, folder
        self.network = PostNetwork(folder / NETWORK, threads)
        self.blocks = self.network.features.blocks
        self.has_attention = self.network.widths.keys() >= set(SHARES)
        self.tasks = read_json(folder / TASKS, dict[str, list[str]], ORIGIN)
        widths = {"tags": len(taxonomy)} | {name: len(classes) for name, classes in self.tasks.items()}
        for name, width in widths.items():
            found = self.network.widths.get(name, 0)
            ORIGIN.need(folder / NETWORK, 0 < width == found, f"found {found} {name}, of {width} beside it")

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return the network's own scores, float32 csr_matrix (posts x tags), those above 0.01 (see `read_arrays`)."""
        scores = np.exp(np.minimum(self._answer(table, ["tags"])["tags"], 0))
        scores[scores < FLOOR] = 0
        return csr_matrix(scores)

    def answers(self, table: pa.Table) -> dict[str, tuple[list[str], np.ndarray]]:
        """Return, by task, the likeliest class of each post of `table` and its probability, float32 (posts,)."""
        answered = {}
        for name, logits in self._answer(table, list(self.tasks)).items():
            likely = softmax(logits, axis=1)
            answered[name] = [self.tasks[name][place] for place in likely.argmax(axis=1)], likely.max(axis=1)
        return answered

    def _answer(self, table: pa.Table, names: list[str]) -> dict[str, np.ndarray]:
        """Return outputs of the network, by name, for posts, float32 (posts, width)."""
        if not names:
            return {}
        posts = self.network.features.encode(table)
        found = {name: np.zeros((len(posts), self.network.widths[name]), np.float32) for name in names}
        for rows, answers in self.network.ask(posts, names):
            for name, values in zip(names, answers, strict=True):
                found[name][rows] = values
        return found

    def attention(self, table: pa.Table) -> np.ndarray:
        """Return the share of its post's attention that each wording of `table` got, float32 (wordings,).

        The network must have attention (`has_attention`). What text, pictures, author and channel got is missing from 1.
        """
        arrays = read_arrays(table)
        shares = np.zeros(pc.sum(pc.list_value_length(table["wordings"])).as_py() or 0, np.float32)
        places = [arrays.parts[name] for name in SHARES.values()]
        for rows, found in self.network.ask(self.network.features.number(arrays, table), tuple(SHARES)):
            for place, share in zip(places, found, strict=True):
                at, inside = place.places(rows)
                np.add.at(shares, place.values[at[inside]], share[inside])
        return shares

    def save(self, folder: Path) -> None:
        """Copy the files of the network to another folder, which must exist."""
        for name in (NETWORK, FEATURES, STANDARD, TASKS, *(BLOCKS if self.blocks.width else ())):
            shutil.copyfile(self.folder / name, folder / name)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> Self:
        """Return the network of a folder."""
        return cls(taxonomy, folder)


def find_pairs(posts: Posts) -> np.ndarray:
    """Tell which posts have both a text and pictures that say something, bool (posts,)."""
    print_, words, pictures, text = (posts.parts[name].lengths for name in ("print", "words", "pictures", "text"))
    return np.asarray((text > 0) & (print_ + words + pictures > 0))


class Matcher:
    """A network that was trained to match text and pictures, in a folder of `weibotag pretrain`; ModelError for another."""

    def __init__(self, folder: Path) -> None:
        self.about = read_json(folder / CALIBRATION, MatchAbout, MATCHER)
        if "files" in self.about:
            check_digests(folder, self.about["files"], (MATCH, FEATURES, STANDARD), MATCHER)
        self.network = PostNetwork(folder / MATCH)
        MATCHER.need(folder / MATCH, "match" in self.network.widths, "found no output match")

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
