import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from typer.testing import CliRunner, Result

from weibotag import metrics, schema
from weibotag.cli.evaluate import evaluate_command
from weibotag.errors import RequestError
from weibotag.evaluate import evaluate, render
from weibotag.export import write_tables
from weibotag.taxonomy.tree import Tag, Taxonomy, save_csv

IDS = ("食", "食/果", "食/果/苹", "食/饮", "游", "游/岛")
FOOD, FRUIT, APPLE, DRINK, TRAVEL, ISLAND = IDS
TREE = Taxonomy(Tag(tag_id, tag_id.rpartition("/")[0] or None, tag_id, (), (), 1) for tag_id in IDS)
SHARES = ("micro_f1", "micro_precision", "micro_recall", "macro_f1", "leaf_p_at_1", "p_at_5", "hierarchical_f1")


def posts(*rows: dict[str, Any]) -> list[pa.Table]:
    """Every row in a table of its own, so that what is counted across tables is tried too."""
    return [pa.Table.from_pylist([row], schema=schema.arrow_schema("posts")) for row in rows]


def tags(*rows: dict[str, Any]) -> list[pa.Table]:
    return [pa.Table.from_pylist([row], schema=schema.arrow_schema("tags")) for row in rows]


def post(post_id: str, tag_ids: Iterable[str] | None, **other: Any) -> dict[str, Any]:
    return {"post_id": post_id, "text": "文", "tags": None if tag_ids is None else list(tag_ids), **other}


def answer(post_id: str, scores: Mapping[str, float | None], route: str | None = "rules") -> dict[str, Any]:
    found = [{"id": tag_id, "score": score} for tag_id, score in scores.items()]
    return {"post_id": post_id, "tags": found, "route": route, "keywords": []}


def words(post_id: str, *found: str) -> dict[str, Any]:
    ranked = [{"keyword": word, "score": 1 - at / 100, "source": "text"} for at, word in enumerate(found)]
    return {"post_id": post_id, "tags": [], "route": "rules", "keywords": ranked}


GOLD = posts(
    post("1", [APPLE]),
    post("2", [ISLAND], images=["2.jpg"]),
    post("3", [FOOD], text="", images=["3.jpg"]),
    post("4", [], text=" \n", images=[]),
    post("5", None),
    post("6", [TRAVEL, "not there"]),
)
PREDICTED = tags(
    answer("9", {FOOD: 0.9}),
    answer("5", {FOOD: 0.9}),
    answer("4", {TRAVEL: 0.2}, route=None),
    answer("3", {FRUIT: 0.4}, route="fast"),
    answer("2", {FOOD: 0.9, TRAVEL: 0.6}, route="fast"),
    answer("1", {FOOD: 0.9, FRUIT: 0.8, DRINK: 0.7}),
)


def test_report_has_the_promised_keys_and_is_json() -> None:
    report = evaluate(PREDICTED, GOLD, TREE)
    assert {
        "posts", "micro_f1", "macro_f1", "leaf_p_at_1", "p_at_5", "hierarchical_f1", "per_level", "per_tag",
        "per_route", "keywords", "micro_precision", "micro_recall", "ece", "ece_pairs", "per_modalities", "missing",
        "unlabelled", "unknown_tags", "at_k", "per_frequency",
    } == set(report)  # fmt: skip
    assert json.loads(json.dumps(report)) == report


def test_posts_are_counted_where_they_belong() -> None:
    report = evaluate(PREDICTED, GOLD, TREE)
    assert report["posts"] == 5
    assert report["missing"] == 1  # 6
    assert report["unlabelled"] == 2  # 5 has no gold, 9 no gold row
    assert report["unknown_tags"] == 1


def test_micro() -> None:
    report = evaluate(PREDICTED, GOLD, TREE)
    # Closed sets, posts 1 2 3 4 6: hits 2 1 1 0 0, gold 3 2 1 0 1, predicted 3 2 2 1 0.
    assert report["micro_precision"] == pytest.approx(4 / 8)
    assert report["micro_recall"] == pytest.approx(4 / 7)
    assert report["micro_f1"] == pytest.approx(8 / 15)


def test_macro_f1_is_over_tags_with_gold() -> None:
    report = evaluate(PREDICTED, GOLD, TREE)
    assert report["macro_f1"] == pytest.approx((4 / 5 + 2 / 3 + 0 + 2 / 4 + 0) / 5)


def test_hierarchical_f1_is_the_mean_over_posts() -> None:
    report = evaluate(PREDICTED, GOLD, TREE)
    assert report["hierarchical_f1"] == pytest.approx((4 / 6 + 2 / 4 + 2 / 3 + 0 + 0) / 5)


def test_leaf_p_at_1() -> None:
    # 1: 果 (0.8) is the best leaf, since 食 has predicted tags below it; 2 and 3 are wrong, 6 is missing.
    assert evaluate(PREDICTED, GOLD, TREE)["leaf_p_at_1"] == pytest.approx(1 / 4)


def test_leaf_p_at_1_takes_the_best_scored_leaf_not_the_deepest() -> None:
    predicted = tags(answer("1", {FOOD: 0.9, TRAVEL: 0.8, FRUIT: 0.3, APPLE: 0.2}))
    assert evaluate(predicted, posts(post("1", [TRAVEL])), TREE)["leaf_p_at_1"] == 1
    assert evaluate(predicted, posts(post("1", [APPLE])), TREE)["leaf_p_at_1"] == 0


def test_leaf_p_at_1_sees_through_a_missing_middle() -> None:
    predicted = tags(answer("1", {FOOD: 0.9, APPLE: 0.2}))
    assert evaluate(predicted, posts(post("1", [DRINK])), TREE)["leaf_p_at_1"] == 0


def test_p_at_5_divides_by_what_was_predicted() -> None:
    assert evaluate(PREDICTED, GOLD, TREE)["p_at_5"] == pytest.approx((2 / 3 + 1 / 2 + 0 + 0) / 4)


def test_p_at_5_takes_the_five_best_scored_whatever_their_order() -> None:
    predicted = tags(answer("1", {APPLE: 0.1, FOOD: 0.9, FRUIT: 0.5, DRINK: 0.4, TRAVEL: 0.3, ISLAND: 0.2}))
    assert evaluate(predicted, posts(post("1", [APPLE])), TREE)["p_at_5"] == pytest.approx(2 / 5)


def test_equal_scores_keep_the_order_of_the_file() -> None:
    gold = posts(post("1", [DRINK]))
    assert evaluate(tags(answer("1", {DRINK: 0.5, ISLAND: 0.5})), gold, TREE)["leaf_p_at_1"] == 1
    assert evaluate(tags(answer("1", {ISLAND: 0.5, DRINK: 0.5})), gold, TREE)["leaf_p_at_1"] == 0


def test_per_level() -> None:
    levels = evaluate(PREDICTED, GOLD, TREE)["per_level"]
    assert {level: (row["tags"], row["gold"], row["predicted"]) for level, row in levels.items()} == {
        "1": (2, 4, 5),
        "2": (3, 2, 3),
        "3": (1, 1, 0),
    }
    assert (levels["1"]["precision"], levels["1"]["recall"]) == pytest.approx((3 / 5, 3 / 4))
    assert levels["2"]["f1"] == pytest.approx(2 / 5)
    assert levels["3"]["f1"] == 0


def test_per_tag() -> None:
    per_tag = evaluate(PREDICTED, GOLD, TREE)["per_tag"]
    assert list(per_tag) == list(IDS)
    assert per_tag[FOOD] == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "gold": 2, "predicted": 3})
    assert per_tag[DRINK] == {"precision": 0, "recall": 0, "f1": 0, "gold": 0, "predicted": 1}


def test_tags_that_nobody_has_are_not_listed() -> None:
    assert list(evaluate(PREDICTED[3:4], posts(post("3", [FOOD])), TREE)["per_tag"]) == [FOOD, FRUIT]


def test_per_route_is_over_predicted_posts() -> None:
    routes = evaluate(PREDICTED, GOLD, TREE)["per_route"]
    assert {name: row["posts"] for name, row in routes.items()} == {"fast": 2, "rules": 1, "unknown": 1}
    assert routes["fast"]["micro_f1"] == pytest.approx(4 / 7)


def test_per_modalities_says_how_well_posts_of_each_kind_are_tagged() -> None:
    kinds = evaluate(PREDICTED, GOLD, TREE)["per_modalities"]
    assert {name: row["posts"] for name, row in kinds.items()} == {
        "neither": 1, "text only": 2, "pictures only": 1, "short text and pictures": 1,
    }  # fmt: skip
    # Posts 1 and 6, which is missing: hits 2, gold 4, predicted 3; of 1 the best leaf 果 is right.
    assert kinds["text only"] == pytest.approx(
        {"posts": 2, "micro_f1": 4 / 7, "leaf_p_at_1": 1 / 2, "ece": (0.1 + 0.2 + 0.7) / 3}
    )
    # Post 2: the best leaf 食 (0.9) is wrong, 游 (0.6) is right.
    assert kinds["short text and pictures"] == pytest.approx(
        {"posts": 1, "micro_f1": 1 / 2, "leaf_p_at_1": 0, "ece": (0.9 + 0.4) / 2}
    )


@pytest.mark.parametrize(("has", "named"), [
    ({"text": "一二三四五六七八九十", "images": ["a.jpg"]}, "short text and pictures"),
    ({"text": " 一二三四五六七八九十\n", "videos": ["a.mp4"]}, "short text and pictures"),
    ({"text": "一二三四五六七八九十一", "images": ["a.jpg"]}, "text and pictures"),
    ({"text": "短"}, "text only"),
    ({"text": "短", "images": [], "videos": []}, "text only"),
    ({"text": None, "videos": ["a.mp4"]}, "pictures only"),
    ({"text": "　"}, "neither"),
])  # fmt: skip
def test_a_post_stands_with_what_it_has(has: dict[str, Any], named: str) -> None:
    report = evaluate(tags(answer("1", {FOOD: None})), posts(post("1", [FOOD], **has)), TREE)
    assert report["per_modalities"] == {named: {"posts": 1, "micro_f1": 1, "leaf_p_at_1": 1, "ece": None}}


def test_ece() -> None:
    report = evaluate(PREDICTED, GOLD, TREE)
    # The two 0.9 share a bin (one right), all others stand alone.
    assert report["ece"] == pytest.approx((0.8 + 0.2 + 0.7 + 0.4 + 0.4 + 0.2) / 7)
    assert report["ece_pairs"] == 7


def test_ece_is_none_without_a_score() -> None:
    report = evaluate(tags(answer("1", {FOOD: None})), posts(post("1", [FOOD])), TREE)
    assert (report["ece"], report["ece_pairs"], report["micro_f1"]) == (None, 0, 1)


@pytest.mark.parametrize(("scores", "right", "expected"), [
    ([1.0, 1.0], [1, 1], 0.0),
    ([0.0, 1.0], [0, 1], 0.0),
    ([1.0, 1.0], [0, 0], 1.0),
    ([0.5, 0.5], [1, 0], 0.0),
    ([0.62, 0.64], [1, 0], 0.13),
    ([0.62, 0.68], [1, 0], (0.38 + 0.68) / 2),
])  # fmt: skip
def test_expected_calibration_error(scores: list[float], right: list[int], expected: float) -> None:
    assert metrics.expected_calibration_error(np.array(scores), np.array(right)) == pytest.approx(expected)


def test_at_k_counts_what_was_not_predicted_as_wrong() -> None:
    at_k = evaluate(PREDICTED, GOLD, TREE)["at_k"]
    # Posts 1 2 3 6 have gold. Best first: 1: 食 果 (right) 饮, 2: 食, 游 (right), 3: 果, 6: nothing.
    assert {k: row["precision"] for k, row in at_k.items()} == pytest.approx({"1": 1 / 4, "3": 3 / 12, "5": 3 / 20})


def test_propensity_scored_precision_is_that_of_the_paper() -> None:
    # Ten training posts: 游 in 7, 岛 in 2, 食 in 1. A right tag is worth 1 + C (N_l + B)^-A.
    train = posts(
        *(post(str(at), [TRAVEL] if at < 5 else [ISLAND] if at < 7 else [FOOD] if at < 8 else []) for at in range(10))
    )
    worth = {
        tag: 1 + (np.log(10) - 1) * 2.5**0.55 * (seen + 1.5) ** -0.55 for tag, seen in ((TRAVEL, 7), (ISLAND, 2), (FOOD, 1))
    }
    gold = posts(post("1", [ISLAND]), post("2", [FOOD]))
    predicted = tags(answer("1", {TRAVEL: 0.9, FOOD: 0.8}), answer("2", {TRAVEL: 0.9, FOOD: 0.8}))
    at_k = evaluate(predicted, gold, TREE, train)["at_k"]
    assert at_k["1"]["propensity_scored"] == pytest.approx(worth[TRAVEL] / (worth[ISLAND] + worth[FOOD]))
    all_of_it = sum(worth.values())
    assert at_k["3"]["propensity_scored"] == pytest.approx((worth[TRAVEL] + worth[FOOD]) / all_of_it)


def test_head_torso_and_tail_are_parted_by_what_training_saw() -> None:
    # Ten labels with ancestors: 食 5 (nothing before it), 果 3 (half), 苹 1 and 饮 1 (eight tenths), 游 and 岛 0.
    train = posts(post("a", [APPLE]), post("b", [FRUIT]), post("c", [FRUIT]), post("d", [DRINK]), post("e", [FOOD]))
    frequency = evaluate(PREDICTED, GOLD, TREE, train)["per_frequency"]
    assert {name: (row["tags"], row["gold"], row["predicted"]) for name, row in frequency.items()} == {
        "head": (1, 2, 3),
        "torso": (3, 2, 3),
        "tail": (2, 3, 2),
    }
    assert frequency["tail"]["recall"] == pytest.approx(1 / 3)
    at_1 = evaluate(PREDICTED, GOLD, TREE, train)["at_k"]["1"]
    # 食 is right for 1, not given for 3; 果 is right for 1, the only such post; 游 is right for 2, not for 6.
    assert (at_1["head"], at_1["torso"], at_1["tail"]) == pytest.approx((1 / 2, 1, 1 / 2))


@pytest.mark.parametrize(("counts", "kinds"), [
    ([5, 3, 1, 1, 0], [0, 1, 1, 1, 2]),
    ([1, 60, 20, 20, 5], [2, 0, 1, 1, 2]),
    ([4, 4, 4], [0, 0, 0]),
    ([0, 0], [2, 2]),
    ([], []),
])  # fmt: skip
def test_equally_frequent_tags_stand_together(counts: list[int], kinds: list[int]) -> None:
    assert metrics.divide_by_frequency(np.array(counts, np.int64)).tolist() == kinds


def test_training_posts_without_tags_are_an_error() -> None:
    with pytest.raises(RequestError, match="none of the training posts has tags: --train needs"):
        evaluate(PREDICTED, GOLD, TREE, posts(post("1", None)))


def test_keywords_are_folded_sets() -> None:
    gold = posts(
        post("1", None, keywords=["ＩＰｈｏｎｅ", "苹果"]),
        post("2", None, keywords=["海岛"]),
        post("3", None, keywords=[]),
        post("4", [FOOD]),
    )
    predicted = tags(words("1", "iphone", "IPHONE", "手机", " "), words("3", "多余"), words("4", "多余"))
    keywords = evaluate(predicted, gold, TREE)["keywords"]
    # Posts 1 and 2: one hit, three gold, two distinct predicted.
    assert keywords == pytest.approx({"posts": 2, "precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "recall_at_10": 1 / 3})


def test_keywords_after_the_tenth_count_only_for_recall() -> None:
    gold = posts(post("1", None, keywords=["词9", "词10"]))
    keywords = evaluate(tags(words("1", *(f"词{at}" for at in range(12)))), gold, TREE)["keywords"]
    assert (keywords["recall"], keywords["recall_at_10"]) == (1, 1 / 2)


def test_without_gold_keywords_there_is_no_answer() -> None:
    assert evaluate(PREDICTED, GOLD, TREE)["keywords"] is None


def test_where_only_keywords_are_gold_tags_have_no_answer() -> None:
    report = evaluate(tags(words("1", "岛")), posts(post("1", None, keywords=["岛"])), TREE)
    assert report["posts"] == 0
    assert {report[name] for name in (*SHARES, "ece")} == {None}
    assert report["at_k"] == {}
    assert report["keywords"]["f1"] == 1


def test_nothing_gold_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RequestError, match=r"none of 1 posts has gold tags or keywords.*--column tags="):
        evaluate(tags(answer("1", {})), posts(post("1", None)), TREE)


def test_predicted_tag_of_another_taxonomy_is_an_error() -> None:
    with pytest.raises(RequestError, match=r"'人' is not in the taxonomy: use"):
        evaluate(tags(answer("1", {"人": 0.5})), posts(post("1", [FOOD])), TREE)


@pytest.mark.parametrize("together", [False, True])
def test_a_post_predicted_twice_is_an_error(together: bool) -> None:
    predicted = tags(answer("1", {FOOD: 0.5}), answer("1", {}))
    with pytest.raises(RequestError, match="'1' comes twice in the predictions"):
        evaluate([pa.concat_tables(predicted)] if together else predicted, posts(post("1", [FOOD])), TREE)


def test_a_gold_post_given_twice_is_an_error() -> None:
    with pytest.raises(RequestError, match="'1' comes twice in the gold posts"):
        evaluate([], posts(post("1", [FOOD]), post("1", [FOOD])), TREE)


def test_no_predictions_at_all_is_all_missing() -> None:
    report = evaluate([], GOLD, TREE)
    assert (report["missing"], report["micro_f1"], report["per_route"]) == (5, 0, {})


some_tags = st.sets(st.sampled_from(IDS))
one_tag_or_more = st.sets(st.sampled_from(IDS), min_size=1)
quick = settings(max_examples=60, deadline=None)


def answers(sets: list[set[str]], score: float = 0.5) -> list[dict[str, Any]]:
    return [answer(str(at), dict.fromkeys(sorted(found), score)) for at, found in enumerate(sets)]


@quick
@given(st.lists(one_tag_or_more, min_size=1, max_size=8))
def test_a_perfect_prediction_gets_one_everywhere(sets: list[set[str]]) -> None:
    gold = posts(*(post(str(at), found, keywords=["词"]) for at, found in enumerate(sets)))
    expanded = [TREE.expand(found) for found in sets]
    seen = Counter(tag for found in expanded for tag in found)
    # Among equal scores the rarest come first: no order is worth more.
    certain = [
        answer(str(at), dict.fromkeys(sorted(found, key=lambda tag: seen[tag]), 1.0)) for at, found in enumerate(expanded)
    ]
    predicted = tags(*({**row, "keywords": [{"keyword": "词", "score": 1.0, "source": "text"}]} for row in certain))
    report = evaluate(predicted, gold, TREE)
    assert {report[name] for name in SHARES} == {1.0}
    assert report["ece"] == 0
    assert {row["f1"] for row in report["per_tag"].values()} == {1.0}
    assert [row["propensity_scored"] for row in report["at_k"].values()] == pytest.approx([1, 1, 1])
    assert report["at_k"]["1"]["precision"] == 1.0
    assert sum(row["gold"] for row in report["per_frequency"].values()) == sum(map(len, map(TREE.expand, sets)))
    assert {row["micro_f1"] for kind in ("per_route", "per_modalities") for row in report[kind].values()} == {1.0}
    assert {report["keywords"][name] for name in ("precision", "recall", "f1", "recall_at_10")} == {1.0}


@quick
@given(st.lists(one_tag_or_more, min_size=1, max_size=8))
def test_an_empty_prediction_gets_nothing(sets: list[set[str]]) -> None:
    gold = posts(*(post(str(at), found, keywords=["词"]) for at, found in enumerate(sets)))
    report = evaluate(tags(*answers([set()] * len(sets))), gold, TREE)
    assert {report[name] for name in SHARES} == {0.0}
    assert (report["ece"], report["missing"], report["keywords"]["f1"]) == (None, 0, 0)


@quick
@given(st.lists(st.tuples(some_tags, some_tags), min_size=1, max_size=10))
def test_closed_sets_agree_with_sklearn(pairs: list[tuple[set[str], set[str]]]) -> None:
    gold = posts(*(post(str(at), found) for at, (found, _) in enumerate(pairs)))
    report = evaluate(tags(*answers([found for _, found in pairs])), gold, TREE)
    binarizer = MultiLabelBinarizer(classes=IDS).fit([])
    true, guessed = (binarizer.transform([TREE.expand(pair[side]) for pair in pairs]) for side in (0, 1))
    assert report["micro_f1"] == pytest.approx(f1_score(true, guessed, average="micro", zero_division=0))
    samples = f1_score(true, guessed, average="samples", zero_division=1)
    assert report["hierarchical_f1"] == pytest.approx(samples)
    has_gold = true.any(axis=0)
    if has_gold.any():
        per_tag = f1_score(true, guessed, average=None, zero_division=0)
        assert report["macro_f1"] == pytest.approx(per_tag[has_gold].mean())


@quick
@given(
    st.lists(
        st.tuples(st.none() | some_tags, st.dictionaries(st.sampled_from(IDS), st.floats(0, 1, width=32))),
        min_size=1,
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_rows_changes_nothing(pairs: list[tuple[set[str] | None, dict[str, float]]], random: Any) -> None:
    gold = [post(str(at), found) for at, (found, _) in enumerate(pairs)] + [post("more", [FOOD])]
    predicted = [answer(str(at), scores) for at, (_, scores) in enumerate(pairs)]
    before = evaluate(tags(*predicted), posts(*gold), TREE)
    random.shuffle(gold)
    random.shuffle(predicted)
    after = evaluate([pa.concat_tables(tags(*predicted))], posts(*gold), TREE)
    for name in (*SHARES, "ece"):
        assert after[name] == pytest.approx(before[name], abs=1e-12)
    for name in ("posts", "missing", "unlabelled", "per_level", "per_tag", "per_route"):
        assert after[name] == before[name]
    for name, row in before["per_modalities"].items():
        assert after["per_modalities"][name] == pytest.approx(row, abs=1e-12)
    assert sum(row["posts"] for row in before["per_modalities"].values()) == before["posts"]


def drawn(report: dict[str, Any], shown: int) -> str:
    out = io.StringIO()
    Console(width=200, file=out).print(render(report, shown))
    return out.getvalue()


def test_the_table_has_the_numbers_of_the_report() -> None:
    report = evaluate(PREDICTED, GOLD, TREE)
    text = drawn(report, shown=2)
    for name in (*SHARES, "ece"):
        assert f"{report[name]:.4f}" in next(line for line in text.splitlines() if line.startswith(f"{name} "))
    assert "2 of 5 tags, lowest f1 first" in text
    listed = [line.split()[0] for line in text.splitlines() if line.startswith(IDS)]
    assert listed == [APPLE, ISLAND]
    assert "keywords" not in text
    for kind, row in report["per_modalities"].items():
        line = next(line for line in text.splitlines() if line.startswith(f"{kind} "))
        assert line.split()[-4:] == [str(row["posts"]), *(f"{row[name]:.4f}" for name in ("micro_f1", "leaf_p_at_1", "ece"))]


def test_the_table_can_say_that_there_is_no_answer() -> None:
    report = evaluate(tags(words("1", "[b]岛")), posts(post("1", None, keywords=["[b]岛"])), TREE)
    text = drawn(report, shown=20)
    assert next(line for line in text.splitlines() if line.startswith("micro_f1")).split() == ["micro_f1", "-"]
    assert "recall_at_10" in text


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Predictions, gold posts whose text column is called content (one row unusable), taxonomy."""
    out, gold, tree = tmp_path / "out.parquet", tmp_path / "posts.csv", tmp_path / "tree.csv"
    write_tables(PREDICTED, out, schema.arrow_schema("tags"))
    rows = [
        "post_id,content,tags,split",
        f"1,文,{APPLE},test",
        f"2,文,{ISLAND},test",
        f"3,文,{FOOD},train",
        ",文,,test",
    ]
    gold.write_text("\n".join(rows), encoding="utf-8")
    save_csv(TREE, tree)
    return out, gold, tree


def call(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(evaluate_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_command_prints_json_to_stdout(files: tuple[Path, Path, Path]) -> None:
    out, gold, tree = files
    result = call(out, gold, "-t", tree, "--column", "text=content", "--where", "split = 'test'", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["posts"], report["missing"], report["unlabelled"]) == (0, 2, 0, 4)
    assert report["micro_f1"] == pytest.approx(6 / 10)
    assert result.stderr == f"rows of {gold} that could not be used, left out: 1\n"


def test_command_counts_frequencies_in_the_training_posts(files: tuple[Path, Path, Path]) -> None:
    out, gold, tree = files
    options = ("--column", "text=content", "--where", "split = 'test'", "--json")
    trained = call(out, gold, "-t", tree, *options, "--train", gold, "--train-where", "split = 'train'")
    frequency = json.loads(trained.stdout)["per_frequency"]
    assert {name: row["tags"] for name, row in frequency.items()} == {"head": 1, "torso": 0, "tail": 5}
    with pytest.raises(RequestError, match="--train-where picks rows of --train"):
        call(out, gold, "-t", tree, *options, "--train-where", "true")


def test_every_name_of_the_report_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    report = evaluate(tags(words("1", "岛")), posts(post("1", [FOOD], keywords=["岛"])), TREE)
    nested = {
        name
        for value in report.values()
        if isinstance(value, dict)
        for row in value.values()
        if isinstance(row, dict)
        for name in row
    }
    assert [name for name in {*report, *nested, *report["keywords"]} if f"`{name}`" not in page] == []


def test_command_prints_tables(files: tuple[Path, Path, Path]) -> None:
    out, gold, tree = files
    result = call(out, gold, "-t", tree, "--column", "text=content", "--per-tag", "1")
    assert result.exit_code == 0
    assert "hierarchical_f1" in result.stdout and "1 of 5 tags" in result.stdout


def test_command_has_an_example() -> None:
    assert "Example: weibotag evaluate" in call("--help").stdout
