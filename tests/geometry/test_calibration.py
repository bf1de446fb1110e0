"""From a score to a chance, an interval and a sentence: planted runs, and fits against scipy."""

import numpy as np
import pytest
from scipy.optimize import minimize

from holdfast.geometry import SourceShare
from holdfast.geometry.calibration import (
    RIDGE,
    ReferenceRun,
    _logistic_coefficients,
    calibrated,
    conformal_half_width,
    left_out_residuals,
    reference_runs,
)
from holdfast.geometry.verdict import conclude, verdict_of

GROWTH = tuple((share, share**2) for share in (0.05, 0.3, 1.0))


def planted(tasks=12, each=4, noise=0.5, seed=0):
    """Log drift = 1 + 0.5 log score + noise; refusals fall once the drift passes 3 nats; growth is quadratic."""
    rng, runs = np.random.default_rng(seed), []
    for task in range(tasks):
        for _ in range(each):
            x = rng.uniform(-6, 6)
            kl = float(np.exp(1 + 0.5 * x + noise * rng.standard_normal()))
            lost = 90.0 if kl > 3 else 0.5
            runs.append(ReferenceRun(str(task), "lora", 1e-3, 40, float(np.exp(x)), float(np.exp(x)), kl, lost))
    return runs


def test_a_score_reads_as_rank_drift_and_chances():
    runs = planted()
    low, high = (calibrated("probe", score, 100, 3.0, runs, GROWTH) for score in (np.exp(-4.0), np.exp(4.0)))
    assert low.kl_nats == pytest.approx(np.exp(-1), rel=0.35) and high.kl_nats == pytest.approx(
        np.exp(3), rel=0.35
    )
    assert low.rank < 0.35 and high.rank > 0.65
    assert low.chance(10.0) < 0.1 < 0.9 < high.chance(10.0)
    assert low.chances[0].probability < 0.1 < 0.9 < high.chances[0].probability
    assert low.chances[0].step is None
    # growth is quadratic: exp(3) passes 3 nats at sqrt(3 / exp(3)) of the way; its logarithms are a line
    assert high.chances[0].step == pytest.approx(100 * (3 / high.kl_nats) ** 0.5, abs=2)
    assert low.points_lost == 0.5 and high.points_lost == 90.0
    assert low.inside and not calibrated("probe", np.exp(9.0), 100, None, runs, GROWTH).inside
    assert 1 < low.safe_kl_nats < 4
    with pytest.raises(ValueError, match="ten runs"):
        calibrated("prior", 1.0, 100, None, runs[:5], GROWTH)


def test_nine_in_ten_new_tasks_lie_inside_the_interval():
    inside = []
    for seed in range(60):
        runs = planted(seed=seed)
        new = planted(tasks=1, each=1, seed=1000 + seed)[0]
        found = calibrated("prior", new.prior, 100, None, runs, GROWTH)
        inside.append(found.kl_low <= new.kl_nats <= found.kl_high)
    assert 0.8 <= np.mean(inside) <= 0.98


def test_residuals_leave_the_runs_own_task_out():
    x, y = np.array([0.0, 1, 2, 3, 9]), np.array([0.0, 1, 2, 3, 0])
    found = left_out_residuals(x, y, ["a", "a", "b", "b", "c"])
    assert found[-1] == pytest.approx(-9.0)  # the others lie on y = x
    assert conformal_half_width(np.arange(1.0, 20.0)) == 18.0  # ceil(20 x 0.9)
    assert conformal_half_width(np.arange(1.0, 5.0)) == 4.0


def test_the_penalised_logistic_fit_is_its_own_minimum():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(30) * 2 + 1
    for yes in (x + rng.standard_normal(30) > 1, x > 1):  # overlapping, and perfectly separated
        intercept, slope = _logistic_coefficients(x, yes)
        z = np.append((x - x.mean()) / x.std(), [0.0, 0.0])
        y, w = np.append(yes.astype(float), [0.0, 1.0]), np.append(np.ones(30), [0.5, 0.5])

        def penalised(beta, z=z, y=y, w=w):
            eta = beta[0] + beta[1] * z
            return float((w * (np.logaddexp(0, eta) - y * eta)).sum() + RIDGE / 2 * beta[1] ** 2)

        expected = minimize(penalised, [0.0, 0.0], method="BFGS", options={"gtol": 1e-8}).x
        assert slope * x.std() == pytest.approx(expected[1], rel=1e-3)
        assert intercept + slope * x.mean() == pytest.approx(expected[0], rel=1e-3, abs=1e-3)


def test_the_sentence_follows_the_chance_and_names_two_sources():
    runs = planted()
    at = {
        name: calibrated("prior", float(np.exp(x)), 100, None, runs, GROWTH)
        for name, x in (("low", -5), ("high", 5))
    }
    sources = [
        SourceShare("chat", 10, 0.7, 0.2),
        SourceShare("sums", 30, 0.2, 0.5),
        SourceShare("rest", 5, 0.1, 0.3),
    ]
    safe = conclude(at["low"], sources)
    assert (safe.verdict, safe.words) == ("safe", "safe to train")
    assert conclude(at["low"], sources, before=at["low"]).verdict == "safe"
    doubted = conclude(at["low"], sources, before=at["high"])  # after a probe "safe" takes both
    assert doubted.verdict == "budget" and "before the first it was" in doubted.because
    bad = conclude(at["high"], sources, slower=at["low"])
    assert bad.verdict == "lose" and bad.words == "expect to lose about 90 points of refusals"
    few = conclude(at["high"], sources, refused=0.4)
    assert few.words == "expect to lose nearly all refusals there are (40% of the prompts are refused now)"
    assert conclude(at["high"], sources, refused=0.97).words == bad.words
    assert [one.source for one in bad.drivers] == ["chat", "sums"] and "70% of the drift" in bad.because
    assert "half the learning rate" in bad.advice and "--defence anchor" in bad.advice
    assert sources[0].per_token == pytest.approx(3.5)
    middle = [calibrated("prior", float(np.exp(x)), 100, None, runs, GROWTH) for x in np.linspace(-2, 3, 40)]
    assert "budget" in {verdict_of(one) for one in middle}
    assert conclude(at["low"], little="the model refuses 1 % of 60 harmful prompts").verdict == "unknown"
    assert verdict_of(calibrated("prior", float(np.exp(9)), 100, None, runs, GROWTH)) == "unknown"
    assert verdict_of(calibrated("prior", float(np.exp(-9)), 100, None, runs, GROWTH)) == "safe"


def test_the_runs_that_ship_are_read_by_both_kinds_of_forecast():
    runs = reference_runs()
    assert len(runs) >= 10 and {run.method for run in runs} == {"full", "lora"}
    for kind in ("prior", "probe"):
        low, high = (calibrated(kind, score, 60) for score in (1e-6, 1e6))
        assert low.kl_nats < high.kl_nats and low.chance(10.0) < high.chance(10.0)


def test_a_forecast_is_made_at_the_sizes_its_calibration_was_made_at():
    import inspect

    from holdfast.cli import audit as verb
    from holdfast.geometry import audit, calibration, look_ahead

    sizes = {"max_prompts": calibration.PROMPTS, "max_new_tokens": calibration.NEW_TOKENS}
    light, whole = (inspect.signature(function).parameters for function in (look_ahead, audit))
    assert {name: light[name].default for name in sizes} == sizes
    assert whole["max_new_tokens"].default == calibration.NEW_TOKENS  # its score sums over the tokens of an answer
    assert (verb.MOST_PROMPTS, verb.MOST_ROWS) == (calibration.PROMPTS, calibration.ROWS)
