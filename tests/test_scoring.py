"""What all taggers share: closure, calibration, thresholds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from weibotag.scoring.closure import blend, raise_parents
from weibotag.scoring.decision import best_shared, choose_thresholds, decide, fit_calibration, micro_f1
from weibotag.taxonomy.tree import Tag, Taxonomy

TREE = Taxonomy(
    [
        Tag("美妆", None, "美妆", (), (), 2),
        Tag("美妆/口红", "美妆", "口红", (), (), 3),
        Tag("体育", None, "体育", (), (), 4),
        Tag("体育/足球", "体育", "足球", (), (), 5),
    ]
)


def test_blend_is_a_mean() -> None:
    one, other = csr_matrix(np.array([[0.8, 0.0]], np.float32)), csr_matrix(np.array([[0.4, 0.2]], np.float32))
    assert np.allclose(blend(one, other, 0.25).toarray(), [[0.7, 0.05]])


scores_strategy = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.35, 0.5, 0.9]), min_size=4, max_size=4), min_size=1, max_size=8
)


@given(scores_strategy)
def test_no_child_is_above_its_parent(values: list[list[float]]) -> None:
    raised = raise_parents(csr_matrix(np.array(values, np.float32)), TREE).toarray()
    assert (raised[:, 0] >= raised[:, 1]).all()
    assert (raised >= np.array(values, np.float32)).all()
    assert np.array_equal(raised[:, [1, 3]], np.array(values, np.float32)[:, [1, 3]])


@given(scores_strategy)
def test_a_chosen_tag_brings_its_parents(values: list[list[float]]) -> None:
    scores = raise_parents(csr_matrix(np.array(values, np.float32)), TREE)
    chosen = decide(scores, np.array([0.95, 0.3, 0.95, 0.3], np.float32), TREE).toarray()
    assert ((chosen[:, 1] > 0) == (scores.toarray()[:, 1] >= 0.3)).all()
    assert ((chosen[:, 1] > 0) <= (chosen[:, 0] > 0)).all()


def test_thresholds_find_the_gap_and_spare_rare_tags() -> None:
    draw = np.random.default_rng(0)
    gold = np.zeros((400, 4), np.float32)
    gold[:200, :2] = 1
    gold[200:, 2] = 1
    scores = np.where(gold > 0, 0.45, 0.1) + draw.uniform(-0.05, 0.05, gold.shape)
    scores[:, 3] = 0.2
    cuts = choose_thresholds(csr_matrix(scores.astype(np.float32)), csr_matrix(gold), TREE)
    assert (cuts[:3] > 0.15).all()
    assert (cuts[:3] <= 0.45).all()
    assert cuts[3] == pytest.approx(best_shared(csr_matrix(scores.astype(np.float32)), csr_matrix(gold), TREE))
    chosen = decide(csr_matrix(scores.astype(np.float32)), cuts, TREE)
    assert micro_f1(chosen, csr_matrix(gold)) > 0.99


def test_calibration_turns_scores_into_shares() -> None:
    draw = np.random.default_rng(1)
    truth = draw.uniform(0.05, 0.95, (4000, 4))
    gold = (draw.uniform(size=truth.shape) < truth).astype(np.float32)
    odds = 3 * np.log(truth / (1 - truth)) + 1
    raw = csr_matrix((1 / (1 + np.exp(-odds))).astype(np.float32))
    fitted = fit_calibration(raw, csr_matrix(gold))
    assert np.abs(fitted.apply(raw).toarray() - truth).mean() < 0.03
    assert np.abs(raw.toarray() - truth).mean() > 0.1
    empty = fit_calibration(csr_matrix((3, 4), dtype=np.float32), csr_matrix((3, 4), dtype=np.float32))
    assert (empty.slope == 1).all()


def test_a_parent_keeps_its_own_score() -> None:
    scores = csr_matrix(np.array([[0.55, 0.31, 0, 0]], np.float32))
    chosen = decide(scores, np.array([0.6, 0.3, 0.5, 0.5], np.float32), TREE).toarray()
    assert np.allclose(chosen, [[0.55, 0.31, 0, 0]])


def test_no_threshold_is_below_half_of_the_shared_one() -> None:
    scores, gold = np.zeros((1200, len(TREE)), np.float32), np.zeros((1200, len(TREE)), np.float32)
    scores[:900, [0, 1]], gold[:900, [0, 1]] = 0.6, 1
    scores[900:1100, 2], gold[900:1100, 2] = 0.01, 1
    scores[900:1100, 0], gold[900:1100, 0] = 0.6, 1
    cuts = choose_thresholds(csr_matrix(scores), csr_matrix(gold), TREE)
    assert cuts[2] == pytest.approx(best_shared(csr_matrix(scores), csr_matrix(gold), TREE) / 2)
