"""What a gate can see: exact chances of its verdicts, from the same interval it decides by.

Knows: numbers of prompts, true rates of change, limits. Does not know: any model's rows.

Of n prompts ``up`` lose what the reference had and ``down`` gain it: a trinomial draw. Tango's interval depends on
these two counts alone, so a verdict's chance is a sum over their pairs, without simulation.

Shapes: C outcomes (up, down) of n prompts.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from holdfast.core.rates import tango_scores
from holdfast.gating.intervals import CORRECTION

CHANCE = 0.8  # of the statements: "seen in 8 of 10 draws"
MOST_PROMPTS = 5000
_FAR = 6.0  # standard deviations; what lies beyond has a chance of one in 10⁸


def decision_chances(
    n: int, lost: float, gained: float, limit: float, floor: float = 0.0, level: float = 0.95
) -> tuple[float, float]:
    """Chances that a gate passes and fails a model whose true rates are these; the rest is "insufficient".

    Args:
        n: prompts. lost, gained: shares of prompts that change for the worse and for the better.
        limit, floor: as shares.
    """
    up_C, down_C, chance_C = _outcomes(n, lost, gained)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    passed = tango_scores(limit, up_C, down_C, n) < -z
    failed = (
        tango_scores(limit + floor, up_C, down_C, n, CORRECTION) > z
        if limit + floor < 1
        else np.zeros_like(passed)
    )
    return float(chance_C[passed].sum()), float(chance_C[failed].sum())


def _outcomes(
    n: int, lost: float, gained: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    ups, downs = (_likely(n, rate) for rate in (lost, gained))
    up_C, down_C = (grid.ravel() for grid in np.meshgrid(ups, downs, indexing="ij"))
    within = up_C + down_C <= n
    up_C, down_C = up_C[within], down_C[within]
    same_C, stay = n - up_C - down_C, max(0.0, 1 - lost - gained)
    log_C = _log_factorials(n)[n] - sum(_log_factorials(n)[counts] for counts in (up_C, down_C, same_C))
    for counts, rate in ((up_C, lost), (down_C, gained), (same_C, stay)):
        log_C = log_C + (counts * math.log(rate) if rate > 0 else np.where(counts > 0, -np.inf, 0.0))
    return up_C, down_C, np.exp(log_C)


def _likely(n: int, rate: float) -> NDArray[np.int64]:
    reach = _FAR * math.sqrt(n * rate * (1 - rate)) + _FAR * (rate > 0)
    return np.arange(max(0, math.floor(n * rate - reach)), min(n, math.ceil(n * rate + reach)) + 1)


@lru_cache(maxsize=32)
def _log_factorials(n: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def smallest_seen(n: int, limit: float, floor: float = 0.0, level: float = 0.95) -> float:
    """The smallest loss on n prompts that a gate fails, no prompt having changed for the better; inf if none is.

    A smaller one is never failed, whatever the model.
    """
    if n == 0 or limit + floor >= 1:
        return math.inf
    counts = np.arange(n + 1)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    failed = tango_scores(limit + floor, counts, np.zeros_like(counts), n, CORRECTION) > z
    return float(counts[failed].min() / n) if failed.any() else math.inf


def loss_seen(n: int, limit: float, gained: float = 0.0, floor: float = 0.0, level: float = 0.95) -> float:
    """The true loss that a gate fails with chance 0.8, beside ``gained`` prompts that change for the better.

    inf where not even the largest possible loss would be.
    """
    if n == 0 or decision_chances(n, 1 - gained, gained, limit, floor, level)[1] < CHANCE:
        return math.inf
    low, high = 0.0, 1 - 2 * gained
    if high <= 0:
        return math.inf
    for _ in range(12):  # a quarter of a tenth of a point
        middle = (low + high) / 2
        seen = decision_chances(n, middle + gained, gained, limit, floor, level)[1] >= CHANCE
        low, high = (low, middle) if seen else (middle, high)
    return high


def unchanged_passes_from(limit: float, level: float = 0.95) -> float:
    """How many prompts it takes until a model that changes no answer passes; inf with a limit of 0.

    Of n pairs that do not differ Tango's interval ends at z² / (n + z²).
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return math.ceil(z * z * (1 - limit) / limit + 1e-9) if limit > 0 else math.inf


def prompts_to_decide(
    n: int, lost: float, gained: float, limit: float, floor: float = 0.0, level: float = 0.95
) -> float:
    """About how many prompts would decide with chance 0.8 if the true rates are these; inf beyond 5000.

    Args:
        n: prompts that there are; the answer is not below it.
    """

    def decided(prompts: int) -> bool:
        return max(decision_chances(prompts, lost, gained, limit, floor, level)) >= CHANCE

    low, high = n, max(n, 8)
    while not decided(high):
        low, high = high, 2 * high
        if low >= MOST_PROMPTS:
            return math.inf
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def prompts_by_width(n: int, half: float, distance: float, level: float = 0.95) -> float:
    """The same for an interval that narrows as the root of n: ``half`` wide now, ``distance`` from the limit."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    if not (distance > 0 and math.isfinite(half)):
        return math.inf
    needed = n * ((z + NormalDist().inv_cdf(CHANCE)) / z * half / distance) ** 2
    return math.inf if needed > MOST_PROMPTS else max(n, math.ceil(needed))
