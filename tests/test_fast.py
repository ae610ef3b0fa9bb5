"""The fast tagger, and what all taggers learn from: gold tags, which posts are held out."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.core.errors import ModelError, RequestError
from weibotag.core.schema import WORDING
from weibotag.scoring.decision import Decision
from weibotag.taggers.fasttext import FastScorer, Settings, space_out, train, write_documents
from weibotag.taggers.model_folder import load_model
from weibotag.taxonomy.tree import Tag, Taxonomy
from weibotag.training.dataset import draw_valid, gold_matrix, hide_author_and_channel

TREE = Taxonomy(
    [
        Tag("美妆", None, "美妆", (), (), 2),
        Tag("美妆/口红", "美妆", "口红", (), (), 3),
        Tag("体育", None, "体育", (), (), 4),
        Tag("体育/足球", "体育", "足球", (), (), 5),
    ]
)
SMALL = Settings(epoch=60, dim=16, bucket=1000)


def posts(texts: list[str], author: str = "", channel: str = "", wordings: list | None = None) -> pa.Table:
    columns = {
        "post_id": [str(at) for at in range(len(texts))],
        "text": texts,
        "author": [author] * len(texts),
        "channel": [channel] * len(texts),
    }
    table = pa.table(columns)
    return table if wordings is None else table.append_column("wordings", pa.array(wordings, pa.list_(WORDING)))


def said(word: str, kind: str) -> dict:
    return {"word": word, "kind": kind, "score": 1.0, "media_id": "m", "box": None}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=5))
def test_every_character_is_a_word(texts: list[str]) -> None:
    lines = space_out(texts)
    assert len(lines) == len(texts)
    for at, (line, text) in enumerate(zip(lines, texts, strict=True)):
        words = "".join(f"{character} " for character in text.replace("\n", " "))
        assert line == (f" {words}" if at else words)


def test_latin_words_can_stay_whole() -> None:
    first, second = space_out(["看NBA比赛 iPhone15\nPro！", "全角ＡＢ 😀a"], "words")
    assert first.split() == ["看", "NBA", "比", "赛", "iPhone15", "Pro", "！"]
    assert second.split() == ["全", "角", "ＡＢ", "😀", "a"]
    assert space_out(["", ""], "words") == ["", ""]


def test_documents_hold_all_that_a_post_says() -> None:
    table = posts(
        ["爱了", "走"],
        author="小鹿 美妆",
        channel="美妆",
        wordings=[[said("哑光", "ocr"), said("v64_3", "code"), said("手机", "object"), said("人脸", "face")], []],
    )
    first, second = write_documents(table)
    assert first.split() == ["爱", "了", "a_小鹿_美妆", "c_美妆", "|", "哑", "光", "v64_3", "object_手机", "face_人脸"]
    assert second.split() == ["走", "a_小鹿_美妆", "c_美妆"]


def train_small() -> FastScorer:
    texts = ["口红好看", "进球了", "唇色显白", "足球比赛"] * 10
    gold = csr_matrix(np.array([[1, 1, 0, 0], [0, 0, 1, 1]] * 20, np.float32))
    return FastScorer(TREE, train(write_documents(posts(texts)), gold, SMALL))


def test_trained_tagger_knows_its_posts_and_keeps_parents_above() -> None:
    scores = Decision.fixed(TREE, 0.5).scores(train_small().raw_scores(posts(["口红", "足球", ""])))
    assert scores.shape == (3, 4)
    dense = scores.toarray()
    assert dense[0].argmax() in (0, 1)
    assert dense[1].argmax() in (2, 3)
    assert (dense[:, 0] >= dense[:, 1]).all()
    assert (dense[:, 2] >= dense[:, 3]).all()


def test_training_again_gives_the_same_model() -> None:
    table = posts(["口红进球"])
    assert (train_small().raw_scores(table) != train_small().raw_scores(table)).nnz == 0


def test_training_on_nothing_says_so() -> None:
    with pytest.raises(RequestError, match="no post to train on"):
        train(["字"], csr_matrix((1, 4), dtype=np.float32), SMALL)


def test_a_file_that_is_no_network_is_named(tmp_path) -> None:  # noqa: ANN001
    (tmp_path / "fasttext.json").write_text('{"spacing": "words"}')
    (tmp_path / "fasttext.bin").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"fasttext\.bin"):
        FastScorer.load(tmp_path, TREE)
    with pytest.raises(ModelError, match="no model there"):
        load_model(tmp_path)


def test_a_tenth_of_each_tag_is_held_out_and_stays_held_out() -> None:
    ids = [str(at) for at in range(360)]
    strata = ["a"] * 200 + ["b"] * 100 + [f"rare {at // 3}" for at in range(30)] + [""] * 30
    labelled = np.array([bool(stratum) for stratum in strata])
    drawn = draw_valid(ids, strata, labelled)
    assert [int(drawn[:200].sum()), int(drawn[200:300].sum()), int(drawn[300:330].sum())] == [20, 10, 3]
    turned = draw_valid(ids[::-1], strata[::-1], labelled[::-1])
    assert np.array_equal(turned[::-1], drawn)


def test_gold_has_ancestors_and_no_unknown_tags() -> None:
    table = pa.table({"tags": pa.array([["美妆/口红"], ["猫"], None, ["体育", "体育"]], pa.list_(pa.string()))})
    assert gold_matrix([table], TREE).toarray().tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4, [0, 0, 1, 0]]


def test_half_of_the_posts_whisper() -> None:
    table = hide_author_and_channel(posts(["字"] * 400, author="甲", channel="体育"))
    silent = sum(author == "" for author in table["author"].to_pylist())
    assert 150 < silent < 250
    assert [author == "" for author in table["author"].to_pylist()] == [c == "" for c in table["channel"].to_pylist()]
