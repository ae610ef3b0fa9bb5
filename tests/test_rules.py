import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weibotag.core.schema import WORDING
from weibotag.core.text_matching import Matcher, drop_cut_out, fold
from weibotag.features.thing_tags import match_things
from weibotag.taggers.rules import THRESHOLD, RulesScorer
from weibotag.taxonomy.tree import Tag, Taxonomy, load
from weibotag.vision.object_names import read_things

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("WEIBOTAG_SHARED", ROOT.parent / "shared"))


def tag(tag_id: str, aliases: str = "", keywords: str = "") -> Tag:
    parent_id, _, name = tag_id.rpartition("/")
    return Tag(tag_id, parent_id or None, name, tuple(aliases.split()), tuple(keywords.split()), 0)


TAXONOMY = Taxonomy(
    [
        tag("体育", keywords="冠军 球迷 比分"),
        tag("体育/篮球", "男篮", "篮板 三分球"),
        tag("体育/NBA", "美职篮", "湖人 总决赛"),
        tag("数码", keywords="新机 发布会"),
        tag("数码/苹果", "iPhone", "iPhone1 充电"),
        tag("数码/iPhone15"),
        tag("美食", keywords="好吃 果汁"),
        tag("美食/苹果", keywords="果园 充电"),
        tag("美食/苹果/红富士"),
        tag("美妆", "彩妆"),
        tag("美妆/口红", keywords="色号 唇部护理"),
        tag("美妆/口红试色"),
        tag("体育/台球", keywords="写作 台球"),
        tag("体育/赛馬", "騎馬"),
    ]
)
TAGGER = RulesScorer(TAXONOMY)


def posts(*texts: str, **columns: list[object]) -> pa.Table:
    blank = pa.array([""] * len(texts))
    named = {"post_id": pa.array([str(at) for at in range(len(texts))]), "text": pa.array(texts, pa.string())}
    named |= {"author": blank, "channel": blank}
    for name, values in columns.items():
        named[name] = pa.array(values, pa.list_(WORDING) if name == "wordings" else pa.string())
    return pa.table(named)


def score(table: pa.Table, tag_id: str, row: int = 0) -> float:
    return float(TAGGER.raw_scores(table)[row, TAXONOMY.index[tag_id]])


def score_of(text: str, tag_id: str) -> float:
    return score(posts(text), tag_id)


def wording(word: str, kind: str, score: float | None = 0.9) -> dict[str, object]:
    return {"word": word, "kind": kind, "score": score, "media_id": "m1", "box": [1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("看NBA比赛", ["nba"]),
        ("NBAx 和 xNBA", []),
        ("NBA2K", ["nba"]),
        ("ＮＢＡ", ["nba"]),
        ("买了iPhone15！", ["iphone15"]),
        ("iPhone150", ["iphone"]),
        ("iPhone 1", ["iphone"]),
        ("口红试色", ["口红试色"]),
        ("口红、试色", ["口红"]),
        ("5g手机", ["5g手机"]),
        ("15g手机", ["手机"]),
        ("手机5gb", ["手机"]),
        ("", []),
    ],
)
def test_matcher_keeps_to_words(text: str, found: list[str]) -> None:
    words = ["nba", "iphone", "iphone1", "iphone15", "口红", "口红试色", "5g手机", "手机", "手机5g"]
    assert [words[number - 1] for number, _, _ in Matcher(words).find(fold(text))] == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("RedmiNote11", ["redmi", "note"]),
        ("OPPOReno7", ["oppo", "reno"]),
        ("OPPORENO7", []),
        ("redminote", []),
        ("NBAx", []),
        ("买AppleNBA", ["nba"]),
    ],
)
def test_capitals_part_words(text: str, found: list[str]) -> None:
    words = ["nba", "redmi", "note", "oppo", "reno"]
    assert [words[number - 1] for number, _, _ in Matcher(words).find(fold(text), text)] == found


@given(st.text())
def test_fold_keeps_places(text: str) -> None:
    assert len(fold(text)) == len(text)
    assert fold(fold(text)) == fold(text)


@given(st.text("ab1２口红试色# ", max_size=30))
def test_matches_lie_where_they_say(text: str) -> None:
    words = ["a", "ab", "b1", "1", "2", "口红", "口红试色", "色"]
    folded = fold(text)
    end = 0
    for number, low, high in Matcher(words).find(folded):
        assert folded[low:high] == words[number - 1]
        assert low >= end
        end = high


def test_matcher_without_words_finds_nothing() -> None:
    assert Matcher([]).find("口红") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("陪儿子写作业", False),
        ("教人写作的书", True),
        ("平台球员", False),
        ("台球厅", True),
        ("新买的台球", True),
    ],
)
def test_words_cut_out_of_longer_ones_do_not_count(text: str, found: bool) -> None:
    assert (score_of(text, "体育/台球") > 0) == found


def test_half_a_character_cuts_nothing_out() -> None:
    assert drop_cut_out("写作\ud83d", [(1, 0, 2)]) == [(1, 0, 2)]


def test_traditional_characters_are_read_as_simplified() -> None:
    assert score_of("今天說說籃板的事", "体育/篮球") == score_of("今天说说篮板的事", "体育/篮球") > 0
    assert score_of("喜欢骑马", "体育/赛馬") == score_of("喜歡騎馬", "体育/赛馬") > 0


def test_name_counts_more_than_alias_and_keyword() -> None:
    name, alias, keyword = (score_of(f"今天说说{word}的事", "美妆/口红") for word in ("口红", "口红", "色号"))
    assert name == alias > keyword > 0
    assert score_of("彩妆", "美妆") > score_of("新机", "数码")
    assert score_of("大家好，美妆", "美妆") > score_of("大家好，彩妆", "美妆")


def test_longer_words_count_more() -> None:
    assert score_of("唇部护理", "美妆/口红") > score_of("色号", "美妆/口红")


def test_shared_keyword_counts_less_for_each() -> None:
    assert 0 < score_of("充电", "数码/苹果") < score_of("色号", "美妆/口红")


def test_hashtag_and_title_count_more() -> None:
    plain = score_of("大家好。今天说说湖人的事", "体育/NBA")
    title = score_of("湖人！大家好", "体育/NBA")
    hashtag = score_of("大家好。#湖人#", "体育/NBA")
    assert plain < title < hashtag
    assert score_of("大家好。#a#湖人#b#", "体育/NBA") == plain
    assert score_of("大家好。#湖人的事#", "体育/NBA") == plain
    assert hashtag >= THRESHOLD


def test_repeats_saturate() -> None:
    once, twice, thrice = (score_of("大家好。" + "湖人，" * times, "体育/NBA") for times in (1, 2, 3))
    assert once < twice < thrice
    assert twice - once > thrice - twice


def test_many_small_hits_beat_one() -> None:
    table = posts("大家好。冠军，比分，三分球，还有发布会")
    assert score(table, "体育") > THRESHOLD > score(table, "数码")


def test_channel_gives_the_context() -> None:
    phone = posts("苹果发布会上的新机")
    fruit = posts("苹果好吃，果汁也好")
    assert score(phone, "数码/苹果") > score(phone, "美食/苹果")
    assert score(fruit, "美食/苹果") > score(fruit, "数码/苹果")


def test_channel_column_is_strong() -> None:
    for value in ("体育/NBA", "nba", "美职篮"):
        table = posts("大家好", channel=[value])
        assert score(table, "体育/NBA") > 0.9
        assert score(table, "体育") > 0.9
    assert TAGGER.raw_scores(posts("大家好", channel=["别的"])).nnz == 0


def test_author_is_weak() -> None:
    assert 0 < score(posts("大家好", author=["湖人小张"]), "体育/NBA") < score_of("大家好。湖人", "体育/NBA")


def test_wordings_count_by_their_score_and_codes_do_not() -> None:
    table = posts(
        "",
        "",
        "",
        "",
        wordings=[
            [wording("口红", "ocr", 0.9)],
            [wording("口红", "ocr", 0.4)],
            [wording("口红", "code")],
            None,
        ],
    )
    sure, unsure, code, nothing = (score(table, "美妆/口红", row) for row in range(4))
    assert sure > unsure > 0
    assert code == nothing == 0
    assert score(posts("", wordings=[[wording("湖人", "face", None)]]), "体育/NBA") > 0


SHOP = Taxonomy(
    [
        tag("科技"),
        tag("科技/苹果", "Apple 苹果公司"),
        tag("电影"),
        tag("电影/老虎", "香蕉", "甜椒"),
        tag("食品"),
        tag("食品/水果", "鲜果", "苹果"),
        tag("食品/水果/Granny-Smith"),
        tag("食品/水果/Bananas"),
        tag("食品/蔬菜"),
        tag("时尚"),
        tag("时尚/牛仔裤装", "牛仔裤 裤子"),
        tag("萌宠", "宠物"),
        tag("萌宠/猫咪"),
        tag("奇物"),
        tag("奇物/时尚"),
    ]
)


@pytest.mark.parametrize(
    ("word", "tags"),
    [
        # Its own tag, by a name in either language, in the singular.
        ("香蕉", {"食品/水果/Bananas"}),
        ("banana", {"食品/水果/Bananas"}),
        ("granny smith apple", {"食品/水果/Granny-Smith"}),
        # Else its narrowest kind: a name, an alias.
        ("苹果", {"食品/水果"}),
        ("Apple", {"食品/水果"}),
        ("甜椒", {"食品/蔬菜"}),
        ("金毛", {"萌宠"}),
        # A kind, and what is wider.
        ("狗狗", {"萌宠"}),
        ("服装", {"时尚"}),
        # An alias where the tree means its kind.
        ("牛仔裤", {"时尚/牛仔裤装"}),
        # What the tree has no kind of may still be what a tag is called; what is not in the table too.
        ("老虎", {"电影/老虎"}),
        ("奇物", {"奇物"}),
        ("苹果公司", set()),
        ("人", set()),
        ("nothing known", set()),
    ],
)
@pytest.mark.parametrize("kind", ["object", "looks"])
def test_what_is_seen_gives_tags_of_its_kind(word: str, tags: set[str], kind: str) -> None:
    scores = RulesScorer(SHOP).raw_scores(posts("", wordings=[[wording(word, kind)]]))
    given = {SHOP.ids[number] for number in scores.indices[scores.data > 0].tolist()}
    assert given == SHOP.expand(tags)
    assert all(scores[0, SHOP.index[one]] >= THRESHOLD for one in given)


def test_a_thing_that_a_picture_says_twice_counts_once() -> None:
    seen = wording("苹果", "object"), wording("apple", "object", 0.8)
    elsewhere = wording("apple", "looks") | {"media_id": "m2"}
    scorer = RulesScorer(SHOP)
    once, twice, both = (
        scorer.raw_scores(posts("", wordings=[list(words)]))[0, SHOP.index["食品/水果"]]
        for words in (seen[:1], seen, (*seen, elsewhere))
    )
    assert once == twice < both


@pytest.mark.skipif(not (ROOT / "taxonomies/weibo.csv").exists(), reason="no taxonomies/weibo.csv beside the tests")
def test_things_are_no_companies_games_or_works() -> None:
    taxonomy = load(ROOT / "taxonomies/weibo.csv")
    things = match_things(taxonomy)
    seen = {taxonomy.ids[tag] for thing in read_things()[0] for tag in things.tags_of(thing.english[0])}
    assert not [one for one in seen if "公司" in one or one.split("/")[0] in {"电影", "电视剧", "综艺", "明星", "互联网"}]
    coco = "apple", "banana", "dog", "cat", "car", "couch", "laptop", "cell phone", "pizza", "tv", "handbag", "bird"
    assert all(things.tags_of(label) for label in coco)
    assert [taxonomy.ids[tag] for tag in things.tags_of("apple")] == ["美食/水果"]
    classes = read_things()[1]
    assert sum(bool(things.tags_of(thing.english[0])) for thing in classes) > 800


def test_scores_have_the_shape_of_posts_and_tags() -> None:
    scores = TAGGER.raw_scores(posts())
    assert scores.shape == (0, len(TAXONOMY))
    scores = TAGGER.raw_scores(posts("大家好", "口红", None))  # type: ignore[arg-type]
    assert scores.shape == (3, len(TAXONOMY))
    assert scores.dtype == np.float32
    assert scores[0].nnz == scores[2].nnz == 0


SNIPPETS = ["口红", "口红试色", "苹果", "红富士", "NBA", "#湖人#", "冠军", "发布会", "充电", "。", "x", "#", " "]


@given(st.lists(st.lists(st.sampled_from(SNIPPETS), max_size=8).map("".join), min_size=1, max_size=4))
def test_no_child_is_above_its_parent(texts: list[str]) -> None:
    scores = TAGGER.raw_scores(posts(*texts)).toarray()
    assert scores.min() >= 0
    assert scores.max() <= 1
    below = TAXONOMY.parents >= 0
    assert (scores[:, below] <= scores[:, TAXONOMY.parents[below]]).all()
    alone = np.vstack([TAGGER.raw_scores(posts(text)).toarray() for text in texts])
    assert np.array_equal(scores, alone)


CHANNELS = {"体育": ("体育", "健身", "电竞"), "旅游": ("旅游",), "科技": ("科技", "数码", "科普")}


@pytest.mark.skipif(not (ROOT / "taxonomies/weibo.csv").exists(), reason="no taxonomies/weibo.csv beside the tests")
@pytest.mark.skipif(not (SHARED / "data/feed/posts.csv").exists(), reason="no real data (set WEIBOTAG_SHARED)")
def test_cold_start_finds_the_channel_of_real_posts() -> None:
    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(["post_id", "text", "channel"], pa.string()))
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    data = pyarrow.csv.read_csv(SHARED / "data/feed/posts.csv", convert_options=options, parse_options=parsing)
    rows = [row for row in data.to_pylist() if row["source"] == "weibo" and row["split"] == "valid"]
    taxonomy = load(ROOT / "taxonomies/weibo.csv")
    scores = RulesScorer(taxonomy).raw_scores(posts(*(row["text"] for row in rows))).toarray()
    channels = np.flatnonzero(taxonomy.depth == 1)
    best = channels[scores[:, channels].argmax(axis=1)]
    right = [
        taxonomy.ids[top] in CHANNELS[row["channel"]] and scores[at, top] > 0
        for at, (top, row) in enumerate(zip(best, rows, strict=True))
    ]
    sure = scores[:, channels].max(axis=1) >= 0.5
    assert np.mean(right) >= 0.78
    assert np.mean(np.array(right)[sure]) >= 0.85
