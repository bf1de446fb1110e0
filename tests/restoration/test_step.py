"""The worked numbers of restoration.md 4.1-4.4, 4.7 and 4.10, in float64 to 1e-10."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from holdfast.core.errors import UserError
from holdfast.restoration import bound, step

F64 = torch.float64
H = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=F64)
g_H = torch.tensor([1.0, 2.0], dtype=F64)
EYE = torch.eye(2, dtype=F64)


def vector(*numbers):
    return torch.tensor(numbers, dtype=F64)


def close(value, expected, tolerance=1e-10):
    found, wanted = (torch.as_tensor(x, dtype=F64) for x in (value, expected))
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def solve(damping):
    return torch.linalg.solve(H + damping * EYE, g_H)


def test_step_of_a_stationary_task_is_the_penalised_optimum():
    s = solve(0)
    close(s, [1 / 11, 7 / 11])
    close(s @ H @ s, 15 / 11)
    delta = 0.5 * s
    close(g_H @ delta, 15 / 22)
    close(step.task_change(0.5, 0.0, float(s @ H @ s)), 15 / 88)
    # any optimiser of L_T - 0.5 L_H must land there
    d = torch.zeros(2, dtype=F64, requires_grad=True)
    optimiser = torch.optim.LBFGS([d], max_iter=200, tolerance_grad=1e-14, tolerance_change=0)

    def loss():
        optimiser.zero_grad()
        value = 0.5 * d @ H @ d - 0.5 * g_H @ d
        value.backward()
        return value

    optimiser.step(loss)
    close(d.detach(), delta, 1e-9)


def test_damped_step_costs_what_the_undamped_curvature_says():
    s = solve(1)
    close(s, [2 / 19, 9 / 19])
    close(s @ H @ s, 295 / 361)
    close(s @ s, 85 / 361)
    close(s @ H @ s + s @ s, g_H @ s)
    close(step.task_change(0.5, 0.0, float(s @ H @ s)), 295 / 2888)


@pytest.mark.parametrize(
    ("damping", "metric_damping", "eta", "gain", "cost"),
    [
        (0, 0, 0.3829708431, 0.5222329679, 0.1),
        (1, 0, 0.4947178617, 0.5207556439, 0.1),
        (1, 1, 0.4358898944, 0.4588314677, 0.0776315789),
    ],
)
def test_budget_decides_the_step(damping, metric_damping, eta, gain, cost):
    s = solve(damping)
    found = step.budget_step(0.1, 0.0, float(s @ (H + metric_damping * EYE) @ s))
    close(found, eta)
    close(found * float(g_H @ s), gain)
    close(step.task_change(found, 0.0, float(s @ H @ s)), cost)


def test_a_task_that_is_not_at_its_optimum_pays_for_its_slope():
    g_T = vector(0.3, -0.2)
    s, t = solve(0), torch.linalg.solve(H, g_T)
    close(t, [0.1, -0.1])
    a, b = float(g_T @ s), float(s @ H @ s)
    close([g_T @ t, a], [0.05, -0.1])
    close(step.task_change(0.5, a, b), 53 / 440)
    eta = step.budget_step(0.1, a, b)
    close([eta, eta * float(g_H @ s)], [0.4632621018, 0.6317210479])
    close(step.budget_step(0.1, max(a, 0.0), b), 0.3829708431)


def test_the_root_stays_exact_where_the_task_gradient_dominates():
    eta = step.budget_step(1e-3, 1e6, 1e-6)  # the textbook root loses every digit here
    assert step.task_change(eta, 1e6, 1e-6) == pytest.approx(1e-3, rel=1e-12)
    assert step.budget_step(0.1, -1.0, 0.0) == math.inf
    assert step.budget_step(0.0, -1.0, 2.0) == pytest.approx(1.0)


def test_curvature_buys_five_times_the_gain_of_the_gradient():
    curvature, gradient = torch.diag(vector(100, 1)), vector(1, 1)
    gains = []
    for s in (gradient, torch.linalg.solve(curvature, gradient)):
        gains.append(step.budget_step(0.5, 0.0, float(s @ curvature @ s)) * float(gradient @ s))
    close(gains, [0.1990074380, 1.0049875621])
    close(gains[1] / gains[0], 5.05)


def test_the_gap_left_limits_the_step():
    assert step.target_step(0.02, 0.5) == pytest.approx(0.04)
    assert step.target_step(-1.0, 0.5) == 0.0
    assert step.target_step(1.0, 0.0) == math.inf


def test_backtracking_asks_the_measurement_and_not_the_model():
    def cost(e):
        return 0.5 * e * e + 2 * e**3

    start = step.budget_step(0.1, 0.0, 1.0)
    close([start, cost(start)], [0.4472135955, 0.2788854382])
    eta, halvings = step.backtrack(start, lambda e: cost(e) <= 0.1)
    close([eta, cost(eta)], [0.2236067977, 0.0473606798])
    assert halvings == 1
    assert step.backtrack(1.0, lambda _: False) == (0.0, 12)
    assert step.backtrack(1.0, lambda e: e * math.nan <= 0.1)[0] == 0.0


def test_held_out_bound_of_paired_differences():
    differences = [0.01, -0.02, 0.03, 0.0]
    close(bound.student_t_quantile(0.95, 3), 2.3533634348)
    close(bound.upper_bound(differences), 0.0294945832)
    assert 0.02 < bound.upper_bound(differences) <= 0.03
    assert bound.upper_bound([0.0]) == math.inf


@pytest.mark.parametrize("dof", [1, 2, 3, 10, 63, 511])
def test_student_quantile_is_scipys(dof):
    close(bound.student_t_quantile(0.95, dof), stats.t.ppf(0.95, dof), 1e-9)


@pytest.mark.parametrize(("tau", "curvature"), [(-0.1, 1.0), (0.1, -1.0)])
def test_negative_budgets_and_curvatures_are_refused(tau, curvature):
    with pytest.raises(UserError, match="must not be negative"):
        step.budget_step(tau, 0.0, curvature)


@pytest.mark.parametrize("n", [2, 3, 40])
def test_both_bounds_are_scipys(n):
    d = np.random.default_rng(n).normal(0.01, 0.2, n)
    assert bound.upper_bound(d.tolist(), 0.975) == pytest.approx(
        stats.ttest_1samp(d, 0, alternative="less").confidence_interval(0.975).high
    )
    found, wanted = bound.interval(d.tolist()), stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.value == pytest.approx(d.mean()) and found.n == n


def test_free_projection_tends_to_the_explicit_one():
    """Adding b g_T g_T^T to C gives the projected step as b grows (notes-restoration.md, what worked, 3)."""
    g_T = vector(0.3, -0.2)
    s, t = solve(0), torch.linalg.solve(H, g_T)
    explicit = s - float(g_T @ s) / float(g_T @ t) * t
    free = torch.linalg.solve(H + 1e9 * torch.outer(g_T, g_T), g_H)
    np.testing.assert_allclose(free.numpy(), explicit.numpy(), rtol=1e-6)
