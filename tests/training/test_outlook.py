"""The forecast against traces whose law is known, against scipy, and against the optimiser's own rates."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import get_cosine_schedule_with_warmup

from holdfast.geometry.onset import power_law
from holdfast.training.budget import DriftBudget
from holdfast.training.outlook import Pace, flow_times, look_ahead


def pace_of(steps, warmup=3):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    return Pace(optimizer, get_cosine_schedule_with_warmup(optimizer, warmup, steps), steps)


def stepped(pace):
    """One step of optimiser and schedule; the rate it was made with."""
    rate = pace.optimizer.param_groups[0]["lr"]
    pace.optimizer.step()
    pace.scheduler.step()
    return rate


def test_a_known_power_of_the_summed_rates_is_found_and_its_end_and_break_are_forecast():
    pace, steps = pace_of(60), 60
    t = np.concatenate([[0.0], np.cumsum([stepped(pace) for _ in range(steps)])])  # the optimiser's own
    kl = 3e-3 * t**1.7
    rows = [{"step": step, "kl_nats": float(kl[step])} for step in (0, 5, 10, 15, 20)]
    found = look_ahead(rows, pace.planned_T, float(kl[41] + kl[42]) / 2)
    assert found["slope"] == pytest.approx(1.7, rel=1e-9)
    assert found["forecast_kl_nats"] == pytest.approx(kl[60], rel=1e-9)
    assert found["breaks_at_step"] == 42
    assert "breaks_at_step" not in look_ahead(rows, pace.planned_T, 1.01 * float(kl[60]))
    assert look_ahead(rows[:3], pace.planned_T) == {}  # two points are any law
    assert look_ahead([*rows, {"step": 60, "kl_nats": 1.0}], pace.planned_T) == {}  # nothing is left to forecast


def test_a_lowered_rate_and_steps_taken_back_move_the_clock_as_they_move_the_optimiser():
    pace = pace_of(40)
    planned_T, t, true_at, rows = pace.planned_T, 0.0, {}, []
    for step in range(1, 41):
        t += stepped(pace)
        if step % 5:
            continue
        row = {"step": step, "kl_nats": 1e-3 * t**2}
        true_at[step] = t
        if step == 15:
            pace.lower(0.5)
            row |= {"then": "slow", "rate_factor": 0.5}
        if step == 25:
            t = true_at[20]
            row |= {"then": "back", "back_to": 20}
        rows.append(row)
    times, now = flow_times(rows, planned_T)
    np.testing.assert_allclose(2.0 * np.array(times), list(true_at.values()), rtol=1e-12)
    assert now == times[-1]
    early = look_ahead(rows[:6], planned_T)  # what is still to come is at half the planned rate, and known
    assert early["forecast_kl_nats"] == pytest.approx(rows[-1]["kl_nats"], rel=1e-9)
    assert pace.scheduler.get_last_lr() == [pace.optimizer.param_groups[0]["lr"]]


def test_what_came_before_the_anchor_took_over_is_another_law():
    planned_T = np.arange(101.0)
    free = [{"step": s, "kl_nats": 1e-4 * s**2} for s in (10, 20, 30)]
    free[-1]["then"] = "anchor"
    held = [{"step": s, "kl_nats": 0.02 * s**0.5} for s in (40, 50, 60)]
    assert look_ahead([*free, *held], planned_T)["slope"] == pytest.approx(0.5, rel=1e-9)
    assert look_ahead([*free, *held[:2]], planned_T) == {}


def test_the_slopes_interval_is_that_of_scipy_and_both_intervals_cover():
    rng, t = np.random.default_rng(0), np.array([1.0, 2.0, 3.0, 4.0, 6.0, 8.0])
    kl = 0.01 * t**1.5 * np.exp(0.1 * rng.standard_normal(6))
    found = power_law(t, kl)
    wanted: Any = stats.linregress(np.log(t), np.log(kl))
    half = stats.t.ppf(0.95, 4) * wanted.stderr
    assert found.slope.value == pytest.approx(wanted.slope, rel=1e-9)
    assert found.slope.low == pytest.approx(wanted.slope - half, rel=1e-4)
    three = power_law(t[:3], kl[:3]).slope  # one degree of freedom
    wanted = stats.linregress(np.log(t[:3]), np.log(kl[:3]))
    half = stats.t.ppf(0.95, 1) * wanted.stderr
    assert three.high - three.value == pytest.approx(half, rel=1e-6)
    inside = np.zeros(2)
    for _ in range(2000):
        law = power_law(t, 0.01 * t**1.5 * np.exp(0.1 * rng.standard_normal(6)))
        end, truth = law.at(20.0), 0.01 * 20.0**1.5 * np.exp(0.1 * rng.standard_normal())
        inside += [law.slope.low <= 1.5 <= law.slope.high, end.low <= truth <= end.high]
    np.testing.assert_allclose(inside / 2000, 0.90, atol=0.025)


@pytest.mark.parametrize(
    "then, outside, ahead, at_last",
    [
        ("stop", "stop", None, "stop"),
        ("warn", "warn", "warn", "warn"),
        ("slow", "slow", "slow", "stop"),
        ("anchor", "anchor", "anchor", "stop"),
        ("back", "back", None, "stop"),
    ],
)
def test_what_a_budget_answers(then, outside, ahead, at_last):
    budget = DriftBudget(1.0, then=then)
    broken, forecast = {"exceeded": "drift"}, {"exceeded": None, "breaks_at_step": 9}
    assert budget.answer(broken, False, False) == outside
    assert budget.answer(forecast, False, False) == ahead
    assert budget.answer(broken, True, False) == at_last
    assert budget.answer(forecast, True, False) is None
    assert budget.answer({"exceeded": None}, False, False) is None
    if then == "slow":
        assert budget.answer(broken, False, True) == "stop"
        assert budget.answer(forecast, False, True) == "warn"


def test_the_distance_to_each_limit():
    budget = DriftBudget(2.0, min_refusal=0.9)
    left = budget.left({"kl_nats": 0.5, "refusal": 0.925}, {"refusal": 1.0})
    assert left == pytest.approx({"budget_used": 0.75, "nats_left": 1.5, "refusal_points_left": 2.5})
    assert DriftBudget().left({"kl_nats": 0.5}) == {}
