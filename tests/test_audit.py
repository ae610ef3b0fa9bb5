import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask
from graded_posts import tree
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.core.errors import RequestError
from weibotag.curation.tags.apply import apply
from weibotag.curation.tags.audit import audit, find_habits, find_together, lower_bound
from weibotag.curation.tags.label_doubts import most_specific, plant, propose, shift_prior
from weibotag.curation.tags.labelled_posts import PostsByTag, read_labelled
from weibotag.curation.tags.proposals import PROPOSALS, Finding, Proposal, read_proposals, write_proposals
from weibotag.curation.tags.tag_similarity import compare_pairs, judge_same, measure_likeness, part_in_two
from weibotag.features.hashed_ngrams import vectorise
from weibotag.posts.source import PostsSource
from weibotag.taxonomy.tree import load, save_csv

TREE = tree("美妆", "美妆/口红", "美妆/唇彩", "美妆/眼影", "体育", "体育/足球", "体育/网球", "体育/棋")
# Each tag's own words; 口红 and 唇彩 have the same, 足球 has those of two things.
WORDS = {
    "美妆/口红": ["唇色 显白", "哑光 质地", "涂嘴 滋润"],
    "美妆/唇彩": ["唇色 显白", "哑光 质地", "涂嘴 滋润"],
    "美妆/眼影": ["眼妆 大地", "亮片 闪烁", "晕染 眼皮"],
    "体育/足球": ["进球 点球", "越位 门将"],
    "体育/网球": ["球拍 发球", "破发 赛点", "温网 决赛"],
}
OTHER_GAME = ["四分卫 达阵", "冲球 码数"]


def write_posts(folder: Path, texts: list[str], tags: list[list[str]], **columns: list[Any]) -> str:
    path = folder / "posts.parquet"
    ids = [f"p{number}" for number in range(len(texts))]
    labels = pa.array(tags, pa.list_(pa.string()))
    pq.write_table(pa.table({"post_id": ids, "text": texts, "tags": labels, **columns}), path)
    return str(path)


def make_posts(seed: int = 0, number: int = 60) -> tuple[list[str], list[list[str]]]:
    """Posts of each tag of `WORDS`: two phrases of its own among words of anybody."""
    random = np.random.default_rng(seed)
    texts, tags = [], []
    for place in range(number * len(WORDS)):
        tag = list(WORDS)[place % len(WORDS)]
        words = OTHER_GAME if tag == "体育/足球" and place % 2 else WORDS[tag]
        said = [*random.choice(words, 2, replace=False), *(f"字{random.integers(200)}" for _ in range(4))]
        texts.append(" ".join(random.permutation(said)))
        tags.append([tag])
    return texts, tags


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[list[str]], list[list[str]]]:
    """An audit of posts of which every sixteenth carries another's tag; the texts, the tags before that, and after."""
    folder = tmp_path_factory.mktemp("audit")
    texts, clean = make_posts(number=80)
    spoilt = [clean[place - 2] if place % 16 == 4 else tags for place, tags in enumerate(clean)]
    save_csv(TREE, folder / "tree.csv")
    source = PostsSource(write_posts(folder, texts, spoilt, note=[f"n{place}" for place in range(len(texts))]))
    audit(source, TREE, folder / "audit", quiet=True)
    return folder, texts, clean, spoilt


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_tags_that_mean_the_same_are_found_and_no_others(audited: Any) -> None:
    found = read_proposals(audited[0] / "audit" / PROPOSALS, "merge,alias,>=0.5")
    assert [{one.tag, one.other} for one in found] == [{"美妆/口红", "美妆/唇彩"}]


def test_a_tag_of_two_things_is_found(audited: Any) -> None:
    found = read_proposals(audited[0] / "audit" / PROPOSALS, "split")
    assert [one.tag for one in found] == ["体育/足球"]
    groups = pq.read_table(audited[0] / "audit" / "splits.parquet").to_pylist()
    texts = [audited[1][int(row["post_id"][1:])] for row in groups]
    assert 20 < len(texts) <= 40
    of_one = [any(word in text for words in OTHER_GAME for word in words.split()) for text in texts]
    assert np.mean(of_one) in (0, 1)


def test_swapped_labels_are_found_with_evidence(audited: Any) -> None:
    folder, _, clean, spoilt = audited
    proposals = read_proposals(folder / "audit" / PROPOSALS, "relabel,>=0.3")
    found = {one.post_id: one for one in proposals if one.action == "relabel" and one.removed}
    wrong = {f"p{place}" for place in range(len(clean)) if clean[place] != spoilt[place]}
    assert len(found.keys() & wrong) >= 0.8 * len(wrong)
    assert len(found.keys() & wrong) >= 0.9 * len(found)
    places = [int(post_id[1:]) for post_id in found.keys() & wrong]
    assert all(found[f"p{place}"].removed == tuple(spoilt[place]) for place in places)
    findings = [row for row in read_csv(folder / "audit" / "findings.csv") if row["kind"] == "wrong"]
    assert {row["tag"] for row in findings} <= set(WORDS)
    assert all(row["evidence"] for row in findings)


def test_dead_tags_are_found_and_tags_with_posts_are_not(audited: Any) -> None:
    dead = [row["tag"] for row in read_csv(audited[0] / "audit" / "findings.csv") if row["kind"] == "dead"]
    assert dead == ["体育/棋"]


def test_apply_takes_what_is_accepted_and_keeps_all_else(audited: Any, tmp_path: Path) -> None:
    folder, texts, clean, spoilt = audited
    source = PostsSource(str(folder / "posts.parquet"))
    about = apply(folder / "audit", source, TREE, tmp_path / "new", "merge,alias,relabel,>=0.5")
    posts = pq.read_table(tmp_path / "new" / "posts.parquet")
    assert posts.column_names == ["post_id", "text", "tags", "note"]
    assert posts["text"].to_pylist() == texts
    labels = posts["tags"].to_pylist()
    merged = {tag for tags in labels for tag in tags or [] if tag in ("美妆/口红", "美妆/唇彩")}
    assert len(merged) == 1
    assert merged <= set(load(tmp_path / "new" / "taxonomy.csv").ids)
    one = {tag: merged.copy().pop() for tag in ("美妆/口红", "美妆/唇彩")}
    right = [
        sum([one.get(tag, tag) for tag in tags] == now for tags, now in zip(clean, part, strict=True))
        for part in ([[one.get(tag, tag) for tag in tags] for tags in spoilt], labels)
    ]
    assert right[1] > right[0]
    assert about["micro_f1"]["after"] >= about["micro_f1"]["before"] - 0.01


def test_an_audit_changes_nothing_and_an_empty_cell_means_no(audited: Any, tmp_path: Path) -> None:
    folder = audited[0]
    assert {path.name for path in folder.iterdir()} == {"posts.parquet", "tree.csv", "audit"}
    assert {row["accept"] for row in read_csv(folder / "audit" / PROPOSALS)} == {""}
    with pytest.raises(RequestError, match="nothing is accepted"):
        apply(folder / "audit", PostsSource(str(folder / "posts.parquet")), TREE, tmp_path / "new", None)
    assert not (tmp_path / "new").exists()


def test_the_same_posts_give_the_same_audit(audited: Any, tmp_path: Path) -> None:
    audit(PostsSource(str(audited[0] / "posts.parquet")), TREE, tmp_path / "again", quiet=True)
    for name in ("findings.csv", PROPOSALS):
        assert (tmp_path / "again" / name).read_bytes() == (audited[0] / "audit" / name).read_bytes()


def test_answers_are_not_overwritten(audited: Any, tmp_path: Path) -> None:
    write_proposals([Proposal("move", "体育/棋", "美妆", confidence=0.9)], tmp_path / PROPOSALS)
    path = tmp_path / PROPOSALS
    path.write_text(path.read_text(encoding="utf-8-sig").replace("\n,move", "\nyes,move"), encoding="utf-8")
    with pytest.raises(RequestError, match="holds answers"):
        audit(PostsSource(str(audited[0] / "posts.parquet")), TREE, tmp_path, quiet=True)


def matrix(rows: list[list[str]]) -> csr_matrix:
    """Labels with ancestors."""
    cells = [[float(tag in TREE.expand(row)) for tag in TREE.ids] for row in rows]
    return csr_matrix(np.array(cells, np.float32))


def by_tag(rows: list[list[str]]) -> PostsByTag:
    return PostsByTag(TREE, matrix(rows).tocsc(), [f"p{row}" for row in range(len(rows))])


def kinds(found: Any) -> list[tuple[str, str, str | None]]:
    return [(one.kind, one.tag, one.other) for one in found if isinstance(one, Finding)]


def test_one_tag_inside_another_is_found_by_counting() -> None:
    rows = [["体育/棋", "美妆/眼影"]] * 30 + [["体育/足球"]] * 300 + [["美妆/眼影"]] * 200
    found = list(find_together(by_tag(rows)))
    assert kinds(found) == [("containment", "体育/棋", "美妆/眼影")]
    assert isinstance(found[1], Proposal)
    assert (found[1].action, found[1].tag, found[1].other) == ("move", "体育/棋", "美妆/眼影")
    assert found[1].evidence == ("p0", "p1", "p2", "p3", "p4")


def test_tags_that_are_always_given_together_overlap() -> None:
    rows = [["体育/棋", "美妆/眼影"]] * 30 + [["体育/棋"]] + [["体育/足球"]] * 50 + [["美妆/口红"]] * 50
    found = list(find_together(by_tag(rows)))
    assert kinds(found) == [("overlap", "美妆/眼影", "体育/棋")]


def test_a_tag_that_everything_carries_contains_nothing() -> None:
    rows = [["体育/棋", "美妆/眼影"]] * 30 + [["体育/足球", "美妆/眼影"]] * 200
    assert not list(find_together(by_tag(rows)))


def test_the_habit_of_one_annotator_is_found_but_not_of_who_labels_most() -> None:
    rows = [["体育/棋"]] * 20 + [["体育/足球"]] * 60 + [["美妆"]] * 20
    posts = by_tag(rows)
    people = np.array(["小王"] * 20 + ["小李", "小张"] * 30 + ["小李"] * 20, object)
    assert kinds(find_habits(posts, people)) == [
        ("habit", "美妆", None),
        ("habit", "体育/棋", None),
    ]
    alone = np.array(["小王"] * len(rows), object)
    assert not list(find_habits(posts, alone))


@given(st.integers(0, 40), st.integers(1, 40))
def test_the_lower_bound_is_below_the_share_and_grows_with_numbers(hits: int, more: int) -> None:
    total = hits + more
    low = lower_bound(hits, total)
    assert low + 1e-12 >= 0
    assert low <= hits / total + 1e-12
    assert low <= lower_bound(10 * hits, 10 * total) + 1e-12


@given(st.lists(st.sets(st.sampled_from(TREE.ids), min_size=1), min_size=1, max_size=30), st.integers(0, 5))
def test_planting_nothing_changes_nothing_and_planting_leaves_a_closed_matrix(rows: list[set[str]], seed: int) -> None:
    gold = matrix([sorted(row) for row in rows])
    random = np.random.default_rng(seed)
    assert (plant(gold, TREE, 0, 0, random) != gold).nnz == 0
    spoilt = plant(gold, TREE, 0.3, 0.3, random)
    closure = TREE.closure_matrix().astype(np.float32)
    assert ((spoilt @ closure) > 0).nnz == spoilt.nnz
    leaves = most_specific(gold, TREE)
    assert ((leaves @ closure) > 0).nnz == gold.nnz
    assert all(not set(TREE.ancestors(int(tag))) & set(row.indices) for row in leaves for tag in row.indices)


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=50), st.floats(0.01, 0.5))
def test_shifting_to_rarer_faults_keeps_the_order_and_makes_them_less_sure(sure: list[float], prior: float) -> None:
    before = np.array(sure)
    after = shift_prior(before, prior)
    assert (np.diff(after[np.argsort(before)]) >= -1e-9).all()
    change = after - before
    assert (change <= 1e-6).all() if before.mean() <= prior else (change >= -1e-6).all()


def test_two_tags_that_nothing_is_known_of_are_not_the_same() -> None:
    random = np.random.default_rng(0)
    # Nothing tells the first ten from each other, the others are told apart, but for 10 and 11.
    near = [(at, other) for at in range(30) for other in range(at + 1, at + 5) if other < 30 and (at < 10) == (other < 10)]
    distances = np.where(np.array(near)[:, 0] < 10, 0, 2) + random.normal(0, 0.3, len(near))
    planted = near.index((10, 11))
    distances[planted] = 0.1
    same = judge_same(np.array(near), distances, np.full(len(near), 0.2), np.full(len(near), 0.05))
    assert same[planted] > 0.5
    assert np.delete(same, planted).max() < 0.2


def test_groups_of_one_thing_are_alike_and_equal_posts_have_no_groups() -> None:
    texts, _ = make_posts(number=40)
    table = pa.table({"text": texts, "author": [""] * len(texts), "channel": [""] * len(texts)})
    vectors = vectorise(table).matrix
    two = [place for place in range(len(texts)) if place % 5 == 3]
    one = [place for place in range(len(texts)) if place % 5 == 4]
    assert part_in_two(vectors[two])[1] > 0.8
    assert measure_likeness(vectors[one[::2]], vectors[one[1::2]]) > 0.7
    assert part_in_two(vectors[[0] * 30])[1] == 0
    gold = csr_matrix(np.eye(5, dtype=np.float32)[np.arange(len(texts)) % 5])
    posts = PostsByTag(TREE, gold.tocsc(), [""] * len(texts))
    _, areas, _ = compare_pairs(vectors, posts, np.array([[0, 1], [0, 2]]), np.full(2, 0.05))
    assert abs(areas[0] - 0.5) < 0.25
    assert areas[1] > 0.9


def test_posts_without_known_tags_or_annotators_are_refused_and_text_named_wordings_is_not_read(tmp_path: Path) -> None:
    source = PostsSource(write_posts(tmp_path, ["一", "二"], [["象棋"], ["体育/棋", "象棋"]], wordings=["字", "词"]))
    labelled = read_labelled(source, TREE, None)
    assert labelled.ids == ["p1"]
    assert labelled.unknown == {"象棋": 2}
    assert "wordings" not in labelled.posts.column_names
    with pytest.raises(RequestError, match="none of 2 posts has a tag"):
        read_labelled(source, tree("别的"), None)
    with pytest.raises(RequestError, match="--annotator who: no such column"):
        read_labelled(source, TREE, "who")


def test_posts_that_teach_nothing_are_counted_only(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    few = PostsSource(write_posts(tmp_path / "few", ["一", "二", "三"], [["体育"], ["体育/棋"], ["体育/棋"]]))
    (tmp_path / "wordless").mkdir()
    pictures = [["a.png"]] * 60
    wordless = PostsSource(write_posts(tmp_path / "wordless", [""] * 60, [["体育/棋"], ["体育/足球"]] * 30, images=pictures))
    for name, source in (("few", few), ("wordless", wordless)):
        about = audit(source, TREE, tmp_path / f"{name}-audit", quiet=True)
        assert set(about["findings"]) == {"dead"}
        write_proposals([Proposal("merge", "体育/棋", "体育/足球", confidence=1)], tmp_path / f"{name}-audit" / PROPOSALS)
        done = apply(tmp_path / f"{name}-audit", source, TREE, tmp_path / f"{name}-new", "all")
        assert done["micro_f1"] is None
        assert done["posts_changed"] == {"few": 2, "wordless": 30}[name]


def test_a_post_loses_and_gains_what_it_should() -> None:
    target = {tag_id: tag_id for tag_id in TREE.ids}

    def ask_for(own: list[str], holding: set[str], lacking: dict[str, float], doubted: dict[str, float]) -> list[Any]:
        numbered = [[(TREE.index[tag], sure) for tag, sure in side.items()] for side in (lacking, doubted)]
        found = propose("p", own, target, holding, numbered[0], numbered[1], TREE)
        return [(one.removed, one.added, one.confidence) for one in found]

    # One in place of the other, with the parent that nothing else speaks for.
    swapped = [(("体育", "体育/足球"), ("美妆/眼影",), 0.7)]
    assert ask_for(["体育", "体育/足球"], set(), {"美妆/眼影": 0.7}, {"体育/足球": 0.8}) == swapped
    # What holds above a wrong tag stays, or is said now.
    assert ask_for(["体育/足球"], {"体育"}, {}, {"体育/足球": 0.8}) == [(("体育/足球",), ("体育",), 0.8)]
    assert ask_for(["体育", "体育/足球"], {"体育"}, {}, {"体育/足球": 0.8}) == [(("体育/足球",), (), 0.8)]
    # A sure addition does not wait for a removal that is not; a tag above a surer one below is not said.
    apart = [(("体育/足球",), (), 0.3), ((), ("美妆/眼影",), 0.9)]
    assert ask_for(["体育/足球"], set(), {"美妆": 0.7, "美妆/眼影": 0.9}, {"体育/足球": 0.3}) == apart


def test_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts, tags = make_posts(number=30)
    save_csv(TREE, Path("tree.csv"))
    (tmp_path / "in").mkdir()
    with open("in/posts.csv", "w", encoding="utf-8", newline="") as file:
        rows = ((f"p{place}", text, "a.png", tag[0]) for place, (text, tag) in enumerate(zip(texts, tags, strict=True)))
        csv.writer(file).writerows([("post_id", "text", "images", "标签"), *rows])
    command = ["taxonomy", "audit", "in/posts.csv", "-t", "tree.csv", "-o", "AUDIT", "--column", "tags=标签"]
    said = ask(*command, "--json", "--quiet", "--limit", "140")
    assert said.exit_code == 0, said.output
    about = json.loads(said.stdout)
    assert about["posts"] == 140
    assert about["proposals"]["merge"] + about["proposals"]["alias"] >= 1
    command = ["taxonomy", "apply", "AUDIT", "in/posts.csv", "-t", "tree.csv", "-o", "out/NEW", "--column", "tags=标签"]
    assert ask(*command).exit_code == 2
    assert ask(*command, "--accept", "most").exit_code == 2
    said = ask(*command, "--accept", "merge,alias,>=0.5")
    assert said.exit_code == 0, said.output
    assert "micro-F1" in said.output
    written = read_csv(tmp_path / "out" / "NEW" / "posts.csv")
    assert list(written[0]) == ["post_id", "text", "images", "tags"]
    assert len(written) == len(texts)
    # Seen from where the posts are now.
    assert written[0]["images"] == "../../in/a.png"
    assert ask("taxonomy", "check", "out/NEW/taxonomy.csv").exit_code == 0
