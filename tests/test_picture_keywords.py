import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core import schema
from weibotag.core.errors import ModelError, RequestError
from weibotag.core.schema import WORDING
from weibotag.curation.keywords.extract import KeywordIndex
from weibotag.curation.keywords.picture_keywords import PictureMap, load_map, need_pictures
from weibotag.curation.keywords.picture_learning import learn_map
from weibotag.extraction.requests import WordingsRequest
from weibotag.posts.rejects import Rejects

POSTS = pa.schema([*schema.arrow_schema("posts"), ("wordings", pa.list_(WORDING))])
NOTHING: list[dict[str, Any]] = []


def says(word: str, kind: str = "object", score: float = 0.9) -> dict[str, Any]:
    return {"word": word, "kind": kind, "score": score, "count": 1, "media_id": f"m-{word}", "box": [1.0, 2.0, 3.0, 4.0]}


FACE = says("人脸", "face")
LIPSTICK, APPLE, PHONE = says("lipstick"), says("apple"), says("phone")


def post(
    number: int, channel: str, wordings: list[dict[str, Any]], keywords: list[str] | None, **other: Any
) -> dict[str, Any]:
    return {
        "post_id": f"{channel}{number}",
        "text": "文",
        "channel": channel,
        "keywords": keywords,
        "wordings": wordings,
        **other,
    }


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=POSTS)


def teach() -> pa.Table:
    """Posts of three channels: a lipstick shows 口红, a face nothing, an apple 苹果 in one channel, 水果 in another."""
    rows = []
    for number in range(80):
        shown = number % 2 == 0
        surgery = ["鼻综合"] if number % 3 == 0 else []
        rows.append(post(number, "美妆", [LIPSTICK] if shown else [FACE], [*(["口红"] if shown else []), *surgery]))
        rows.append(post(number, "科技", [APPLE, PHONE] if shown else [PHONE], ["苹果"] if shown else ["安卓"]))
        rows.append(post(number, "美食", [APPLE] if shown else [says("bread")], ["水果"] if shown else ["面包"]))
    return table(*rows)


@pytest.fixture(scope="module")
def taught() -> PictureMap:
    return learn_map([teach()], 0.8)[0]


def found(picture_map: PictureMap, channel: str, *wordings: dict[str, Any]) -> list[str]:
    row = picture_map.find(table(post(0, channel, list(wordings), None))).to_pylist()[0]
    return [keyword["keyword"] for keyword in row["keywords"]]


def refusals(picture_map: PictureMap) -> dict[str, str | None]:
    return {row["keyword"]: row["refused"] for row in picture_map.keywords.to_pylist()}


def test_an_object_shows_a_keyword_and_a_face_shows_none(taught: PictureMap) -> None:
    assert found(taught, "美妆", LIPSTICK) == ["口红"]
    assert found(taught, "美妆", FACE) == []
    assert refusals(taught)["口红"] is None
    reason = refusals(taught)["鼻综合"]
    assert reason is not None and "needed: 80%" in reason


def test_each_channel_has_its_own_keywords(taught: PictureMap) -> None:
    assert found(taught, "科技", APPLE) == ["苹果"]
    assert found(taught, "美食", APPLE) == ["水果"]
    assert found(taught, "宠物", APPLE) == []
    assert found(taught, "", APPLE) == []


def test_the_answer_names_the_wording_that_spoke(taught: PictureMap) -> None:
    answer = taught.find(table(post(0, "美妆", [FACE, LIPSTICK], None), post(1, "美妆", NOTHING, None)))
    assert answer.schema == schema.arrow_schema("tags")
    first, second = answer.to_pylist()
    assert [(keyword["keyword"], keyword["source"]) for keyword in first["keywords"]] == [("口红", "object")]
    assert 0.8 < first["keywords"][0]["score"] <= 1
    assert first["evidence"] == [
        {"tag_id": None, "kind": "object", "word": "lipstick", "media_id": "m-lipstick", "box": [1.0, 2.0, 3.0, 4.0]}
    ]
    assert (second["keywords"], second["tags"], second["route"]) == ([], [], "pictures")


def test_print_speaks_by_its_characters() -> None:
    rows = [
        post(at, "美妆", [says(f"{at}号口红" if at % 2 else f"{at}号面膜", "ocr")], ["口红" if at % 2 else "面膜"])
        for at in range(60)
    ]
    learnt, _ = learn_map([table(*rows)], 0.8)
    answer = learnt.find(table(post(0, "美妆", [FACE, says("新款口红上市", "ocr")], None))).to_pylist()[0]
    assert [keyword["keyword"] for keyword in answer["keywords"]] == ["口红"]
    assert answer["evidence"][0]["word"] == "新款口红上市"


def test_a_face_with_a_name_is_that_name_in_any_channel(taught: PictureMap) -> None:
    answer = taught.find(
        table(post(0, "娱乐", [FACE, says("刘德华", "face", 0.7), says("刘德华", "face", 0.8)], None))
    ).to_pylist()[0]
    assert answer["keywords"] == [{"keyword": "刘德华", "score": pytest.approx(0.8), "source": "face"}]


def test_what_nearly_every_post_of_a_channel_has_is_not_shown_by_its_pictures() -> None:
    rows = [post(at, "医美", [FACE] if at % 10 else [says("门")], [] if at % 7 == 0 else ["鼻综合"]) for at in range(140)]
    learnt, _ = learn_map([table(*rows)], 0.8)
    assert found(learnt, "医美", FACE) == []
    assert "as 86% of the channel's posts have it" in (refusals(learnt)["鼻综合"] or "")


def test_a_keyword_of_few_posts_is_refused() -> None:
    few = [post(at, "美妆", [says("brow")], ["眉笔"]) for at in range(4)]
    learnt, summary = learn_map([teach(), table(*({**row, "post_id": f"x{row['post_id']}"} for row in few))], 0.8)
    assert refusals(learnt)["眉笔"] == "4 posts; needed: 5"
    assert found(learnt, "美妆", says("brow")) == []
    assert summary.shown == 4 and summary.keywords == 7


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_shown_where_pictures_and_keywords_have_nothing_in_common(seed: int) -> None:
    draw = random.Random(seed)
    seen, words = [says(f"o{at}") for at in range(12)], [f"词{at}" for at in range(30)]
    rows = [post(at, draw.choice("ab"), draw.sample(seen, 3), draw.sample(words, 2)) for at in range(400)]
    assert learn_map([table(*rows)], 0.8)[1].shown == 0


def test_the_text_of_a_post_is_never_read() -> None:
    rows = teach()
    telling = rows.set_column(
        rows.column_names.index("text"), "text", pa.array([f"鼻综合{at % 3}" for at in range(len(rows))])
    )
    learnt, _ = learn_map([telling], 0.8)
    assert learnt.keywords.equals(learn_map([rows], 0.8)[0].keywords)
    answer = learnt.find(table(post(0, "美妆", [FACE], None, text="口红 鼻综合0")))
    assert answer["keywords"].to_pylist() == [[]]


def test_keywords_may_come_from_texts() -> None:
    rows = [
        post(at, "美妆", [LIPSTICK if at % 2 else FACE], None, text="新口红到了" if at % 2 else "自拍") for at in range(60)
    ]
    index = KeywordIndex(pa.table({"channel": ["美妆", "科技"], "keyword": ["口红", "自拍"]}))
    learnt, _ = learn_map([table(*rows)], 0.8, index)
    assert learnt.keywords["keyword"].to_pylist() == ["口红"]
    assert found(learnt, "美妆", LIPSTICK) == ["口红"]


def test_posts_without_keywords_or_wordings_teach_nothing() -> None:
    silent = table(post(0, "美妆", [LIPSTICK], None), post(1, "美妆", NOTHING, ["口红"]))
    with pytest.raises(RequestError, match="no post has both keywords and pictures that say something: give"):
        learn_map([silent], 0.8)
    with pytest.raises(RequestError, match="no post has both"):
        learn_map([], 0.8)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", ""]),
            st.lists(st.sampled_from([FACE, LIPSTICK, APPLE, says("口红", "ocr")])),
            st.none() | st.lists(st.sampled_from(["口红", "Ａ", "a"])),
        ),
        max_size=40,
    ),
    st.integers(1, 7),
)
def test_the_same_posts_give_the_same_map_however_they_are_parted(drawn: list[Any], cut: int) -> None:
    rows = [post(at, channel, wordings, keywords) for at, (channel, wordings, keywords) in enumerate(drawn)]
    if not any(row["wordings"] and row["keywords"] is not None for row in rows):
        return
    whole, summary = learn_map([table(*rows)], 0.5)
    parted, again = learn_map([table(*rows[start : start + cut]) for start in range(0, len(rows), cut)], 0.5)
    assert summary == again and whole.keywords.equals(parted.keywords)
    answer = whole.find(table(*rows))
    assert answer.equals(parted.find(table(*rows)))
    assert pa.concat_tables(whole.find(table(row)) for row in rows).combine_chunks().equals(answer.combine_chunks())
    thresholds = {(row["channel"], row["keyword"]): row["threshold"] for row in whole.keywords.to_pylist()}
    for row, keywords, evidence in zip(rows, answer["keywords"].to_pylist(), answer["evidence"].to_pylist(), strict=True):
        assert len(keywords) == len(evidence)
        assert all(keyword["score"] >= thresholds[row["channel"], keyword["keyword"]] for keyword in keywords)


def test_a_map_is_read_as_it_was_written(taught: PictureMap, tmp_path: Path) -> None:
    taught.save(tmp_path / "map")
    again = load_map(tmp_path / "map")
    rows = teach()
    assert again.find(rows).equals(taught.find(rows))
    assert {path.suffix for path in (tmp_path / "map").iterdir()} == {".parquet", ".safetensors"}


@pytest.mark.parametrize("damage", ["keywords.parquet", "weights.safetensors"])
def test_a_damaged_map_is_one_line(taught: PictureMap, tmp_path: Path, damage: str) -> None:
    taught.save(tmp_path / "map")
    (tmp_path / "map" / damage).write_bytes(b"{]")
    with pytest.raises(ModelError, match="expected a map of pictures to keywords: weibotag keywords map train"):
        load_map(tmp_path / "map")


# Commands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = teach()
    pq.write_table(rows, "pictured.parquet")
    pq.write_table(rows.drop_columns(["wordings"]), "posts.parquet")
    pq.write_table(rows.select(["post_id", "wordings"]).take(list(range(len(rows)))[::-1]), "wordings.parquet")
    return tmp_path


def test_posts_and_wordings_may_be_two_files_in_any_order(folder: Path) -> None:
    own, joined = (
        pa.concat_tables(need_pictures(WordingsRequest(posts=posts, wordings=path, quiet=True), Rejects(None)))
        for posts, path in (("pictured.parquet", None), ("posts.parquet", Path("wordings.parquet")))
    )
    assert joined["wordings"].to_pylist() == own["wordings"].to_pylist()


def test_commands_learn_and_map(folder: Path) -> None:
    learnt = ask("keywords", "map", "train", "posts.parquet", "--wordings", "wordings.parquet", "-o", "map")
    assert learnt.exit_code == 0, learnt.stderr
    assert "GB of memory" in learnt.stderr and "pictures show 4 of 6 keywords of 240 posts" in learnt.stderr
    mapped = ask("keywords", "map", "pictured.parquet", "-m", "map", "-o", "out.parquet", "--json")
    summary = json.loads(mapped.stdout)
    assert (summary["posts"], summary["posts_with"]) == (240, 160)
    assert [len(row) for row in pq.read_table("out.parquet")["keywords"].to_pylist()].count(1) == 160
    lines = ask("keywords", "map", "pictured.parquet", "-m", "map", "-o", "-", "--limit", "2", "-q").stdout.splitlines()
    assert [len(json.loads(line)["keywords"]) for line in lines] == [1, 1]


def test_words_of_columns_are_pictures_too(folder: Path) -> None:
    rows = [
        "post_id,text,keywords,seen",
        *(f"{at},t,{'口红' if at % 2 else '面膜'},{'lipstick' if at % 2 else 'mask'}" for at in range(40)),
    ]
    Path("posts.csv").write_text("\n".join(rows), encoding="utf-8")
    assert ask("keywords", "map", "train", "posts.csv", "--words", "object=seen", "-o", "map").exit_code == 0
    answer = ask("keywords", "map", "posts.csv", "-m", "map", "--words", "object=seen", "-o", "out.csv")
    assert answer.exit_code == 0
    assert "口红:" in Path("out.csv").read_text(encoding="utf-8-sig")


@pytest.mark.parametrize(("arguments", "line"), [
    (("train", "posts.parquet", "-o", "map"), "posts.parquet: no column wordings, so nothing is known of the pictures"),
    (("posts.parquet", "-m", "none", "-o", "o.csv"), "none/weights.safetensors: can't be read (No such file"),
    (("train", "pictured.parquet", "-o", "."), ".: holds pictured.parquet, which would be lost"),
    (("train", "posts.parquet", "--wordings", "none.parquet", "-o", "map"), "--wordings none.parquet:"),
    (("train", "posts.csv", "-o", "map"), "posts.csv: column wordings is string"),
    (("train", "plain.csv", "--words", "object=seen", "-o", "map"), "no post has both keywords and pictures"),
])  # fmt: skip
def test_what_can_not_be_done_is_one_line(folder: Path, arguments: tuple[str, ...], line: str) -> None:
    Path("posts.csv").write_text("post_id,text,keywords,wordings\n1,t,k,w\n", encoding="utf-8")
    Path("plain.csv").write_text("post_id,text,seen\n1,t,\n", encoding="utf-8")
    result = ask("keywords", "map", *arguments, "-q")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and line in result.stderr
