"""A drift budget: the limits of a run, how much of each is used, what is said of them and of a measurement.

Knows: rows of the monitor's trace. Does not know: models, how a number was measured.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from holdfast.core.results import Result
from holdfast.core.statistics import Interval

Then = Literal["stop", "warn", "slow", "anchor", "back"]


@dataclass(frozen=True)
class DriftBudget(Result):
    """Limits of a run; None is no limit. Point estimates are compared, not intervals.

    What happens when a measurement is outside is ``then``. All but "warn" put the last weights inside back:

    - "stop": and end the run.
    - "back": and go on, with the next rows.
    - "slow": and go on at half the learning rate; at the monitor's ``least_rate`` the run ends.
    - "anchor": and go on with the defence's weight raised; until the first time it stands by.
    - "warn": nothing is put back; a warning.

    "slow", "anchor" and "warn" do the same, with nothing put back, when the forecast of the drift at the last step
    is above ``max_kl_nats``. After the last step nothing is left to go on with, so all but "warn" stop.

    Attributes:
        max_kl_nats: highest drift, nats a sequence.
        min_refusal: lowest refusal rate of the probe.
        max_over_refusal: highest refusal rate of the probe's controls.
        max_task_loss: highest loss on the monitor's held-out task examples, nats a token.
        then: as above.
    """

    max_kl_nats: float | None = None
    min_refusal: float | None = None
    max_task_loss: float | None = None
    max_over_refusal: float | None = None
    then: Then = "stop"

    def exceeded(self, row: dict[str, Any]) -> str | None:
        """Which limit a measurement breaks, in words; None if it is inside.

        A NaN is outside every limit.
        """
        checks = (
            ("drift", row.get("kl_nats"), self.max_kl_nats, 1, "nats a sequence"),
            ("refusal rate", row.get("refusal"), self.min_refusal, -1, ""),
            ("over-refusal", row.get("over_refusal"), self.max_over_refusal, 1, ""),
            ("task loss", row.get("task_loss_nats_per_token"), self.max_task_loss, 1, "nats a token"),
        )
        for what, value, limit, sign, unit in checks:
            if limit is None:
                continue
            if value is None or not sign * value <= sign * limit:
                side = "above" if sign > 0 else "below"
                said = f"{what} {value if value is None else format(value, '.4g')} {side} {limit} {unit}".strip()
                return said + (_unjudged(row) if sign < 0 else "")
        return None

    def used(self, row: dict[str, Any], first: dict[str, Any] | None = None) -> float | None:
        """Largest share of a limit that a measurement uses; 1 is the limit, None without limits or numbers.

        Drift and task loss count from 0, refusal rates from the first measurement's to the limit.
        """
        shares: list[float] = []
        if self.max_kl_nats is not None and row.get("kl_nats") is not None:
            shares.append(row["kl_nats"] / self.max_kl_nats if self.max_kl_nats else 1.0)
        if self.max_task_loss is not None and row.get("task_loss_nats_per_token") is not None:
            shares.append(row["task_loss_nats_per_token"] / self.max_task_loss if self.max_task_loss else 1.0)
        if self.min_refusal is not None and row.get("refusal") is not None:
            start = (first or {}).get("refusal") or 1.0
            room = start - self.min_refusal
            shares.append((start - row["refusal"]) / room if room > 0 else 1.0)
        if self.max_over_refusal is not None and row.get("over_refusal") is not None:
            start = (first or {}).get("over_refusal") or 0.0
            room = self.max_over_refusal - start
            shares.append((row["over_refusal"] - start) / room if room > 0 else 1.0)
        return max(shares) if shares else None

    def left(self, row: dict[str, Any], first: dict[str, Any] | None = None) -> dict[str, float]:
        """Distance to the limits: nats_left and refusal_points_left (negative outside), budget_used."""
        found: dict[str, float | None] = {"budget_used": self.used(row, first)}
        if self.max_kl_nats is not None and row.get("kl_nats") is not None:
            found["nats_left"] = self.max_kl_nats - row["kl_nats"]
        if self.min_refusal is not None and row.get("refusal") is not None:
            found["refusal_points_left"] = 100 * (row["refusal"] - self.min_refusal)
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}

    def answer(self, row: dict[str, Any], ended: bool, lowest: bool) -> Then | None:
        """What is done about a measurement.

        Args:
            row: with ``exceeded``, and ``breaks_at_step`` if the forecast is outside.
            ended: no step follows. lowest: the rate cannot be lowered further.
        """
        if row["exceeded"]:
            return "stop" if self.then != "warn" and (ended or (self.then == "slow" and lowest)) else self.then
        if ended or row.get("breaks_at_step") is None or self.then in ("stop", "back"):
            return None
        return "warn" if self.then == "slow" and lowest else self.then

    def told(self, row: dict[str, Any]) -> str:
        """Why something was done, and what."""
        why = row["exceeded"] or (
            f"drift is forecast to pass {self.max_kl_nats:g} nats at step {row['breaks_at_step']} and to end at "
            f"{row['forecast_kl_nats']:.3g}"
        )
        what = {
            "stop": "; stopped",
            "slow": f"; learning rate at {row.get('rate_factor', 1.0):.3g} of the plan",
            "anchor": "; over to the defence",
        }.get(row["then"], "")
        back = row.get("back_to")
        return why + what + ("" if back is None else f", weights of step {back} put back")

    def unmeasured(self, reference: Any, probe: Any, task: Any) -> tuple[str, str] | None:
        """A limit that nothing measures, and what would; None if all are measured."""
        for limit, source, given in (
            ("max_kl_nats", "a reference", reference),
            ("min_refusal", "a probe", probe),
            ("max_over_refusal", "a probe with controls", probe and (probe.controls or None)),
            ("max_task_loss", "task examples", task),
        ):
            if getattr(self, limit) is not None and given is None:
                return limit, source
        return None


def _unjudged(row: dict[str, Any]) -> str:
    """What of a low refusal rate may be the judge's failing, in words: such answers count as not refused."""
    counts = row.get("refusal_counts") or {}
    errors = counts.get("error", 0)
    return f" ({errors} of {sum(counts.values())} answers could not be judged)" if errors else ""


@dataclass(frozen=True)
class BudgetStop(Result):
    """Why and where a run was stopped, and the step whose weights it was given back."""

    step: int
    reason: str
    restored_step: int


_ENDS = {"task_loss_nats_per_token": "task_loss", "kl_nats": "kl_nats", "refusal": "refusal"}


def figure(row: dict[str, Any], name: str) -> str:
    """A figure of a measurement with its interval, as every verb says it.

    Args:
        name: "kl_nats", "refusal" or "task_loss_nats_per_token".
    """
    keys = (name, f"{_ENDS[name]}_low", f"{_ENDS[name]}_high")
    value, low, high = (math.nan if row.get(key) is None else row[key] for key in keys)
    found = Interval(value, low, high, 0, "")
    return found.percent if name == "refusal" else found.said()
