"""Networks that fuse text and pictures: what they learn, what they do without, and what runs without torch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core.errors import ModelError, RequestError
from weibotag.core.schema import WORDING, arrow_schema
from weibotag.features.post_batches import (
    INPUTS,
    MOST_CHARACTERS,
    MOST_PICTURES,
    MOST_WORDS,
    PICTURE,
    Features,
    Lexicon,
    collect_vectors,
    join_posts,
)
from weibotag.taxonomy.tree import Tag, Taxonomy

ROOT = Path(__file__).parents[1]
# In one branch each: what only the picture says, only the text, only the print, and only text and picture together.
IDS = ("看", "看/红", "看/蓝", "说", "说/猫", "说/狗", "印", "印/茶", "印/奶", "合", "合/甲", "合/乙", "合/丙", "合/丁")
TREE = Taxonomy([Tag(tag, tag[0] if "/" in tag else None, tag, (), (), line) for line, tag in enumerate(IDS, start=2)])
NETWORKS = ("concat", "hma", "single-stream")
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


def labelled(features: Features, table: pa.Table) -> Any:
    from weibotag.training.dataset import gold_matrix
    from weibotag.training.network.fit import Labelled

    return Labelled(features.encode(table), gold_matrix([table], TREE))


def quick(**others: Any) -> Any:
    from weibotag.training.network.fit import Settings

    return Settings(**{"epochs": 10, "patience": 10, "batch": 16, "width": 32, "lr": 4e-3, "dropout": 0.1, **others})


def teach(network: str, folder: Path, table: pa.Table, start: Path | None = None, **others: Any) -> dict[str, Any]:
    """Train a network on the posts of a table, a quarter of them held out, from a body if `start` is one."""
    from weibotag.training.network.fit import train_network
    from weibotag.training.network.pretrained import PretrainedNetwork

    cut = len(table) * 3 // 4
    settings = quick(**others)
    features = Features.learn([table.slice(0, cut)])
    if start is not None:
        features = PretrainedNetwork.load(start, network, settings.width).widen(features)
    sides = labelled(features, table.slice(0, cut)), labelled(features, table.slice(cut))
    return train_network(*sides, TREE, features, network, settings, folder, start=start, device="cpu", quiet=True)


@pytest.mark.parametrize("network", NETWORKS)
def test_each_network_learns_what_only_one_modality_or_both_together_say(network: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.taggers.network import FusedTagger
    from weibotag.training.dataset import gold_matrix

    about = teach(network, tmp_path, draw_posts(640, seed=1))
    fresh = draw_posts(200, seed=2)
    tagger = FusedTagger(TREE, tmp_path)
    scores, gold = tagger.scores(fresh).toarray(), gold_matrix([fresh], TREE).toarray() > 0
    right = (scores >= 0.5) == gold
    shares = [float(right[branch::4].all(axis=1).mean()) for branch in range(4)]
    assert min(shares) > 0.85, shares
    assert about["micro_f1"] > 0.9
    for tag, parent in enumerate(TREE.parents):
        assert parent < 0 or (scores[:, tag] <= scores[:, parent]).all()
    with (tmp_path / "losses.csv").open(encoding="utf-8") as file:
        assert len(file.readlines()) == 1 + about["epochs"]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_post_is_scored_the_same_alone_and_among_others_whatever_it_lacks(network: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.taggers.network import FusedTagger

    teach(network, tmp_path, draw_posts(80, seed=1), epochs=1)
    whole = draw_posts(3, seed=3).to_pylist()
    rows = [
        *whole,
        {"text": "爱" * 500, "wordings": [said(f"字{at}", "ocr", [0] * 8) for at in range(300)]},
        {},
        {"wordings": [said("杯子", "object", [5, 5, 20, 20]), said("新", "strange kind")]},
        {"vectors": [picture(np.ones(WIDTH), str(at)) for at in range(12)] + [picture(None)]},
        {"text": "无图", "author": "甲", "channel": "乙"},
    ]
    table = table_of(rows)
    tagger = FusedTagger(TREE, tmp_path)
    together = tagger.scores(table).toarray()
    alone = np.vstack([tagger.scores(table.slice(at, 1)).toarray() for at in range(len(table))])
    turned = tagger.scores(table.take(list(range(len(table)))[::-1])).toarray()[::-1]
    assert np.isfinite(together).all()
    np.testing.assert_allclose(alone, together, atol=1e-4)
    np.testing.assert_allclose(turned, together, atol=1e-4)
    bare = table.select(["post_id", "text", "author", "channel"])
    assert tagger.scores(bare).shape == (len(table), len(TREE))
    assert tagger.scores(table.slice(0, 0)).shape == (0, len(TREE))


@pytest.mark.parametrize("network", (*NETWORKS, "visualbert"))
def test_onnx_agrees_with_torch_on_all_outputs(network: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="networks are trained with torch")
    if network == "visualbert":
        pytest.importorskip("transformers", reason="its body is of transformers")
    from weibotag.training.network.architectures import NETWORKS as KNOWN
    from weibotag.training.network.architectures import Shape
    from weibotag.training.network.fit import export, to_tensors
    from weibotag.vision.backends.onnx_session import open_session

    table = draw_posts(60, seed=4)
    features = Features.learn([table])
    posts = features.encode(table)
    torch.manual_seed(0)
    module = KNOWN[network](Shape.of(features, TREE.parents, tasks={"mood": 3}, width=32))
    export(module, posts, tmp_path / "network.onnx")
    session = open_session(tmp_path / "network.onnx")
    batch = posts.batch(np.arange(11))
    with torch.inference_mode():
        answer = module(to_tensors(batch, torch.device("cpu")))
    names = [one.name for one in session.get_outputs()]
    assert {"tags", "mood"} <= set(names) == set(answer) - {"loss"}
    for name, told in zip(
        names, session.run(None, {one.name: batch[one.name] for one in session.get_inputs()}), strict=True
    ):
        np.testing.assert_allclose(told, answer[name].numpy(), atol=1e-3, err_msg=name)


def test_a_tagger_decides_as_well_from_a_copy_of_its_files(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.taggers.network import FusedTagger
    from weibotag.training.dataset import gold_matrix
    from weibotag.training.network.fit import train_fused

    train, held = (([table], gold_matrix([table], TREE)) for table in (draw_posts(160, seed=9), draw_posts(40, seed=10)))
    tagger, _ = train_fused(train, held, TREE, "concat", quick(epochs=2), tmp_path / "work", device="cpu", quiet=True)
    (tmp_path / "copy").mkdir()
    tagger.save(tmp_path / "copy")
    again = FusedTagger(TREE, tmp_path / "copy")
    assert np.array_equal(again.thresholds, tagger.thresholds)
    assert (again.scores(held[0][0]) != tagger.scores(held[0][0])).nnz == 0
    with pytest.raises(ModelError, match="another number of tags"):
        FusedTagger(Taxonomy(TREE.tags[:3]), tmp_path / "copy")


def test_easy_negatives_cost_little_and_the_tree_holds_in_half_precision() -> None:
    torch = pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.training.network.layers import TreeHead, asymmetric_loss

    log_p = torch.log(torch.tensor([[0.9, 0.99, 0.98, 0.1]]))
    gold = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    plain = torch.nn.functional.binary_cross_entropy(log_p.exp(), gold, reduction="sum")
    assert float(asymmetric_loss(log_p, gold, 0.0)) == pytest.approx(float(plain), rel=1e-4)
    assert float(asymmetric_loss(log_p, gold, 4.0)) < float(plain)
    head = TreeHead(16, TREE.parents)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        scores = head(torch.randn(200, 16) * 5).exp().numpy()
    assert scores.dtype == np.float32
    for tag, parent in enumerate(TREE.parents):
        assert parent < 0 or (scores[:, tag] <= scores[:, parent]).all()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_fusion as t
t.teach("concat", Path(sys.argv[1]), t.draw_posts(240, seed=5), epochs=8, missing=0.3)
"""


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from safetensors.numpy import load_file

    about = teach("concat", tmp_path / "whole", draw_posts(240, seed=5), epochs=8, missing=0.3)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(ROOT / "tests")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    losses = tmp_path / "killed" / "losses.csv"
    try:
        deadline = time.monotonic() + 60
        while not (losses.exists() and len(losses.read_text().splitlines()) > 3) and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = len(losses.read_text().splitlines()) - 1
    assert 3 <= done < 8, "it was killed too early or too late"
    again = teach("concat", tmp_path / "killed", draw_posts(240, seed=5), epochs=8, missing=0.3)
    assert again["micro_f1"] == pytest.approx(about["micro_f1"], abs=5e-4)
    first, second = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "killed"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_another_training_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    table = draw_posts(80, seed=6)
    assert teach("concat", tmp_path, table, epochs=2)["epochs"] == 2
    assert teach("concat", tmp_path, table, epochs=1)["epochs"] == 1
    with pytest.raises(RequestError, match="there are: concat, hma"):
        teach("concta", tmp_path, table)


def test_a_further_task_is_learnt_beside_the_tags(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from dataclasses import replace

    from weibotag.training.network.fit import train_network
    from weibotag.vision.backends.onnx_session import open_session

    table = draw_posts(320, seed=7)
    features = Features.learn([table])
    known = labelled(features, table)
    mood = np.array(["猫" in text for text in table["text"].to_pylist()]).astype(np.int64)
    some = np.where(np.arange(len(mood)) % 3 == 0, -1, mood)
    train_network(
        replace(known, tasks={"mood": some}), known, TREE, features, "hma", quick(), tmp_path, device="cpu", quiet=True
    )
    session = open_session(tmp_path / "network.onnx")
    batch = known.posts.batch(np.arange(len(table)))
    logits, attention = session.run(["mood", "attention_tags"], {one.name: batch[one.name] for one in session.get_inputs()})
    assert (logits.argmax(1) == mood)[np.arange(len(mood)) % 3 == 0].mean() > 0.95
    np.testing.assert_allclose(attention.sum(axis=1), 1, atol=1e-4)


def test_nothing_that_tags_imports_torch() -> None:
    code = "import sys, weibotag.taggers.network, weibotag.features.post_batches; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


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


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 9))
def test_batches_hold_every_post_once_and_masks_are_right(rows: list[dict[str, Any]], size: int, seed: int) -> None:
    table = table_of(rows)
    features = Features.learn([table])
    if len(features.mean) == 1:
        features = Features.learn([table_of([{"vectors": [picture(np.ones(3))]}])])
    posts = join_posts([features.encode(table.slice(0, 1)), features.encode(table.slice(1))])
    for batches in (posts.order(size, seed), list(posts.shelves(size))):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows)))
        assert max(map(len, batches)) <= size
    assert all(map(np.array_equal, posts.order(size, seed), posts.order(size, seed)))
    batch = posts.batch(np.arange(len(rows)))
    assert tuple(batch) == INPUTS
    for at, row in enumerate(rows):
        seen = min(MOST_PICTURES, sum(one["vector"] is not None for one in row["vectors"]))
        lines = [one["word"] for one in row["wordings"] if one["kind"] == "ocr"]
        assert batch["seen"][at].tolist() == [True] * seen + [False] * (batch["seen"].shape[1] - seen)
        for name, length in (
            ("text", min(MOST_CHARACTERS, len(row["text"]))),
            ("print", min(MOST_CHARACTERS, sum(map(len, lines)) + len(lines))),
            ("words", min(MOST_WORDS, len(row["wordings"]) - len(lines))),
        ):
            assert ((batch[name][at] > 0) == (np.arange(batch[name].shape[1]) < length)).all()
        assert (batch["author"][at] > 0) == bool(row["author"])
    for name in ("print_boxes", "word_boxes"):
        assert ((batch[name] >= 0) & (batch[name] <= 1)).all()
    assert not batch["pictures"][~batch["seen"]].any()
    lengths, seen_of = ((part > 0).sum(axis=1, keepdims=True) for part in (batch["text"], batch["seen"]))
    for name, most in (("word_mentions", lengths), ("print_mentions", lengths), ("word_pictures", seen_of)):
        assert ((batch[name] >= 0) & (batch[name] <= most)).all()


def test_boxes_are_measured_in_their_picture() -> None:
    rows = [
        {
            "wordings": [
                said("杯子", "object", [20, 10, 100, 50]),
                said("茶", "ocr", [0, 0, 200, 0, 200, 50, 0, 50]),
                said("杯子", "object", [20, 10, 100, 50], media_id="unknown"),
            ],
            "vectors": [picture(np.ones(3))],
        }
    ]
    table = table_of(rows)
    batch = Features.learn([table]).encode(table).batch(np.array([0]))
    np.testing.assert_allclose(batch["word_boxes"][0], np.array([[0.1, 0.1, 0.6, 0.6, 0.25], [0.0] * 5]), atol=1e-6)
    np.testing.assert_allclose(batch["print_boxes"][0], [[0, 0, 1, 0.5, 0.5]] * 2, atol=1e-6)


def test_features_come_back_from_files(tmp_path: Path) -> None:
    table = draw_posts(40, seed=8)
    features = Features.learn(
        [table, table_of([{"text": "\ud83d半个".encode("utf-16", "surrogatepass").decode("utf-16", "replace")}])]
    )
    features.save(tmp_path)
    again = Features.load(tmp_path)
    first, second = (one.encode(table).batch(np.arange(40)) for one in (features, again))
    assert all(np.array_equal(first[name], second[name]) for name in INPUTS)
    with pytest.raises(ModelError, match="trained on 24"):
        again.encode(table_of([{"vectors": [picture(np.ones(7))]}]))


def test_strange_words_share_buckets_and_never_the_padding() -> None:
    lexicon = Lexicon.learn({"a": 3, "b": 9, "once": 1}, 10, 4)
    assert lexicon.words == ("b", "a")
    assert lexicon.number(["b", "a"]).tolist() == [1, 2]
    strange = lexicon.number([f"{at}" for at in range(50)])
    assert set(strange.tolist()) == {3, 4, 5, 6}
    assert len(lexicon) == 7


def test_vectors_are_collected_by_post() -> None:
    links = pa.table(
        {
            "post_id": ["a", "a", "b", "b"],
            "position": [1, 0, 0, 1],
            "path": ["x"] * 4,
            "file_id": ["f", "g", "f", None],
            "link_error": [None, None, None, "gone"],
        },
        schema=arrow_schema("links"),
    )
    names = ("file_id", "media_id", "frame", "width", "height", "media_error")
    frames = [("f", "f", 0, 4, 3, None), ("g", "g#5", 5, 9, 9, None), ("g", "g", 0, 9, 9, None), ("h", "h", 0, 0, 0, "bad")]
    media = pa.table({name: [row[at] for row in frames] for at, name in enumerate(names)})
    found = pa.table({"media_id": ["g", "f"], "embed_vector": pa.array([[1, 2], [3, 4]], pa.list_(pa.float16()))})
    rows = collect_vectors(["b", "c", "a"], links, media, found).to_pylist()
    assert [[one["media_id"] for one in row] for row in rows] == [["f"], [], ["g", "g#5", "f"]]
    assert rows[2][0] == {"media_id": "g", "width": 9, "height": 9, "vector": [1.0, 2.0], "patches": None}
    assert rows[2][1]["vector"] is None
    cells = pa.array([[[1, 1], [2, 2]], [[3, 3], [4, 4]]], pa.list_(pa.list_(pa.float16())))
    parted = collect_vectors(["b", "c", "a"], links, media, found.append_column("embed_patches", cells)).to_pylist()
    assert [[one["patches"] and one["patches"][0] for one in row] for row in parted] == [[[3, 3]], [], [[1, 1], None, None]]
