import numpy as np
import pytest
from graded_posts import (
    APPLE,
    DRINK,
    FOOD,
    FRUIT,
    GOLD,
    ISLAND,
    PREDICTED,
    TRAVEL,
    TREE,
    answer,
    post,
    posts,
    tags,
)

from weibotag.core.errors import RequestError
from weibotag.scoring import metrics
from weibotag.scoring.report import evaluate


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
