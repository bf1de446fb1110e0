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
    )
}
