import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.core.schema import WORDING
from weibotag.core.text_matching import Matcher, fold
from weibotag.features.vocabulary import LEARNT, Vocabulary, find_keywords, learn_keywords
from weibotag.taxonomy.tree import Tag, Taxonomy

TREE = Taxonomy(
    [
        Tag("美妆", None, "美妆", (), ("化妆",), 2),
        Tag("美妆/口红", "美妆", "口红", ("唇釉",), ("显白", "MAC"), 3),
        Tag("数码", None, "数码", (), (), 4),
        Tag("数码/手机", "数码", "手机", (), ("骁龙", "iPhone"), 5),
    ]
)
WORDS = Vocabulary(TREE)


def posts(*texts: str, wordings: list[list[dict]] | None = None, keywords: list[list[str] | None] | None = None) -> pa.Table:
    table = pa.table({"post_id": [str(at) for at in range(len(texts))], "text": list(texts)})
    if wordings is not None:
        table = table.append_column("wordings", pa.array(wordings, pa.list_(WORDING)))
    if keywords is not None:
        table = table.append_column("keywords", pa.array(keywords, pa.list_(pa.string())))
    return table


def wording(word: str, kind: str, media_id: str = "m") -> dict:
    return {"word": word, "kind": kind, "score": 1.0, "media_id": media_id, "box": [1.0, 2.0]}


def keywords_of(table: pa.Table, words: Vocabulary = WORDS) -> list[dict[str, dict]]:
    found = find_keywords(table, words, words.find(table)).to_pylist()
    return [{entry["keyword"]: entry for entry in row} for row in found]


def test_words_are_found_in_text_and_pictures_with_their_source() -> None:
    table = posts("新入的唇釉", "爱了爱了", wordings=[[], [wording("哑光口红 显白", "ocr"), wording("v64_3", "code")]])
    first, second = keywords_of(table)
    assert first["唇釉"]["source"] == "text"
    assert {word: entry["source"] for word, entry in second.items()} == {"口红": "ocr", "显白": "ocr"}
    assert first["唇釉"]["score"] > second["口红"]["score"] > second["显白"]["score"]


def test_a_word_in_two_places_scores_more_than_in_one() -> None:
    table = posts("口红", "口红", wordings=[[], [wording("口红", "ocr")]])
    one, two = keywords_of(table)
    assert two["口红"]["score"] > one["口红"]["score"]
    assert two["口红"]["source"] == "text"


def test_what_a_text_or_a_picture_marks_is_a_keyword() -> None:
    wordings = [[], [wording("v64_1", "code"), wording("《流浪地球》热映", "ocr")]]
    first, second = keywords_of(posts("看完《三体》，#科幻周# 《口红》", "去看", wordings=wordings))
    assert {"三体", "科幻周", "口红"} == set(first)
    assert second["流浪地球"]["source"] == "ocr"
    known = posts("《口红》")
    assert len(find_keywords(known, WORDS, WORDS.find(known)).to_pylist()[0]) == 1  # the vocabulary knows it


def test_latin_words_keep_their_borders() -> None:
    first, second = keywords_of(posts("MAC的颜色", "MACHINE的颜色"))
    assert "MAC" in first
    assert "MAC" not in second


def test_learning_tells_good_keywords_from_common_words() -> None:
    table = posts(*["科比的手机壳"] * 9, "说说手机", keywords=[["科比"]] * 9 + [None])
    learnt = learn_keywords([table], TREE)
    score = dict(zip(learnt["keyword"].to_pylist(), learnt["score"].to_pylist(), strict=True))
    assert score["科比"] > 0.8
    assert score["手机"] < 0.3
    assert learn_keywords([posts("口红", keywords=[None])], TREE).schema == LEARNT


def test_evidence_names_word_place_and_picture() -> None:
    table = posts("口红", "看图", wordings=[[], [wording("显白的唇釉", "ocr", "m7")]])
    chosen = csr_matrix(np.array([[0.9, 0.8, 0, 0], [0.7, 0.6, 0, 0]], np.float32))
    first, second = WORDS.evidence(table, WORDS.find(table), chosen).to_pylist()
    assert [(entry["tag_id"], entry["word"], entry["kind"]) for entry in first] == [("美妆/口红", "口红", "text")]
    assert {(entry["word"], entry["media_id"]) for entry in second} == {("唇釉", "m7"), ("显白", "m7")}
    assert all(entry["box"] == [1.0, 2.0] for entry in second)
    nothing = csr_matrix(np.zeros((2, 4), np.float32))
    assert WORDS.evidence(table, WORDS.find(table), nothing).to_pylist() == [[], []]


def test_empty_tables_have_empty_answers() -> None:
    table = posts("", "")
    assert keywords_of(table) == [{}, {}]
    assert len(find_keywords(table.slice(0, 0), WORDS, WORDS.find(table.slice(0, 0)))) == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(alphabet="口红唇釉手机MACiphoneX1 ，#é😀\n", max_size=30), max_size=6))
def test_many_texts_at_once_match_as_each_alone(texts: list[str]) -> None:
    matcher = Matcher(["口红", "唇釉", "mac", "iphone", "红唇釉", "1"])
    rows, words = matcher.find_all(texts)
    together = list(zip(rows.tolist(), words.tolist(), strict=True))
    alone = [(row, word) for row, text in enumerate(texts) for word, _, _ in matcher.find(fold(text), text)]
    assert together == alone
