"""What two probes say together: effective stiffness and the conservation residual, with intervals.

Source: elasticity.md 3.3, 3.8. The unit of resampling is the document, never the token; checkpoints are compared
document by document. Knows: per-document bits and tokens. Does not know: models.

Shapes: N documents, D bootstrap draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.core.results import Result
from holdfast.core.statistics import Interval
from holdfast.elasticity.theory import conservation_residual, stiffness

DRAWS = 2000
UNBOUNDED = "unbounded"


@dataclass(frozen=True)
class Stiffness(Result):
    """How the rates of two texts moved between two checkpoints.

    Attributes:
        before, after: names of the checkpoints.
        change_pretrain, change_alignment: change of bits per token, paired by document. Signs are reported, not
            assumed: alignment rises only where the step conflicts with the alignment data.
        k_eff: ``-change_alignment / change_pretrain``; ``method`` is "unbounded" (and the interval the whole
            line) where the pretraining change is not distinguishable from zero.
        residual: ``|k dp + da| / (|k dp| + |da|)`` for the nominal k: a test of the theory, not of the model.
            NaN without a nominal k.
        above_noise: both changes exceed three times the probes' noise floor.
    """

    before: str
    after: str
    change_pretrain: Interval
    change_alignment: Interval
    k_eff: Interval
    residual: float
    above_noise: bool


def bootstrap_ratio(
    numerators_N: Sequence[float] | np.ndarray,
    denominators_N: Sequence[float] | np.ndarray,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = 0.95,
) -> Interval:
    """``sum a / sum b`` over documents with a percentile interval from resampled documents."""
    a_N, b_N = (np.asarray(x, dtype=np.float64) for x in (numerators_N, denominators_N))
    low, high = np.quantile(_ratio_draws(a_N, b_N, seed, draws), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(a_N.sum() / b_N.sum()), float(low), float(high), len(a_N), "document bootstrap")


def _ratio_draws(a_N: np.ndarray, b_N: np.ndarray, seed: int, draws: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    index_DN = rng.integers(0, len(a_N), (draws, len(a_N)))
    return a_N[index_DN].sum(1) / b_N[index_DN].sum(1)


def measure_stiffness(
    pretrain: tuple[Sequence[float], Sequence[float], Sequence[int]],
    alignment: tuple[Sequence[float], Sequence[float], Sequence[int]],
    *,
    names: tuple[str, str] = ("before", "after"),
    nominal_k: float | None = None,
    noise_floor_bits: float = 0.0,
    seed: int = 0,
    level: float = 0.95,
) -> Stiffness:
    """k_eff between two checkpoints from (bits before, bits after, tokens) of every document of each text.

    The interval resamples the documents of both texts independently and takes percentiles of the ratio of the
    two paired means (elasticity.md 3.3).
    """
    changes, draws = [], []
    for k, (before_N, after_N, tokens_N) in enumerate((pretrain, alignment)):
        moved_N = np.asarray(after_N, dtype=np.float64) - np.asarray(before_N, dtype=np.float64)
        tokens = np.asarray(tokens_N, dtype=np.float64)
        changes.append(bootstrap_ratio(moved_N, tokens, seed + k, level=level))
        draws.append(_ratio_draws(moved_N, tokens, seed + k, DRAWS))
    change_p, change_a = changes
    value, n = stiffness(change_p.value, change_a.value), min(change_p.n, change_a.n)
    if change_p.excludes(0.0):
        low, high = np.quantile(-draws[1] / draws[0], [(1 - level) / 2, (1 + level) / 2])
        k_eff = Interval(value, float(low), float(high), n, "ratio bootstrap")
    else:
        k_eff = Interval(value, -math.inf, math.inf, n, UNBOUNDED)
    residual = math.nan
    if nominal_k is not None:
        residual = conservation_residual(nominal_k, change_p.value, change_a.value)
    smallest = min(abs(change_p.value), abs(change_a.value))
    return Stiffness(*names, change_p, change_a, k_eff, residual, smallest > 3 * noise_floor_bits)
