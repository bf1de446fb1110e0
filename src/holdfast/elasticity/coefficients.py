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
from holdfast.core.statistics import Interval, bootstrap_ratio, ratio_draws

DRAWS = 2000  # of the document bootstrap
UNBOUNDED = "unbounded"  # the pretraining change is not told from zero


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
        changes.append(bootstrap_ratio(moved_N.tolist(), tokens.tolist(), seed + k, DRAWS, level))
        draws.append(ratio_draws(moved_N, tokens, seed + k, DRAWS))
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


def stiffness(change_pretrain: float, change_alignment: float) -> float:
    """``k_eff = -change_alignment / change_pretrain`` (1.8); infinite where pretraining did not move."""
    return math.inf if change_pretrain == 0 else -change_alignment / change_pretrain


def conservation_residual(k: float, change_pretrain: float, change_alignment: float) -> float:
    """``|k dp + da| / (|k dp| + |da|)`` (3.3): 0: the law holds; 1: it fails; nan: nothing moved."""
    scale = abs(k * change_pretrain) + abs(change_alignment)
    return math.nan if scale == 0 else abs(k * change_pretrain + change_alignment) / scale


def extrapolated_stiffness(
    updates_U: Sequence[int],
    pretrain: tuple[Sequence[Sequence[float]], Sequence[int]],
    alignment: tuple[Sequence[Sequence[float]], Sequence[int]],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """k_eff at zero updates: the intercept of a line through k_eff against the update count (1.7, 3.3).

    Args:
        updates_U: growing, the first one 0: the start.
        pretrain, alignment: bits of every document at each of ``updates_U``, and its tokens.

    Returns:
        Interval by resampling documents; "unbounded" where the pretraining text's change is not told from zero at
        any update. Updates at which it is not are left out.

    Raises:
        ValueError: fewer than two probes, or the first one not at 0.
    """
    if len(updates_U) < 2 or updates_U[0] != 0:
        raise ValueError(f"updates {list(updates_U)}: give 0 and at least one more")
    moved, drawn = [], []
    for number, (bits_UN, tokens) in enumerate((pretrain, alignment)):
        bits, tokens_N = np.asarray(bits_UN, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        change_UN = bits[1:] - bits[0]
        moved.append(change_UN.sum(1) / tokens_N.sum())
        drawn.append(np.stack([ratio_draws(row_N, tokens_N, seed + number, DRAWS) for row_N in change_UN]))
    low, high = np.quantile(drawn[0], [(1 - level) / 2, (1 + level) / 2], axis=1)
    told = (low > 0) | (high < 0)
    documents = min(len(pretrain[1]), len(alignment[1]))
    if not told.any():
        return Interval(math.nan, -math.inf, math.inf, documents, UNBOUNDED)
    x_U = np.asarray(updates_U[1:], dtype=np.float64)[told]

    def intercept(k_eff_U: np.ndarray) -> float:
        return float(np.polyfit(x_U, k_eff_U, min(1, len(x_U) - 1))[-1])

    value = intercept(-moved[1][told] / moved[0][told])
    ratios_UD = -drawn[1][told] / drawn[0][told]
    ends = np.quantile([intercept(k) for k in ratios_UD.T], [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        value, float(ends[0]), float(ends[1]), documents, "ratio bootstrap, extrapolated to zero updates"
    )
