import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from graded_posts import (
    APPLE,
    DRINK,
    FOOD,
    FRUIT,
    GOLD,
    IDS,
    ISLAND,
    PREDICTED,
    SHARES,
    TRAVEL,
    TREE,
    answer,
    post,
    posts,
    tags,
    words,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from typer.testing import CliRunner, Result

from weibotag.cli.main import app
from weibotag.core import schema
from weibotag.core.errors import RequestError
from weibotag.posts.writer import write_tables
from weibotag.scoring.report import evaluate
from weibotag.scoring.report_tables import render
from weibotag.taxonomy.tree import save_csv


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
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)


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
    refused = call(out, gold, "-t", tree, *options, "--train-where", "true")
    assert refused.exit_code == 2 and "--train-where picks rows of --train" in refused.stderr


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
