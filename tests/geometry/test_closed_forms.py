"""The closed forms of geometry.md section 4 (C1 to C6): every number there, by the functions that ship.

Toy: loss in the sensitive coordinate x is (lam / 2) x^2, lam = 3; y is harmless; start at 0.
"""

import math

import numpy as np
import pytest
import torch

from holdfast.curvature import path_derivatives
from holdfast.geometry.conditions import conditions_at
from holdfast.geometry.onset import (
    crossover_time,
    drift_after_steps,
    fit_onset,
    log_slope,
    quadratic_onset,
    time_to_threshold,
    validity_time,
)
from holdfast.geometry.overlap import overlap_scores
from holdfast.geometry.spectrum import Subspace, heldout_capture, spectrum_of
from holdfast.geometry.updates import first_update

LAM, H = 3.0, 0.7
GAMMA_F = LAM**0.5 * H


def drift_c1(t):
    return LAM / 2 * ((np.cosh(H * t) - 1) / H) ** 2


def drift_c2b(t, eps=0.1):
    return LAM / 2 * (-eps * np.sinh(H * t) / H + (np.cosh(H * t) - 1) / H) ** 2


def test_c1_quartic_onset_and_its_coefficient():
    assert pytest.approx(1.2124356, abs=1e-7) == GAMMA_F
    c4 = quadratic_onset(0.0, 0.0, GAMMA_F**2).c4
    assert c4 == pytest.approx(0.18375)
    for t, drift, ratio in [(0.1, 1.83900117660e-5, 1.00081697), (1.0, 0.1993200656, 1.0847351)]:
        assert drift_c1(t) == pytest.approx(drift, rel=1e-8)
        assert drift_c1(t) / (c4 * t**4) == pytest.approx(ratio, rel=1e-6)
    t = np.geomspace(0.01, 0.3, 20)
    assert log_slope(t, drift_c1(t)) == pytest.approx(4.0015, abs=1e-4)


def test_c1b_saturation_bends_the_slope_below_four():
    h = 0.5

    def drift(t):
        x = -0.5 * ((1 - np.exp(-(1 + h) * t)) / (1 + h) - (1 - np.exp(-(1 - h) * t)) / (1 - h))
        return LAM / 2 * x**2

    c4 = quadratic_onset(0.0, 0.0, LAM * h**2).c4
    assert c4 == pytest.approx(0.09375)
    for t, ratio in [(0.01, 0.98676), (0.1, 0.87602), (0.5, 0.52583), (1, 0.28950), (2, 0.09947), (5, 0.00875)]:
        assert drift(t) / (c4 * t**4) == pytest.approx(ratio, abs=1e-5)
    t = np.geomspace(0.01, 0.3, 20)
    assert log_slope(t, drift(t)) == pytest.approx(3.903, abs=1e-3)


def c2_setup():
    g_rows = np.diag([3.0, 2.0, 1.0, 0.0])[:3]
    g = np.array([0.0, 0.0, 0.0, 1.0])
    hessian = np.zeros((4, 4))
    hessian[3] = hessian[:, 3] = [0.5, 0.6, 0.0, 1.0]
    return g_rows, g, hessian


def test_c2_conditions_and_the_double_counted_lambda():
    rows, g, hessian = c2_setup()
    matrix = rows @ rows.T
    trace = float(np.diag(matrix).mean())
    found = conditions_at(Subspace.of(matrix), trace, rows @ g, rows @ hessian @ g, 2)
    assert found.epsilon_E == 0
    assert found.epsilon_F == 0
    assert found.tail == pytest.approx(1 / 3)
    assert found.lambda_d == pytest.approx(4 / 3)
    assert found.gamma_F == pytest.approx(1.1090537, abs=1e-7)
    assert found.gamma_E == pytest.approx(0.7810250, abs=1e-7)
    right = found.gamma_F**2 / 8
    lower = found.lambda_d * found.gamma_E**2 / 8
    invalid = found.lambda_d * right
    assert (right, lower, invalid) == pytest.approx((0.15375, 0.1016667, 0.205), abs=1e-7)

    # simulate the top-2 loss along the flow theta' = -(g + H theta)
    fisher = np.diag([3.0, 4 / 3, 0.0, 0.0])
    values, vectors = np.linalg.eigh(hessian)
    for t, expected in [(1e-3, 0.1536476), (1e-2, 0.1527308)]:
        # delta(t) = -((1 - e^{-Ht}) / H) g, exactly, eigenvalue by eigenvalue
        weights = np.array([t if abs(v) < 1e-12 else -math.expm1(-v * t) / v for v in values])
        delta = -(vectors * weights) @ vectors.T @ g
        ratio = 0.5 * delta @ fisher @ delta / t**4
        assert ratio == pytest.approx(expected, rel=1e-6)
        assert lower < ratio < invalid


def test_c2_overlap_scores_with_chance_beside_them():
    rows, _, _ = c2_setup()
    delta = np.array([0.1, 0.2, 0.3, 0.4])
    r = rows @ delta
    scores = overlap_scores(
        Subspace.of(rows @ rows.T), r, float(delta @ delta), float((r**2).mean()), k=2, parameters=4
    )
    assert scores.os_energy == pytest.approx(1 / 6)
    assert scores.os_weighted == pytest.approx(0.0641026, abs=1e-7)
    assert scores.kl_quadratic_top == pytest.approx(0.0416667, abs=1e-7)
    assert scores.chance_energy == 0.5
    assert 0.5 * float((r**2).mean()) == pytest.approx(0.0566667, abs=1e-7)
    assert scores.os_rayleigh == pytest.approx(2 * 0.0566667 / (3 * 0.3), abs=1e-6)


def test_c2b_a_finite_epsilon_starts_quadratically():
    eps = 0.1
    # g = (eps, 1), H g = (h, h eps), H^2 g = h^2 g
    onset = quadratic_onset(LAM * eps**2, LAM * eps * H, LAM * H**2, third=LAM * eps * H**2 * eps)
    assert (onset.c2, onset.c3, onset.c4) == pytest.approx((0.0150, -0.1050, 0.1862), abs=1e-10)
    for t, drift in [(0.01, 1.396861e-6), (0.05, 2.553497e-5), (0.1, 6.350648e-5), (1, 9.842542e-2)]:
        assert drift_c2b(t) == pytest.approx(drift, rel=1e-6)
    assert crossover_time(eps * LAM**0.5, GAMMA_F) == pytest.approx(0.2857143, abs=1e-7)
    zero = 2 / H * math.atanh(eps)
    assert zero == pytest.approx(0.2866724, abs=1e-7)
    assert drift_c2b(zero) < 1e-20
    assert drift_c2b(2 * zero) == pytest.approx(4.997408e-3, rel=1e-6)
    for t, slope in [(0.01, 1.927), (0.05, 1.577), (0.1, 0.928), (2 * zero, 6.04), (1, 4.94)]:
        near = np.array([t * (1 - 1e-4), t * (1 + 1e-4)])
        assert log_slope(near, drift_c2b(near)) == pytest.approx(slope, abs=6e-3)


def test_c2b_relative_weights_recover_the_taylor_coefficients_and_unweighted_ones_do_not():
    t = np.linspace(0.02, 0.5, 200)
    c2, c3, c4 = fit_onset(t, drift_c2b(t))
    assert (c2, c3) == pytest.approx((0.0150, -0.1050), rel=0.01)
    assert c4 == pytest.approx(0.1862, rel=0.03)
    far = np.linspace(0.02, 1.0, 200)
    unweighted = np.linalg.lstsq(np.stack([far**2, far**3, far**4], 1), drift_c2b(far), rcond=None)[0]
    assert abs(unweighted[0] / 0.0150 - 1) > 0.2


def test_time_to_a_threshold():
    assert time_to_threshold(0.1, 0.0, 2.0) == pytest.approx(0.66874, abs=1e-5)
    assert time_to_threshold(0.1, 0.0, 2.0) == pytest.approx((8 * 0.1 / 4) ** 0.25)
    assert time_to_threshold(0.1, 3.0, 0.0) == pytest.approx(0.2**0.5 / 3)
    assert time_to_threshold(0.1, 0.0, 0.0) == math.inf
    # worst-case sign: ||F^1/2 P delta|| = gamma t^2 / 2 - epsilon t at the returned time
    eps, gamma, tau = 0.3, 1.2, 0.05
    t = time_to_threshold(tau, eps, gamma)
    assert 0.5 * (gamma * t * t / 2 - eps * t) ** 2 == pytest.approx(tau)


def test_c3_discrete_steps_count_as_k_times_k_minus_one():
    eta = 0.1
    x = {k: ((1 + eta * H) ** k + (1 - eta * H) ** k - 2) / (2 * H) for k in (1, 2, 3, 5, 10)}
    assert x[1] == pytest.approx(0, abs=1e-15)
    assert (x[2], x[3], x[5], x[10]) == pytest.approx((0.007, 0.021, 0.0701715, 0.32223833), abs=1e-8)
    assert LAM / 2 * x[10] ** 2 == pytest.approx(0.1557563, abs=1e-7)
    assert drift_after_steps(1, eta, GAMMA_F) == 0.0
    assert drift_after_steps(10, eta, GAMMA_F) == pytest.approx(LAM / 2 * 0.315**2)
    assert drift_after_steps(2, eta, GAMMA_F) == pytest.approx(LAM / 2 * x[2] ** 2)


def test_c7b_gradient_noise_drifts_linearly_even_from_an_orthogonal_start():
    eta, noise = 0.01, 1.0
    step = np.eye(2) - eta * np.array([[0.0, H], [H, 0.0]])
    mean, covariance = np.zeros(2), np.zeros((2, 2))
    exact = {}
    for k in range(1, 101):
        mean = step @ mean - eta * np.array([0.0, 1.0])
        covariance = step @ covariance @ step.T + eta**2 * noise**2 * np.eye(2)
        exact[k] = LAM / 2 * (mean[0] ** 2 + covariance[0, 0])
    for k, value in [(1, 1.5e-4), (10, 1.51875e-3), (50, 1.93330e-2), (100, 0.214825)]:
        assert exact[k] == pytest.approx(value, rel=1e-5)
    half_trace = LAM / 2 * noise**2  # 1/2 tr(F S)
    for k, accuracy in [(1, 1e-9), (10, 5e-3), (50, 0.05)]:
        assert drift_after_steps(k, eta, GAMMA_F, half_trace) == pytest.approx(exact[k], rel=accuracy)
    assert drift_after_steps(10, eta, GAMMA_F) == pytest.approx(1.488e-5, rel=1e-3)
    assert drift_after_steps(50, eta, GAMMA_F) == pytest.approx(1.103e-2, rel=1e-3)


def test_c10_why_nothing_here_is_sketched():
    """Sketches of a rank-one gradient lose 2 % (count) or 26 % (Kronecker); overlaps get a chance of k/m."""
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal(300), rng.standard_normal(400)
    squared, draws, m = float(left @ left) * float(right @ right), 150, 4096
    flat = np.outer(left, right).ravel()
    counted, kronecker = [], []
    for _ in range(draws):
        signs = flat * (1 - 2 * (rng.integers(0, 2, flat.size, dtype=np.int8)))
        counted.append(float((np.bincount(rng.integers(0, m, flat.size), signs, m) ** 2).sum()))
        one, other = rng.standard_normal((64, 300)) / 8, rng.standard_normal((64, 400)) / 8
        kronecker.append(float(((one @ left) ** 2).sum() * ((other @ right) ** 2).sum()))
    assert np.std(counted) / squared == pytest.approx((2 / m) ** 0.5, rel=0.2)
    assert np.std(kronecker) / squared == pytest.approx(0.252, rel=0.2)
    # an update with no overlap at all has one of the order k/m in the sketch, and k/p without it
    p, m, k = 20_000, 400, 5
    bucket, sign = rng.integers(0, m, p), rng.choice([-1.0, 1.0], p)
    rows = np.stack([np.bincount(bucket, row * sign, m) for row in np.eye(k + 1, p) * 100 + 0.0])
    noise = rng.standard_normal(p)
    noise[:k] = 0.0
    seen = np.bincount(bucket, noise * sign, m)
    basis = np.linalg.qr(rows[:k].T)[0]
    energy = float(((basis.T @ seen) ** 2).sum() / (seen @ seen))
    assert 1e-4 < energy < 5 * k / m
    r = 100 * np.eye(k, p) @ noise
    exact = overlap_scores(Subspace.of(1e4 * np.eye(k)), r, float(noise @ noise), float((r**2).mean()), k, p)
    assert (exact.os_energy, exact.chance_energy) == (0.0, k / p)


def test_c4_adams_first_step_is_not_orthogonal_although_the_gradient_almost_is():
    start, g = {"xy": torch.zeros(2, dtype=torch.float64)}, {"xy": torch.tensor([1e-6, 1.0]).double()}
    adam = first_update(start, g, "adam", 0.1, eps=1e-12)["xy"]
    np.testing.assert_allclose(adam.numpy(), [-0.0999999, -0.1], rtol=1e-9)
    assert LAM / 2 * adam[0].item() ** 2 == pytest.approx(0.01499997, rel=1e-7)
    sgd = first_update(start, g, "sgd", 0.1)["xy"]
    assert LAM / 2 * sgd[0].item() ** 2 == pytest.approx(1.5e-14)
    assert not start["xy"].any()


def test_c5_gamma_zero_is_not_safe():
    c = 0.9
    for t, exact in [(0.1, 3.37502e-8), (0.2, 2.16016e-6)]:
        # H^2 g + T[g, g] = (c, 0) at the start: with g and H g orthogonal the time is the third term's alone
        found = time_to_threshold(exact, 0.0, 0.0, third_F=LAM**0.5 * c)
        assert found == pytest.approx(t, rel=2e-5)
        assert LAM * c**2 * t**6 / 72 == pytest.approx(exact, rel=1e-4)
    assert time_to_threshold(1e-9, 0.0, 0.0) == math.inf  # nothing is claimed by terms that are not there
    assert validity_time(0.0, LAM**0.5 * c) == 0.0  # and c4 = 0 claims nothing at all
    # where a gamma says "late", the third term may still say "early"
    assert time_to_threshold(1e-3, 0.0, 1e-6, third_F=LAM**0.5 * c) < time_to_threshold(1e-3, 0.0, 1e-6)


@pytest.mark.parametrize(
    ("h", "kappa", "exact"),
    [(0.7, 0.5, 5.40993e-5), (0.0, 0.5, 9.375e-6), (0.7, -0.7, 2.76191e-11)],
)
def test_c6_the_models_own_curvature_belongs_to_c4(h, kappa, exact):
    """Observation z = x + (kappa / 2) y^2: c4 = lam (h + kappa)^2 / 8, whatever gamma says."""

    def z_at(t):
        x, y = ((math.cosh(h * t) - 1) / h, -math.sinh(h * t) / h) if h else (0.0, -t)
        return torch.tensor(x + kappa / 2 * y**2, dtype=torch.float64)

    zddot = path_derivatives(z_at, 1e-3)[2].item()
    c4 = LAM * zddot**2 / 8
    drift = LAM / 2 * z_at(0.1).item() ** 2
    assert drift == pytest.approx(exact, rel=2e-5)
    if h + kappa:
        assert drift / 0.1**4 == pytest.approx(c4, rel=5e-3)
        assert abs(LAM * h**2 / 8 / c4 - 1) > 0.5  # the gamma formula
    else:
        assert c4 < 1e-10


def test_spectrum_finds_planted_directions_and_the_null_edge_rejects_noise():
    """geometry.md 3.5: n = 100, p = 2000, true eigenvalues 5, 2, 1 over a 0.01 floor."""
    rng = np.random.default_rng(0)
    n, p = 100, 2000
    basis, _ = np.linalg.qr(rng.standard_normal((p, 3)))
    rows = 0.1 * rng.standard_normal((n, p)) + rng.standard_normal((n, 3)) * np.sqrt([5, 2, 1]) @ basis.T
    nulls = [(rows * s) @ (rows * s).T for s in (rng.choice([-1.0, 1.0], (n, p)) for _ in range(3))]
    found = spectrum_of(rows @ rows.T, nulls, tokens=1000)
    assert found.above_edge == 3
    assert found.eigenvalues[2] > found.null_edge > found.eigenvalues[3]
    # noise fills the sample's own tail eigenvalues but not the other half's trace
    assert found.tail_fraction["10"] < 1 - found.heldout_capture["10"]
    noise = 0.1 * rng.standard_normal((n, p))
    flipped = noise * rng.choice([-1.0, 1.0], (n, p))
    assert spectrum_of(noise @ noise.T, [flipped @ flipped.T], 1000).above_edge <= 2


def test_one_huge_score_does_not_hide_the_shared_directions():
    rng = np.random.default_rng(2)
    rows = 0.1 * rng.standard_normal((60, 500))
    basis, _ = np.linalg.qr(rng.standard_normal((500, 2)))
    rows += rng.standard_normal((60, 2)) * [5.0, 4.0] @ basis.T
    rows[7] += 5.0 * rng.standard_normal(500)
    nulls = [(rows * s) @ (rows * s).T for s in (rng.choice([-1.0, 1.0], rows.shape) for _ in range(3))]
    found = spectrum_of(rows @ rows.T, nulls, tokens=1000)
    assert found.largest_share > 0.8
    assert found.eigenvalues[1] < found.null_eigenvalues[0]  # a single edge would have found nothing
    assert (found.above_edge, found.single_answer) == (2, 1)
    assert found.leading == 3


def test_heldout_capture_of_one_shared_direction_is_everything():
    rows = np.outer(np.arange(1.0, 9.0), np.ones(5))
    assert heldout_capture(rows @ rows.T, 1) == pytest.approx(1.0)


def test_forms_by_gram_equal_forms_by_eigenvectors():
    rng = np.random.default_rng(1)
    rows, w = rng.standard_normal((7, 30)), rng.standard_normal(30)
    _, s, vt = np.linalg.svd(rows, full_matrices=False)
    space = Subspace.of(rows @ rows.T)
    along = vt[:3] @ w
    assert space.euclidean_squared(rows @ w, 3) == pytest.approx(along @ along)
    assert space.fisher_squared(rows @ w, 3) == pytest.approx((s[:3] ** 2 / 7 * along**2).sum())
    assert space.fisher_squared(rows @ w) == pytest.approx(((rows @ w) ** 2).mean())


def test_overlap_scores_equal_their_definitions_on_explicit_matrices():
    """geometry.md 2.3 by hand: F = rows^T rows / n, the top k eigenvectors of it, a random update."""
    from holdfast.geometry.overlap import overlap_scores

    rng = np.random.default_rng(4)
    n, p, k = 8, 30, 3
    rows, update = rng.standard_normal((n, p)) * np.linspace(0.1, 2, p), rng.standard_normal(p)
    values, vectors = np.linalg.eigh(rows.T @ rows / n)
    lam, v = values[::-1][:k], vectors[:, ::-1][:, :k]
    along, squared = v.T @ update, float(update @ update)
    form = float(((rows @ update) ** 2).mean())
    found = overlap_scores(Subspace.of(rows @ rows.T), rows @ update, squared, form, k, p)
    assert found.os_energy == pytest.approx((along**2).sum() / squared)
    assert found.chance_energy == pytest.approx(k / p)
    assert found.os_weighted == pytest.approx((lam * along**2).sum() / (lam.sum() * squared))
    assert found.os_rayleigh == pytest.approx(form / (lam[0] * squared))
    assert found.kl_quadratic_top == pytest.approx((lam * along**2).sum() / 2)
    assert found.k == k


def test_a_length_has_the_roots_of_its_squares_ends():
    from holdfast.core.statistics import Interval
    from holdfast.geometry.conditions import root

    found = root(Interval(4.0, 1.0, 9.0, 5, "bootstrap"))
    assert (found.value, found.low, found.high, found.n) == (2.0, 1.0, 3.0, 5)
    assert (
        root(Interval(-1.0, -2.0, 4.0, 5, "bootstrap")).low == 0.0 == root(Interval(-1.0, -2.0, 4.0, 5, "b")).value
    )


def test_the_screen_scales_a_whole_interval_by_the_steps():
    from holdfast.core.statistics import Interval
    from holdfast.geometry.forecast import screen

    one = Interval(2.0, 1.0, 3.0, 5, "b")
    found = screen(0.7, one, one, 4.0, 1e-3, 10, "adamw", 4, 5)["kl_quadratic_first_update"]
    assert (found.value, found.low, found.high) == (200.0, 100.0, 300.0)
    c2 = screen(0.7, one, one, 4.0, 1e-3, 10, "adamw", 4, 5)["c2_sgd"]
    assert (c2.value, c2.low, c2.high) == (2.0, 1.0, 3.0)


def test_the_null_of_a_rank_is_the_largest_of_all_draws():
    n = 6
    draws = [np.diag([9.0, 2.0, 2.0, 1.0, 1.0, 1.0]), np.diag([5.0, 4.0, 3.0, 1.0, 0.5, 0.5])]
    found = spectrum_of(np.diag([60.0, 6.0, 5.0, 4.0, 3.0, 2.0]), draws, tokens=10)
    assert found.null_eigenvalues == pytest.approx(np.array([9.0, 4.0, 3.0, 1.0, 1.0, 1.0]) / n)
