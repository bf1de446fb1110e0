"""Intervals against scipy and closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from holdfast.core.ranks import spearman
from holdfast.core.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    describe_difference,
    paired_bootstrap,
    paired_p_value,
    seeds_and_prompts,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (97, 200)])
def test_wilson_equals_scipy(k, n):
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    found = wilson(k, n)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_of_nothing_says_nothing():
    interval = wilson(0, 0)
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert np.isnan(interval.value)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.integers(0, 5))
def test_spearman_equals_scipy_with_ties(values, seed):
    other = np.random.default_rng(seed).integers(0, 4, len(values)).tolist()
    if len(set(values)) < 2 or len(set(other)) < 2:
        assert np.isnan(spearman(values, other))
        return
    assert spearman(values, other) == pytest.approx(stats.spearmanr(values, other).statistic, abs=1e-9)


def test_bootstrap_interval_covers_like_the_normal_one():
    values = np.random.default_rng(0).normal(1.0, 2.0, 400)
    interval = bootstrap_mean(values.tolist())
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)


def test_pairing_removes_the_prompts_own_difficulty():
    rng = np.random.default_rng(0)
    prompt = rng.normal(0, 10, 200)
    a, b = prompt + 0.5 + rng.normal(0, 0.5, 200), prompt + rng.normal(0, 0.5, 200)
    assert paired_bootstrap(a.tolist(), b.tolist()).excludes(0.0)
    assert not bootstrap_mean(a.tolist()).excludes(b.mean())


def test_same_seed_same_interval():
    assert bootstrap_mean([0.0, 1.0, 1.0], seed=3) == bootstrap_mean([0.0, 1.0, 1.0], seed=3)


def test_an_interval_survives_json(tmp_path):
    interval = wilson(3, 7)
    interval.save(tmp_path / "i.json")
    assert Interval.load(tmp_path / "i.json") == interval


def test_an_interval_without_ends_excludes_nothing():
    assert not Interval(1.0, float("nan"), float("nan"), 1, "one unit").excludes(0.0)
    assert Interval(1.0, 0.5, 2.0, 9, "x").excludes(0.4) and Interval(1.0, 0.5, 2.0, 9, "x").excludes(2.1)
    assert not Interval(1.0, 0.5, 2.0, 9, "x").excludes(0.5)


@pytest.mark.parametrize("values", [[], [0.3], [0.3] * 5])
def test_too_few_or_equal_items_are_never_a_certain_interval(values):
    """None, one and equal ones: what has nothing to resample has no ends, and every table says so."""
    n = len(values)
    found = [bootstrap_mean(values), paired_bootstrap(values, values), bootstrap_ratio(values, values)]
    found += [seeds_and_prompts([values])] if n else []
    for interval in found:
        assert interval.n == n and np.isnan([interval.low, interval.high]).all() == (n < 2)
        assert str(interval) == ("not measured" if n == 0 else interval.said())
        assert ("[not enough items]" in str(interval)) == (n == 1)
    if n:
        assert paired_p_value(values, values) == 1.0
        assert describe_difference(paired_bootstrap(values, values), 0.1).startswith("no difference seen")
    else:
        assert describe_difference(paired_bootstrap([], [])) == "not measured"


def test_a_rate_is_said_in_percent_with_its_interval():
    assert wilson(1, 12).percent == "8 % [1, 35]"
    assert wilson(0, 0).percent == "not measured"
    assert Interval(1.0, float("nan"), float("nan"), 1, "x").percent == "100 % [not enough items]"
    one = Interval(1.0, float("nan"), float("nan"), 1, "x")
    assert describe_difference(one) == (
        "no difference seen: +100.0 points over 1 prompts, not enough items for an interval"
    )
