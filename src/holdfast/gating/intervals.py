"""Intervals that a gate decides by, where the usual ones would promise more than they hold.

Knows: means of numbers over prompts. Does not know: budgets.

A percentile bootstrap of a skewed mean over 24 prompts misses high on every ninth draw where one in forty was
promised, and of pairs that never differ it is certain. A gate that passes on such ends passes too much.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from holdfast.core.statistics import Interval

CORRECTION = 1.0  # of the end that fails a model: see core.rates.tango
MANY = 5000
FEWEST = 10  # units, below which neither interval here is worth its name
_BLOCK = 1000


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t by its expansion about the normal one (Abramowitz and Stegun 26.7.5).

    Within 0.001 from nine degrees of freedom on, at probabilities up to 0.9975; at 0.95 within 0.3 % from two on.
    Exact with one.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (k + 1) for k, term in enumerate(terms))


def bounded_difference(differences: Sequence[float], level: float) -> Interval:
    """The mean of differences of scores between 0 and 1, by Student's t.

    Never narrower than what n pairs that do not differ leave open, z² / (n + z²): there Tango's interval ends.
    """
    data = np.asarray(differences, dtype=np.float64)
    n, mean = data.size, float(data.mean()) if data.size else math.nan
    if n < FEWEST:
        return Interval(mean, -1.0, 1.0, n, "student")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    half = student_quantile(0.5 + level / 2, n - 1) * float(data.std(ddof=1)) / math.sqrt(n)
    half = max(half, z * z / (n + z * z))
    return Interval(mean, max(-1.0, mean - half), min(1.0, mean + half), n, "student")


def skewed_mean(values: Sequence[float], level: float, seed: int = 0, draws: int = 10_000) -> Interval:
    """The mean of numbers from 0 up, such as nats, by the bootstrap of its t statistic (Efron 1981; Hall 1988).

    Its upper end follows the tail of the data. Below ten units the upper end is open (infinite); beyond
    5000 Student's interval is as good, and takes no time.
    """
    data = np.asarray(values, dtype=np.float64)
    n, mean = data.size, float(data.mean()) if data.size else math.nan
    if n < FEWEST:
        return Interval(mean, 0.0, math.inf, n, "bootstrap t")
    spread = float(data.std(ddof=1)) / math.sqrt(n)
    if n > MANY:
        half = student_quantile(0.5 + level / 2, n - 1) * spread
        return Interval(mean, max(0.0, mean - half), mean + half, n, "student")
    rng, found = np.random.default_rng(seed), []
    for start in range(0, draws, _BLOCK):
        drawn = data[rng.integers(0, n, (min(_BLOCK, draws - start), n))]
        shift, own = drawn.mean(1) - mean, drawn.std(1, ddof=1) / math.sqrt(n)
        flat = own <= 1e-12 * abs(mean)  # one value, n times
        far = np.where(np.abs(shift) > 1e-12 * abs(mean), np.copysign(np.inf, shift), 0.0)
        found.append(np.where(flat, far, shift / np.where(flat, 1.0, own)))
    tail = (1 - level) / 2
    low_t, high_t = np.quantile(np.concatenate(found), [tail, 1 - tail], method="inverted_cdf")
    if spread == 0:
        return Interval(mean, mean, mean, n, "bootstrap t")
    return Interval(mean, max(0.0, mean - float(high_t) * spread), mean - float(low_t) * spread, n, "bootstrap t")
