"""How one model is to be scored: sites, routes, what its head sees, whether rows may be packed.

Knows: which findings of the trial decide what. Does not know: how a trial runs (``trial``), norms, data sets.

Shapes: B rows, N samples, M labelled tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import undisturbed
from holdfast.data import Batch
from holdfast.gradients.capture import Site
from holdfast.gradients.forward import label_nll, labelled_logits, per_sample
from holdfast.gradients.layout import labelled
from holdfast.gradients.routes import GENERIC, Route, announce
from holdfast.gradients.rules import RULES, Rule
from holdfast.gradients.trial import best_attempt, finite_truth, rounding, working_dtype

Parameters = Mapping[str, torch.nn.Parameter]


@dataclass(frozen=True, eq=False)
class EnginePlan:
    """What a trial found.

    Attributes:
        sites: covered layers.
        routes: of every parameter in scope.
        head: the output head if it may run on labelled tokens only, else None.
        positions: whether the model must be told positions even for padded rows.
        packs: whether packed rows give the numbers of single ones.
        alone: whether only samples run alone have this model's losses.
        certain: False where the trial could not compare anything (no finite loss); such a plan is not kept.
    """

    sites: tuple[Site, ...]
    routes: dict[str, Route]
    head: torch.nn.Module | None
    positions: bool
    packs: bool
    certain: bool = True
    alone: bool = False

    @property
    def generic(self) -> tuple[str, ...]:
        """Parameters without a rule."""
        return tuple(name for name, route in self.routes.items() if route.rule == GENERIC)


def plan_engine(
    model: Any, parameters: Parameters, batch: Batch, strict: bool = False, rules: tuple[Rule, ...] = RULES
) -> EnginePlan:
    """Try the rules on a few tokens of ``batch`` and keep those that agree with autograd.

    Raises:
        UserError: a parameter in scope is not the model's or cannot have a gradient; ``strict`` and one has no
            rule.
    """
    own = {id(parameter) for parameter in model.parameters()}
    for name, parameter in parameters.items():
        if id(parameter) not in own:
            raise UserError(f"parameter {name} is not one of this model's; take subject.parameters()")
        if not parameter.is_floating_point():
            raise UserError(
                f"parameter {name} is stored as {parameter.dtype}: no gradient; leave it out of the scope"
            )
    device = batch.input_ids_BT.device
    with undisturbed(model), torch.autocast(device.type, enabled=False):
        truth = finite_truth(model, parameters, batch)
        certain = truth.finite
        sites, routes, head, positions, batched = best_attempt(model, parameters, truth, rules)
        packs = _packs(model, truth.rows, truth.loss_B, head)
    for site in sites:
        if not certain:
            site.problem = "no finite loss to try its rule on"
        rule, reason = (GENERIC, site.problem) if site.problem else (site.rule.name, "")
        for name in site.wanted.values():
            if routes.get(name) is None or routes[name].rule != GENERIC:
                routes[name] = Route(rule, site.path, type(site.module).__name__, reason)
    announce(routes, strict)
    good = tuple(site for site in sites if site.problem is None)
    return EnginePlan(
        good, {name: routes[name] for name in parameters}, head, positions, packs, certain, not batched
    )


def _packs(model: Any, trial: Batch, truth_B: torch.Tensor, head: torch.nn.Module | None) -> bool:
    """Whether two rows in one, with restarting positions, keep their losses."""
    lengths = [int(length) for length in trial.attention_mask_BT.sum(1)]
    ids = [trial.input_ids_BT[row, :length] for row, length in enumerate(lengths)]
    marks = [trial.completion_mask_BT[row, :length] for row, length in enumerate(lengths)]
    device = trial.input_ids_BT.device
    one_row = replace(
        trial,
        input_ids_BT=torch.cat(ids)[None],
        attention_mask_BT=torch.ones(1, sum(lengths), dtype=torch.long, device=device),
        completion_mask_BT=torch.cat(marks)[None],
        position_ids_BT=torch.cat([torch.arange(length, device=device) for length in lengths])[None],
        segment_BT=torch.cat([torch.full((n,), row, device=device) for row, n in enumerate(lengths)])[None],
    )
    where = labelled(one_row)
    try:
        with torch.no_grad():
            nll_M = label_nll(labelled_logits(model, one_row, where, head, True), where)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return torch.allclose(per_sample(nll_M, where), truth_B, rtol=rounding(working_dtype(model)))
