"""The selection rules as pure functions of numbers, in float64: which samples of a pool are kept, and why.

Knows: losses, gradient norms, lengths, the edge cases of selection.md 1.3.
Does not know: models, data sets, steps, files.

Shapes: N samples of the pool.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed

Rule = Literal[
    "moderate", "low", "high", "drop_high", "band", "random", "inverse_length", "length_matched_random", "none"
]  # fmt: skip
LossFilter = Literal["sigma", "quantile", "none"]
RULES: tuple[str, ...] = get_args(Rule)
LOSS_FILTERS: tuple[str, ...] = get_args(LossFilter)
# What `select`, `OnlineSelection` and the agreement of a proxy take when they are told nothing.
DEFAULT_RULE, DEFAULT_KEEP, DEFAULT_LOSS_FILTER = "moderate", 0.5, "sigma"
# What a rule that reads norms may read in their place, and with which option `holdfast score` writes it.
DEFAULT_BY = "grad_norm"
BY = {DEFAULT_BY: "", "toward_base": "--base", "against_skill": "--harmful", "sensitive_share": "--sensitive"}
NORM_RULES = frozenset({"moderate", "low", "high", "drop_high", "band", "length_matched_random"})
LENGTH_RULES = frozenset({"inverse_length", "length_matched_random"})

KEPT = "kept"
_LENGTH_BINS = 10
# Sums in another order differ in the last bits. Without this slack a pool of equal losses (sigma 0) or of two
# values (everyone exactly one sigma away) would be emptied by rounding.
_SLACK = 1e-12


@dataclass(frozen=True)
class Pool:
    """The scores of a pool: float64 arrays of one length; None where a rule does not need the column."""

    size: int
    loss_N: np.ndarray | None = None
    norm_N: np.ndarray | None = None
    tokens_N: np.ndarray | None = None

    def valid(self) -> np.ndarray:
        """True where every given score is usable: finite loss and norm, at least one token."""
        valid_N = np.ones(self.size, dtype=bool)
        for column_N in (self.loss_N, self.norm_N):
            if column_N is not None:
                valid_N &= np.isfinite(column_N)
        if self.tokens_N is not None:
            valid_N &= np.isfinite(self.tokens_N) & (self.tokens_N > 0)
        return valid_N


def check_options(
    rule: str, keep: float, loss_filter: str, low: float | None = None, by: str = DEFAULT_BY
) -> None:
    """Raise UserError for a rule, share, filter or column that does not exist, or a band that cannot be."""
    if rule not in RULES:
        raise UserError(f"selection rule '{rule}': unknown; use one of {', '.join(RULES)}")
    if loss_filter not in LOSS_FILTERS:
        raise UserError(f"loss_filter '{loss_filter}': unknown; use one of {', '.join(LOSS_FILTERS)}")
    if by not in BY:
        raise UserError(f"by='{by}': no column that a rule reads; use one of {', '.join(BY)}")
    if not 0 < keep <= 1:
        raise UserError(f"keep={keep}: the share of samples to keep must be above 0 and at most 1")
    if low is not None and rule != "band":
        raise UserError(f"low={low}: where the rule 'band' begins, and the rule is '{rule}'; leave it out")
    if low is not None and not 0 <= low <= 1 - keep + 1e-9:
        raise UserError(f"low={low}: a band that keeps {keep} begins at a share of 0 to {1 - keep:g}")


def kept_count(keep: float, size: int) -> int:
    """``max(1, floor(keep * size))``, guarded: 0.29 * 100 is 29 although it is 28.999... in floating point."""
    return min(size, max(1, math.floor(keep * size + 1e-9)))


def loss_bounds(loss_C: np.ndarray, loss_filter: str) -> tuple[float, float]:
    """Lowest and highest loss that pass (inclusive) among valid losses.

    "sigma": one population standard deviation around the mean; "quantile": 16th to 84th percentile.
    Source: selection.md 1.3.
    """
    if loss_filter == "none" or loss_C.size == 0:
        return -math.inf, math.inf
    slack = _SLACK * float(np.abs(loss_C).max())
    if loss_filter == "quantile":
        low, high = np.quantile(loss_C, [0.16, 0.84])
    else:
        mean, sigma = math.fsum(loss_C) / loss_C.size, float(loss_C.std())
        low, high = mean - sigma, mean + sigma
    return float(low) - slack, float(high) + slack


def choose(
    pool: Pool, rule: str, keep: float, loss_filter: str, seed: int, low: float | None = None
) -> tuple[list[int], list[str], dict[str, float]]:
    """Apply the loss filter, then the rule.

    Returns:
        kept positions (ascending), a reason for every sample, and the numbers that decided.
    """
    valid_N = pool.valid()
    reasons = np.where(valid_N, "", "invalid").astype(object)
    thresholds: dict[str, float] = {"pool": pool.size, "valid": int(valid_N.sum())}
    candidates = np.flatnonzero(valid_N)
    if loss_filter != "none":
        assert pool.loss_N is not None
        least, most = loss_bounds(pool.loss_N[candidates], loss_filter)
        thresholds |= {"loss_low": least, "loss_high": most}
        reasons[candidates[pool.loss_N[candidates] < least]] = "loss_low"
        reasons[candidates[pool.loss_N[candidates] > most]] = "loss_high"
        candidates = candidates[reasons[candidates] == ""]
    count = kept_count(keep, pool.size) if pool.size else 0
    thresholds |= {"candidates": len(candidates), "count": count}
    count = min(count, len(candidates))
    if rule == "band" and len(candidates):
        kept = _band(pool.norm_N, candidates, count, low, reasons, thresholds)
    else:
        kept = _apply_rule(pool, candidates, rule, keep, count, seed, reasons, thresholds)
    reasons[kept] = KEPT
    return sorted(int(k) for k in kept), [str(reason) for reason in reasons], thresholds


def _apply_rule(
    pool: Pool,
    candidates: np.ndarray,
    rule: str,
    keep: float,
    count: int,
    seed: int,
    reasons: np.ndarray,
    thresholds: dict[str, float],
) -> np.ndarray:
    """Positions kept; fills in reasons for the others."""
    if rule == "none" or len(candidates) == 0:
        return candidates
    if rule == "random":
        return _drawn(candidates, count, seed, reasons)
    if rule == "inverse_length":
        assert pool.tokens_N is not None
        # 1/n is high for short samples, as the norm is
        return _nearest_median(1.0 / pool.tokens_N, candidates, count, ("long", "short"), reasons, thresholds)
    norm_N = pool.norm_N
    assert norm_N is not None
    if rule == "moderate":
        return _nearest_median(norm_N, candidates, count, ("g_low", "g_high"), reasons, thresholds)
    if rule == "length_matched_random":
        like = _nearest_median(norm_N, candidates, count, ("not_drawn", "not_drawn"), reasons, thresholds)
        return _matched_by_length(pool.tokens_N, candidates, like, seed, reasons)
    if rule == "drop_high":
        count = len(candidates) - math.floor((1 - keep) * len(candidates) + 1e-9)
    values = norm_N[candidates] if rule != "high" else -norm_N[candidates]
    order = candidates[np.argsort(values, kind="stable")]
    reasons[order[count:]] = "g_low" if rule == "high" else "g_high"
    kept = order[:count]
    thresholds |= _range(norm_N, kept)
    return kept


def _band(
    norm_N: np.ndarray | None,
    candidates: np.ndarray,
    count: int,
    low: float | None,
    reasons: np.ndarray,
    thresholds: dict[str, float],
) -> np.ndarray:
    """A run of ranks: ``count`` of them above the lowest share ``low``, or as many left out below as above."""
    assert norm_N is not None
    order = candidates[np.argsort(norm_N[candidates], kind="stable")]
    spare = len(order) - count
    first = spare // 2 if low is None else min(spare, math.floor(low * len(order) + 1e-9))
    reasons[order[:first]], reasons[order[first + count :]] = "g_low", "g_high"
    kept = order[first : first + count]
    thresholds |= _range(norm_N, kept)
    return kept


def _nearest_median(
    value_N: np.ndarray,
    candidates: np.ndarray,
    count: int,
    sides: tuple[str, str],
    reasons: np.ndarray,
    thresholds: dict[str, float],
) -> np.ndarray:
    median = float(np.median(value_N[candidates]))  # of an even count: the mean of the two middle values
    # The two middle values of an even count are equally far from their mean, but for the last bit: rounding the
    # distance makes that a tie (by position), whatever the units of the norm.
    distance = np.round(np.abs(value_N[candidates] - median) / (median if median > 0 else 1.0), 12)
    order = candidates[np.argsort(distance, kind="stable")]
    kept, dropped = order[:count], order[count:]
    reasons[dropped] = np.where(value_N[dropped] < median, sides[0], sides[1])
    thresholds |= {"median": median, **_range(value_N, kept)}
    return kept


def _range(value_N: np.ndarray, kept: np.ndarray) -> dict[str, float]:
    return {"kept_low": float(value_N[kept].min()), "kept_high": float(value_N[kept].max())}


def _drawn(candidates: np.ndarray, count: int, seed: int, reasons: np.ndarray) -> np.ndarray:
    reasons[candidates] = "not_drawn"
    return np.random.default_rng(derive_seed(seed, "random")).choice(candidates, count, replace=False)


def _matched_by_length(
    tokens_N: np.ndarray | None, candidates: np.ndarray, like: np.ndarray, seed: int, reasons: np.ndarray
) -> np.ndarray:
    """Draw at random, from each length decile of the candidates, as many as ``like`` has there."""
    assert tokens_N is not None
    edges = np.quantile(tokens_N[candidates], np.linspace(0, 1, _LENGTH_BINS + 1)[1:-1])
    bin_N = np.searchsorted(edges, tokens_N, side="right")
    rng = np.random.default_rng(derive_seed(seed, "length_matched_random"))
    reasons[candidates] = "not_drawn"
    drawn = [
        rng.choice(candidates[bin_N[candidates] == b], int((bin_N[like] == b).sum()), replace=False)
        for b in np.unique(bin_N[like])
    ]
    return np.concatenate(drawn) if drawn else like
