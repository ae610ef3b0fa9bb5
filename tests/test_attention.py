"""What networks attend to, as evidence; and the vectors that one starts from."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import ask
from fused_posts import ROWS, TREE, draw_posts, said, table_of, teach
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.features.post_batches import Features

OBJECTS = ("人", "桌子", "椅子", "灯", "墙", "窗", "门", "车")
TELLING = {"tea": "绿茶", "milk": "牛奶", "cat": "小猫", "dog": "小狗"}


@pytest.mark.slow
def test_evidence_names_the_wording_that_a_network_looked_at(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    draw = np.random.default_rng(0)
    rows = ["post_id,text,seen,tags,split"]
    for at in range(300):
        tag = list(TELLING)[at % 4]
        seen = draw.permutation([*draw.choice(OBJECTS, 4, replace=False), TELLING[tag]])
        # Some of those to be tagged show nothing.
        words = "" if at > 280 and at % 5 == 0 else ";".join(seen)
        rows.append(f"{at},分享图片,{words},{tag},{'train' if at < 240 else 'test'}")
    (tmp_path / "posts.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    tree = "id,parent_id,name,keywords\nfood,,食品,\ntea,food,甲,绿茶\nmilk,food,乙,\npet,,宠物,\ncat,pet,丙,\ndog,pet,丁,\n"
    (tmp_path / "tree.csv").write_text(tree, encoding="utf-8")
    base = (str(tmp_path / "posts.csv"), "--store", str(tmp_path / "store"), "-q")
    how = ("--tagger", "fused", "--network", "hma", "--tune-seconds", "0", "--words", "object=seen")
    split = "split='{}'".format
    train = ("-t", str(tmp_path / "tree.csv"), "-o", str(tmp_path / "model"), *how, "--where", split("train"))
    assert (done := ask("train", *base, *train)).exit_code == 0, done.output
    out = tmp_path / "out.parquet"
    done = ask("tag", *base, "-m", str(tmp_path / "model"), "-o", str(out), "--where", split("test"))
    assert done.exit_code == 0, done.output
    told = pq.read_table(out).to_pylist()
    assert not any(row["evidence"] for row in told if not row["seen"])
    told = [row for row in told if row["seen"]]
    first, others = 0, 0
    for row in told:
        tag = list(TELLING)[int(row["post_id"]) % 4]
        by_tag: dict[str, list[str]] = {}
        for one in row["evidence"]:
            by_tag.setdefault(one["tag_id"], []).append(one["word"])
            assert one["kind"] == "object"
        assert all(len(words) == len(set(words)) <= 6 for words in by_tag.values())
        assert list(by_tag) == [one["id"] for one in row["tags"]][: len(by_tag)]
        first += by_tag.get(tag, [""])[0] == TELLING[tag]
        others += by_tag.get(tag, [""])[0] in OBJECTS
    assert first > 0.9 * len(told) and others < 0.1 * len(told)


@pytest.mark.parametrize("network", ("hma", "sm-lstm", "concat"))
def test_attention_is_shared_among_the_wordings_of_each_post_alone(network: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.taggers.network import NetworkScorer

    teach(network, tmp_path, draw_posts(80, seed=1), epochs=1)
    tagger = NetworkScorer(TREE, tmp_path)
    assert tagger.has_attention == (network != "concat")
    if network == "concat":
        return
    many = [said(f"字{at}" * 9, "ocr", [0] * 8) for at in range(60)] + [said(f"物{at}", "object") for at in range(90)]
    rows = [{"text": "爱", "wordings": many}, {}, *draw_posts(3, seed=3).to_pylist(), {"wordings": many[-2:] + many[:2]}]
    table = table_of(rows)
    shares, lengths = tagger.attention(table), [len(row.get("wordings", [])) for row in rows]
    assert shares.shape == (sum(lengths),)
    parts = np.split(shares, np.cumsum(lengths)[:-1])
    for at, part in enumerate(parts):
        assert part.sum() <= 1 + 1e-5
        np.testing.assert_allclose(tagger.attention(table.slice(at, 1)), part, atol=1e-5)
    # What no longer fits into the network got nothing; where only wordings speak, they got all that there is.
    assert parts[0][:4].all() and not parts[0][10:60].any() and parts[0][60:124].all() and not parts[0][124:].any()
    assert parts[-1].all() and (network != "sm-lstm" or parts[-1].sum() == pytest.approx(1, abs=1e-4))


@settings(max_examples=30, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_attention_adds_to_evidence_and_takes_nothing_away(rows: list[dict[str, Any]], seed: int) -> None:
    from scipy.sparse import csr_matrix

    from weibotag.features.vocabulary import Vocabulary, add_attended

    draw = np.random.default_rng(seed)
    rows = [{**row, "wordings": [*row["wordings"], said("绿茶杯", "ocr"), said("红", "object")]} for row in rows]
    table = table_of(rows)
    chosen = csr_matrix(draw.random((len(rows), len(TREE))) * (draw.random((len(rows), len(TREE))) < 0.3), dtype=np.float32)
    shares = draw.random(sum(len(row["wordings"]) for row in rows)).astype(np.float32)
    vocabulary = Vocabulary(TREE)
    before = vocabulary.evidence(table, vocabulary.find(table), chosen)
    after = add_attended(before, table, shares, chosen, TREE)
    assert after.type == before.type
    start = 0
    for post, (row, old, new) in enumerate(zip(rows, before.to_pylist(), after.to_pylist(), strict=True)):
        own = shares[start : start + len(row["wordings"])]
        start += len(own)
        left = [one for one in new if one not in old]
        assert [one for one in new if one in old] == old
        ranked = chosen[post].indices[np.argsort(-chosen[post].data, kind="stable")]
        ids = [TREE.tags[tag].id for tag in ranked]
        assert [ids.index(one["tag_id"]) for one in new] == sorted(ids.index(one["tag_id"]) for one in new)
        for tag in ids:
            added = [one for one in left if one["tag_id"] == tag]
            assert len(added) <= 3
            spoken = {(one["kind"], one["word"], one["media_id"]) for one in row["wordings"]}
            assert {(one["kind"], one["word"], one["media_id"]) for one in added} <= spoken
        if ids and own.max() >= 0.1:
            most = row["wordings"][int(own.argmax())]
            assert any(one["kind"] == most["kind"] and one["word"] in most["word"] for one in new)


def test_vectors_are_learnt_without_tags_and_the_same_every_time() -> None:
    torch = pytest.importorskip("torch", reason="networks are trained with torch")
    from weibotag.training.network.architectures import fusions
    from weibotag.training.network.architectures.network import Shape
    from weibotag.training.network.fit import start_from_vectors

    draw = np.random.default_rng(0)
    topics = ("绿茶牛奶咖啡", "小猫大狗仓鼠")
    rows = [
        {"text": "".join(draw.choice(list(topics[at % 2]), 8)), "wordings": [said(("杯子", "笼子")[at % 2], "object")]}
        for at in range(600)
    ]
    features = Features.learn([table_of(rows)])
    posts = features.encode(table_of(rows))

    def start(posts: Any, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        torch.manual_seed(0)
        network = fusions.build("hma", Shape.of(features, TREE.parents, width=16))
        random = network.text.characters.weight.detach().numpy().copy()
        start_from_vectors(network, posts, seed)
        return random, network.text.characters.weight.detach().numpy(), network.words.words.weight.detach().numpy()

    random, first, words = start(posts, 1)
    assert np.array_equal(first, start(posts, 1)[1]) and not np.array_equal(first, start(posts, 2)[1])
    assert 0.05 < first.std() < 0.2
    # Padding, and what no post has, stay as they were.
    known = 1 + len(features.lexicons["characters"].words)
    assert np.array_equal(first[0], random[0]) and np.array_equal(first[known:], random[known:])
    sides = [features.lexicons["characters"].number(list(topic)) for topic in topics]
    unit = first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-9)
    within, across = (float((unit[sides[0]] @ unit[sides[one]].T).mean()) for one in (0, 1))
    assert within > across + 0.2
    cup = words[features.lexicons["words"].number(["object_杯子"])[0]]
    near = [float((unit[side] @ cup).mean()) for side in sides]
    assert near[0] > near[1]
    nothing, one = (features.encode(table_of([{"text": text}])) for text in ("", "绿"))
    assert np.array_equal(start(nothing, 1)[1], random)
    assert np.isfinite(start(one, 1)[1]).all()
