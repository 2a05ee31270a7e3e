"""Metrics against their formulas written out by hand, and the docstrings' examples."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import metrics
from recsys.errors import ConfigError, InputError
from recsys.metrics import (
    bootstrap_interval,
    bootstrap_intervals,
    coverage,
    hit_rate_at_k,
    mean_reciprocal_popularity,
    mrr_at_k,
    ndcg_at_k,
    position_metrics,
    ranking_metrics,
    ranks_from_scores,
    recall_at_k,
)


def test_docstring_examples():
    result = doctest.testmod(metrics)
    assert result.attempted >= 12 and result.failed == 0


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ranks_against_a_plain_loop(data):
    """Few distinct scores, so that ties abound; blocks of a few positions."""
    positions, items = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    scores = rng.choice([-np.inf, 0.0, 0.5, 1.0], size=(positions, items)).astype(np.float32)
    targets = rng.integers(-1, items, size=positions)
    excluded = data.draw(st.sampled_from([None, "items", "pairs"]))
    mask = None
    if excluded:
        mask = rng.random((positions, items) if excluded == "pairs" else items) < 0.3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_BLOCK", 2 * items)
        got = ranks_from_scores(scores, targets, mask)
    for p, target in enumerate(targets):
        out = np.zeros(items, bool) if mask is None else (mask[p] if mask.ndim == 2 else mask)
        want = 0
        if target >= 0 and not out[target]:
            others = [i for i in range(items) if i != target and not out[i]]
            want = 1 + sum(scores[p, i] >= scores[p, target] for i in others)
        assert got[p] == want


def test_constant_scores_are_no_free_hit():
    assert ranks_from_scores(np.zeros((2, 50)), [0, 49]).tolist() == [50, 50]


def test_nan_scores_are_named():
    scores = np.zeros((4, 3))
    scores[2, 1] = np.nan
    with pytest.raises(InputError, match="NaN at position 2, item 1"):
        ranks_from_scores(scores, [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("scores", "targets", "excluded"),
    [
        (np.zeros((2, 3)), [0], None),
        (np.zeros((2, 3)), [0, 3], None),
        (np.zeros((2, 3)), [0.0, 1.0], None),
        (np.zeros((2, 3)), [0, 1], np.zeros(2, bool)),
        (np.zeros((2, 3)), [0, 1], np.zeros(3, int)),
    ],
)
def test_ranks_check_their_input(scores, targets, excluded):
    with pytest.raises(InputError):
        ranks_from_scores(scores, targets, excluded)


def test_values_by_hand():
    ranks = np.array([1, 2, 3, 10, 11, 0])
    np.testing.assert_allclose(recall_at_k(ranks, 3), [1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(hit_rate_at_k(ranks, 10), [1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(ndcg_at_k(ranks, 10), [1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0, 0])
    np.testing.assert_allclose(mrr_at_k(ranks, 3), [1, 1 / 2, 1 / 3, 0, 0, 0])
    np.testing.assert_allclose(mrr_at_k(ranks), [1, 1 / 2, 1 / 3, 1 / 10, 1 / 11, 0])


def test_ranking_metrics_are_means_under_the_agreed_names():
    ranks = [1, 5, 0, 12]
    got = ranking_metrics(ranks)
    names = {f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (1, 3, 5, 10)} | {"mrr"}
    assert set(got) == names
    assert all(type(v) is float for v in got.values())
    assert got["recall@5"] == 0.5
    assert got["ndcg@10"] == pytest.approx((1 + 1 / math.log2(6)) / 4)
    assert got["mrr"] == pytest.approx((1 + 1 / 5 + 1 / 12) / 4)
    assert got["recall@1"] == got["ndcg@1"] == got["mrr@1"] == 0.25


def test_unusable_ranks_and_k():
    with pytest.raises(InputError, match="no position"):
        ranking_metrics([])
    with pytest.raises(InputError, match="negative"):
        recall_at_k([1, -1], 3)
    with pytest.raises(InputError, match="integers"):
        recall_at_k([1.5], 3)
    with pytest.raises(ConfigError, match="k"):
        ndcg_at_k([1], 0)


def test_coverage_and_reciprocal_popularity():
    assert coverage([[3, 4, -1], [4, 5, 3]], num_items=6) == 0.5
    with pytest.raises(InputError, match="num_items"):
        coverage([[3, 4]], num_items=1)
    counts = [0, 1, 3]
    assert mean_reciprocal_popularity([[0, 1], [2, -1], [-1, -1]], counts) == pytest.approx((0.75 + 0.25) / 2)
    with pytest.raises(InputError, match="every list is empty"):
        mean_reciprocal_popularity([[-1]], counts)
    with pytest.raises(InputError, match="below 3"):
        mean_reciprocal_popularity([[3]], counts)


def test_bootstrap_matches_the_normal_interval():
    """For many independent positions the interval is mean +- 1.96 standard errors."""
    values = np.random.default_rng(1).normal(2.0, 3.0, size=4000)
    low, high = bootstrap_interval(values, samples=4000)
    error = values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_draws_whole_groups():
    """20 groups of 50 equal values: the interval is that of 20 values, not of 1,000."""
    means = np.random.default_rng(2).normal(size=20)
    values, groups = np.repeat(means, 50), np.repeat([f"user {i:02d}" for i in range(20)], 50)
    grouped = bootstrap_interval(values, groups, samples=4000, seed=3)
    assert grouped == pytest.approx(bootstrap_interval(means, samples=4000, seed=3), abs=1e-12)
    alone = bootstrap_interval(values, samples=4000)
    assert grouped[1] - grouped[0] > 5 * (alone[1] - alone[0])


def test_bootstrap_weighs_groups_by_their_positions():
    """Against a plain loop that draws the same groups and joins their positions."""
    rng = np.random.default_rng(4)
    groups = rng.integers(0, 6, size=40)
    values = rng.random(40)
    names = np.unique(groups)
    draws = np.random.default_rng(0).integers(0, len(names), size=(200, len(names)), dtype=np.int32)
    means = [np.concatenate([values[groups == names[i]] for i in row]).mean() for row in draws]
    want = np.quantile(means, [0.05, 0.95])
    assert bootstrap_interval(values, groups, samples=200, level=0.9) == pytest.approx(tuple(want))


def test_bootstrap_columns_share_resamples_and_seed():
    columns = position_metrics(np.random.default_rng(5).integers(0, 20, size=300))
    got = bootstrap_intervals(columns, samples=100, seed=7)
    assert got == bootstrap_intervals(columns, samples=100, seed=7)
    assert got["ndcg@5"] == pytest.approx(bootstrap_interval(columns["ndcg@5"], samples=100, seed=7))
    for name, (low, high) in got.items():
        assert low <= columns[name].mean() <= high


def test_bootstrap_checks_its_input():
    with pytest.raises(InputError, match="at least one position"):
        bootstrap_interval([])
    with pytest.raises(InputError, match="groups"):
        bootstrap_interval([1.0, 2.0], groups=[1])
    with pytest.raises(ConfigError, match="samples"):
        bootstrap_interval([1.0], samples=0)
