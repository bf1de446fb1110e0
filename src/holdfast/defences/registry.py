"""Defences by name: our own, and those that other packages bring.

Knows: the entry points' group. Does not know: any method; importing this imports none.

Another package registers a class in its ``pyproject.toml``::

    [project.entry-points."holdfast.defences"]
    anchor-lite = "its_package:AnchorLite"

The class is a :class:`holdfast.defences.Defence` with a class method ``build(material, knob)``: ``material`` holds
what it declares in the class attribute ``needs``, ``knob`` is its one main setting or None for its default.
"""

import importlib
from importlib.metadata import entry_points
from typing import Any

from holdfast.core.defence import READABLE, Defence, Material
from holdfast.core.errors import UserError

GROUP = "holdfast.defences"
OURS = {
    "adversarial-kl": "holdfast.defences.adversarial_kl:AdversarialKL",
    "anchor": "holdfast.defences.anchor:Anchor",
    "ewc": "holdfast.defences.ewc:ElasticWeights",
    "fisher-selection": "holdfast.defences.fisher_selection:FisherSelection",
    "mixing": "holdfast.defences.mixing:Mixing",
    "projection": "holdfast.defences.projection:Projection",
    "task-kl": "holdfast.defences.task_kl:TaskKL",
    "token-wise": "holdfast.defences.token_wise:TokenWise",
}


def names() -> tuple[str, ...]:
    """All that can be asked for."""
    return tuple(sorted({*OURS, *(entry.name for entry in entry_points(group=GROUP))}))


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        UserError: nothing of that name.
    """
    if name not in names():
        raise UserError(f"defence '{name}': none of that name; use one of {', '.join(names())}")
    return name


def find(name: str) -> type[Defence]:
    """The class behind a name; ours come first.

    Raises:
        UserError: nothing of that name, or something that is no defence.
    """
    check_name(name)
    if name in OURS:
        module, _, attribute = OURS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    entry = next(iter(entry_points(group=GROUP, name=name)))
    try:
        found: Any = entry.load()
    except Exception as error:  # another package's code
        raise UserError(
            f"defence '{name}': {entry.value} cannot be imported ({error}); mend that package"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Defence) and callable(getattr(found, "build", None))):
        raise UserError(
            f"defence '{name}': {entry.value} is no defence; make it a holdfast.defences.Defence with a class "
            "method build(material, knob)"
        )
    return found


def declared(kind: type[Defence]) -> frozenset[str]:
    """What a class declares to read; all of it where it depends on its settings."""
    needs: Any = kind.needs
    return READABLE if isinstance(needs, property) else frozenset(needs)


def build(name: str, knob: float | None = None, **material: Any) -> Defence:
    """A defence by name.

    Args:
        knob: its one main setting; None is its own default.
        material: of :class:`holdfast.core.defence.Material`.
    """
    kind: Any = find(name)
    return kind.build(Material(declared(kind), **material), knob)
