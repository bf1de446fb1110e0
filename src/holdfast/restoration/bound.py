"""The held-out promise: a one-sided upper bound on how much the task loss rose (restoration.md 3.7).

Knows paired differences of per-example losses and Student's t; knows nothing of models.
"""

import math
from collections.abc import Sequence

import torch

from holdfast.core.statistics import Interval


def student_t_cdf(t: float, dof: int) -> float:
    """P(T <= t) for whole degrees of freedom, by the finite sums of Abramowitz & Stegun 26.7.3-4."""
    theta = math.atan(t / math.sqrt(dof))
    cos2 = math.cos(theta) ** 2
    term = total = 1.0
    if dof % 2:
        for k in range(1, (dof - 1) // 2):
            term *= cos2 * 2 * k / (2 * k + 1)
            total += term
        tail = math.sin(theta) * math.cos(theta) * total if dof > 1 else 0.0
        return 0.5 + (theta + tail) / math.pi
    for k in range(1, dof // 2):
        term *= cos2 * (2 * k - 1) / (2 * k)
        total += term
    return 0.5 + math.sin(theta) * total / 2


def student_t_quantile(level: float, dof: int) -> float:
    """t with P(T <= t) = level, by bisection to the last digit (``level`` in (0.5, 1), ``dof`` >= 1)."""
    low, high = 0.0, 1.0
    while student_t_cdf(high, dof) < level:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, dof) < level else (low, middle)
    return (low + high) / 2


def upper_bound(differences_N: Sequence[float] | torch.Tensor, level: float = 0.95) -> float:
    """One-sided bound ``mean + t_(level, n-1) sd / sqrt(n)`` on the mean of paired differences.

    Infinite for fewer than two differences: one example promises nothing.
    """
    d = torch.as_tensor(differences_N, dtype=torch.float64)
    n = d.numel()
    if n < 2:
        return math.inf
    return float(d.mean() + student_t_quantile(level, n - 1) * d.std() / math.sqrt(n))


def interval(differences_N: Sequence[float] | torch.Tensor, level: float = 0.95) -> Interval:
    """Two-sided interval ``mean +- t sd / sqrt(n)`` of the mean of paired differences; without ends below two."""
    d = torch.as_tensor(differences_N, dtype=torch.float64)
    n, mean = d.numel(), float(d.mean())
    half = student_t_quantile(0.5 + level / 2, n - 1) * float(d.std()) / math.sqrt(n) if n > 1 else math.inf
    return Interval(mean, mean - half, mean + half, n, "paired t")
