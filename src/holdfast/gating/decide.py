"""The verdict: every budget against the interval of its loss, never against a point.

Knows: rows, limits, intervals, the noise floor. Does not know: models, files, words for people (words.py).

    failed         the interval lies wholly above the budget plus the noise floor, at best
    passed         the interval lies wholly below the budget, at worst
    insufficient   neither: too few prompts, unjudged answers, nothing to lose, or nothing measured

"At best" and "at worst": an answer that was not judged (error) or shows no choice (unclear) is taken for either,
so a judge that was down can neither fail a model nor pass it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.core.rates import tango
from holdfast.core.results import Result
from holdfast.core.statistics import Interval
from holdfast.gating import power
from holdfast.gating.intervals import CORRECTION, bounded_difference, skewed_mean
from holdfast.gating.measured import Measured, Row
from holdfast.gating.policy import Budget, Policy

Status = Literal["passed", "failed", "insufficient"]
Why = Literal["below", "above", "crosses", "floor", "unknown", "nothing to lose", "few", "missing"]


@dataclass(frozen=True)
class Check(Result):
    """One budget of one suite. Shares for points, nats for drift; NaN where there is no number.

    Attributes:
        why: what decided; "crosses": the interval holds the budget; "floor": it lies above the budget but not
            above what asking again moves; "unknown": unjudged answers alone stand in the way; "nothing to lose":
            the reference has so little that no loss could break the budget; "few": too few rows for an interval.
        value, low, high: the loss over known answers, and its interval with the unknown ones taken for either.
        n, unknown: prompts; answers that were not judged or not clear.
        limit, floor: what it was held against; a floor of NaN was not measured.
        smallest_seen: the smallest loss these prompts could have failed; loss_seen: the true loss they fail in 8
            of 10 draws; unchanged_from: prompts from which an unchanged model passes; prompts: about how many
            would decide if what was seen is true (NaN where it is decided or more prompts would not help).
    """

    budget: Budget
    suite: str
    status: Status
    why: Why
    value: float
    low: float
    high: float
    n: int
    unknown: int
    limit: float
    floor: float
    smallest_seen: float = math.nan
    loss_seen: float = math.nan
    unchanged_from: float = math.nan
    prompts: float = math.nan


@dataclass(frozen=True)
class Verdict(Result):
    """What became of all budgets: failed if one failed, else insufficient if one is, else passed.

    Attributes:
        level: confidence of every interval.
    """

    status: Status
    level: float
    checks: tuple[Check, ...]


def decide(policy: Policy, measured: Sequence[Measured], with_power: bool = True) -> Verdict:
    """Hold every measured budget against the policy.

    Args:
        measured: one entry or more for every budget that the policy asks for; others are an error.
        with_power: also what so many prompts can see; a study that draws thousands of verdicts leaves it out.

    Raises:
        ValueError: a budget without an entry, or one that was not asked for.
    """
    if {entry.budget for entry in measured} != set(policy.asked):
        raise ValueError(f"budgets {policy.asked} need just their rows, got {[m.budget for m in measured]}")
    level = policy.level(sum(bool(entry.rows) for entry in measured))  # what has no rows cannot fail
    checks = tuple(_check(entry, policy.limit(entry.budget), level, with_power) for entry in measured)
    found = {check.status for check in checks}
    status: Status = "failed" if "failed" in found else "insufficient" if "insufficient" in found else "passed"
    return Verdict(status, level, checks)


def _check(entry: Measured, limit: float, level: float, with_power: bool) -> Check:
    floor = math.nan if entry.floor is None else entry.floor
    blank = Check(
        entry.budget, entry.suite, "insufficient", "missing", math.nan, math.nan, math.nan, 0, 0, limit, floor
    )
    if not entry.rows:
        return blank
    least = 0.0 if entry.floor is None else entry.floor
    known, best, worst = ends(entry, level)
    status, why = judged(best.low, worst.high, limit, least)
    unknown = sum(entry.unknown.values())
    if status == "passed" and entry.budget != "kl_nats" and entry.most() <= limit and worst.high >= 0:
        status, why = "insufficient", "nothing to lose"
    elif (
        status == "insufficient"
        and unknown
        and (not known.n or judged(known.low, known.high, limit, least)[0] != status)
    ):
        why = "unknown"
    elif status == "insufficient" and not math.isfinite(worst.high) and not unknown:
        why = "few"
    numbers = known.value, best.low, worst.high, len(entry.rows), unknown, limit, floor
    seen = _power(entry, known, why, limit, least, level) if with_power else ()
    return Check(entry.budget, entry.suite, status, why, *numbers, *seen)


def judged(low: float, high: float, limit: float, floor: float) -> tuple[Status, Why]:
    """What an interval says of a limit; ``low`` is its lower end at best, ``high`` its upper end at worst."""
    if low > limit + floor:
        return "failed", "above"
    if high < limit:
        return "passed", "below"
    return "insufficient", "floor" if floor > 0 and low > limit else "crosses"


def ends(entry: Measured, level: float) -> tuple[Interval, Interval, Interval]:
    """The loss over known answers; with every unknown one at its best; at its worst."""
    at_best, at_worst = entry.losses()
    best = interval(entry, at_best, level)
    if at_best == at_worst:
        return best, best, best
    return _known_only(entry, level), best, interval(entry, at_worst, level)


def interval(entry: Measured, losses: Sequence[float], level: float) -> Interval:
    """Of a mean loss: Tango's where every prompt is yes or no, Student's for scores between, the t bootstrap for
    nats. A loss that is unknown and without bound leaves the upper end open."""
    if entry.budget == "kl_nats":
        return skewed_mean(losses, level) if all(map(math.isfinite, losses)) else _open(losses)
    if set(losses) <= {-1.0, 0.0, 1.0}:
        return tango(losses.count(1.0), losses.count(-1.0), len(losses), level, CORRECTION)
    return bounded_difference(losses, level)


def _open(losses: Sequence[float]) -> Interval:
    return Interval(math.nan, 0.0, math.inf, len(losses), "open")


def _known_only(entry: Measured, level: float) -> Interval:
    """The interval over the prompts of which everything is known."""
    best, worst = entry.losses()
    kept = [b for b, w in zip(best, worst, strict=True) if b == w]
    return interval(entry, kept, level) if kept else Interval(math.nan, -math.inf, math.inf, 0, "none")


def _power(
    entry: Measured, known: Interval, why: Why, limit: float, floor: float, level: float
) -> tuple[float, float, float, float]:
    """smallest_seen, loss_seen, unchanged_from, prompts."""
    n, open_ = len(entry.rows), why in ("crosses", "floor") and known.n > 0
    edge = limit + floor if known.value > limit else limit
    if entry.budget == "kl_nats":
        return math.nan, math.nan, math.nan, _by_width(n, known, edge, level) if open_ else math.nan
    best, worst = entry.losses()
    pairs = [b for b, w in zip(best, worst, strict=True) if b == w]
    if not set(pairs) <= {-1.0, 0.0, 1.0}:
        half = (known.high - known.low) / 2
        more = _by_width(n, known, edge, level) if open_ else math.nan
        return limit + floor + half, math.nan, power.unchanged_passes_from(limit, level), more
    if n > power.MOST_PROMPTS:  # nobody asks for more, and the sums grow with the prompts
        return power.smallest_seen(n, limit, floor, level), math.nan, math.nan, math.nan
    lost, gained = (pairs.count(one) / max(1, len(pairs)) for one in (1.0, -1.0))
    return (
        power.smallest_seen(n, limit, floor, level),
        power.loss_seen(n, limit, gained, floor, level),
        power.unchanged_passes_from(limit, level),
        power.prompts_to_decide(n, lost, gained, limit, floor, level) if open_ else math.nan,
    )


def _by_width(n: int, known: Interval, edge: float, level: float) -> float:
    far = known.high - known.value if known.value < edge else known.value - known.low
    return power.prompts_by_width(n, far, abs(known.value - edge), level)


__all__ = ["Check", "Measured", "Row", "Verdict", "decide", "ends", "interval", "judged"]
