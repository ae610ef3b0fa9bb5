from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.core.errors import ModelError
from weibotag.core.schema import WORDING
from weibotag.features.hashed_ngrams import hash_features
from weibotag.taggers import linear
from weibotag.taggers.linear import LinearScorer, train_linear
from weibotag.taxonomy.tree import Tag, Taxonomy

TREE = Taxonomy(
    [
        Tag("美妆", None, "美妆", (), (), 2),
        Tag("美妆/口红", "美妆", "口红", (), (), 3),
        Tag("美妆/眼影", "美妆", "眼影", (), (), 4),
        Tag("体育", None, "体育", (), (), 5),
        Tag("体育/足球", "体育", "足球", (), (), 6),
        Tag("体育/网球", "体育", "网球", (), (), 7),
    ]
)
TEXTS = ["口红好看", "进球了 NBA", "唇色显白", "足球比赛", "眼影盘", "眼影大地色"] * 10
LIPSTICK, SHADOW, FOOTBALL = [1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]
GOLD = csr_matrix(np.array([LIPSTICK, FOOTBALL, LIPSTICK, FOOTBALL, SHADOW, SHADOW] * 10, np.float32))
PLAIN = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aB1 看球"), max_size=12)


def posts(
    texts: Sequence[str | None], author: list[str] | None = None, channel: str = "", wordings: list | None = None
) -> pa.Table:
    columns = {"text": texts, "author": author or [""] * len(texts), "channel": [channel] * len(texts)}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return table if wordings is None else table.append_column("wordings", pa.array(wordings, pa.list_(WORDING)))


TRAINED = train_linear([posts(TEXTS)], GOLD, TREE)


def said(word: str | None, kind: str) -> dict:
    return {"word": word, "kind": kind, "score": 1.0, "media_id": "m", "box": None}


def features(table: pa.Table) -> list[set[int]]:
    """Return the set of hashed features of each post."""
    rows, hashed = hash_features(table)
    return [set(hashed[rows == row].tolist()) for row in range(len(table))]


@given(st.lists(PLAIN, max_size=5), st.lists(PLAIN, min_size=5, max_size=5))
def test_a_post_has_the_same_features_whoever_stands_beside_it(texts: list[str], authors: list[str]) -> None:
    table = posts(texts, authors[: len(texts)], wordings=[[said(author, "ocr")] for author in authors[: len(texts)]])
    assert features(table) == [features(table.slice(row, 1))[0] for row in range(len(table))]


def test_words_their_runs_and_triples_of_letters_are_features() -> None:
    upper, lower, empty = features(posts(["看NBA比赛", " 看nba 比赛", None]))
    # 看 nba 比 赛: four words, three pairs, two triples; and one triple of letters.
    assert len(upper) == 10
    assert upper == lower
    assert empty == set()


def test_print_is_read_like_text_and_all_else_is_taken_whole() -> None:
    words = [[said("哑光", "ocr"), said("手机", "object"), said(None, "object")], [said("手机", "face")], None]
    table = posts(["", "", "哑光"], ["小鹿", "", ""], wordings=words)
    first, second, third = features(table)
    assert third <= first
    assert len(second) == 1
    assert not second & first
    assert not features(posts(["小鹿"]))[0] & features(posts([""], ["小鹿"]))[0]


def test_print_beyond_the_most_is_not_read() -> None:
    long, longer = features(posts(["", ""], wordings=[[said("字" * 400, "ocr")], [said("字" * 400 + "尾", "ocr")]]))
    assert long == longer


def test_a_trained_tagger_knows_its_posts_and_keeps_parents_above() -> None:
    tagger = train_linear([posts(TEXTS[:30]), posts(TEXTS[30:])], GOLD, TREE)
    dense = tagger.raw_scores(posts(["口红", "足球", "眼影盘", ""])).toarray()
    assert dense.dtype == np.float32
    assert [int(row[[1, 2, 4]].argmax()) for row in dense[:3]] == [0, 2, 1]
    assert (dense[:3].max(axis=1) > 0.5).all()
    parents = TREE.parents
    assert (dense[:, parents >= 0] <= dense[:, parents[parents >= 0]]).all()
    # All of 体育 is 足球, and nothing is 网球.
    assert dense[1, 4] == pytest.approx(dense[1, 3])
    assert (dense[:, 5] == 0).all()


@given(st.lists(st.sampled_from(["口红", "足球 nba", "眼影大地色", "什么", "", "显白比赛"]), min_size=1, max_size=4))
def test_scores_are_what_the_weights_say(texts: list[str]) -> None:
    tagger = TRAINED
    got = tagger.raw_scores(posts(texts)).toarray()
    weights = tagger.weights.toarray()
    places = {feature: place for place, feature in enumerate(tagger.features.tolist())}
    for row, own in enumerate(features(posts(texts))):
        known = [places[feature] for feature in own if feature in places]
        length = float(np.sqrt(tagger.squares[known].sum())) or 1.0
        margins = weights[known].sum(axis=0) / length + tagger.offsets
        scores = 1 / (1 + np.exp(-linear.STEEPNESS * margins))
        for tag in (1, 2, 4, 5):
            scores[tag] *= scores[TREE.parents[tag]]
        assert np.allclose(got[row], np.where(scores < linear.FLOOR, 0, scores), atol=1e-5)


def test_training_again_gives_the_same_tagger_and_so_does_its_file(tmp_path: Path) -> None:
    again = train_linear([posts(TEXTS)], GOLD, TREE)
    for name, own in (("one", TRAINED), ("two", again)):
        (tmp_path / name).mkdir()
        own.save(tmp_path / name)
    assert (tmp_path / "one" / linear.LINEAR).read_bytes() == (tmp_path / "two" / linear.LINEAR).read_bytes()
    table = posts(["口红比赛 NBA", "眼影"], channel="美妆")
    assert (LinearScorer.load(tmp_path / "one", TREE).raw_scores(table) != TRAINED.raw_scores(table)).nnz == 0


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    (tmp_path / linear.LINEAR).write_bytes(b"no")
    with pytest.raises(ModelError, match="expected a linear model"):
        LinearScorer.load(tmp_path, TREE)
    TRAINED.save(tmp_path)
    with pytest.raises(ModelError, match=r"found offsets F32"):
        LinearScorer.load(tmp_path, Taxonomy([Tag("体育", None, "体育", (), (), 2)]))


def test_posts_without_anything_known_have_the_scores_of_the_offsets() -> None:
    nothing = TRAINED.raw_scores(posts(["", "ﷺ"]))
    assert (nothing[0] != nothing[1]).nnz == 0
    assert TRAINED.raw_scores(posts([])).shape == (0, len(TREE))


def test_with_little_time_every_so_many_th_post_is_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "PAIRS_A_SECOND", 1)
    taken = linear._choose_posts(GOLD, TREE, 60)
    assert 0 < len(taken) < GOLD.shape[0]
    assert np.ptp(np.diff(taken)) <= 1
    assert len(linear._choose_posts(GOLD, TREE, 1e6)) == GOLD.shape[0]
    assert train_linear([posts(TEXTS)], GOLD, TREE, 60).raw_scores(posts(["口红好看"])).nnz
