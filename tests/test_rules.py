import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weibotag.core.schema import WORDING
from weibotag.core.text_matching import Matcher, fold
from weibotag.taggers.rules import THRESHOLD, RulesScorer
from weibotag.taxonomy.tree import Tag, Taxonomy, load

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
