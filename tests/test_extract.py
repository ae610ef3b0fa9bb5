import csv
import os
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask, shell
from hypothesis import given, settings
from hypothesis import strategies as st

from weibotag.core.errors import RequestError
from weibotag.core.schema import WORDING, arrow_schema
from weibotag.core.text_matching import fold
from weibotag.curation.keywords import phrases as phrase_room
from weibotag.curation.keywords.extract import KeywordIndex, extract_keywords, find_keywords, is_keyword, read_keywords
from weibotag.curation.keywords.phrases import PhraseCounter, Spool, split_tokens, unpack, weigh_phrases
from weibotag.extraction.requests import WordingsRequest
from weibotag.features.vocabulary import WordFinder, list_lines

SHARED = Path(os.environ.get("WEIBOTAG_SHARED", Path(__file__).parents[2] / "shared"))
# 唇釉 and 世博会 are what these posts are about; what stands beside them is ever another.
LIPS = [f"{start}唇釉{end}" for start, end in zip("买试爱看送要", ("吧", "好", "色", "，", "贵", "到"), strict=True)]
EXPO = [f"{start}世博会{end}" for start, end in zip("去逛看等办想", ("吧", "好", "票", "，", "馆", "到"), strict=True)]


def posts(*texts: str, channel: str | list[str] = "", wordings: list[list[dict]] | None = None) -> pa.Table:
    channels = [channel] * len(texts) if isinstance(channel, str) else channel
    table = pa.table({"post_id": [str(at) for at in range(len(texts))], "text": list(texts), "channel": channels})
    return table if wordings is None else table.append_column("wordings", pa.array(wordings, pa.list_(WORDING)))


def wording(word: str, kind: str) -> dict:
    return {"word": word, "kind": kind, "score": 1.0, "count": 1, "media_id": "m", "box": None}


def extract(folder: Path, table: pa.Table, wordings: Path | None = None, **asked: str) -> dict[tuple[str, str], dict]:
    pq.write_table(table, folder / "posts.parquet")
    request = WordingsRequest(posts=str(folder / "posts.parquet"), wordings=wordings, quiet=True)
    extract_keywords(request, folder / "keywords.parquet", **asked)
    rows = pq.read_table(folder / "keywords.parquet").to_pylist()
    assert len({(row["channel"], fold(row["keyword"])) for row in rows}) == len(rows)
    return {(row["channel"], row["keyword"]): row for row in rows}


# Phrases


def count_slowly(texts: list[str]) -> Counter[str]:
    """The phrases of folded texts and how often each stands there, one character at a time."""
    counts: Counter[str] = Counter()
    for text in texts:
        tokens = split_tokens(text)
        for head in range(len(tokens.starts)):
            for size in range(1, phrase_room.MOST_TOKENS + 2):
                last = head + size - 1
                if last >= len(tokens.starts) or not tokens.joined[head:last].all():
                    break
                phrase = text[tokens.starts[head] : tokens.ends[last]]
                if len(phrase) <= phrase_room.MOST_CHARACTERS:
                    counts[phrase] += 1
    return counts


def test_tokens_are_characters_and_latin_words() -> None:
    text = fold("用iPhone 15 Pro拍，布兰登-阿伦森 OK!don't")
    tokens = split_tokens(text)
    words = [text[start:end] for start, end in zip(tokens.starts, tokens.ends, strict=True)]
    assert words == ["用", "iphone", "15", "pro", "拍", *"布兰登-阿伦森", "ok", "don", "'", "t"]
    assert [word for word, joined in zip(words, tokens.joined, strict=True) if not joined] == ["拍", "森", "ok", "t"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("天地人ab1 ，-\n《😀Ａİ"), max_size=12), min_size=1, max_size=8), st.integers(1, 3))
def test_counts_are_those_of_counting_one_by_one(texts: list[str], blocks: int) -> None:
    texts = [fold(text) for text in texts]
    counter, offset = PhraseCounter(), 0
    whole = "\n".join(texts)
    size = -(-len(texts) // blocks)
    for start in range(0, len(texts), size):
        block = "\n".join(texts[start : start + size])
        counter.add(block, offset)
        offset += len(block) + 1
    starts, lengths = unpack(counter.places)
    spelled = [whole[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    assert dict(zip(spelled, counter.counts.tolist(), strict=True)) == count_slowly(whole.split("\n"))


def test_what_holds_together_and_stands_free_is_a_word() -> None:
    text = fold("\n".join(EXPO))
    counter = PhraseCounter()
    counter.add(text, 0)

    def spell(places: np.ndarray) -> list[str]:
        return [text[start : start + length] for start, length in zip(*map(np.ndarray.tolist, unpack(places)), strict=True)]

    measures = weigh_phrases(counter, spell)
    seen = {word: row for row, word in enumerate(spell(counter.places))}
    # Six ways on, six ways before: log 6; 博会 stands after 世 only.
    assert measures.freedom[seen["世博会"]] == pytest.approx(np.log(6))
    assert measures.freedom[seen["博会"]] == pytest.approx(0)
    parts = min(
        np.log(counter.counts[seen["世博会"]] * counter.tokens / (counter.counts[seen[a]] * counter.counts[seen[b]]))
        for a, b in (("世", "博会"), ("世博", "会"))
    )
    assert measures.cohesion[seen["世博会"]] == pytest.approx(parts, rel=1e-6)
    assert measures.sizes[seen["世博会"]] == 3


def test_the_rarest_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrase_room, "MOST_PHRASES", 40)
    counter = PhraseCounter()
    exact: Counter[str] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(20):
        block = "唇釉，" * 5 + "".join(chr(0x4E00 + number) for number in rng.integers(0, 500, 60))
        exact += count_slowly([block])
        counter.add(block, 0)
    assert len(counter.hashes) <= 40
    assert counter.lost > 0
    (found,) = (hashes for size, (_, hashes) in enumerate(split_tokens("唇釉").phrases(2)) if size)
    kept = counter.counts[counter.look_up(found)]
    assert exact["唇釉"] - counter.lost <= kept[0] <= exact["唇釉"]


# Lines


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=9), min_size=1, max_size=20), st.integers(1, 12))
def test_a_spool_gives_back_what_posts_say(texts: list[str], block: int) -> None:
    table = posts(*texts, wordings=[[wording(text, "ocr"), wording("猫", "object")] for text in texts])
    lines = list_lines(table)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryFile() as file:
        spool = Spool(file)
        patch.setattr(phrase_room, "BLOCK_CHARACTERS", block)
        for start in range(0, len(texts), 3):
            spool.append(table.slice(start, 3).combine_chunks())
        blocks = list(spool.blocks())
        assert [text for _, part in blocks for text in part.texts] == lines.texts
        assert np.concatenate([part.posts for _, part in blocks]).tolist() == lines.posts.tolist()
        assert np.concatenate([part.sources for _, part in blocks]).tolist() == lines.sources.tolist()
        for (_, one), (_, other) in pairwise(blocks):
            assert one.posts[-1] < other.posts[0], "a post lies in two blocks"
        for start, part in blocks:
            length = sum(map(len, part.texts)) + len(part.texts) - 1
            assert spool.read(np.array([start]), np.array([length])) == ["\n".join(part.texts)]


def test_one_character_is_looked_for_in_names_only() -> None:
    lines = list_lines(posts("小猫看世博会", wordings=[[wording("猫", "object"), wording("世博会场", "object")]]))
    places, words = WordFinder(["世博会", "猫"]).find(lines)
    assert list(zip(places.tolist(), words.tolist(), strict=True)) == [(0, 0), (1, 1)]


# Keywords


def test_new_words_are_found_and_their_pieces_are_not(tmp_path: Path) -> None:
    found = extract(tmp_path, posts(*EXPO, *LIPS))
    assert {word for _, word in found} == {"世博会", "唇釉"}
    assert found["", "世博会"]["posts"] == 6
    assert found["", "世博会"]["sources"] == ["text"]
    assert found["", "世博会"]["trend"] is None


def test_print_objects_and_marked_names_are_read_with_their_source(tmp_path: Path) -> None:
    wordings = [[wording(EXPO[at], "ocr"), wording("猫", "object"), wording("v64_1", "code")] for at in range(6)]
    texts = [f"{text}《三体》" if at < 2 else text for at, text in enumerate(LIPS)]
    found = extract(tmp_path, posts(*texts, *["早安"] * 7, wordings=wordings + [[]] * 7))
    assert {word: row["sources"] for (_, word), row in found.items() if word != "早安"} == {
        "唇釉": ["text"],
        "世博会": ["ocr"],
        "猫": ["object"],
        "三体": ["text"],
    }


def test_wordings_come_from_a_file_in_any_order(tmp_path: Path) -> None:
    wordings = [[wording(text, "ocr")] for text in EXPO] + [[]] * 7
    whole = posts(*[f"{at}，{at} {at}" for at in range(13)], wordings=wordings)
    pq.write_table(whole.select(["post_id", "wordings"]).take(pa.array(range(11, -1, -1))), tmp_path / "wordings.parquet")
    own = extract(tmp_path, whole)
    assert {word for _, word in own} == {"世博会"}
    assert extract(tmp_path, whole.drop_columns(["wordings"]), wordings=tmp_path / "wordings.parquet") == own
    with pytest.raises(RequestError, match="expected what `weibotag wordings` writes"):
        extract(tmp_path, whole, wordings=tmp_path / "none.parquet")
    text = pa.array(["[]"] * 13)
    with pytest.raises(RequestError, match="column wordings is string"):
        extract(tmp_path, whole.set_column(whole.column_names.index("wordings"), "wordings", text))


def test_channels_have_their_own_keywords(tmp_path: Path) -> None:
    table = posts(*EXPO, *LIPS, *"早安", *"晚安", channel=["旅游"] * 6 + ["美妆"] * 6 + ["旅游"] * 2 + ["美妆"] * 2)
    found = extract(tmp_path, table)
    # Six of eight posts say it: of all posts in a channel that is no news.
    assert not found
    table = pa.concat_tables([table, posts(*"天地人云雨风", channel=["旅游", "美妆"] * 3)])
    table = table.set_column(0, "post_id", pa.array([str(at) for at in range(len(table))]))
    table = pa.concat_tables([table.slice(0, 4), table.slice(6, 4), table.slice(12)])
    assert {key: row["posts"] for key, row in extract(tmp_path, table).items()} == {
        ("旅游", "世博会"): 4,
        ("美妆", "唇釉"): 4,
    }


def test_stop_words_numbers_and_joints_are_no_keywords(tmp_path: Path) -> None:
    assert not any(map(is_keyword, ("的世博会", "看了", "2022", "12月", "-阿伦森", "北京时间12月", "", "a\nb", "the cup")))
    assert all(map(is_keyword, ("世博会", "c罗", "小米12", "5g", "iphone13手机", "new york", "布兰登-阿伦森")))
    (tmp_path / "stop.txt").write_text("世博会\n", encoding="gb18030")
    found = extract(tmp_path, posts(*EXPO, *LIPS), stop_words=tmp_path / "stop.txt")
    assert {word for _, word in found} == {"唇釉"}


def test_english_words_and_phrases_are_found(tmp_path: Path) -> None:
    texts = [f"{before} new york {after}" for before, after in zip("abcdef", "uvwxyz", strict=True)]
    found = extract(tmp_path, posts(*texts, *["hello there my friend"] * 9))
    assert ("", "new york") in found
    assert ("", "york") not in found


def test_trend_tells_what_is_new_whether_posts_or_keywords_are_given(tmp_path: Path) -> None:
    both = [*EXPO, *LIPS, *[f"{sign}晴天{other}" for sign, other in zip("一二三四五六", "甲乙丙丁戊己", strict=True)]]
    earlier = posts(*EXPO, *LIPS[:1], *both[-6:])
    pq.write_table(earlier, tmp_path / "earlier.parquet")
    found = extract(tmp_path, posts(*both), earlier=str(tmp_path / "earlier.parquet"))
    assert {word: row["is_new"] for (_, word), row in found.items()} == {"世博会": False, "唇釉": False, "晴天": False}
    assert found["", "唇釉"]["trend"] > found["", "世博会"]["trend"]
    assert found["", "唇釉"]["trend"] - found["", "世博会"]["trend"] == pytest.approx(np.log(7 / 2))
    with (tmp_path / "known.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("channel", "keyword", "posts"), ("", "世博会", "6"), ("", "晴天", "6.0")])
    found = extract(tmp_path, posts(*both), earlier=str(tmp_path / "known.csv"))
    assert {word: row["is_new"] for (_, word), row in found.items()} == {"世博会": False, "唇釉": True, "晴天": False}
    assert found["", "世博会"]["trend"] == pytest.approx(0, abs=1e-6)


def test_twice_the_posts_of_everything_is_no_trend(tmp_path: Path) -> None:
    pq.write_table(posts(*EXPO * 20, *LIPS * 20), tmp_path / "earlier.parquet")
    found = extract(tmp_path, posts(*EXPO * 40, *LIPS * 40), earlier=str(tmp_path / "earlier.parquet"))
    assert [row["trend"] for row in found.values()] == pytest.approx([0] * len(found), abs=0.05)
    assert found


def test_posts_without_keywords_have_none(tmp_path: Path) -> None:
    pq.write_table(posts(*EXPO), tmp_path / "earlier.parquet")
    assert extract(tmp_path, posts("天", "地", "人"), earlier=str(tmp_path / "earlier.parquet")) == {}


# Keywords in posts


def test_posts_get_the_keywords_of_their_channel() -> None:
    index = KeywordIndex(pa.table({"channel": ["数码", "数码", "水果"], "keyword": ["iPhone", "苹果手机", "苹果"]}))
    table = posts("新IPHONE，iphone", "苹果手机", "红苹果", "苹果", channel=["数码", "水果", "水果", ""])
    assert find_keywords(table, index).to_pylist() == [["iPhone"], [], ["苹果"], []]


def test_a_keyword_twice_in_a_channel_is_refused() -> None:
    with pytest.raises(RequestError, match="'NBA' is there twice in channel 体育; delete one"):
        KeywordIndex(pa.table({"channel": ["体育", "体育"], "keyword": ["nba", "NBA"]}))


def test_no_keywords_are_none_found() -> None:
    index = KeywordIndex(pa.table({"channel": pa.array([], pa.string()), "keyword": pa.array([], pa.string())}))
    assert find_keywords(posts("世博会"), index).to_pylist() == [[]]


# Files and the command


def test_a_csv_that_was_edited_reads_as_what_was_written(tmp_path: Path) -> None:
    written = extract(tmp_path, posts(*EXPO, *LIPS))
    extract_keywords(WordingsRequest(posts=str(tmp_path / "posts.parquet"), quiet=True), tmp_path / "keywords.csv")
    assert read_keywords(tmp_path / "keywords.csv").schema == arrow_schema("channel_keywords")
    read = read_keywords(tmp_path / "keywords.csv").to_pylist()
    assert [(row["channel"], row["keyword"]) for row in read] == list(written)
    assert [row["score"] for row in read] == pytest.approx([row["score"] for row in written.values()], rel=1e-5)
    (tmp_path / "keywords.csv").write_text("channel,word\n,a\n")
    with pytest.raises(RequestError, match="no column keyword; found channel, word"):
        read_keywords(tmp_path / "keywords.csv")
    (tmp_path / "keywords.csv").write_text("channel,keyword,posts\n,a,many\n")
    with pytest.raises(RequestError, match="column posts"):
        read_keywords(tmp_path / "keywords.csv")


def test_the_command_says_what_it_needs_and_what_it_found(tmp_path: Path) -> None:
    with (tmp_path / "posts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("post_id", "text"), *enumerate(EXPO + LIPS), (98, ""), (99, "早")])
    result = ask("keywords", "extract", str(tmp_path / "posts.csv"), "-o", str(tmp_path / "keywords.csv"))
    assert result.exit_code == 0, result.output
    first, *_, last = result.stderr.splitlines()
    assert first.startswith(f"{tmp_path}/posts.csv: some 5 s, ")
    assert last.endswith("2 keywords of 13 posts; 1 rows that could not be used were left out")
    stdin = (tmp_path / "posts.csv").read_bytes()
    done = shell("keywords", "extract", "-", "-o", str(tmp_path / "again.csv"), "-q", input=stdin.decode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "keywords.csv").read_bytes()


@pytest.mark.skipif(not (SHARED / "data/feed/posts.csv").is_file(), reason="no posts of the feed in WEIBOTAG_SHARED")
def test_most_names_that_people_marked_in_real_posts_are_found(tmp_path: Path) -> None:
    where = "split = 'test' and channel = '体育'"
    request = WordingsRequest(posts=str(SHARED / "data/feed/posts.csv"), where=where, quiet=True)
    extract_keywords(request, tmp_path / "keywords.parquet")
    found = {fold(word) for word in pq.read_table(tmp_path / "keywords.parquet")["keyword"].to_pylist()}
    with (SHARED / "data/feed/posts.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and row["channel"] == "体育"]
    gold = Counter(word for row in rows for word in {fold(word).strip() for word in row["keywords"].split(";")} - {""})
    twice = {word for word, count in gold.items() if count > 1}
    assert len(twice) > 100
    assert len(twice & found) / len(twice) > 0.75


@pytest.mark.parametrize("rows", ["", "1,\n"])
def test_posts_that_say_nothing_keep_the_older_output(tmp_path: Path, rows: str) -> None:
    (tmp_path / "posts.csv").write_text(f"post_id,text\n{rows}", encoding="utf-8")
    (tmp_path / "keywords.csv").write_text("older", encoding="utf-8")
    words = ("keywords", "extract", str(tmp_path / "posts.csv"), "-o", str(tmp_path / "keywords.csv"), "--quiet")
    assert ask(*words).exit_code == 3
    assert (tmp_path / "keywords.csv").read_text(encoding="utf-8") == "older"
