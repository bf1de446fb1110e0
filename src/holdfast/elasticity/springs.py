"""Coefficients of a rebound, each beside what a linear spring predicts, with intervals over seeds and prompts.

Source: elasticity.md 1.9, 3.3, 3.8. A linear spring under gradient flow relaxes as ``KL(n) = KL_0 e^{-kappa n}``,
one kappa for every displacement: a steeper start of the more displaced model proves nothing; a larger *kappa*, or
curves that cross, does.

Knows: curves as numbers. Does not know: models, how the curves came about.

Shapes: S seeds, T probes, P prompts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.core.results import Result
from holdfast.core.statistics import Interval

DRAWS = 2000
OPPOSED, SATURATED, MIXED, BASE, UNREAD = "opposed", "saturated", "mixed", "base model", "not read"
_PULLS, _FLAT = -0.5, 0.05
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coefficient(Result):
    """One coefficient: its interval, the linear spring's value, and the regime it was read in.

    Attributes:
        name, unit: what it is.
        value: with its interval; infinite ends are unbounded or censored.
        null: the linear spring's value; NaN where a spring says nothing.
        regime: of the gradients at the start (see :func:`regime`).
    """

    name: str
    unit: str
    value: Interval
    null: float
    regime: str

    @property
    def explained(self) -> bool | None:
        """Whether a linear spring explains it: its value lies in the interval. None where that cannot be said."""
        if math.isnan(self.null) or math.isnan(self.value.low) or math.isnan(self.value.high):
            return None
        return not self.value.excludes(self.null)

    def said(self) -> str:
        """The value and its interval in words; infinite is "not reached" or "unbounded", never a number."""
        low, high = self.value.low, self.value.high
        if low == -math.inf:
            return f"unbounded: {self.value.method}"
        if math.isinf(self.value.value):
            return "not reached" + (f" [{low:.3g} or more]" if math.isfinite(low) else "")
        if math.isinf(high):
            return f"{self.value.value:.3g} [{low:.3g} or more]"
        return self.value.said(".3g")


def regime(cosine: float, norm_ratio: float) -> str:
    """Where on the way from pre-training to saturation a checkpoint stands (1.8, T11).

    Args:
        cosine: of the gradients of pre-training and alignment loss. norm_ratio: ``||g_a|| / ||g_p||``.

    Returns:
        "base model": the pre-training loss is stationary; "saturated": the alignment loss is, so the next step
        moves pre-training far more; "opposed": both pull, against each other, and the law applies with k_eff;
        "mixed" otherwise; "not read" without gradients.
    """
    if math.isnan(cosine) or math.isnan(norm_ratio):
        return UNREAD
    if norm_ratio > 1 / _FLAT**2:
        return BASE
    if norm_ratio < _FLAT or abs(cosine) < 0.2:
        return SATURATED
    return OPPOSED if cosine < _PULLS else MIXED


def first_crossing(updates_T: Sequence[float], values_T: Sequence[float] | Floats, level: float) -> float:
    """Updates at which a curve first comes down to ``level``, linear between probes; infinite if it never does."""
    for k, value in enumerate(values_T):
        if value <= level:
            if k == 0:
                return float(updates_T[0])
            before, past = float(values_T[k - 1]), float(value)
            share = (before - level) / (before - past)
            return float(updates_T[k - 1] + share * (updates_T[k] - updates_T[k - 1]))
    return math.inf


def relaxation_rate(updates_T: Sequence[float], kl_T: Sequence[float] | Floats, threshold: float) -> float:
    """kappa: slope of ``-ln KL`` an update, from the start to the first probe at or below ``threshold``.

    Args:
        threshold: ``max(epsilon, 3 floor)``.

    Returns:
        NaN where the start is not above the threshold or no second probe has a logarithm.
    """
    x_T, y_T = np.asarray(updates_T, dtype=np.float64), np.asarray(kl_T, dtype=np.float64)
    below = np.flatnonzero(y_T <= threshold)
    stop = int(below[0]) + 1 if below.size else len(y_T)
    kept = y_T[:stop] > 0
    x_T, y_T = x_T[:stop][kept], y_T[:stop][kept]
    if len(y_T) < 2 or y_T[0] <= threshold:
        return math.nan
    return float(-np.polyfit(x_T, np.log(y_T), 1)[0])


def score_rate(updates_T: Sequence[float], score_T: Sequence[float] | Floats, base_score: float) -> float:
    """kappa_s: initial loss of the score's distance to the base model's, a share an update (3.3)."""
    distance = score_T[0] - base_score
    if len(score_T) < 2 or distance == 0:
        return math.nan
    return float((score_T[0] - score_T[1]) / (updates_T[1] - updates_T[0]) / distance)


def rebound_index(amounts_C: Sequence[float], rates_C: Sequence[float]) -> float:
    """beta: slope of ln kappa on ln N (or ln KL_0) over checkpoints; 0 of a linear spring, above it strong."""
    x_C, y_C = np.asarray(amounts_C, dtype=np.float64), np.asarray(rates_C, dtype=np.float64)
    if len(x_C) < 2 or not ((x_C > 0) & (y_C > 0)).all() or np.ptp(np.log(x_C)) == 0:
        return math.nan
    return float(np.polyfit(np.log(x_C), np.log(y_C), 1)[0])


def hysteresis(forward_T: Sequence[float], forward_kl_T: Sequence[float], updates_to_return: float) -> float:
    """``n_forward / n_inverse``: updates of alignment to 95 % of the displacement, over those to return."""
    reached = 0.95 * forward_kl_T[-1]
    there = first_crossing(forward_T, [-kl for kl in forward_kl_T], -reached)
    return there / updates_to_return if updates_to_return > 0 else math.nan


def spring_updates(kl_0: float, epsilon: float, rate: float) -> float:
    """Updates a linear spring of relaxation rate kappa takes from ``KL_0`` to ``epsilon`` (1.9)."""
    return math.log(kl_0 / epsilon) / rate


def spring_hysteresis(kl_0: float, epsilon: float) -> float:
    """Hysteresis of a linear spring, one h both ways: ``(1 - e^{-hn})^2 = 0.95`` going, ``e^{-2hn}`` coming."""
    return -math.log(1 - math.sqrt(0.95)) / (math.log(kl_0 / epsilon) / 2)


def crossing_curves(updates_T: Sequence[float], less_T: Sequence[float], more_T: Sequence[float]) -> float:
    """Updates at which the curve of the *more* aligned checkpoint falls below the other's; infinite if never.

    Two linear springs never cross.
    """
    return first_crossing(updates_T, (np.asarray(more_T) - np.asarray(less_T)).tolist(), 0.0)


def over_seeds_and_prompts(
    statistic: Callable[..., float],
    *curves_STP: Floats,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Interval:
    """A statistic of mean curves with a percentile interval: seeds drawn first, prompts next (3.8).

    Args:
        statistic: of one mean curve (T,) for each of ``curves_STP``.
        curves_STP: all over the same seeds; prompts are drawn for each alike, so that curves stay paired.

    Returns:
        An interval; ends are NaN with one seed and one prompt. Draws in which the statistic is undefined are left
        out, and ``n`` counts the prompts.
    """
    shapes = {(c.shape[0], c.shape[2]) for c in curves_STP}
    if len(shapes) != 1:
        raise ValueError(f"curves need the same seeds and prompts, got {sorted(shapes)}")
    seeds, prompts = shapes.pop()
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws if seeds * prompts > 1 else 0):
        of_seed, of_prompt = rng.integers(0, seeds, seeds), rng.integers(0, prompts, prompts)
        found.append(statistic(*(c[of_seed][:, :, of_prompt].mean(axis=(0, 2)) for c in curves_STP)))
    value = statistic(*(c.mean(axis=(0, 2)) for c in curves_STP))
    values = np.asarray([v for v in found if not math.isnan(v)])
    tail = (1 - level) / 2
    method = "bootstrap over seeds and prompts" if seeds > 1 else "bootstrap over prompts, one seed"
    if not len(values):
        return Interval(value, math.nan, math.nan, prompts, method)
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")  # never between a number and infinity
    return Interval(value, float(low), float(high), prompts, method)


def resistance_index(forward_excess: float, inverse_excess: float) -> float:
    """rho: how much harder forward is, over the mean of both; 0 of a spring, NaN where nothing was learned."""
    mean = (forward_excess + inverse_excess) / 2
    return math.nan if mean == 0 else (forward_excess - inverse_excess) / mean
