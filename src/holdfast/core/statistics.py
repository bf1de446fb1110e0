"""The statistics every room shares: Wilson intervals, paired bootstrap, rank correlation.

Knows: numbers and resampling over *prompts* (never over tokens).
Does not know: what the numbers measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from holdfast.core.results import Result


@dataclass(frozen=True)
class Interval(Result):
    """An estimate with its interval; ``n`` is the number of resampled units (prompts, documents)."""

    value: float
    low: float
    high: float
    n: int
    method: str

    def excludes(self, number: float) -> bool:
        """Whether ``number`` lies outside the interval."""
        return not self.low <= number <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a rate (Wilson 1927). With ``n = 0`` the interval is [0, 1], the value NaN.

    ``successes`` may be fractional: a rate averaged over seeds keeps the number of *prompts* as its ``n``.
    """
    if not 0 <= successes <= n + 1e-9:
        raise ValueError(f"{successes} successes of {n}")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0, 0, "wilson")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((rate * (1 - rate) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), n, "wilson")


def bootstrap_mean(values: Sequence[float], seed: int = 0, draws: int = 10_000, level: float = 0.95) -> Interval:
    """Percentile bootstrap of the mean over units."""
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0, "bootstrap")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            data[rng.integers(0, data.size, (min(1000, draws - start), data.size))].mean(axis=1)
            for start in range(0, draws, 1000)
        ]
    )
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(data.mean()), float(low), float(high), int(data.size), "bootstrap")


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], seed: int = 0, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """Percentile bootstrap of ``mean(a - b)`` over paired units: the same prompts under two conditions."""
    if len(a) != len(b):
        raise ValueError(f"pairs need equal lengths, got {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    interval = bootstrap_mean(difference.tolist(), seed, draws, level)
    return Interval(interval.value, interval.low, interval.high, interval.n, "paired bootstrap")


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation with mid-ranks for ties; NaN where one side is constant."""
    if len(a) != len(b):
        raise ValueError(f"pairs need equal lengths, got {len(a)} and {len(b)}")
    ranks_a, ranks_b = _mid_ranks(np.asarray(a, float)), _mid_ranks(np.asarray(b, float))
    if len(a) < 2 or ranks_a.std() == 0 or ranks_b.std() == 0:
        return float("nan")
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _mid_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[inverse]
