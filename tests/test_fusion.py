"""Networks that fuse text and pictures: what they learn, what they do without, and what runs without torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import slow_but
from fused_posts import (
    ROOT,
    ROWS,
    TREE,
    WIDTH,
    ask_onnx,
    ask_torch,
    build,
    draw_posts,
    kill_between_epochs,
    measure_probabilities,
    picture,
    place,
    quick,
    rows_of,
    said,
    table_of,
    teach,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core.errors import ModelError, RequestError
from weibotag.core.schema import arrow_schema
from weibotag.features.post_arrays import MOST_CHARACTERS, MOST_PICTURES, MOST_WORDS, collect_vectors
from weibotag.features.post_batches import INPUTS, Features, Lexicon
from weibotag.taxonomy.tree import Taxonomy

NETWORKS = ("concat", "hma", "vl-bert")


@pytest.mark.parametrize("network", slow_but(["concat"], NETWORKS))
def test_each_network_learns_what_only_one_modality_or_both_together_say(network: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    about = teach(network, tmp_path, draw_posts(640, seed=1))
    fresh = draw_posts(200, seed=2)
    scores = measure_probabilities(tmp_path, draw_posts(160, seed=3), fresh)
    right = (scores >= 0.5) == (rows_of(fresh).gold.toarray() > 0)
    shares = [float(right[branch::4].all(axis=1).mean()) for branch in range(4)]
    assert min(shares) > 0.85, shares
    assert about.micro_f1 > 0.9
    for tag, parent in enumerate(TREE.parents):
        assert parent < 0 or (scores[:, tag] <= scores[:, parent]).all()
    with (tmp_path / "losses.csv").open(encoding="utf-8") as file:
        assert len(file.readlines()) == 1 + about.epochs


@pytest.mark.parametrize("network", NETWORKS)
def test_a_post_is_scored_the_same_alone_and_among_others_whatever_it_lacks(network: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.taggers.network import NetworkScorer

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
    tagger = NetworkScorer(TREE, tmp_path)
    together = tagger.raw_scores(table).toarray()
    alone = np.vstack([tagger.raw_scores(table.slice(at, 1)).toarray() for at in range(len(table))])
    turned = tagger.raw_scores(table.take(list(range(len(table)))[::-1])).toarray()[::-1]
    assert np.isfinite(together).all()
    np.testing.assert_allclose(alone, together, atol=1e-4)
    np.testing.assert_allclose(turned, together, atol=1e-4)
    bare = table.select(["post_id", "text", "author", "channel"])
    assert tagger.raw_scores(bare).shape == (len(table), len(TREE))
    assert tagger.raw_scores(table.slice(0, 0)).shape == (0, len(TREE))


@pytest.mark.parametrize("network", ("concat", "hma"))
def test_onnx_agrees_with_torch_on_all_outputs(network: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.training.network.export import export

    module, posts = build(network, draw_posts(60, seed=4), tasks={"mood": 3})
    export(module, posts, tmp_path / "network.onnx")
    batch = posts.batch(np.arange(11))
    expected, found = ask_torch(module, batch), ask_onnx(tmp_path / "network.onnx", batch)
    assert {"tags", "mood"} <= set(found) == set(expected) - {"loss"}
    for name, one in found.items():
        np.testing.assert_allclose(one, expected[name], atol=1e-3, err_msg=name)


def test_a_network_answers_as_well_from_a_copy_of_its_files(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.taggers.network import NetworkScorer
    from weibotag.training.dataset import NetworkOptions
    from weibotag.training.network.fit import train_fused

    train, held = rows_of(draw_posts(160, seed=9)), rows_of(draw_posts(40, seed=10))
    tagger, _ = train_fused(train, held, TREE, NetworkOptions(), quick(epochs=2), place(tmp_path / "work"))
    (tmp_path / "copy").mkdir()
    tagger.save(tmp_path / "copy")
    again = NetworkScorer(TREE, tmp_path / "copy")
    assert (again.raw_scores(held.tables[0]) != tagger.raw_scores(held.tables[0])).nnz == 0
    with pytest.raises(ModelError, match="found 14 tags, of 3 beside it"):
        NetworkScorer(Taxonomy(TREE.tags[:3]), tmp_path / "copy")


def test_easy_negatives_cost_little_and_the_tree_holds_in_half_precision() -> None:
    torch = pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.training.network.architectures.network import TreeHead, asymmetric_loss

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
import fused_posts as t
t.teach("concat", Path(sys.argv[1]), t.draw_posts(240, seed=5), epochs=8, missing=0.3)
"""


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    about = teach("concat", tmp_path / "whole", draw_posts(240, seed=5), epochs=8, missing=0.3)
    assert kill_between_epochs(KILLED, tmp_path / "killed", 3) == 3
    again = teach("concat", tmp_path / "killed", draw_posts(240, seed=5), epochs=8, missing=0.3)
    assert (again.micro_f1, again.epochs) == (about.micro_f1, about.epochs)
    for name in ("network.onnx", "features.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_training_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    table = draw_posts(80, seed=6)
    assert teach("concat", tmp_path, table, epochs=2).epochs == 2
    assert teach("concat", tmp_path, table, epochs=1).epochs == 1
    with pytest.raises(RequestError, match="there are: concat, hma"):
        teach("concta", tmp_path, table)


def test_a_further_task_is_learnt_beside_the_tags(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.training.dataset import NetworkOptions
    from weibotag.training.network.fit import train_fused

    table = draw_posts(320, seed=7)
    mood = np.array(["猫" in text for text in table["text"].to_pylist()]).astype(np.int64)
    labels = ["01"[one] for one in mood]
    some = [None if at % 3 == 0 else label for at, label in enumerate(labels)]
    sides = [rows_of(table.append_column("mood", pa.array(own))) for own in (some, labels)]
    train_fused(*sides, TREE, NetworkOptions("hma", tasks={"mood": "mood"}), quick(), place(tmp_path))
    batch = Features.load(tmp_path).encode(table).batch(np.arange(len(table)))
    found = ask_onnx(tmp_path / "network.onnx", batch)
    assert (found["mood"].argmax(1) == mood)[np.arange(len(mood)) % 3 == 0].mean() > 0.95
    np.testing.assert_allclose(found["attention_tags"].sum(axis=1), 1, atol=1e-4)


def test_nothing_that_tags_imports_torch() -> None:
    code = "import sys, weibotag.taggers.network, weibotag.features.post_batches; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 9))
def test_batches_hold_every_post_once_and_masks_are_right(rows: list[dict[str, Any]], size: int, seed: int) -> None:
    table = table_of(rows)
    features = Features.learn([table])
    if len(features.standards["pictures"].mean) == 1:
        features = Features.learn([table_of([{"vectors": [picture(np.ones(3))]}])])
    posts = features.join([table.slice(0, 1), table.slice(1)])
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
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "features.json").write_text('{"characters": {}}', encoding="utf-8")
    with pytest.raises(ModelError, match="made by another version, train it again"):
        Features.load(tmp_path / "older")
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
