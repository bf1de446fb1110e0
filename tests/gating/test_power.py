"""What the gate says it can see, against scipy's distributions and by trying every outcome."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from holdfast.core.rates import tango
from holdfast.gating import Policy, decide, power
from holdfast.gating.intervals import bounded_difference, skewed_mean, student_quantile
from tests.gating.rows import C, R, refusals


@pytest.mark.parametrize(("limit", "floor"), [(0.0, 0.0), (0.05, 0.0), (0.2, 0.1)])
def test_chances_are_the_sum_over_every_outcome(limit, floor):
    n, lost, gained = 14, 0.35, 0.1
    passed = failed = 0.0
    for up, down in itertools.product(range(n + 1), repeat=2):
        if up + down > n:
            continue
        chance = stats.multinomial.pmf([up, down, n - up - down], n, [lost, gained, 1 - lost - gained])
        interval = tango(up, down, n, correction=1)
        passed += chance * (interval.high < limit)
        failed += chance * (interval.low > limit + floor)
    assert power.decision_chances(n, lost, gained, limit, floor) == pytest.approx((passed, failed), abs=1e-9)


def test_the_smallest_loss_seen_is_the_first_whose_interval_clears_the_budget():
    seen = power.smallest_seen(60, 0.05)
    k = round(60 * seen)
    assert tango(k, 0, 60, correction=1).low > 0.05 >= tango(k - 1, 0, 60, correction=1).low
    assert power.smallest_seen(3, 0.0) == math.inf == power.smallest_seen(0, 0.05)


def test_the_loss_seen_is_failed_in_eight_of_ten_draws():
    loss, least = power.loss_seen(60, 0.05), round(60 * power.smallest_seen(60, 0.05))
    assert stats.binom.sf(least - 1, 60, loss) == pytest.approx(0.8, abs=0.01)
    rng = np.random.default_rng(0)
    lost = rng.binomial(60, loss, 300)
    failed = [
        decide(Policy(max_refusal_loss=5), [refusals((k, C, R), (60 - k, R, R))], with_power=False).status
        for k in lost
    ]
    assert failed.count("failed") / 300 == pytest.approx(0.8, abs=0.07)
    assert power.loss_seen(60, 0.05, gained=0.1) > loss


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.3])
def test_an_unchanged_model_passes_from_just_so_many_prompts_on(limit):
    n = int(power.unchanged_passes_from(limit))
    assert tango(0, 0, n).high < limit <= tango(0, 0, n - 1).high
    assert power.unchanged_passes_from(0.0) == math.inf


def test_so_many_prompts_decide_in_eight_of_ten_draws():
    n = power.prompts_to_decide(60, 0.1, 0.0, 0.05)
    assert 60 < n < 5000
    assert max(power.decision_chances(n, 0.1, 0.0, 0.05)) >= 0.8
    assert power.prompts_to_decide(60, 0.05, 0.0, 0.05) == math.inf  # just at the budget nothing ever decides


def test_student_quantiles_are_scipys():
    for freedom, p in itertools.product((9, 15, 60, 1000), (0.95, 0.975, 0.9875)):
        assert student_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), abs=1e-3)


def test_scores_between_have_students_interval_and_equal_ones_are_not_certain():
    d = np.random.default_rng(0).normal(0.1, 0.4, 50).clip(-1, 1)
    mine, theirs = bounded_difference(d.tolist(), 0.95), stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-4)
    equal = bounded_difference([0.0] * 60, 0.95)
    assert (equal.low, equal.high) == pytest.approx((tango(0, 0, 60).low, tango(0, 0, 60).high))
    assert bounded_difference([0.5] * 9, 0.95).high == 1


def test_drifts_interval_follows_its_tail():
    even = np.random.default_rng(0).normal(5, 1, 200)
    mine, theirs = skewed_mean(even.tolist(), 0.95), stats.t.interval(0.95, 199, even.mean(), stats.sem(even))
    assert (mine.low, mine.high) == pytest.approx(theirs, abs=0.03)
    tail = np.exp(stats.norm.ppf((np.arange(24) + 0.5) / 24))  # log-normal, evenly
    found = skewed_mean(tail.tolist(), 0.95)
    assert found.high - found.value > 1.5 * (found.value - found.low)
    assert found.high > stats.t.interval(0.95, 23, tail.mean(), stats.sem(tail))[1]
    assert skewed_mean([1.0] * 9, 0.95).high == math.inf
    many = skewed_mean(np.tile(even, 30).tolist(), 0.95)
    assert many.method == "student" and many.low < even.mean() < many.high
