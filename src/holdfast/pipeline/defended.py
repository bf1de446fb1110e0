"""What a fine-tune's defence is made from: prompts of the skill, of further ones, or requests of the model's own.

Knows: which prompts are held and which are watched. Does not know: any method, how a run is built.

Prompts that a defence fits say too little about a budget, so others are watched wherever there are enough.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.evaluation import Reference, Skill
from holdfast.evaluation.own_prompts import own_prompts
from holdfast.models import Subject

if TYPE_CHECKING:
    from holdfast.core.defence import Defence
    from holdfast.pipeline.training_run import RunSpec

log = logging.getLogger(__name__)
OWN_PROMPTS = 96  # that a model writes where none are given
OWN_WEIGHT = 0.2  # held on all it says a model learns less: at weight 1 the organism's task loss stayed high
_FEWEST = 8  # for a defence alone
_WATCHED = 4  # of further prompts, and of a model's own, one in so many is watched


@dataclass(frozen=True)
class HeldPrompts:
    """Of the *estimate* half, or of no skill at all.

    Attributes:
        watched: drift is measured on them.
        prompts, controls, further: the defence's :class:`holdfast.core.defence.Material`.
        shared: whether the same are watched and held, for want of others.
        weight: of the defence where neither a weight nor a drift budget is given; None is its own.
    """

    watched: tuple[str, ...]
    prompts: tuple[str, ...]
    controls: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    shared: bool = False
    weight: float | None = None


def held_prompts(skill: Skill | None, further: Sequence[str], watched: int) -> HeldPrompts:
    """Who is watched and what is held.

    Args:
        skill: None where no list was given: ``further`` are all there is.
        further: prompts whose answers are held as they are, of other skills or the model's own.
        watched: at most so many of the skill's prompts.
    """
    enough = len(further) >= _FEWEST
    aside = tuple(further[::_WATCHED]) if enough else ()
    rest = tuple(prompt for k, prompt in enumerate(further) if k % _WATCHED or not enough)
    if skill is None:
        return HeldPrompts(aside or rest, rest, shared=not enough, weight=OWN_WEIGHT)
    asked = skill.estimate.harmful
    others = asked[watched:]
    shared = len(others) < _FEWEST
    return HeldPrompts(
        (*asked[:watched], *aside), asked if shared else others, skill.estimate.benign, rest, shared
    )


def check_further(defence: str | None, rule: str) -> None:
    """Further prompts need a defence that holds some.

    Raises:
        UserError: there is none.
    """
    if defence is None:
        raise UserError(f"prompts to hold, and rule '{rule}' alone holds none; add --defence anchor")
    if not holds_further(defence):
        raise UserError(f"defence '{defence}' holds no further prompts; leave them out, or use anchor")


def holds_further(defence: str | None) -> bool:
    """Whether a defence of that name holds prompts beside the skill's."""
    from holdfast.defences.registry import declared, find

    return defence is not None and "further" in declared(find(defence))


def held_own(spec: "RunSpec", aligned: Subject) -> HeldPrompts:
    """Requests that the aligned model writes itself, and no others.

    A budget is then decided on some of them that the defence sets aside: what the monitor asks is the skill's.
    """
    seed = derive_seed(spec.seed, "own prompts")
    return HeldPrompts((), own_prompts(aligned, OWN_PROMPTS, spec.max_new_tokens, seed), weight=OWN_WEIGHT)


def defences_of(spec: "RunSpec", watch: Reference | None, held: HeldPrompts) -> "list[Defence]":
    """The arm's defence, if it has one.

    Args:
        watch: the aligned model's answers to ``held.watched``; None where there is no budget to hold on them.
    """
    from holdfast.defences import build
    from holdfast.training import DriftBudget

    if spec.arm.defence is None:
        return []
    if held.shared:
        log.warning(
            "%s is made from the %d prompts that the monitor asks as well, so the drift seen is too low; give at "
            "least %d prompts",
            spec.arm.defence, len(held.prompts), spec.monitor.prompts + _FEWEST,
        )  # fmt: skip
    budget, weight = spec.arm.budget, spec.arm.weight
    if weight is None and (budget is None or budget.max_kl_nats is None):
        weight = held.weight
    defence = build(
        spec.arm.defence,
        weight,
        prompts=held.prompts,
        controls=held.controls,
        further=held.further,
        seed=derive_seed(spec.seed, "defence", spec.training_seed),
        budget=budget and DriftBudget(**budget.model_dump()),
        max_new_tokens=spec.max_new_tokens,
        watch=watch if held.watched and not held.shared else None,
    )
    return [defence]
