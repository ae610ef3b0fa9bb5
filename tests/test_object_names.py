"""Chinese words for detected objects, and taxonomy branches as classes to look for."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from weibotag.core.errors import RequestError
from weibotag.taxonomy.tree import Tag, Taxonomy, load
from weibotag.vision.object_names import CHINESE, chinese_name, english_name, find_thing, list_classes, read_things

# Chinese words in Latin letters.
LATIN = {"Cosplay", "MPV", "SUV", "VR", "iPhone", "iPod"}
WEIBO = load(Path(__file__).parents[1] / "taxonomies" / "weibo.csv")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cell phone", "手机"),
        ("Cell_Phone", "手机"),
        ("bus", "公交车"),
        ("person", "人"),
        ("lipstick", "口红"),
        ("pet food", "宠物食品"),
        ("whiteboard", "白板"),
        ("hammer", "锤子"),
        ("Handbag/Satchel", "手提包"),
        ("Sailboat/Unknown Thing", "帆船"),
        ("口红", "口红"),
        ("T恤", "T恤"),
        ("quux", None),
        ("", None),
    ],
)
def test_chinese_name(label: str, name: str | None) -> None:
    assert chinese_name(label) == name


@pytest.mark.parametrize(("data", "least"), [("coco", 1.0), ("Objects365", 0.85)])
def test_classes_of_published_detectors_have_names(data: str, least: float) -> None:
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        pytest.skip("the lists of classes come with ultralytics")
    listed = Path(spec.origin).parent / "cfg" / "datasets" / f"{data}.yaml"
    labels = yaml.safe_load(listed.read_text(encoding="utf-8"))["names"].values()
    assert sum(chinese_name(label) is not None for label in labels) >= least * len(labels)


def test_the_table_is_sound() -> None:
    things, classes = read_things()
    said = Counter(word for thing in things for word in thing.english)
    assert [word for word, times in said.items() if times > 1] == []
    assert all(word == word.lower().strip() for word in said)
    for thing in things:
        assert thing.english and thing.chinese
        for words in (thing.english, thing.chinese, thing.means):
            assert all(words) and len(set(words)) == len(words)
        assert all(CHINESE.search(word) or word in LATIN for word in thing.chinese + thing.means)
    assert len(classes) == 1000
    assert sum(bool(thing.means) for thing in classes) > 900


@pytest.mark.parametrize(
    ("number", "english", "chinese"),
    [
        (0, "tench", "丁鱥"),
        (1, "goldfish", "金鱼"),
        (207, "golden retriever", "金毛"),
        (340, "zebra", "斑马"),
        (608, "jeans", "牛仔裤"),
        (610, "t-shirt", "T恤"),
        (836, "sunglasses", "墨镜"),
        (837, "sunglasses", "墨镜"),
        (954, "banana", "香蕉"),
        (980, "volcano", "火山"),
        (999, "tissue", "纸巾"),
    ],
)
def test_classes_of_imagenet_have_their_numbers(number: int, english: str, chinese: str) -> None:
    thing = read_things()[1][number]
    assert (thing.english[0], thing.chinese[0]) == (english, chinese)


def test_names_lead_back_to_a_name_for_the_same_word() -> None:
    for thing in read_things()[0]:
        named = find_thing(thing.chinese[0])
        assert named is not None and thing.chinese[0] in named.chinese
        assert all(find_thing(word) is thing for word in thing.english)
    assert english_name("包包") == english_name("手提包") == "handbag"
    assert english_name("t恤") == english_name("T恤") == "t-shirt"
    assert english_name("卷积") is None


def test_a_branch_of_the_weibo_taxonomy_becomes_what_can_be_seen_of_it() -> None:
    classes = dict(list_classes(WEIBO, "美妆"))
    assert classes["lipstick"] == "口红"
    assert classes["eyeshadow palette"] == "眼妆"
    assert classes["perfume"] == "香水"
    assert "医美" not in classes.values()
    names = {tag.name for tag in WEIBO.tags if tag.id == "美妆" or (tag.parent_id or "") == "美妆"}
    assert set(classes.values()) <= names
    assert len(classes) >= 15
    assert list_classes(WEIBO, "美妆/口红") == [("lipstick", "口红")]


def make_taxonomy(*rows: tuple[str, str | None, str, tuple[str, ...]]) -> Taxonomy:
    return Taxonomy(
        Tag(tag_id, parent, name, aliases, (), line) for line, (tag_id, parent, name, aliases) in enumerate(rows, 2)
    )


def test_prompts_come_from_words_then_small_letter_aliases_then_names() -> None:
    taxonomy = make_taxonomy(
        ("a", None, "东西", ()),
        ("a/1", "a", "平板电脑", ("pad",)),
        ("a/2", "a", "不明物", ("BBA", "Gizmo", "odd gizmo", "other")),
        ("a/3", "a", "Granny-Smith", ()),
        ("a/4", "a", "NBA", ()),
        ("a/5", "a", "唇膏", ()),
        ("a/6", "a", "口红", ()),
        ("b", None, "别的", ("elsewhere",)),
    )
    assert list_classes(taxonomy, "东西") == [
        ("tablet computer", "平板电脑"),
        ("odd gizmo", "不明物"),
        ("granny smith", "Granny-Smith"),
        ("lipstick", "唇膏"),
    ]


def test_an_unknown_branch_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"'美妆工巨'.*did you mean .*美妆工具"):
        list_classes(WEIBO, "美妆工巨")
    with pytest.raises(RequestError, match="taxonomy show"):
        list_classes(WEIBO, "zzzzzz")


def test_a_branch_without_english_words_says_what_to_do() -> None:
    with pytest.raises(RequestError, match=r"none of its 1 tags has an English word.*alias"):
        list_classes(make_taxonomy(("a", None, "无形", ())), "无形")
