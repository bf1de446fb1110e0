"""Where a run is heading: its drift at the last step, and the step at which that breaks the budget.

Knows: rows of a monitor's trace, a trainer's schedule. Does not know: models, budgets, what is done about it.

Drift grows like c t^p, t the sum of the learning rates so far (geometry.md 3.9): schedules, a lowered rate and
steps that were taken back move t, not the law. c and p are fitted to the last measurements, because p changes on
the way. Nothing is kept beside the trace, so a resumed run looks ahead as a whole one does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.geometry.onset import power_law

RECENT, FEWEST = 8, 3  # measurements that are fitted
FORECAST = ("forecast_kl_nats", "forecast_low", "forecast_high", "slope", "slope_low", "slope_high")


@dataclass(frozen=True)
class Pace:
    """A trainer's learning rate: what is planned, and how it is lowered.

    Attributes:
        optimizer, scheduler: the trainer's; None where nobody handed them over.
        steps: of the run.
    """

    optimizer: Any
    scheduler: Any
    steps: int

    @property
    def planned_T(self) -> NDArray[np.float64]:
        """Sum of the planned rates after each step, in first rates; a step counts 1 where they are no function of
        the step."""
        lambdas = getattr(self._bare, "lr_lambdas", None)
        rates = [lambdas[0](step) for step in range(self.steps)] if lambdas else [1.0] * self.steps
        return np.concatenate([[0.0], np.cumsum(np.asarray(rates, dtype=np.float64))])

    def lower(self, by: float) -> None:
        """From the next step on, and in the checkpoints: optimiser and scheduler both keep the lower rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * by
            if "initial_lr" in group:
                group["initial_lr"] = group["initial_lr"] * by
        if hasattr(self._bare, "base_lrs"):
            self._bare.base_lrs = [rate * by for rate in self._bare.base_lrs]
        if hasattr(self._bare, "_last_lr"):  # what the trainer logs
            self._bare._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def _bare(self) -> Any:
        return getattr(self.scheduler, "scheduler", self.scheduler)  # accelerate's wrapper


def rate_factor(rows: Sequence[dict[str, Any]]) -> float:
    """What the planned rate is multiplied by after the last of these rows."""
    return next((row["rate_factor"] for row in reversed(rows) if row.get("rate_factor") is not None), 1.0)


def flow_times(rows: Sequence[dict[str, Any]], planned_T: NDArray[np.float64]) -> tuple[list[float], float]:
    """t of each row as it was measured, and t now: steps that were taken back do not count."""
    now, last, factor = 0.0, 0, 1.0
    times, at = [], {0: 0.0}
    for row in rows:
        step = min(int(row["step"]), len(planned_T) - 1)
        now += factor * float(planned_T[step] - planned_T[last])
        times.append(now)
        if row.get("back_to") is not None:
            now = next(at[known] for known in sorted(at, reverse=True) if known <= row["back_to"])
        at[step], last, factor = now, step, row.get("rate_factor") or factor
    return times, now


def look_ahead(
    rows: Sequence[dict[str, Any]], planned_T: NDArray[np.float64], max_kl_nats: float | None = None
) -> dict[str, Any]:
    """What the trace says of the rest of the run.

    Args:
        rows: the trace, the measurement of this step last; what came before an anchor took over is another law.
        planned_T: :attr:`Pace.planned_T`.
        max_kl_nats: the drift budget.

    Returns:
        slope, slope_low, slope_high: p with its 90 % interval. forecast_kl_nats, forecast_low, forecast_high: the
        drift after the last step, likewise. breaks_at_step: the first step whose forecast is above the budget, if
        there is one. Empty with fewer than three measurements of some drift, and at the end. The intervals are
        those of independent errors; a law that bends makes larger ones.
    """
    step, end = int(rows[-1]["step"]), len(planned_T) - 1
    times, now = flow_times(rows, planned_T)
    begun = max((k + 1 for k, row in enumerate(rows) if row.get("then") == "anchor"), default=0)
    points = [
        (t, row["kl_nats"])
        for t, row in zip(times[begun:], rows[begun:], strict=True)
        if t > 0 and (row.get("kl_nats") or 0) > 0 and math.isfinite(row["kl_nats"])
    ][-RECENT:]
    if step >= end or len({t for t, _ in points}) < FEWEST:
        return {}
    law = power_law([t for t, _ in points], [kl for _, kl in points])
    ahead_T = now + rate_factor(rows) * (planned_T[step + 1 :] - planned_T[step])
    last = law.at(float(ahead_T[-1]))
    numbers = (last.value, last.low, last.high, law.slope.value, law.slope.low, law.slope.high)
    found: dict[str, float] = dict(zip(FORECAST, numbers, strict=True))
    if max_kl_nats is not None and last.value > max_kl_nats:
        above = [law.at(float(t)).value > max_kl_nats for t in ahead_T]
        found["breaks_at_step"] = step + 1 + above.index(True)
    return {name: value for name, value in found.items() if math.isfinite(value)}
