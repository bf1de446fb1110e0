"""Intervals of yes and no where a bootstrap has nothing to vary, against plain maximisation and by counting."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from holdfast.core.rates import (
    mean_score,
    paired_difference,
    paired_rates,
    rate_difference_over_seeds,
    rate_over_seeds,
    smallest_visible_gap,
    tango,
    tango_scores,
)
from holdfast.core.statistics import bootstrap_mean, paired_bootstrap, seeds_and_prompts, wilson


def lists(both, only_a, only_b, neither):
    a = [1] * (both + only_a) + [0] * (only_b + neither)
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return a, b


def score_by_maximisation(difference, only_a, only_b, n):
    """Tango's statistic with its nuisance rate found by a plain search of the likelihood."""
    least, most = max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12

    def cost(rate):  # of only_b; only_a is rate + difference
        parts = [(only_a, rate + difference), (only_b, rate), (n - only_a - only_b, 1 - 2 * rate - difference)]
        return -sum(k * math.log(max(p, 1e-300)) for k, p in parts if k)

    rate = optimize.minimize_scalar(cost, bounds=(least, most), method="bounded", options={"xatol": 1e-12}).x
    return (only_a - only_b - n * difference) / math.sqrt(n * (2 * rate + difference - difference**2))


@pytest.mark.parametrize(
    ("both", "only_a", "only_b", "neither"), [(36, 12, 2, 0), (20, 3, 9, 8), (43, 1, 2, 4), (5, 0, 6, 19)]
)
def test_the_ends_are_where_the_score_is_two(both, only_a, only_b, neither):
    n = both + only_a + only_b + neither
    found = paired_rates(*lists(both, only_a, only_b, neither))
    assert found.value == pytest.approx((only_a - only_b) / n) and found.n == n
    z = stats.norm.ppf(0.975)
    assert score_by_maximisation(found.low, only_a, only_b, n) == pytest.approx(z, abs=1e-3)
    assert score_by_maximisation(found.high, only_a, only_b, n) == pytest.approx(-z, abs=1e-3)


def test_pairs_that_never_differ_are_not_certainty():
    found = paired_rates([1] * 30, [1] * 30)
    z2 = stats.norm.ppf(0.975) ** 2
    assert found.value == 0 and found.high == pytest.approx(z2 / (30 + z2)) and found.low == -found.high
    assert paired_rates([], []).n == 0 and math.isnan(paired_rates([], []).value)
    with pytest.raises(ValueError, match="equal lengths"):
        paired_rates([1], [])


def test_all_of_few_is_still_inside_its_range():
    found = paired_rates([1] * 5, [0] * 5)
    assert found.value == 1 and found.high == pytest.approx(1.0) and 0.1 < found.low < 0.5


def test_it_covers():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        b = rng.random(60) < 0.9
        a = b & (rng.random(60) < 0.7)
        interval = paired_rates(a.astype(float).tolist(), b.astype(float).tolist())
        hits += not interval.excludes(-0.9 * 0.3)
    assert 0.925 <= hits / 400 <= 0.975


@pytest.mark.parametrize("n", [4, 20, 60])
def test_the_smallest_gap_is_the_first_whose_interval_excludes_zero(n):
    first = next(k for k in range(1, n + 1) if paired_rates([1] * n, [0] * k + [1] * (n - k)).low > 0)
    assert smallest_visible_gap(n) == pytest.approx(first / n)


def test_a_rate_over_seeds_spans_them_and_is_never_a_point():
    runs = [[1] * 4 + [0] * 96, [1] * 8 + [0] * 92, [1] * 20 + [0] * 80]
    found, of_the_mean = rate_over_seeds(runs), wilson(32 / 3, 100)
    assert found == seeds_and_prompts(runs)
    assert found.high - found.low > 1.2 * (of_the_mean.high - of_the_mean.low)
    assert rate_over_seeds([[0] * 50] * 3) == wilson(0, 50)
    assert rate_over_seeds([[1, 0, 1, 1]]) == wilson(3, 4)


@pytest.mark.parametrize("flip", [False, True])
def test_one_odd_answer_makes_a_rate_no_surer_than_none(flip):
    none = [0] * 40
    for runs in ([none, none, [1, *none[1:]]], [[1, *none[1:]]] * 3, [[1, 1, *none[2:]]] * 2):
        runs = [[1 - x for x in run] for run in runs] if flip else runs
        found, mean = rate_over_seeds(runs), float(np.mean(runs))
        over_prompts = wilson(mean * 40, 40)
        assert found.value == pytest.approx(mean)
        assert found.low <= over_prompts.low and found.high >= over_prompts.high


def test_seeds_that_all_differ_in_one_way_are_not_certainty():
    found = rate_difference_over_seeds([[1] * 10] * 3, [[0] * 10] * 3)
    assert found == paired_rates([1] * 10, [0] * 10)
    assert 0 < found.low < 1


def test_answers_that_never_differ_are_no_certain_score_and_no_certain_difference():
    assert mean_score([0.0] * 12) == wilson(0, 12) and mean_score([1.0, 0.0]) == wilson(1, 2)
    assert mean_score([0.5, 0.0, 1.0], 3) == bootstrap_mean([0.5, 0.0, 1.0], 3)
    assert np.isnan(mean_score([]).value) and np.isnan(mean_score([0.5]).low)
    same, worse = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert paired_difference(same, same) == paired_rates(same, same)
    assert paired_difference([1.0] * 5, [0.0] * 5) == paired_rates([1.0] * 5, [0.0] * 5)
    assert paired_difference(same, worse, 2) == paired_bootstrap(same, worse, 2)
    assert np.isnan(paired_difference([], []).value)


def test_the_corrected_end_is_missed_no_more_often_than_promised():
    n, budget, worst, plain = 60, 0.1, 0.0, 0.0
    ups, downs = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    inside = ups + downs <= n
    up, down = ups[inside], downs[inside]
    z = stats.norm.ppf(0.975)
    for churn in (0.0, 0.01, 0.05, 0.2):
        rates = [budget + churn, churn, 1 - budget - 2 * churn]
        chance = stats.multinomial.pmf(np.stack([up, down, n - up - down], 1), n, rates)
        worst = max(worst, chance[tango_scores(budget, up, down, n, 1.0) > z].sum())
        plain = max(plain, chance[tango_scores(budget, up, down, n) > z].sum())
    assert worst <= 0.025 < 0.03 < plain
    found, score = tango(20, 4, n, correction=1.0), tango_scores
    assert score(found.low, np.array([20]), np.array([4]), n, 1.0) == pytest.approx(z)
    assert found.high == tango(20, 4, n).high and found.low < tango(20, 4, n).low
