"""A weight that holds a drift budget: the dual variable of min task loss subject to drift ≤ budget.

Knows: readings of the drift, one number at a time, and whether a guard stands. Does not know: how either is
measured, what the weight multiplies.

With a weight w the optimum of task + w·KL has δ = F⁻¹g / w, so KL = ½ δᵀFδ ∝ w⁻²: in logarithms a plant of gain -2
that answers late (δ has to travel there). The rule is integral control of log w, with the lead that lateness asks
for, all in logarithms:

    e = log(d̂ / (aim · budget)) + lead · max(0, m - m'),    log w ← clip(log w + gain · clip(e, -2, 1), low, high),

m a running mean of log d (m' the one before), d̂ the larger of the reading and e^m, the gain small where the weight
falls and large where it rises. The state is the clipped log weight itself, so there is nothing that could wind up.

Low readings do not show that a lower weight holds: drift answers late, and a few completions miss the prompts that
drift most. In that plant w² d stands for the pull of the task, however the weight is set, so the weight does not
fall below what would hold the aim against the strongest pull seen,

    log p ← max(log w + ½ log d̂, log p - forget),    a fall ends at log p - ½ log(aim · budget),

which is forgotten slowly: pulls fade as a task is learned, and one reading may be chance.

Guards (a refusal rate that the user set) are one-sided: while one is broken the weight rises at each of its
readings and does not fall.

Source: dual ascent, in logarithms. Uncertain: the constants, chosen on simulations (tests/defences/test_dual.py
has some of them); a step of the weight a reading means that readings further apart steer more slowly.
"""

import math
from typing import Any

from holdfast.core.errors import UserError

_LEAST = 1e-6  # nats: what a reading of nothing counts as


class DualWeight:
    """The weight and what it has seen.

    Args:
        budget: nats a sequence.
        start: the first weight: high is safe, for a reading takes ``2 * fall`` of its logarithm at most.
        aim: share of the budget that is aimed at; the rest is room for what a few prompts do not show.
        fall, rise: gains.
        lead: readings ahead at which growth is taken to go on as it does.
        forget: of the logarithm of the strongest pull, a reading.
        low, high: the weight's limits.

    Raises:
        UserError: a budget or a start that is not above 0.
    """

    def __init__(
        self,
        budget: float,
        start: float = 1.0,
        aim: float = 0.6,
        fall: float = 0.25,
        rise: float = 0.5,
        lead: float = 2.0,
        forget: float = 0.1,
        low: float = 1e-3,
        high: float = 100.0,
    ) -> None:
        if not budget > 0 or not start > 0:
            raise UserError(f"a drift budget of {budget:g} nats from weight {start:g}: both must be above 0")
        self.budget, self.aim, self.fall, self.rise, self.lead = budget, aim, fall, rise, lead
        self.forget = forget
        self.log_low, self.log_high = math.log(low), math.log(high)
        self.log_weight = math.log(start)
        self.mean: float | None = None  # m
        self.log_pull = -math.inf  # log p
        self.broken = False

    @property
    def weight(self) -> float:
        """As it is now."""
        return math.exp(self.log_weight)

    def read(self, drift: float) -> float:
        """Take a reading in nats and return the new weight. NaN and infinities count as far outside."""
        if not math.isfinite(drift):
            self._step(self.rise)
            return self.weight
        log_drift, before = math.log(max(drift, _LEAST)), self.mean
        self.mean = log_drift if before is None else (before + log_drift) / 2
        growth = 0.0 if before is None else max(0.0, self.mean - before)
        shown, aim = max(log_drift, self.mean), math.log(self.aim * self.budget)
        self.log_pull = max(self.log_weight + shown / 2, self.log_pull - self.forget)
        error = min(1.0, max(-2.0, shown - aim + self.lead * growth))
        if error > 0:
            self._step(self.rise * error)
        elif not self.broken:
            self._step(max(self.fall * error, min(0.0, self.log_pull - aim / 2 - self.log_weight)))
        return self.weight

    def guard(self, broken: bool) -> float:
        """Take a guard's reading and return the new weight."""
        self.broken = broken
        if broken:
            self._step(self.rise)
        return self.weight

    def _step(self, change: float) -> None:
        self.log_weight = min(self.log_high, max(self.log_low, self.log_weight + change))

    @property
    def state(self) -> dict[str, Any]:
        """Exact in JSON."""
        pull = self.log_pull if math.isfinite(self.log_pull) else None
        return {"log_weight": self.log_weight, "mean": self.mean, "pull": pull, "broken": self.broken}

    @state.setter
    def state(self, found: dict[str, Any]) -> None:
        self.log_weight, self.broken = float(found["log_weight"]), bool(found["broken"])
        self.mean = None if found["mean"] is None else float(found["mean"])
        self.log_pull = -math.inf if found.get("pull") is None else float(found["pull"])
