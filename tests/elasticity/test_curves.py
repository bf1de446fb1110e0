"""Shapes of curves: elasticity.md T12, and how often noise is taken for a change of phase."""

import numpy as np
import pytest

from holdfast.elasticity import curves

ELEVEN = np.linspace(0, 2000, 11)
SMOOTH, KINK = 0.12 + 0.83 * np.exp(-ELEVEN / 500), np.where(ELEVEN < 600, 0.95 - 0.83 * ELEVEN / 600, 0.12)


def noisy(curve, sd, repeats=200, seed=0):
    return curve + sd * np.random.default_rng(seed).normal(size=(repeats, len(curve)))


@pytest.mark.parametrize("sd", [0.02, 0.04])
def test_one_exponential_is_seldom_taken_for_two_phases(sd):
    two = [curves.ONE, curves.SEGMENTS]
    chosen = curves.choose_many(ELEVEN, noisy(SMOOTH, sd, 1000), two)
    assert np.mean([shape != curves.ONE for shape in chosen]) < 0.10
    with_all = curves.choose_many(ELEVEN, noisy(SMOOTH, sd, 1000))
    assert np.mean([shape != curves.ONE for shape in with_all]) <= 0.05


def test_a_kink_is_seen_and_located():
    chosen = curves.choose_many(ELEVEN, noisy(KINK, 0.02))
    assert np.mean([shape == curves.SEGMENTS for shape in chosen]) > 0.9
    places = [curves._fit(curves.SEGMENTS, ELEVEN, y).break_at for y in noisy(KINK, 0.02, 30)]
    assert np.std(places) <= 30 and np.mean(places) == pytest.approx(600, abs=20)


@pytest.mark.parametrize(
    ("shape", "times", "coefficients"),
    [(curves.ONE, (437.0,), (0.2, 0.7)), (curves.SEGMENTS, (720.0,), (0.9, -1e-3, 9e-4)),
     (curves.TWO, (90.0, 1300.0), (0.1, 0.5, 0.4))],
)  # fmt: skip
def test_each_shape_finds_its_own_parameters(shape, times, coefficients):
    truth = curves.Fit(shape, coefficients, times, 0.0, 0.0).at(ELEVEN.tolist())
    found = curves._fit(shape, ELEVEN, truth)
    assert found.rss < 1e-6
    np.testing.assert_allclose(found.times, times, rtol=0.03)


def test_residuals_of_the_grid_are_those_of_least_squares():
    y_RT = noisy(SMOOTH, 0.05, 2)
    for shape in (curves.ONE, curves.SEGMENTS, curves.TWO):
        grid = curves._grid(shape, tuple(ELEVEN.tolist()))[::37]
        terms = curves._terms(shape, ELEVEN, grid)
        q, _ = np.linalg.qr(terms)
        reference = [[np.linalg.lstsq(t, y, rcond=None)[1][0] for y in y_RT] for t in terms]
        np.testing.assert_allclose(curves._rss(q, y_RT), reference, atol=1e-9)


def test_a_change_of_phase_at_the_base_level_needs_the_level_to_be_the_bases():
    y = noisy(KINK, 0.005, 1, seed=3)[0]
    at_base = curves.read_curve(ELEVEN, y, base_level=0.12, draws=40)
    assert at_base.two_phase and at_base.phase_change_at_base
    assert at_base.break_at.low <= 600 <= at_base.break_at.high
    assert curves.read_curve(ELEVEN, y, base_level=0.54, draws=40).phase_change_at_base is False
    assert curves.read_curve(ELEVEN, y, draws=10).phase_change_at_base is None
    plain = curves.read_curve(ELEVEN, noisy(SMOOTH, 0.01, 1)[0], base_level=0.12)
    assert not plain.two_phase and plain.phase_change_at_base is False and np.isnan(plain.break_at.value)
    assert curves.CurveReading.from_dict(at_base.to_dict()) == at_base


def test_six_points_establish_no_phase_change():
    six = ELEVEN[::2]
    found = curves.read_curve(six, KINK[::2], base_level=0.12)
    assert found.chosen == curves.ONE and [fit.shape for fit in found.fits] == [curves.ONE]
    assert np.isnan(curves.aicc(1.0, 6, 5)).all()
    with pytest.raises(ValueError, match="six points"):
        curves.read_curve([0, 1, 2, 3, 4], [1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match="growing"):
        curves.read_curve([0, 1, 1, 3, 4, 5], [1, 1, 1, 1, 1, 1])


def test_the_slow_phase_of_two_exponentials_begins_where_their_slopes_meet():
    fit = curves.Fit(curves.TWO, (0.1, 0.6, 0.3), (50.0, 800.0), 0.0, 0.0)
    x = fit.break_at
    assert 0.6 / 50 * np.exp(-x / 50) == pytest.approx(0.3 / 800 * np.exp(-x / 800))
