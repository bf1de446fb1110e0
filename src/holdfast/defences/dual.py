"""A weight that holds a drift budget: the dual variable of min task loss subject to drift ≤ budget.

Knows: readings of the drift, one number at a time. Does not know: how it is measured, what the weight multiplies.

With a weight w the optimum of task + w·KL has δ = F⁻¹g / w, so KL = ½ δᵀFδ ∝ w⁻²: in logarithms a plant of gain -2
that answers late (δ has to travel there). The rule is integral control of log w on the clipped log error,

    log w ← clip(log w + gain · clip(log(d̂ / (aim · budget)), -1, 1), low, high),

with a small gain where the weight falls and a large one where it rises. The state is the clipped log weight
itself, so there is nothing that could wind up. d̂ is the larger of the latest reading and the mean of the last few,
plus what it rose by since the one before (where drift will be, if it goes on like that).

Source: dual ascent, in logarithms. Uncertain: the constants, tuned on simulations and two small tasks; a step of
the weight a reading means that readings further apart steer more slowly.
"""

import math
from typing import Any

from holdfast.core.errors import UserError

REMEMBERED = 3


class DualWeight:
    """The weight and what it has seen.

    Args:
        budget: nats a sequence.
        start: the first weight: high is safe, for it falls by ``fall`` in logarithms a reading at most.
        aim: share of the budget that is aimed at; the rest is room for what a few prompts do not show.
        fall, rise: gains.
        low, high: the weight's limits.

    Raises:
        UserError: a budget or a start that is not above 0.
    """

    def __init__(
        self,
        budget: float,
        start: float = 1.0,
        aim: float = 0.5,
        fall: float = 0.15,
        rise: float = 0.5,
        low: float = 1e-3,
        high: float = 100.0,
    ) -> None:
        if not budget > 0 or not start > 0:
            raise UserError(f"a drift budget of {budget:g} nats from weight {start:g}: both must be above 0")
        self.budget, self.aim, self.fall, self.rise = budget, aim, fall, rise
        self.log_low, self.log_high = math.log(low), math.log(high)
        self.log_weight = math.log(start)
        self.readings: list[float] = []

    @property
    def weight(self) -> float:
        """As it is now."""
        return math.exp(self.log_weight)

    def read(self, drift: float) -> float:
        """Take a reading in nats and return the new weight. NaN and infinities count as far outside."""
        if not math.isfinite(drift):
            error = 1.0
        else:
            self.readings = [*self.readings, drift][-REMEMBERED:]
            latest = max(drift, sum(self.readings) / len(self.readings))
            rising = max(0.0, drift - self.readings[-2]) if len(self.readings) > 1 else 0.0
            error = math.log(max(latest + rising, 1e-12) / (self.aim * self.budget))
            error = min(1.0, max(-1.0, error))
        self.log_weight += (self.rise if error > 0 else self.fall) * error
        self.log_weight = min(self.log_high, max(self.log_low, self.log_weight))
        return self.weight

    @property
    def state(self) -> dict[str, Any]:
        """Exact in JSON."""
        return {"log_weight": self.log_weight, "readings": list(self.readings)}

    @state.setter
    def state(self, found: dict[str, Any]) -> None:
        self.log_weight, self.readings = float(found["log_weight"]), [float(x) for x in found["readings"]]
