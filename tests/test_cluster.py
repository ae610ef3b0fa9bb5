import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.core.arrays import unit
from weibotag.core.errors import RequestError
from weibotag.core.schema import arrow_schema
from weibotag.core.text_matching import fold
from weibotag.curation.keywords import cluster as clustering
from weibotag.curation.keywords.cluster import (
    COMPANY,
    FEWEST_TAG_POSTS,
    MEANING,
    MEANING_AXES,
    PRIOR_TAGS,
    choose_alone,
    cluster_keywords,
    encode_keywords,
    form_clusters,
    join_clusters,
    name_groups,
    read_mentions,
    share_out,
    weigh_tags,
)
from weibotag.extraction.requests import WordingsRequest
from weibotag.posts.result_files import read_listing
from weibotag.posts.source import PostsSource

CHARACTERS = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]


def read_clusters(path: Path) -> dict[tuple[str, str], str]:
    rows = read_listing(path, "clusters", ("channel", "keyword", "cluster")).to_pylist()
    return {(row["channel"], row["keyword"]): row["cluster"] for row in rows}


def make_words(number: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return sorted({"".join(rng.choice(CHARACTERS, 3)) for _ in range(number)})


def make_posts(topics: dict[str, list[str]], number: int, channel: str = "", seed: int = 0) -> pa.Table:
    """Posts of five words of one topic each, earlier words of a topic more often; tagged by the topic."""
    rng = np.random.default_rng(seed)
    names = sorted(topics)
    texts, tags = [], []
    for _ in range(number):
        topic = names[rng.integers(len(names))]
        share = 1 / np.arange(1, len(topics[topic]) + 1)
        texts.append("，".join(rng.choice(topics[topic], 5, replace=False, p=share / share.sum())))
        tags.append([topic])
    ids = [f"{channel}{seed}-{row}" for row in range(number)]
    return pa.table({"post_id": ids, "text": texts, "channel": [channel] * number, "tags": tags})


def count_keywords(posts: pa.Table) -> pa.Table:
    counts = Counter(
        (channel, word)
        for channel, text in zip(posts["channel"].to_pylist(), posts["text"].to_pylist(), strict=True)
        for word in set(text.split("，"))
    )
    channels, words = zip(*counts, strict=True)
    return pa.table({"channel": channels, "keyword": words, "posts": list(counts.values())})


WORDS = make_words(100, 1)
TOPICS = {f"topic {topic}": WORDS[topic::4] for topic in range(4)}
BOTH = pa.concat_tables([make_posts(TOPICS, 300, "美妆"), make_posts(TOPICS, 200, "旅游", 1)])
UNLABELLED = BOTH.drop_columns(["tags"])


@pytest.fixture
def source(tmp_path: Path) -> PostsSource:
    pq.write_table(BOTH, tmp_path / "posts.parquet")
    return PostsSource(str(tmp_path / "posts.parquet"))


def cluster(source: PostsSource, out: Path, keywords: pa.Table | None = None, size: int = 60, **asked: object) -> list[dict]:
    keywords = count_keywords(BOTH) if keywords is None else keywords
    summary = cluster_keywords(keywords, WordingsRequest(posts=source.path, quiet=True), out, size, **asked)
    rows = pq.read_table(out).to_pylist() if out.suffix == ".parquet" else None
    if rows is not None:
        assert summary.keywords == len(rows)
        assert summary.clusters == len({(row["channel"], row["cluster"]) for row in rows})
    return rows or []


# Clusters


def test_clusters_are_as_many_as_asked_and_named_by_their_most_frequent_member(source: PostsSource, tmp_path: Path) -> None:
    keywords = count_keywords(BOTH)
    rows = cluster(source, tmp_path / "clusters.parquet", keywords)
    assert pq.read_schema(tmp_path / "clusters.parquet").equals(arrow_schema("clusters"))
    counted = {(row["channel"], row["keyword"]): row["posts"] for row in keywords.to_pylist()}
    assert {(row["channel"], row["keyword"]): row["posts"] for row in rows} == counted
    clusters: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        clusters.setdefault((row["channel"], row["cluster"]), []).append(row["posts"])
    assert len(clusters) == 60
    assert all(counted[key] == max(members) for key, members in clusters.items())


@pytest.mark.parametrize("posts", [BOTH, UNLABELLED], ids=["labelled", "unlabelled"])
def test_rare_keywords_are_with_those_of_their_topic(posts: pa.Table, tmp_path: Path) -> None:
    pq.write_table(posts, tmp_path / "posts.parquet")
    rows = cluster(PostsSource(str(tmp_path / "posts.parquet")), tmp_path / "clusters.parquet", size=24)
    topic_of = {word: topic for topic, words in TOPICS.items() for word in words}
    gathered: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        gathered.setdefault((row["channel"], row["cluster"]), []).append(topic_of[row["keyword"]])
    several = [topics for topics in gathered.values() if len(topics) > 1]
    members = sum(map(len, several))
    assert members > 150
    # By chance it would be a quarter.
    assert sum(max(Counter(topics).values()) for topics in several) / members > 0.8


def test_the_order_of_keywords_and_posts_does_not_matter(source: PostsSource, tmp_path: Path) -> None:
    keywords = count_keywords(BOTH)
    cluster(source, tmp_path / "one.csv", keywords)
    rng = np.random.default_rng(3)
    pq.write_table(BOTH.take(pa.array(rng.permutation(len(BOTH)))), tmp_path / "posts.parquet")
    cluster(source, tmp_path / "other.csv", keywords.take(pa.array(rng.permutation(len(keywords)))))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()


def test_what_tells_most_and_what_is_most_frequent_stays_alone() -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(50, 8)).astype(np.float32))
    posts = np.arange(50)
    importance = np.where(np.arange(50) == 7, 5.0, 0.0)
    alone = choose_alone(importance, posts, 10)
    assert np.flatnonzero(alone).tolist() == [7, 46, 47, 48, 49]
    groups = form_clusters(vectors, alone, 5)
    sizes = np.bincount(groups)
    assert len(sizes) == 10
    assert (sizes > 0).all()
    assert (sizes[groups[[7, 49, 48, 47, 46]]] == 1).all()
    assert (form_clusters(vectors, alone, 5) == groups).all()
    assert choose_alone(importance, posts, 80).all()
    assert sorted(form_clusters(vectors, alone, 45)) == list(range(50))


def test_groups_are_named_by_their_most_frequent_first_of_equals() -> None:
    names = np.array(["a", "b", "c", "d"], dtype=object)
    assert name_groups(np.array([0, 0, 4, 4]), names, np.array([1, 2, 3, 3])).tolist() == ["b", "b", "c", "c"]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.floats(0, 1))
def test_every_channel_gets_its_share(keywords: list[int], share: float) -> None:
    size = round(share * sum(keywords))
    shares = share_out(size, keywords)
    assert all(1 <= own <= number for own, number in zip(shares, keywords, strict=True))
    assert all(abs(own - number * size / sum(keywords)) <= 1 for own, number in zip(shares, keywords, strict=True))
    if size >= len(keywords) and min(number * size / sum(keywords) for number in keywords) >= 1:
        assert sum(shares) == size


# What keywords mean

MEANT = {
    "美妆": ["口红", "唇釉", "lipstick", "粉底液", "眼影", "mascara"],
    "汽车": ["轿车", "跑车", "sports car", "越野车", "卡车", "minivan"],
    "水果": ["苹果", "香蕉", "pineapple", "草莓", "葡萄", "watermelon"],
    "天气": ["下雨", "暴风雪", "thunderstorm", "大雾", "台风", "snowfall"],
}


def test_what_means_the_same_is_together_though_nothing_else_tells(tmp_path: Path) -> None:
    topic_of = {word: topic for topic, words in MEANT.items() for word in words}
    pq.write_table(make_posts({"": ["天"] * 5}, 5), tmp_path / "posts.parquet")
    keywords = pa.table({"channel": [""] * len(topic_of), "keyword": [*topic_of], "posts": [2] * len(topic_of)})
    rows = cluster(PostsSource(str(tmp_path / "posts.parquet")), tmp_path / "clusters.parquet", keywords, 8)
    gathered: dict[str, list[str]] = {}
    for row in rows:
        gathered.setdefault(row["cluster"], []).append(topic_of[row["keyword"]])
    several = [topics for topics in gathered.values() if len(topics) > 1]
    assert sum(max(Counter(topics).values()) for topics in several) / sum(map(len, several)) > 0.8


def test_what_says_nothing_has_no_meaning_and_is_known_by_its_company() -> None:
    vectors = encode_keywords(["口红 🔥🔥", "汽车 口红"], ["口红", "🔥🔥", "汽车", "口红", "🚀🚀"])
    assert vectors.dtype == np.float32
    own, company = vectors[:, :MEANING_AXES], vectors[:, MEANING_AXES:]
    assert (own**2).sum(axis=1).tolist() == pytest.approx([MEANING, 0, MEANING, MEANING, 0])
    assert (company**2).sum(axis=1).tolist() == pytest.approx([COMPANY, COMPANY, COMPANY, COMPANY, 0])
    assert company[1] @ company[2] == pytest.approx(COMPANY)
    assert (vectors[0] == vectors[3]).all()


@pytest.mark.parametrize("case", ["no package", "very many"])
def test_where_meaning_is_not_read_clusters_go_without_and_say_so(
    source: PostsSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    keywords = count_keywords(BOTH).slice(0, 40)
    pq.write_table(keywords, tmp_path / "keywords.parquet")
    if case == "very many":
        monkeypatch.setattr(clustering, "MOST_ENCODED", 39)
    else:
        monkeypatch.setattr(clustering, "open_encoder", refuse)
    words = ["keywords", "cluster", str(tmp_path / "keywords.parquet"), "--posts", source.path]
    result = ask(*words, "-o", str(tmp_path / "clusters.csv"), "--share", "0.5")
    assert result.exit_code == 0, result.output
    reason = {"no package": "pip install", "very many": "more than 39 keywords"}[case]
    last = result.stderr.splitlines()[-1]
    assert last == f"{tmp_path}/clusters.csv: 40 keywords in 20 clusters; what they mean was not read: {reason}"
    assert len(read_clusters(tmp_path / "clusters.csv")) == 40


def refuse() -> None:
    raise RequestError("pip install")


# What keywords tell


def test_importance_is_the_divergence_from_the_tags_of_the_channel() -> None:
    # Keywords 0 and 1 are of one channel, 2 of another; tags by keyword.
    counts = np.array([[6, 0, 0], [4, 2, 0], [0, 0, 5]])
    told = weigh_tags(csr_matrix(np.vstack([counts, np.zeros(3, int)])), np.array([0, 0, 1, 1]))
    usual = np.array([10 / 12, 2 / 12])
    for row in (0, 1):
        held = (counts[row, :2] + PRIOR_TAGS * usual) / (6 + PRIOR_TAGS)
        assert told[row] == pytest.approx(6 * (held * np.log(held / usual)).sum())
    assert told[2:].tolist() == pytest.approx([0, 0])


def test_mentions_become_lines_and_rare_tags_tell_nothing() -> None:
    keywords = pa.table({"channel": [""] * 3, "keyword": ["New York", "世博会", "唇釉"]})
    often, rare = FEWEST_TAG_POSTS, FEWEST_TAG_POSTS - 1
    texts = ["new york 世博会"] * often + ["唇釉"] * rare + ["世博会"] * often
    tags = [["城市"]] * often + [["美妆"]] * rare + [["展览"]] * often
    table = pa.table({"text": texts, "channel": [""] * len(texts), "tags": tags})
    lines, importance = read_mentions([table.slice(0, 5), table.slice(5)], keywords)
    assert {tuple(sorted(line.split())) for line in lines} == {("new_york", "世博会")}
    assert len(lines) == often
    assert importance[0] > importance[1] > importance[2] == 0
    assert read_mentions([table.set_column(2, "tags", pa.nulls(len(table), pa.list_(pa.string())))], keywords)[1].sum() == 0


# A new day


def test_a_new_day_keeps_old_clusters_and_their_names(source: PostsSource, tmp_path: Path) -> None:
    cluster(source, tmp_path / "old.csv")
    old = read_clusters(tmp_path / "old.csv")
    name = max(Counter(old.values()).items(), key=lambda item: item[1])[0]
    text = (tmp_path / "old.csv").read_text(encoding="utf-8-sig")
    (tmp_path / "old.csv").write_text(text.replace(f",{name},", ",改了的名字,"), encoding="gb18030")
    old = read_clusters(tmp_path / "old.csv")
    assert "改了的名字" in old.values()
    fresh = make_words(40, 9)
    topics = {topic: [*words[:10], *fresh[at::4]] for at, (topic, words) in enumerate(sorted(TOPICS.items()))}
    today = make_posts(topics, 300, "美妆", 5)
    pq.write_table(today, tmp_path / "posts.parquet")
    keywords = count_keywords(today)
    rows = cluster(source, tmp_path / "new.parquet", keywords, old=tmp_path / "old.csv")
    new = {(row["channel"], row["keyword"]): row["cluster"] for row in rows}
    assert {key: new[key] for key in old} == old
    added = set(new) - set(old)
    assert {word for _, word in added} == set(keywords["keyword"].to_pylist()) - {word for _, word in old}
    assert all(new[key] in set(old.values()) | {word for _, word in added} for key in added)
    assert any(new[key] in set(old.values()) for key in added)
    posts = {(row["channel"], row["keyword"]): row["posts"] for row in keywords.to_pylist()}
    assert all(row["posts"] == posts[row["channel"], row["keyword"]] for row in rows if row["keyword"] in fresh)
    again = cluster(source, tmp_path / "again.parquet", keywords, old=tmp_path / "new.parquet")
    assert again == rows


def test_a_new_keyword_joins_what_is_near_and_opens_a_cluster_where_nothing_is() -> None:
    angles = np.radians([0, 4, 90, 94, 2, 180, 181, 88])
    vectors = np.zeros((8, 64), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    names = np.array(list("abcdefgh"), dtype=object)
    clusters = np.array(["甲", "甲", "乙", "乙", "", "", "", ""], dtype=object)
    joined = join_clusters(vectors, clusters, names, np.array([1, 1, 1, 1, 1, 2, 5, 1]))
    assert joined.tolist() == ["甲", "甲", "乙", "乙", "甲", "g", "g", "h"]
    assert clusters[4] == ""
    # Six posts are as many as the one that is alone has.
    clusters[3] = "丙"
    assert join_clusters(vectors, clusters, names, np.array([1, 1, 6, 7, 6, 2, 5, 6]))[4:].tolist() == ["甲", "g", "g", "乙"]
    assert join_clusters(vectors, clusters, names, np.array([1, 1, 6, 6, 9, 2, 5, 6]))[4:].tolist() == ["e", "g", "g", "h"]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 99))
def test_joining_never_moves_what_has_a_cluster(known: int, fresh: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(known + fresh, 64)).astype(np.float32))
    names = np.array([f"word {row}" for row in range(known + fresh)], dtype=object)
    clusters = np.array([*(f"cluster {row}" for row in rng.integers(0, 3, known)), *[""] * fresh], dtype=object)
    joined = join_clusters(vectors, clusters, names, rng.integers(1, 5, known + fresh))
    assert joined[:known].tolist() == clusters[:known].tolist()
    assert set(joined) <= set(clusters[:known]) | set(names[known:])
    assert all(joined[row] == names[row] for row in range(known, known + fresh) if names[row] in set(joined))


def test_keywords_are_the_same_whatever_their_case_and_width(source: PostsSource, tmp_path: Path) -> None:
    rows = [("channel", "keyword", "cluster", "posts"), ("美妆", "ＭＡＣ", "口红", 3)]
    with (tmp_path / "old.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    today = pa.table({"channel": ["美妆"], "keyword": ["mac"], "posts": [9]})
    (row,) = cluster(source, tmp_path / "new.parquet", today, old=tmp_path / "old.csv")
    assert row == {"channel": "美妆", "keyword": "ＭＡＣ", "cluster": "口红", "posts": 9}
    assert fold(row["keyword"]) == "mac"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("", "a", "b", 1), ("", "A", "c", 1)], "'A' is there twice in channel ''; delete one"),
        ([("", "a", "", 1)], "'a' in channel '' has no cluster; name it, or delete it"),
    ],
)
def test_old_clusters_that_leave_a_question_are_refused(
    source: PostsSource, tmp_path: Path, rows: list[tuple], said: str
) -> None:
    with (tmp_path / "old.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("channel", "keyword", "cluster", "posts"), *rows])
    with pytest.raises(RequestError, match=r"old\.csv: keyword") as error:
        cluster(source, tmp_path / "new.parquet", old=tmp_path / "old.csv")
    assert said in str(error.value)


# The command


def test_the_command_says_what_it_needs_and_writes_clusters(source: PostsSource, tmp_path: Path) -> None:
    keywords = count_keywords(BOTH).slice(0, 120)
    pq.write_table(keywords, tmp_path / "keywords.parquet")
    words = ["keywords", "cluster", str(tmp_path / "keywords.parquet"), "--posts", source.path]
    result = ask(*words, "-o", str(tmp_path / "clusters.csv"), "--share", "0.5")
    assert result.exit_code == 0, result.output
    first, *_, last = result.stderr.splitlines()
    assert first.startswith("120 keywords to 60 clusters: some ")
    assert last == f"{tmp_path}/clusters.csv: 120 keywords in 60 clusters"
    assert len(read_clusters(tmp_path / "clusters.csv")) == 120
    result = ask(*words, "-o", str(tmp_path / "new.csv"), "--size", "3", "--old", str(tmp_path / "clusters.csv"))
    assert result.exit_code == 2
    assert "give one of them" in result.stderr
    result = ask(*words, "-o", str(tmp_path / "new.csv"), "--old", str(tmp_path / "clusters.csv"))
    assert result.stderr.splitlines()[-1].endswith("120 keywords in 60 clusters, 0 and 0 of them new")


def test_no_keywords_are_no_clusters(source: PostsSource, tmp_path: Path) -> None:
    none = arrow_schema("channel_keywords").empty_table()
    assert cluster(source, tmp_path / "clusters.parquet", none) == []
