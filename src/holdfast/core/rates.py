"""Rates of yes and no: over seeds, and the difference of two over the same prompts.

Knows: counts of prompts. Does not know: what was asked, or who judged.

A bootstrap has nothing to vary where every answer is the same, and would call a rate of 0 of 30 certain; these
intervals stay honest there, which is where a repair ends when it works.

Shapes: S seeds, P prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.core.statistics import (
    Interval,
    bootstrap_mean,
    paired_bootstrap,
    paired_seeds_and_prompts,
    seeds_and_prompts,
    wilson,
)

_ENOUGH = 5  # prompts of the rarer kind, below which a bootstrap over prompts has too little to vary


def rate_over_seeds(values_SP: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """A rate with its interval over seeds and prompts; over prompts alone (Wilson) with one seed.

    Where all seeds and prompts agree Wilson's interval over the prompts stands in: 0 of 120 is not certainly 0.
    Where nearly all do, the interval holds Wilson's as well: a bootstrap of one refusal in 120 answers would be
    surer than of none.
    """
    data_SP = np.asarray(values_SP, dtype=np.float64)
    if not data_SP.size:
        return wilson(0, 0)
    over_prompts = wilson(float(data_SP.mean(0).sum()), data_SP.shape[1])
    if len(data_SP) == 1 or data_SP.min() == data_SP.max():
        return over_prompts
    found, ever_P = seeds_and_prompts(values_SP, seed), data_SP.max(0) > 0
    always_P = data_SP.min(0) > 0
    if min(ever_P.sum(), (~always_P).sum()) >= _ENOUGH:
        return found
    return replace(found, low=min(found.low, over_prompts.low), high=max(found.high, over_prompts.high))


def rate_difference_over_seeds(
    a_SP: Sequence[Sequence[float]], b_SP: Sequence[Sequence[float]], seed: int = 0
) -> Interval:
    """The difference of two rates, paired by seed and prompt; over prompts alone (Tango) with one seed.

    Where no pair differs, or all do in one way, Tango's interval over the prompts stands in, as in
    :func:`rate_over_seeds`.

    Raises:
        ValueError: the two sides differ in seeds or prompts.
    """
    a, b = np.asarray(a_SP, dtype=np.float64), np.asarray(b_SP, dtype=np.float64)
    if a.shape == b.shape and not a.size:
        return paired_rates([], [])
    if a.shape == b.shape and (len(a) == 1 or np.ptp(a - b) == 0):
        return paired_rates(a[0].tolist(), b[0].tolist())
    return paired_seeds_and_prompts(a_SP, b_SP, seed)


def paired_rates(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Tango's score interval of ``mean(a) - mean(b)`` for 0/1 answers to the same prompts (Tango 1998).

    It is not empty of width where no pair differs: of 30 equal pairs it says [-0.114, 0.114].

    Raises:
        ValueError: lists of different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"pairs need equal lengths, got {len(a)} and {len(b)}")
    up = sum(x > y for x, y in zip(a, b, strict=True))
    down = sum(x < y for x, y in zip(a, b, strict=True))
    return tango(up, down, len(a), level)


def tango(up: int, down: int, n: int, level: float = 0.95, correction: float = 0.0) -> Interval:
    """:func:`paired_rates` from counts: of n pairs ``up`` differ one way and ``down`` the other.

    Args:
        correction: taken from the count before the lower end is sought. With 1 that end lies above the truth no
            more often than promised (``studies/gate``); without, up to 4 % instead of 2.5 %.
    """
    if n == 0:
        return Interval(math.nan, -1.0, 1.0, 0, "tango")
    z, middle = NormalDist().inv_cdf(0.5 + level / 2), (up - down) / n

    def end(outer: float, shift: float) -> float:
        inner = middle
        for _ in range(60):
            tried = (inner + outer) / 2
            inside = abs(_score(tried, up, down, n, shift)) < z
            inner, outer = (tried, outer) if inside else (inner, tried)
        return inner

    return Interval(middle, end(-1.0, correction), end(1.0, 0.0), n, "tango")


def _score(difference: float, up: int, down: int, n: int, shift: float = 0.0) -> float:
    """Standardised distance of the counts from a true difference; the nuisance rate at its constrained maximum."""
    distance, variance = up - down - shift - n * difference, _variance(difference, up, down, n)
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def tango_scores(
    difference: float, up_C: NDArray[np.int64], down_C: NDArray[np.int64], n: int, correction: float = 0.0
) -> NDArray[np.float64]:
    """What Tango's interval is made of: how many standard deviations counts lie from a true difference.

    A difference is inside the interval at a level while its score lies between that level's normal quantiles.

    Args:
        up_C, down_C: counts of C outcomes of n pairs.
        correction: as :func:`tango` takes it, for differences below what was counted.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scores_C = (up_C - down_C - correction - n * difference) / np.sqrt(_variance(difference, up_C, down_C, n))
    return np.nan_to_num(scores_C, nan=0.0, posinf=np.inf, neginf=-np.inf)  # no distance and no spread


def _variance(difference: float, up: Any, down: Any, n: int) -> Any:
    """Of the distance, for counts or arrays of them."""
    b = -up - down + (2 * n - up + down) * difference
    c = -down * difference * (1 - difference)
    root = b * b - 8 * n * c  # below 0 only by rounding
    down_rate = (((root + abs(root)) / 2) ** 0.5 - b) / (4 * n)
    return n * (2 * down_rate + difference * (1 - difference))


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """The difference of two means over the same prompts: bootstrap, or Tango's where answers of yes and no differ
    nowhere or all in one way, and a bootstrap would be certain."""
    data = np.asarray([a, b], dtype=np.float64)
    constant = data.size > 0 and np.isin(data, (0.0, 1.0)).all() and np.ptp(data[0] - data[1]) == 0
    return paired_rates(a, b) if constant else paired_bootstrap(a, b, seed)


def mean_score(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of a score over prompts: Wilson where it is right or wrong, else bootstrap."""
    rate = len(values) > 0 and set(values) <= {0.0, 1.0}
    return wilson(sum(values), len(values)) if rate else bootstrap_mean(values, seed)


def smallest_visible_gap(n: int, level: float = 0.95) -> float:
    """The smallest difference that n paired prompts can show: one all of whose changes go one way.

    Its interval excludes 0 from the fourth changed prompt on at 95 %. One and above: none that n prompts can show.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return (math.floor(z * z) + 1) / n if n else math.inf
