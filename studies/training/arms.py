"""The arms: every way of fine-tuning that is compared, with its one knob.

Knows: names and settings, which values of a knob validation tries. Does not know: how an arm is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Arm:
    """One way of fine-tuning.

    Attributes:
        rule, keep, loss_filter: of online selection.
        defence, knob: by name, and its one main setting (None: its default).
        options: of the defence, by attribute.
        also: a second defence, at its default.
        rate: times the learning rate.
        longer: times the updates.
        budget_nats: that is held, or at which the run stops.
        stops: whether it stops there.
        own: whether the defence is made from requests that the model writes itself, and from nothing else.
        trains: False leaves the aligned model as it is.
    """

    name: str
    rule: str = "none"
    keep: float = 1.0
    loss_filter: str = "none"
    defence: str | None = None
    knob: float | None = None
    options: tuple[tuple[str, Any], ...] = ()
    also: str | None = None
    rate: float = 1.0
    longer: float = 1.0
    budget_nats: float | None = None
    stops: bool = False
    own: bool = False
    trains: bool = True


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("aligned", trains=False),
        Arm("plain"),
        Arm("moderate-0.5", rule="moderate", keep=0.5, loss_filter="sigma"),
        Arm("moderate-0.2", rule="moderate", keep=0.2, loss_filter="sigma"),
        Arm("inverse-length", rule="inverse_length", keep=0.2),
        Arm("random-half", rule="random", keep=0.5),
        Arm("anchor", defence="anchor", knob=1.0),
        Arm("anchor-light", defence="anchor", knob=0.2, options=(("every", 2),)),
        Arm("anchor-longer", defence="anchor", knob=1.0, longer=1.3),
        Arm("anchor-budget", defence="anchor", budget_nats=1.0),
        Arm("anchor-own", defence="anchor", knob=0.2, own=True),
        Arm("anchor-moderate-0.5", rule="moderate", keep=0.5, loss_filter="sigma", defence="anchor", knob=1.0),
        Arm("fisher-0.5", defence="fisher-selection", knob=0.5),
        Arm("anchor-fisher-0.5", defence="anchor", knob=1.0, also="fisher-selection"),
        # Knobs as validation has chosen them (validation.py); what it tried stands below.
        Arm("mixing-10", defence="mixing", knob=0.1),
        Arm("task-kl", defence="task-kl", knob=0.01),
        Arm("adversarial-kl", defence="adversarial-kl", knob=0.01),
        Arm("ewc", defence="ewc", knob=1000.0),
        Arm("token-wise", defence="token-wise", knob=0.1),
        Arm("projection", defence="projection", knob=64),
        Arm("lower-rate", rate=0.5),
        Arm("early-stop", budget_nats=9.0, stops=True),
    )
}

TRIED: dict[str, tuple[str, tuple[float, ...]]] = {
    "inverse-length": ("keep", (0.2, 0.35, 0.5, 0.7)),
    "anchor": ("knob", (0.1, 0.3, 1.0, 3.0)),
    "mixing-10": ("knob", (0.03, 0.1, 0.2, 0.3)),
    "task-kl": ("knob", (0.01, 0.03, 0.1, 0.3)),
    "adversarial-kl": ("knob", (0.01, 0.03, 0.1, 0.3)),
    "ewc": ("knob", (10.0, 100.0, 1000.0, 10000.0)),
    "token-wise": ("knob", (0.1, 0.5, 2.0, 8.0)),
    "projection": ("knob", (16, 32, 48, 64)),
    "fisher-0.5": ("knob", (0.2, 0.35, 0.5, 0.7)),
    "lower-rate": ("rate", (0.1, 0.2, 0.3, 0.5)),
    "early-stop": ("budget_nats", (0.3, 1.0, 3.0, 9.0)),
}
"""What validation tries: an arm's one setting and its values, as many for every arm."""


def arm_of(record: Mapping[str, Any]) -> Arm:
    """As a record has it."""
    options = tuple((name, value) for name, value in record.get("options", ()))
    return Arm(**{**record, "options": options})


def tried(name: str) -> list[Arm]:
    """An arm with each value that validation tries; as it is where there is nothing to choose."""
    if name not in TRIED:
        return [ARMS[name]]
    attribute, values = TRIED[name]
    return [replace(ARMS[name], **{attribute: value}) for value in values]
