import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weibotag.features.plain_text import EMOTICON, hide_mentions, make_plain, make_texts_plain
from weibotag.features.vocabulary import find_marks


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("周末去吃火\u200b锅\ufeff", "周末去吃火锅"),
        ("火\u00ad锅", "火锅"),
        ("𝐢𝐏𝐡𝐨𝐧𝐞 到手", "iPhone 到手"),
        ("it&#39;s 火锅 &amp; 咖啡", "it's 火锅 & 咖啡"),
        ("AT&T; R&D", "AT&T; R&D"),
        ("早安[doge][允悲][笑cry][打call][偷笑R]", "早安"),
        ("[NBA]湖人赢了[iPhone 15]", "[NBA]湖人赢了[iPhone 15]"),
        ("#火锅[超话]# 真香", "#火锅# 真香"),
        ("#露营[话题]##户外[话题]#", "#露营##户外#"),
        ("＃火锅＃", "#火锅#"),
        ("看这里 http://t.cn/A6abc，O网页链接 ...全文", "看这里"),
        ("me@mail.com", "me@mail.com"),
        ("Loving this #coffeetime in the morning #mondaymood", "Loving this #coffeetime# in the morning #mondaymood#"),
        ("真香 #火锅 #美食", "真香 #火锅# #美食#"),
        ("#iPhone 15 Pro# 到手", "#iPhone 15 Pro# 到手"),
        ("#火锅#真香#聚餐#", "#火锅#真香#聚餐#"),
        ("颜色#fff 好, No.#1 和 #2", "颜色#fff 好, No.#1 和 #2"),
        ("a\x00b", "a b"),
        ("", ""),
    ],
)
def test_markup_goes(text: str, plain: str) -> None:
    def squeeze(text: str) -> str:
        return " ".join(text.split())

    assert squeeze(make_plain(text)).rstrip(" ，") == plain
    table = pa.table({"post_id": ["1", "2"], "text": pa.array([None, text], pa.string())})
    assert make_texts_plain(table)["text"].to_pylist() == [None, make_plain(text)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("转发//@手机测评:火锅好吃", "转发        火锅好吃"),
        ("回复@张三:好的 @猫咪_bot 早", "      好的         早"),
        ("me@mail.com", "me@mail.com"),
        (None, None),
    ],
)
def test_mentions_are_not_what_a_post_says(text: str, said: str) -> None:
    assert hide_mentions([text]) == [said]


@given(st.text("ab#[]@:/ 火锅&;\u200b\n", max_size=40))
def test_what_is_plain_has_no_markup(text: str) -> None:
    plain = make_plain(text)
    assert "\u200b" not in plain
    assert not EMOTICON.search(plain) or "[" in text
    assert plain.count("\n") == text.count("\n")


@given(st.lists(st.text(max_size=20), max_size=5))
def test_a_table_is_made_plain_row_by_row(texts: list[str]) -> None:
    table = pa.table({"text": pa.array(texts, pa.string())})
    assert make_texts_plain(table)["text"].to_pylist() == [make_plain(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("#火锅##美食# #iPhone 15 Pro#", ["火锅", "美食", "iPhone 15 Pro"]),
        ("#火锅#真香#聚餐#", ["火锅", "聚餐"]),
        ("#火锅#iphone", ["火锅"]),
        ("C#和F#都可以", []),
        ("No.#1 和 No.#2", []),
        ("颜色#fff和#000", []),
        ("编号#A12，编号#B13", []),
        ("修复了#123和#456", []),
    ],
)
def test_what_stands_between_two_signs_is_a_hashtag_where_it_can_be_one(text: str, names: list[str]) -> None:
    assert [name for _, name in find_marks([text])] == names
