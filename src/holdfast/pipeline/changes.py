"""What changed from one model of a run to another, by the gate's own rule: an unknown answer is taken for either.

Knows: the gate's rows and intervals, what may be joined over seeds. Does not know: budgets, how a change is told.

The page speaks of these changes and ``holdfast gate`` of the same cards, so both read them through ``gating``. One
seed has the gate's interval itself. Several have the bootstrap over seeds and prompts that every figure of a run
has, of the same losses at best and at worst.

Shapes: S seeds, P prompts.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core.rates import rate_difference_over_seeds
from holdfast.core.statistics import Interval, paired_seeds_and_prompts
from holdfast.gating.cards import measured, read_candidate
from holdfast.gating.decide import ends
from holdfast.gating.measured import Measured
from holdfast.gating.policy import Budget

LEVEL = 0.95
# The gate counts losses; a change is told with the sign of what was measured.
MEASURES: dict[str, tuple[Budget, int]] = {
    "refusals": ("refusal_loss", -1),
    "over-refusal": ("over_refusal_rise", 1),
    "task score": ("task_drop", -1),
}


def changes(run: Path, pairs: Sequence[tuple[str, str]], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Every measure's change that both sides of all pairs have.

    Args:
        pairs: (model, what it is compared with), one a seed, by the names of a gate's ``--arm``.
        seed: of the bootstrap over seeds.

    Returns:
        Measure to value (over known answers, a share), low and high (unknown ones at best and at worst), n
        (prompts), method, unknown (answers that are not known), noise_floor (what asking again moves, or None).
    """
    candidates = [read_candidate(run, ours, theirs) for ours, theirs in pairs]
    found = {}
    for measure, (budget, sign) in MEASURES.items():
        entries = [_joined(measured(candidate, budget)) for candidate in candidates]
        if all(entry.rows for entry in entries):
            found[measure] = _change(entries, sign, seed)
    return found


def _joined(entries: Sequence[Measured]) -> Measured:
    """The suites of one budget as one list of prompts."""
    floors = [entry.floor for entry in entries if entry.floor is not None]
    rows = tuple(row for entry in entries for row in entry.rows)
    return Measured(entries[0].budget, "all", rows, max(floors, default=None))


def _change(entries: Sequence[Measured], sign: int, seed: int) -> dict[str, Any]:
    known, best, worst = ends(entries[0], LEVEL) if len(entries) == 1 else over_seeds(entries, seed)
    low, high = sorted((sign * best.low, sign * worst.high))
    floors = [entry.floor for entry in entries if entry.floor is not None]
    return {
        "value": sign * known.value,
        "low": low,
        "high": high,
        "n": best.n,
        "method": best.method,
        "unknown": sum(sum(entry.unknown.values()) for entry in entries),
        "noise_floor": max(floors, default=None),
    }


def over_seeds(entries: Sequence[Measured], seed: int = 0) -> tuple[Interval, Interval, Interval]:
    """As :func:`holdfast.gating.decide.ends`, over seeds and prompts; its first has a value and no ends."""
    best_SP, worst_SP = (np.array(side) for side in zip(*(entry.losses() for entry in entries), strict=True))
    known = best_SP == worst_SP
    value = float(best_SP[known].mean()) if known.any() else math.nan
    best = worst = _interval(best_SP, seed)
    if not known.all():
        worst = _interval(worst_SP, seed)
    return Interval(value, best.low, worst.high, best.n, best.method), best, worst


def _interval(losses_SP: np.ndarray, seed: int) -> Interval:
    lost_SP, gained_SP = np.maximum(losses_SP, 0).tolist(), np.maximum(-losses_SP, 0).tolist()
    of = rate_difference_over_seeds if np.isin(losses_SP, (-1, 0, 1)).all() else paired_seeds_and_prompts
    return of(lost_SP, gained_SP, seed)
