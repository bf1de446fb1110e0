"""The onset of drift in numbers: coefficients, crossover, time to a threshold, and fits to a measured curve.

Knows: the formulas of geometry.md 1.6, 3.7 and 3.9.
Does not know: models. Everything here is a function of numbers.

``t`` is gradient-flow time: for SGD the sum of learning rates, not the step number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.core.results import Result
from holdfast.core.statistics import Interval
from holdfast.gating.intervals import student_quantile

Array = NDArray[np.float64]
THRESHOLDS = (0.01, 0.1, 1.0)
CUBIC_SHARE = 0.2  # of the quadratic term of the path, beyond which nothing is claimed


@dataclass(frozen=True)
class ThresholdTime(Result):
    """When drift reaches ``tau_nats``: flow time, and steps of plain SGD at the audit's learning rate."""

    tau_nats: float
    t: float
    sgd_steps: float


@dataclass(frozen=True)
class QuadraticOnset(Result):
    """Coefficients of ``1/2 ||F^1/2 P delta(t)||^2`` in the locally quadratic model."""

    c2: float
    c3: float
    c4: float


@dataclass(frozen=True)
class Onset(Result):
    """Predicted onset of KL(aligned ‖ fine-tuned) under gradient flow on the task: nats a sequence.

    Attributes:
        c2, c3, c4: KL = c2 t^2 + c3 t^3 + c4 t^4, bootstrap over prompts. c4 is the quartic coefficient only where
            c2 vanishes (exact Fisher-orthogonality); otherwise c2 and c3 rule.
        gamma_F_squared_over_8: the paper's quartic coefficient. It leaves out the model's own curvature along g,
            so it may be above or below c4; it is not a bound.
        lambda_gamma_E_squared_over_8: its Euclidean lower version, with lambda_d.
        crossover_t: where the quartic term overtakes the quadratic one, 2 epsilon_F / gamma_F.
        times: worst-case time to each threshold from epsilon_F and gamma_F.
        top_d: signed coefficients of the loss inside the audit's top d directions alone, in the quadratic model.
        validity_t: up to where the coefficients speak: the path's cubic term is a fifth of its quadratic one.
        noise_nats: drift that the gradient noise of mini-batches adds, per step and squared learning rate of SGD.
        sgd_drift_nats: leading drift after the planned steps of plain SGD, noise included, as if c2 were 0.
        step: finite-difference step in t. spread: disagreement of c4 between neighbouring steps.
        time: what t is.
    """

    c2: Interval
    c3: Interval
    c4: Interval
    gamma_F_squared_over_8: float
    lambda_gamma_E_squared_over_8: float
    crossover_t: float
    times: tuple[ThresholdTime, ...]
    top_d: QuadraticOnset
    validity_t: float
    noise_nats: float
    sgd_drift_nats: float
    step: float
    spread: float
    time: str = "sum of learning rates under plain gradient descent"


def quadratic_onset(
    epsilon_F_squared: float, cross: float, gamma_F_squared: float, third: float = 0.0
) -> QuadraticOnset:
    """Signed coefficients (geometry.md 1.6).

    Args:
        epsilon_F_squared: ``||F^1/2 P g||^2``.
        cross: ``<F P g, P H g>``.
        gamma_F_squared: ``||F^1/2 P H g||^2``.
        third: ``<F P g, P (H^2 g + T[g, g])>``; 0 leaves that part of c4 out.
    """
    return QuadraticOnset(epsilon_F_squared / 2, -cross / 2, gamma_F_squared / 8 + third / 6)


def crossover_time(epsilon_F: float, gamma_F: float) -> float:
    """Where ``gamma t^2 / 2`` overtakes ``epsilon t``: before it the onset is quadratic in t."""
    return 2 * epsilon_F / gamma_F if gamma_F > 0 else float("inf")


def time_to_threshold(tau_nats: float, epsilon_F: float, gamma_F: float, third_F: float = 0.0) -> float:
    """Time at which the path reaches ``tau_nats``, at the worst sign of the first two terms (geometry.md 1.6).

    Args:
        tau_nats: of drift.
        epsilon_F, gamma_F: Fisher lengths of g and H g.
        third_F: of H^2 g + T[g, g]. Alone it drifts as ``third^2 t^6 / 72``: gamma = 0 is no protection (C5).
    """
    reach = (2 * tau_nats) ** 0.5
    cubic = (6 * reach / third_F) ** (1 / 3) if third_F > 0 else float("inf")
    if gamma_F <= 0:
        return min(cubic, reach / epsilon_F if epsilon_F > 0 else float("inf"))
    return min(cubic, (epsilon_F + (epsilon_F**2 + 2 * gamma_F * reach) ** 0.5) / gamma_F)


def validity_time(gamma_F: float, third_F: float) -> float:
    """Up to where the path's cubic term is at most a fifth of its quadratic one (geometry.md 3.9)."""
    return 3 * CUBIC_SHARE * gamma_F / third_F if third_F > 0 else float("inf")


def drift_after_steps(steps: int, learning_rate: float, gamma_F: float, noise_nats: float = 0.0) -> float:
    """Leading drift of k discrete SGD steps from an orthogonal start: k(k-1), not k^2, and the noise's part.

    Args:
        steps: k.
        learning_rate: of each.
        gamma_F: Fisher length of H g.
        noise_nats: 1/2 tr(F S) of a mini-batch gradient's covariance S, which drifts linearly in k even from a
            perfectly orthogonal start (geometry.md 3.7, C7b).
    """
    flow = 0.5 * (gamma_F * learning_rate**2 * steps * (steps - 1) / 2) ** 2
    return flow + noise_nats * learning_rate**2 * steps


def fit_onset(t: Sequence[float] | Array, kl_nats: Sequence[float] | Array) -> tuple[float, float, float]:
    """Fit ``c2 t^2 + c3 t^3 + c4 t^4`` to a measured curve with relative weights (geometry.md 3.9).

    Choose the window beforehand (KL below 1e-2, say). Unweighted fits follow the far end and miss the onset.

    Raises:
        ValueError: fewer than three points, or a KL that is not positive.
    """
    time, kl = np.asarray(t, dtype=np.float64), np.asarray(kl_nats, dtype=np.float64)
    if len(time) < 3 or not (kl > 0).all():
        raise ValueError("an onset fit needs three or more points with KL > 0")
    terms = np.stack([time**power for power in (2, 3, 4)], axis=1) / kl[:, None]
    scale = np.abs(terms).max(axis=0)
    solution = np.linalg.lstsq(terms / scale, np.ones(len(time)), rcond=None)[0] / scale
    return float(solution[0]), float(solution[1]), float(solution[2])


@dataclass(frozen=True)
class PowerLaw(Result):
    """``KL = c t^p``, fitted by least squares of the logarithms.

    Attributes:
        slope: p, with Student's interval; its ends are NaN with two points.
        log_c: at t = 1. centre: mean of log t. spread: sum of squares of log t about it. sigma: of the residuals.
        quantile: Student's, behind the intervals.
    """

    slope: Interval
    log_c: float
    centre: float
    spread: float
    sigma: float
    quantile: float

    def at(self, t: float) -> Interval:
        """KL at t, with the interval in which one more measurement there would lie."""
        x = np.log(t)
        log_kl = self.log_c + self.slope.value * x
        n = self.slope.n
        half = self.quantile * self.sigma * (1 + 1 / n + (x - self.centre) ** 2 / self.spread) ** 0.5
        with np.errstate(over="ignore"):
            value, low, high = (float(np.exp(y)) for y in (log_kl, log_kl - half, log_kl + half))
        return Interval(value, low, high, n, self.slope.method)


def power_law(t: Sequence[float] | Array, kl_nats: Sequence[float] | Array, level: float = 0.90) -> PowerLaw:
    """Fit ``c t^p``. Slopes 1, 2 and 4 can follow each other in one run, and slopes above 4 occur after a sign
    change: one slope is no test of the theory, and it forecasts as far as it holds.

    Raises:
        ValueError: fewer than two different t, or a t or a KL that is not positive.
    """
    time, kl = np.asarray(t, dtype=np.float64), np.asarray(kl_nats, dtype=np.float64)
    if len(set(time.tolist())) < 2 or not (time > 0).all() or not (kl > 0).all():
        raise ValueError("a power law needs two or more different t > 0 with KL > 0")
    x, y = np.log(time), np.log(kl)
    n, centre = len(x), float(x.mean())
    spread = float(((x - centre) ** 2).sum())
    slope = float(((x - centre) * (y - y.mean())).sum()) / spread
    log_c = float(y.mean()) - slope * centre
    nan = float("nan")
    sigma = float((((y - log_c - slope * x) ** 2).sum() / (n - 2)) ** 0.5) if n > 2 else nan
    quantile = student_quantile(0.5 + level / 2, n - 2) if n > 2 else nan
    half = quantile * sigma / spread**0.5
    found = Interval(slope, slope - half, slope + half, n, "least squares of the logarithms, Student")
    return PowerLaw(found, log_c, centre, spread, sigma, quantile)


def log_slope(t: Sequence[float] | Array, kl_nats: Sequence[float] | Array) -> float:
    """Least-squares slope of log KL against log t."""
    return power_law(t, kl_nats).slope.value
