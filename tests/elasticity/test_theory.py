"""The worked numbers of elasticity.md section 4 (T1-T4, T6, T7), in float64 to 1e-6."""

import itertools
import math

import numpy as np
import pytest

from holdfast.elasticity.coefficients import conservation_residual, stiffness
from tests.elasticity import closed_forms as theory

P_p = np.array([0.5, 0.25, 0.15, 0.10])
P_a = np.array([0.1, 0.1, 0.2, 0.6])
P_t = np.array([0.6, 0.2, 0.15, 0.05])
T_p = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.3, 0.5]])
T_a = np.array([[0.2, 0.2, 0.6], [0.1, 0.1, 0.8], [0.1, 0.2, 0.7]])


def test_entropies_and_joint_rates():
    entropies = [theory.cross_entropy_bits(p, p) for p in (P_p, P_a, P_t)]
    np.testing.assert_allclose(entropies, [1.742738, 1.570951, 1.533206], atol=1e-6)
    q = theory.joint_model([P_p, P_a], [10, 1])
    rates = [theory.cross_entropy_bits(p, q) for p in (P_p, P_a)]
    np.testing.assert_allclose(rates, [1.75691769, 2.52658064], rtol=1e-8)


@pytest.mark.parametrize(
    ("k", "slope_p", "slope_a"),
    [
        (1, -3.09148937e-1, 3.09148937e-1),
        (10, -5.05737014e-3, 5.05737014e-2),
        (100, -4.47624943e-5, 4.47624943e-3),
        (1000, -4.34413593e-7, 4.34413593e-4),
    ],
)
def test_law_is_inversely_proportional_at_the_joint_optimum(k, slope_p, slope_a):
    dp, da, _ = theory.rate_slopes_bits(P_p, P_a, P_t, k, 0.0)
    np.testing.assert_allclose([dp, da], [slope_p, slope_a], rtol=1e-6)
    assert stiffness(dp, da) == pytest.approx(k, rel=1e-9)
    assert conservation_residual(k, dp, da) < 1e-9


def test_slopes_are_the_derivatives_of_the_rates():
    def rates(l):
        q = theory.joint_model([P_p, P_a, P_t], [10, 1, l])
        return np.array([theory.cross_entropy_bits(p, q) for p in (P_p, P_a, P_t)])

    numeric = (rates(0.3 + 1e-6) - rates(0.3 - 1e-6)) / 2e-6
    np.testing.assert_allclose(theory.rate_slopes_bits(P_p, P_a, P_t, 10, 0.3), numeric, rtol=1e-6)


@pytest.mark.parametrize(
    ("k", "ratio"), [(1, -1.133110), (10, -10.285662), (100, -101.950441), (1000, -1018.755282)]
)
def test_conservation_holds_away_from_the_optimum_and_the_ratio_does_not(k, ratio):
    dp, da, dt = theory.rate_slopes_bits(P_p, P_a, P_t, k, 0.1)
    assert da / dp == pytest.approx(ratio, rel=1e-6)
    assert abs(k * dp + da + 0.1 * dt) < 1e-12


@pytest.mark.parametrize(("k", "ratio"), [(10, -10.141150), (1000, -1009.2907)])
def test_finite_changes_move_the_ratio(k, ratio):
    before, after = (theory.joint_model([P_p, P_a, P_t], [k, 1, l]) for l in (0.0, 0.1))
    dp, da = (theory.cross_entropy_bits(p, after) - theory.cross_entropy_bits(p, before) for p in (P_p, P_a))
    assert da / dp == pytest.approx(ratio, rel=1e-6)


def test_agreeing_perturbation_flips_both_signs():
    dp, da, _ = theory.rate_slopes_bits(P_p, P_a, P_a, 10, 0.0)
    np.testing.assert_allclose([dp, da], [2.357757e-2, -2.357757e-1], rtol=1e-6)
    assert stiffness(dp, da) == pytest.approx(10)


@pytest.mark.parametrize(
    ("k", "l", "ratio"), [(10, 0, -10), (10, 0.1, -12.875), (100, 0.25, -201.5), (1000, 0.1, -1250.375)]
)
def test_three_equal_disjoint_blocks(k, l, ratio):
    uniform = np.full(6, 1 / 6)
    block_2, block_3 = np.array([0, 0, 0.5, 0.5, 0, 0]), np.array([0, 0, 0, 0, 0.5, 0.5])
    dp, da, _ = theory.rate_slopes_bits(uniform, block_2, block_3, k, l)
    assert da / dp == pytest.approx(ratio, rel=1e-9)
    assert da * math.log(2) == pytest.approx(1 / (k + 1 + l), rel=1e-9)


def test_uncovered_support_moves_both_the_same_way():
    a, b, c = np.eye(3)
    dp, da, _ = theory.rate_slopes_bits(a, b, c, 10, 0.0)
    assert dp * math.log(2) == pytest.approx(1 / 11) and da == pytest.approx(dp)


@pytest.mark.parametrize(("progress", "k_eff"), [(0.2, 4), (0.5, 1), (0.9, 1 / 9)])
def test_sequential_model_has_the_stiffness_of_its_path(progress, k_eff):
    slopes = theory.sequential_slopes_bits(P_p, P_a, P_t, progress)
    assert stiffness(*slopes) == pytest.approx(k_eff, rel=1e-9)


def test_sequential_model_over_a_finite_step_and_when_saturated():
    q = 0.8 * P_p + 0.2 * P_a
    moved = 0.95 * q + 0.05 * P_t
    dp, da = (theory.cross_entropy_bits(p, moved) - theory.cross_entropy_bits(p, q) for p in (P_p, P_a))
    np.testing.assert_allclose([da, dp], [0.0315865, -0.0074595], atol=1e-7)
    assert stiffness(dp, da) == pytest.approx(4.234383, rel=1e-6)
    saturated = theory.sequential_slopes_bits(P_p, P_a, P_t, 1.0)
    np.testing.assert_allclose(saturated, [-3.781063, 0.0], atol=1e-6)
    assert stiffness(*saturated) == pytest.approx(0.0, abs=1e-12)


def test_kl_of_strings_follows_the_chain_rule():
    pi_p, pi_a = theory.stationary(T_p), theory.stationary(T_a)
    assert theory.markov_kl_bits(pi_p, T_p, pi_a, T_a, 3) == pytest.approx(2.2046394967, rel=1e-9)
    assert theory.markov_kl_bits(pi_a, T_a, pi_p, T_p, 3) == pytest.approx(1.3942120507, rel=1e-9)

    def probability(start, table, word):
        return start[word[0]] * math.prod(table[a, b] for a, b in itertools.pairwise(word))

    enumerated = sum(
        (p := probability(pi_p, T_p, w)) * math.log2(p / probability(pi_a, T_a, w))
        for w in itertools.product(range(3), repeat=3)
    )
    assert theory.markov_kl_bits(pi_p, T_p, pi_a, T_a, 3) == pytest.approx(enumerated, rel=1e-12)


def test_prequential_length_is_the_sum_of_online_losses():
    online = theory.prequential_bits([0, 1, 1, 0, 1, 1, 0, 1], [0.5, 0.5])
    assert online == pytest.approx(9.5081469037, rel=1e-9)
    assert theory.prequential_bits_closed([3, 5], [0.5, 0.5]) == pytest.approx(online, rel=1e-12)
    assert online / 8 == pytest.approx(1.1885183630, rel=1e-9)


def test_unmoved_rates_say_so():
    assert stiffness(0.0, 0.1) == math.inf
    assert math.isnan(conservation_residual(10, 0.0, 0.0))
    assert conservation_residual(10, 0.01, 0.1) == 1.0
