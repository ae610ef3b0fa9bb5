"""Small posts for networks: what only the picture, the text, the print, or text and picture together tell of them."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from weibotag.core.schema import WORDING
from weibotag.features.dense_blocks import NOTHING, DenseBlocks
from weibotag.features.post_arrays import PICTURE
from weibotag.features.post_batches import Features
from weibotag.taxonomy.tree import Tag, Taxonomy

ROOT = Path(__file__).parents[1]
# In one branch each: what only the picture says, only the text, only the print, and only text and picture together.
IDS = ("看", "看/红", "看/蓝", "说", "说/猫", "说/狗", "印", "印/茶", "印/奶", "合", "合/甲", "合/乙", "合/丙", "合/丁")
TREE = Taxonomy([Tag(tag, tag[0] if "/" in tag else None, tag, (), (), line) for line, tag in enumerate(IDS, start=2)])
WIDTH = 24


def said(word: str, kind: str, box: list[float] | None = None, media_id: str = "m") -> dict[str, Any]:
    return {"word": word, "kind": kind, "score": 1.0, "count": 1, "media_id": media_id, "box": box}


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Return a table of posts; rows say what they have of text, author, channel, wordings, vectors, tags."""
    return pa.table(
        {
            "post_id": [str(at) for at in range(len(rows))],
            **{name: pa.array([row.get(name, "") for row in rows], pa.string()) for name in ("text", "author", "channel")},
            "wordings": pa.array([row.get("wordings", []) for row in rows], pa.list_(WORDING)),
            "vectors": pa.array([row.get("vectors", []) for row in rows], pa.list_(PICTURE)),
            "tags": pa.array([row.get("tags") for row in rows], pa.list_(pa.string())),
        }
    )


def picture(vector: np.ndarray | None, name: str = "m") -> dict[str, Any]:
    return {
        "media_id": name,
        "width": 200,
        "height": 100,
        "vector": None if vector is None else vector.astype(np.float16),
    }


def draw_posts(count: int, seed: int) -> pa.Table:
    """Return posts of the four branches in turn; only what a post's branch names tells its tag."""
    draw = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(6, WIDTH))
    rows: list[dict[str, Any]] = []
    for at in range(count):
        branch, side, twist = at % 4, int(draw.integers(2)), int(draw.integers(2))
        tag = IDS[3 * branch + 1 + side + (2 * twist if branch == 3 else 0)]
        looks = {0: side, 1: 2, 2: 3, 3: 4 + side}[branch]
        text = {0: "爱了爱了", 1: f"家里的{'猫狗'[side]}很可爱", 2: "新到的货", 3: f"这是{'东西'[twist]}方"}[branch]
        print_ = {2: ["绿茶", "牛奶"][side]}.get(branch)
        vector = 2 * directions[looks] + draw.normal(size=WIDTH)
        rows.append(
            {
                "text": text + "，" + "好啊吧"[int(draw.integers(3))],
                "wordings": [said(print_, "ocr", [1, 1, 50, 1, 50, 20, 1, 20])]
                if print_
                else [said("人脸", "face", [0, 0, 9, 9])],
                "vectors": [picture(vector)],
                "tags": [tag],
            }
        )
    return table_of(rows)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ROWS = st.fixed_dictionaries(
    {
        "text": WORDS,
        "author": st.sampled_from(["", "甲", "乙"]),
        "wordings": st.lists(
            st.builds(
                said,
                WORDS,
                st.sampled_from(["ocr", "object", "face", "code", "new"]),
                st.one_of(
                    st.none(),
                    st.lists(st.floats(0, 200, width=32), min_size=4, max_size=4),
                    st.lists(st.floats(0, 200, width=32), min_size=8, max_size=8),
                ),
                st.sampled_from(["m", "n"]),
            ),
            max_size=4,
        ),
        "vectors": st.lists(st.just(picture(np.ones(3))) | st.just(picture(None)), max_size=11),
    }
)


def cut_up(vector: Any, name: str, cells: list[Any] | None) -> dict[str, Any]:
    """Return a picture with patches."""
    return {**picture(vector, name), "patches": None if cells is None else [np.float16(cell).tolist() for cell in cells]}


def quick(**others: Any) -> Any:
    """Return settings of a short training."""
    from weibotag.training.network.settings import Settings

    return Settings(**{"epochs": 10, "patience": 10, "batch": 16, "width": 32, "lr": 4e-3, "dropout": 0.1, **others})


def place(folder: Path) -> Any:
    """Return where a training runs that is to be the same every time."""
    from weibotag.training.network.settings import TrainingRun

    return TrainingRun(folder, device="cpu", quiet=True)


def rows_of(table: pa.Table) -> Any:
    """Return labelled posts."""
    from weibotag.training.dataset import Dataset, gold_matrix

    return Dataset([table], gold_matrix([table], TREE))


def teach(network: str, folder: Path, table: pa.Table, start: Path | None = None, **others: Any) -> Any:
    """Train a network on the posts of a table, a quarter of them held out, from a body if `start` is one."""
    from weibotag.training.dataset import NetworkOptions
    from weibotag.training.network.fit import train_fused

    cut = len(table) * 3 // 4
    sides = rows_of(table.slice(0, cut)), rows_of(table.slice(cut))
    return train_fused(*sides, TREE, NetworkOptions(network, start=start), quick(**others), place(folder))[1]


def build(network: str, table: pa.Table, encoder: str = "", blocks: DenseBlocks = NOTHING, **shape: Any) -> tuple[Any, Any]:
    """Return an untrained network and a table's posts."""
    import torch

    from weibotag.training.network.architectures import fusions
    from weibotag.training.network.architectures.network import Shape

    features = Features.learn([table], encoder, blocks)
    torch.manual_seed(0)
    shape = {"width": 32, **shape}
    return fusions.build(network, Shape.of(features, TREE.parents, **shape)).eval(), features.encode(table)


def ask_torch(module: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what a network answers for a batch."""
    import torch

    from weibotag.training.network.loop import to_tensors

    with torch.inference_mode():
        return {name: one.numpy() for name, one in module(to_tensors(batch, torch.device("cpu"))).items()}


def ask_onnx(path: Path, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what an exported network answers for a batch."""
    from weibotag.vision.backends.onnx_session import open_session

    session = open_session(path)
    answers = session.run(None, {one.name: batch[one.name] for one in session.get_inputs()})
    return dict(zip((one.name for one in session.get_outputs()), answers, strict=True))


def measure_probabilities(folder: Path, held: pa.Table, fresh: pa.Table) -> np.ndarray:
    """Return the probabilities of tags of fresh posts, calibrated on held-out ones."""
    from weibotag.scoring.decision import Decision
    from weibotag.taggers.network import NetworkScorer

    scorer = NetworkScorer(TREE, folder)
    decision = Decision.fit(scorer.raw_scores(held), rows_of(held).gold, TREE)
    return decision.scores(scorer.raw_scores(fresh)).toarray()


def are_right(folder: Path, fresh: pa.Table) -> np.ndarray:
    """Return for each post whether the likeliest leaf is the true one."""
    from weibotag.taggers.network import NetworkScorer

    leaves = np.flatnonzero(TREE.parents >= 0)
    gold, scores = rows_of(fresh).gold.toarray(), NetworkScorer(TREE, folder).raw_scores(fresh).toarray()
    return scores[:, leaves].argmax(axis=1) == gold[:, leaves].argmax(axis=1)


# Stops a training in the middle of an epoch, wherever the processes stand: before what it learnt is written.
KILL = """
import os, signal
from weibotag.training.network.loop import TrainingLoop
run_epoch = TrainingLoop.run_epoch
def run_epoch_or_die(loop):
    losses = run_epoch(loop)
    if loop.epoch == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return losses
TrainingLoop.run_epoch = run_epoch_or_die
"""


def kill_between_epochs(code: str, folder: Path, after: int) -> int:
    """Run code that trains in a folder in another process, killed after some epochs; return how many are written."""
    command = [sys.executable, "-c", KILL.format(after=after) + code, str(folder), str(ROOT / "tests")]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    return len((folder / "losses.csv").read_text(encoding="utf-8").splitlines()) - 1
