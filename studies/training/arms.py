"""The arms: every way of fine-tuning that is compared, with its one knob as tuned on validation tasks.

Knows: names and settings. Does not know: how an arm is run.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Arm:
    """One way of fine-tuning.

    Attributes:
        rule, keep, loss_filter: of online selection.
        defence, knob: by name, and its one main setting (None: its default).
        options: of the defence, by attribute.
        rate: times the learning rate.
        budget_nats: that is held, or at which the run stops.
        stops: whether it stops there.
        trains: False leaves the aligned model as it is.
    """

    name: str
    rule: str = "none"
    keep: float = 1.0
    loss_filter: str = "none"
    defence: str | None = None
    knob: float | None = None
    options: tuple[tuple[str, Any], ...] = ()
    rate: float = 1.0
    budget_nats: float | None = None
    stops: bool = False
    trains: bool = True


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("aligned", trains=False),
        Arm("plain"),
        Arm("moderate-0.5", rule="moderate", keep=0.5, loss_filter="sigma"),
        Arm("moderate-0.2", rule="moderate", keep=0.2, loss_filter="sigma"),
        Arm("inverse-length", rule="inverse_length", keep=0.5),
        Arm("random-half", rule="random", keep=0.5),
        Arm("anchor", defence="anchor", knob=1.0),
        Arm("anchor-budget", defence="anchor", budget_nats=1.0),
        Arm("anchor-every-4", defence="anchor", knob=1.0, options=(("every", 4),)),
        Arm("anchor-moderate-0.5", rule="moderate", keep=0.5, loss_filter="sigma", defence="anchor", knob=1.0),
        # Knobs as their sources have them, one value each: none has been tuned here yet.
        Arm("mixing-3", defence="mixing", knob=0.03),
        Arm("mixing-10", defence="mixing", knob=0.1),
        Arm("task-kl", defence="task-kl", knob=0.3),
        Arm("ewc", defence="ewc", knob=10.0),
        Arm("token-wise", defence="token-wise", knob=2.0),
        Arm("projection", defence="projection", knob=16),
        Arm("lower-rate", rate=0.1),
        Arm("early-stop", budget_nats=1.0, stops=True),
    )
}
