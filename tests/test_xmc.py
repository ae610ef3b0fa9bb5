import logging
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.core.errors import ModelError, RequestError
from weibotag.core.schema import WORDING
from weibotag.scoring.closure import raise_parents
from weibotag.scoring.decision import GRID, Decision, decide, fit_calibration, micro_f1, shared_f1
from weibotag.taggers import linear_tree as tree_tagger
from weibotag.taggers.linear_tree import XmcScorer
from weibotag.taggers.tagger import Ensemble, Tagger
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.training import linear_tree
from weibotag.training.linear_tree import Members, Needs, fit_memory, train_xmc

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "xmc.py"
THINGS = [
    *("口红", "眼影", "粉底", "腮红", "足球", "网球", "篮球", "羽毛球"),
    *("相机", "手机", "电脑", "耳机", "拉面", "火锅", "烧烤", "寿司"),
]
TREE = Taxonomy(
    [
        *(Tag(name, None, name, (), (), 0) for name in ["美妆", "体育", "数码", "美食"]),
        *(Tag(name, ["美妆", "体育", "数码", "美食"][one // 4], name, (), (), 0) for one, name in enumerate(THINGS)),
        Tag("蹴鞠", "体育", "蹴鞠", ("白打",), (), 0),
    ]
)
COLD = TREE.index["蹴鞠"]


def posts(texts: list[str]) -> pa.Table:
    columns = {"text": texts, "author": [""] * len(texts), "channel": [""] * len(texts)}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def gold(taxonomy: Taxonomy, tags: list[list[str]]) -> csr_matrix:
    rows = [row for row, own in enumerate(tags) for _ in own]
    places = [taxonomy.index[tag] for own in tags for tag in own]
    own = csr_matrix((np.ones(len(rows), np.float32), (rows, places)), shape=(len(tags), len(taxonomy)))
    return raise_parents(own, taxonomy)


SAID = [[one, THINGS[(place + 1) % 16]] if place % 5 == 0 else [one] for place, one in enumerate(THINGS * 6)]
TEXTS = [f"今天的{'和'.join(own)}真好" for own in SAID]
GOLD = gold(TREE, SAID)
TRAINED = train_xmc([posts(TEXTS)], GOLD, TREE)


def first_leaf(scores: csr_matrix, taxonomy: Taxonomy = TREE) -> list[str]:
    return [taxonomy.ids[int(np.argmax(np.where(taxonomy.is_leaf, row, -1)))] for row in scores.toarray()]


def test_it_finds_tags_of_new_posts_along_the_tree() -> None:
    scores = TRAINED.raw_scores(posts(["买了粉底", "看网球", "吃火锅"]))
    assert first_leaf(scores) == ["粉底", "网球", "火锅"]
    assert scores[0, TREE.index["美妆"]] > 0.5 > scores[0, TREE.index["体育"]]


def test_a_tag_without_posts_is_found_by_its_names() -> None:
    assert not GOLD[:, COLD].nnz
    assert first_leaf(TRAINED.raw_scores(posts(["蹴鞠足球", "白打网"]))) == ["蹴鞠"] * 2


def test_without_names_a_tag_without_posts_is_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_tree, "COLD", 0)
    bare = train_xmc([posts(TEXTS)], GOLD, TREE)
    assert not bare.raw_scores(posts(["蹴鞠", "白打", "足球"]))[:, COLD].nnz


def test_siblings_that_are_too_many_are_parted_and_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_tree, "MOST_BELOW", 4)
    flat = Taxonomy([Tag(name, None, name, (), (), 0) for name in THINGS])
    parted = train_xmc([posts(TEXTS)], gold(flat, SAID), flat)
    assert max(map(len, parted.tree.below)) <= 4
    assert len(parted.tree.above) > len(flat)
    for tag in range(len(flat)):
        way = []
        here = tag
        while (here := int(parted.tree.above[here])) >= 0:
            way.append(here)
        assert way and min(way) >= len(flat)
    assert first_leaf(parted.raw_scores(posts(TEXTS[:16])), flat)[1:5] == THINGS[1:5]


def test_the_same_posts_make_the_same_tagger() -> None:
    again = train_xmc([posts(TEXTS[:50]), posts(TEXTS[50:])], GOLD, TREE)
    assert (again.tree.data == TRAINED.tree.data).all()
    assert (again.raw_scores(posts(TEXTS[:9])) != TRAINED.raw_scores(posts(TEXTS[:9]))).nnz == 0


def test_other_processes_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_tree, "FEW_NODES", 0)
    apart = train_xmc([posts(TEXTS)], GOLD, TREE)
    assert (apart.tree.data == TRAINED.tree.data).all()
    assert (apart.tree.indices == TRAINED.tree.indices).all()


def test_posts_of_no_known_word_and_no_posts_are_answered() -> None:
    assert TRAINED.raw_scores(posts([])).shape == (0, len(TREE))
    assert TRAINED.raw_scores(posts(["", "qqq"])).shape == (2, len(TREE))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([*TEXTS, "", "无关 NBA", "口红口红足球"]), min_size=1, max_size=6))
def test_an_answer_depends_on_its_own_post_alone_and_is_closed(texts: list[str]) -> None:
    scores = TRAINED.raw_scores(posts(texts)).toarray()
    alone = np.vstack([TRAINED.raw_scores(posts([text])).toarray() for text in texts])
    np.testing.assert_allclose(scores, alone, atol=1e-6)
    child = np.flatnonzero(TREE.parents >= 0)
    assert (scores[:, child] <= scores[:, TREE.parents[child]] + 1e-6).all()
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_wordings_are_read() -> None:
    said = [{"word": "足球", "kind": "ocr", "score": 1.0, "media_id": "m", "box": None}]
    table = posts(["分享图片"]).append_column("wordings", pa.array([said], pa.list_(WORDING)))
    assert first_leaf(TRAINED.raw_scores(table)) == ["足球"]


def test_few_documents_of_a_frequent_tag_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [np.arange(1000), np.arange(1000, 1010), np.array([5, 1010])]
    both, kept = linear_tree._choose_documents(np.arange(1020), own)
    assert len(both) == 1020
    assert all((one == all_of).all() for one, all_of in zip(kept, own, strict=True))
    monkeypatch.setattr(linear_tree, "MOST_PAIRS", 300)
    both, kept = linear_tree._choose_documents(np.arange(1020), own)
    assert len(both) * 3 <= 300
    assert (kept[1] == own[1]).all()
    assert (kept[2] == own[2]).all()
    # Post 5 is there for the third tag, and has the first one too.
    assert 5 in kept[0]


@given(st.lists(st.sets(st.integers(0, 7), max_size=4), max_size=12))
def test_no_document_has_two_labels_of_one_part(tags: list[set[int]]) -> None:
    at = np.array([row for row, own in enumerate(tags) for _ in own], np.int64)
    labels = np.array([tag for own in tags for tag in sorted(own)], np.int64)
    parts = linear_tree._part_labels(at, labels, 8)
    assert sum(part.astype(int) for part in parts) @ np.ones(8) == len(set(labels.tolist())) if parts else not len(labels)
    for part in parts:
        assert all(part[sorted(own)].sum() <= 1 for own in tags)


def test_members_of_a_group_are_those_of_its_nodes() -> None:
    members = Members(GOLD, TREE)
    members.add(len(TREE), np.array([TREE.index["口红"], TREE.index["足球"]]))
    both = np.flatnonzero(np.asarray(GOLD[:, [TREE.index["口红"], TREE.index["足球"]]].sum(axis=1)).ravel())
    assert members.of(len(TREE)).tolist() == both.tolist()


def test_memory_is_kept_to_by_fewer_weights_then_fewer_posts() -> None:
    needs = Needs(1_000_000, 50, 500_000, 200)
    assert fit_memory(needs, 1e12) == needs
    lighter = fit_memory(needs, needs.bytes - 1)
    assert lighter.weights < needs.weights
    assert lighter.posts == needs.posts
    fewer = fit_memory(needs, 2.5e9)
    assert fewer.posts < needs.posts
    assert fewer.bytes <= 2.5e9
    with pytest.raises(RequestError, match=r"--memory 0.5GB is too little.*at most 1"):
        fit_memory(needs, 5e8)


def test_training_says_what_it_takes_and_takes_fewer_posts(caplog: pytest.LogCaptureFixture) -> None:
    needs = Needs(len(TEXTS), 20, len(TREE), linear_tree.FEWEST_WEIGHTS)
    with caplog.at_level(logging.INFO):
        small = train_xmc([posts(TEXTS)], GOLD, TREE, needs.bytes * 0.99999)
    assert "posts of about" in caplog.text
    assert "GB to train" in caplog.text
    assert len(small.features) <= len(TRAINED.features)


def test_saved_and_loaded_it_answers_alike(tmp_path: Path) -> None:
    raw = TRAINED.raw_scores(posts(TEXTS))
    tagger = Tagger(Ensemble.alone("xmc", TRAINED), Decision.fit(raw, GOLD, TREE, TREE.depth))
    assert tagger.decision.judge(raw, GOLD)["micro_f1"] > 0.9
    tagger.decision.save(tmp_path)
    TRAINED.save(tmp_path)
    loaded = Tagger(Ensemble.alone("xmc", XmcScorer.load(tmp_path, TREE)), Decision.load(tmp_path, TREE))
    assert (loaded.scores(posts(TEXTS)) != tagger.scores(posts(TEXTS))).nnz == 0
    assert (loaded.decision.thresholds == tagger.decision.thresholds).all()
    scores = tagger.scores(posts(TEXTS)).toarray()
    child = np.flatnonzero(TREE.parents >= 0)
    assert (scores[:, child] <= scores[:, TREE.parents[child]]).all()


def test_a_file_that_is_none_or_of_more_tags_is_refused(tmp_path: Path) -> None:
    TRAINED.save(tmp_path)
    with pytest.raises(ModelError, match="expected an xmc model for the tags"):
        XmcScorer.load(tmp_path, Taxonomy([Tag(str(one), None, str(one), (), (), 0) for one in range(999)]))
    (tmp_path / tree_tagger.XMC).write_bytes(b"nothing")
    with pytest.raises(ModelError, match="train again"):
        XmcScorer.load(tmp_path, TREE)


def test_tags_without_held_out_posts_are_calibrated_with_their_band() -> None:
    draw = np.random.default_rng(0)
    scores = np.full((400, 4), 0.5, np.float32)
    right = np.hstack([draw.random((400, 2)) < 0.9, draw.random((400, 1)) < 0.1, np.zeros((400, 1), bool)])
    bands = np.array([0, 0, 1, 0])
    apart = fit_calibration(csr_matrix(scores[:, :3]), csr_matrix(right[:, :3].astype(np.float32)), bands[:3])
    whole = fit_calibration(
        csr_matrix((scores[:, :3].ravel(), np.tile([0, 1, 2], 400), np.arange(0, 1201, 3)), (400, 4)),
        csr_matrix(right.astype(np.float32)),
        bands,
    )
    probabilities = whole.apply(csr_matrix(scores)).toarray()[0]
    assert probabilities[3] == pytest.approx(0.9, abs=0.05)
    assert probabilities[2] == pytest.approx(0.1, abs=0.05)
    assert (apart.slope == whole.slope[:3]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_scores_below_every_cut_change_no_shared_threshold(seed: int) -> None:
    draw = np.random.default_rng(seed)
    right = gold(TREE, [[one] for one in THINGS])
    noisy = right + csr_matrix(draw.random(right.shape) * (draw.random(right.shape) < 0.2))
    noisy.data = np.minimum(noisy.data * draw.random(noisy.nnz), 1).astype(np.float32)
    scores = raise_parents(csr_matrix(noisy), TREE)
    cuts = [decide(scores, np.full(len(TREE), cut), TREE) for cut in GRID]
    best = max(micro_f1(chosen, right) for chosen in cuts)
    assert shared_f1(scores, right, TREE) == best


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_benchmark_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), "--posts", "400", "--tags", "60", "--rows", "tree"])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    said = capsys.readouterr().out
    assert "400 posts" in said
    assert said.splitlines()[-1].startswith("| tree |")


def test_posts_with_and_without_wordings_are_learnt_from_together() -> None:
    said = [{"word": "足球", "kind": "object", "score": 1.0, "media_id": "m", "box": None}]
    pictured = posts(["分享图片"] * 9).append_column("wordings", pa.array([said] * 9, pa.list_(WORDING)))
    both = train_xmc([posts(TEXTS), pictured], gold(TREE, [*SAID, *[["足球"]] * 9]), TREE)
    assert first_leaf(both.raw_scores(pictured.slice(0, 1))) == ["足球"]
