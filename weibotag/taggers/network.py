"""The fused tagger: a network over text, wordings and picture vectors, on onnxruntime. Needs no torch."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix
from scipy.special import softmax

from weibotag.core.errors import ModelError
from weibotag.features.post_arrays import read_arrays
from weibotag.features.post_batches import FEATURES, STANDARD, Features, Posts
from weibotag.scoring import calibration, thresholds
from weibotag.scoring.blend import FLOOR
from weibotag.scoring.calibration import Calibration
from weibotag.scoring.tagger import raise_parents
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.backends.onnx_session import open_session

NETWORK, DECISIONS, TASKS = "network.onnx", "fused.safetensors", "tasks.json"
# Outputs of a network with attention: how much of it all each character of print, and each word, got.
SHARES = {"share_print": "print_places", "share_words": "word_places"}
BATCH = 64


class FusedTagger:
    """A trained network in a folder, its calibration, and `thresholds`, one per tag (float32), 0.5 until `decide`.

    `tasks` are the names of the classes of each further task that it was trained for.
    """

    def __init__(self, taxonomy: Taxonomy, folder: Path, threads: int = 1) -> None:
        from safetensors.numpy import load_file

        self.taxonomy = taxonomy
        self.folder = folder
        self.features = Features.load(folder)
        self._session: Any = open_session(folder / NETWORK, threads)
        self._asked = [one.name for one in self._session.get_inputs()]
        outputs = {one.name: one.shape[-1] for one in self._session.get_outputs()}
        self.has_attention = outputs.keys() >= set(SHARES)
        if outputs["tags"] != len(taxonomy):
            raise ModelError(f"{folder / NETWORK}: knows another number of tags than the taxonomy beside it: train again")
        self.tasks: dict[str, list[str]] = {}
        if (folder / TASKS).is_file():
            self.tasks = json.loads((folder / TASKS).read_text(encoding="utf-8"))
        self._calibration: Calibration | None = None
        self.thresholds = np.full(len(taxonomy), 0.5, np.float32)
        if (folder / DECISIONS).is_file():
            decisions = load_file(folder / DECISIONS)
            self._calibration = Calibration(decisions["slope"], decisions["offset"])
            self.thresholds = decisions["thresholds"]

    def raw_scores(self, table: pa.Table) -> csr_matrix:
        """Return the network's own scores, float32 csr_matrix (posts x tags), those above 0.01 (see `read_arrays`)."""
        scores = np.exp(self._run(table, {"tags": len(self.taxonomy)})["tags"])
        scores[scores < FLOOR] = 0
        return csr_matrix(scores)

    def answers(self, table: pa.Table) -> dict[str, tuple[list[str], np.ndarray]]:
        """Return, by task, the likeliest class of each post of `table` and its probability, float32 (posts,)."""
        answered = {}
        for name, logits in self._run(table, {name: len(classes) for name, classes in self.tasks.items()}).items():
            likely = softmax(logits, axis=1)
            answered[name] = [self.tasks[name][place] for place in likely.argmax(axis=1)], likely.max(axis=1)
        return answered

    def _run(self, table: pa.Table, widths: dict[str, int]) -> dict[str, np.ndarray]:
        """Return outputs of the network, by name and width, for posts, float32 (posts, width)."""
        if not widths:
            return {}
        posts = self.features.encode(table)
        found = {name: np.zeros((len(posts), width), np.float32) for name, width in widths.items()}
        for rows, answers in self._ask(posts, tuple(widths)):
            for own, values in zip(found.values(), answers, strict=True):
                own[rows] = values
        return found

    def _ask(self, posts: Posts, names: tuple[str, ...]) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        """Give the rows of each batch and the network's outputs of these names."""
        for rows in posts.shelves(BATCH):
            batch = posts.batch(rows)
            yield rows, self._session.run(names, {name: batch[name] for name in self._asked})

    def attention(self, table: pa.Table) -> np.ndarray:
        """Return the share of its post's attention that each wording of `table` got, float32 (wordings,).

        The network must have attention (`has_attention`). What text, pictures, author and channel got is missing from 1.
        """
        arrays = read_arrays(table)
        shares = np.zeros(pc.sum(pc.list_value_length(table["wordings"])).as_py() or 0, np.float32)
        places = [arrays.parts[name] for name in SHARES.values()]
        for rows, found in self._ask(self.features.number(arrays), tuple(SHARES)):
            for place, share in zip(places, found, strict=True):
                at, inside = place.places(rows)
                np.add.at(shares, place.values[at[inside]], share[inside])
        return shares

    def scores(self, table: pa.Table) -> csr_matrix:
        """Return probabilities, float32 csr_matrix (posts x tags), a child's never above its parent's."""
        return self.settle(self.raw_scores(table))

    def settle(self, raw: csr_matrix) -> csr_matrix:
        """Return raw scores calibrated and closed over parents."""
        return raise_parents(self._calibration.apply(raw) if self._calibration else raw, self.taxonomy)

    def decide(self, raw: csr_matrix, gold: csr_matrix) -> None:
        """Learn calibration and thresholds from raw scores and gold tags of held-out rows; write them beside the network."""
        from safetensors.numpy import save_file

        fitted = calibration.fit(raw, gold)
        self._calibration = fitted
        self.thresholds = thresholds.choose(self.settle(raw), gold, self.taxonomy)
        decisions = {"slope": fitted.slope, "offset": fitted.offset, "thresholds": self.thresholds}
        save_file(decisions, self.folder / DECISIONS)

    def save(self, folder: Path) -> None:
        """Copy the files of the network to another folder, which must exist."""
        for name in (NETWORK, FEATURES, STANDARD, TASKS):
            shutil.copyfile(self.folder / name, folder / name)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> "FusedTagger":
        """Return the network of a folder."""
        return cls(taxonomy, folder)
