"""The trial: two short rows, alone through plain autograd and together through the rules.

Knows: how both are run, and how a rule is caught disagreeing. Does not know: what a plan makes of it.

Shapes: B rows, T time, M labelled tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from holdfast.data import Batch
from holdfast.gradients.capture import Capture, Site, watching
from holdfast.gradients.forward import label_nll, labelled_logits, per_sample
from holdfast.gradients.layout import labelled, token_layout
from holdfast.gradients.routes import (
    Route,
    autograd_squares,
    candidates,
    disagreements,
    shared,
    trial_batch,
)
from holdfast.gradients.rules import Rule
from holdfast.gradients.squares import Squares

Parameters = Mapping[str, torch.nn.Parameter]
Attempt = tuple[list[Site], dict[str, Route], torch.nn.Module | None, bool, bool]


@dataclass(frozen=True, eq=False)
class Truth:
    """What plain autograd says of two rows.

    Attributes:
        rows: the two rows.
        loss_B: their summed losses, nats.
        squares: squared gradient norms, by parameter.
        unused: parameters that neither loss depends on.
    """

    rows: Batch
    loss_B: torch.Tensor
    squares: dict[str, torch.Tensor]
    unused: frozenset[str]

    @property
    def finite(self) -> bool:
        """Whether it can decide anything."""
        return bool(torch.isfinite(self.loss_B).any())


def finite_truth(model: Any, parameters: Parameters, batch: Batch) -> Truth:
    """A trial on the batch's own tokens; on the first of the vocabulary if those give no finite loss."""
    rows = trial_batch(batch)
    truth = _truth(model, parameters, rows)
    if truth.finite:
        return truth
    ids_BT = torch.arange(rows.input_ids_BT.numel(), device=rows.input_ids_BT.device).view_as(rows.input_ids_BT)
    return _truth(model, parameters, replace(rows, input_ids_BT=ids_BT))


def best_attempt(model: Any, parameters: Parameters, truth: Truth, rules: tuple[Rule, ...]) -> Attempt:
    """The head cut or whole, positions given or not: the first way that all rules work in, else the best.

    Returns:
        sites, routes, the head if it is cut, whether positions are given, whether rows may run together at all.
    """
    own_head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    reason = "a batch gives other losses than single rows"
    best: tuple[int, Attempt] | None = None
    for head in dict.fromkeys([own_head, None]):
        for positions in (False, True):
            sites, routes = candidates(model, parameters, head, rules)
            try:
                right = _try(model, truth, sites, head, positions)
            except (TypeError, ValueError, RuntimeError, IndexError) as error:
                reason = f"running two rows at once failed ({str(error).splitlines()[0][:100]})"
                continue
            bad = sum(site.problem is not None for site in sites)
            if right and (best is None or bad < best[0]):
                best = bad, (sites, routes, head, positions, True)
            if best is not None and best[0] == 0:
                return best[1]
    if best is None:  # nothing but running samples alone gives this model's losses
        sites, routes = candidates(model, parameters, None, rules)
        for site in sites:
            site.problem = reason
        return sites, routes, None, False, False
    return best[1]


def _try(
    model: Any,
    truth: Truth,
    sites: list[Site],
    head: torch.nn.Module | None,
    positions: bool,
) -> bool:
    """Run the rules; mark the sites that disagree. Returns whether the losses are those of single rows."""
    rows, where, dtype = truth.rows, labelled(truth.rows), working_dtype(model)
    layout = token_layout(rows)
    while True:
        usable = [site for site in sites if site.problem is None]
        squares = Squares(usable, rows.samples, layout.by_sample(rows.input_ids_BT, 0))
        capture = Capture(usable, layout, where.layout, squares, trial=True)
        with watching(capture, [p for p in model.parameters() if p.requires_grad]):
            nll_M = label_nll(labelled_logits(model, rows, where, head, positions), where)
            capture.backward(nll_M.sum())
        close = torch.allclose(per_sample(nll_M, where), truth.loss_B, rtol=rounding(dtype), equal_nan=True)
        if not close:
            return False
        for site in capture.silent():
            if not truth.unused.issuperset(site.wanted.values()):  # used, but not by calling the layer
                site.problem = "its forward was not seen in the trial"
        if any(site.problem for site in usable):
            _spread_problems(sites)
            continue  # a site that could not be read may have stopped others from being complete
        wrong = disagreements(squares.named(), truth.squares, dtype)
        if not wrong:
            return True
        for site in usable:
            for name in site.wanted.values():
                if name in wrong:
                    site.problem = f"its rule is off by {wrong[name]:.1e} from autograd"
        _spread_problems(sites)


def _spread_problems(sites: list[Site]) -> None:
    """A tied parameter needs all its sites."""
    for group in shared(sites).values():
        problem = next((site.problem for site in group if site.problem), None)
        for site in group:
            site.problem = site.problem or problem


def working_dtype(model: torch.nn.Module) -> torch.dtype:
    """The coarsest type the model computes in: a float32 adapter on a bfloat16 base rounds as its base does."""
    device = next(model.parameters()).device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return min((p.dtype for p in model.parameters() if p.is_floating_point()), key=lambda d: torch.finfo(d).bits)


def rounding(dtype: torch.dtype) -> float:
    """By how much losses may differ, relative: where rows feel each other a little, gradients are off by more."""
    return 2e-5 if dtype in (torch.float32, torch.float64) else 1e-2


def _truth(model: Any, parameters: Parameters, rows: Batch) -> Truth:
    """Both rows alone, unpadded, by plain autograd."""
    wanted = {id(parameter) for parameter in parameters.values()}
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    sums: list[torch.Tensor] = []

    def loss_of(row: int) -> Callable[[], torch.Tensor]:
        def loss() -> torch.Tensor:
            length = int(rows.attention_mask_BT[row].sum())
            ids_1T = rows.input_ids_BT[row : row + 1, :length]
            logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1]
            logits_TV = logits_TV.float() if logits_TV.dtype in (torch.float16, torch.bfloat16) else logits_TV
            nll = torch.nn.functional.cross_entropy(logits_TV, ids_1T[0, 1:], reduction="sum")
            sums.append(nll.detach().double())
            return nll

        return loss

    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in wanted)
        squares, unused = autograd_squares([loss_of(0), loss_of(1)], parameters)
    finally:
        for parameter, was in before:
            parameter.requires_grad_(was)
    return Truth(rows, torch.stack(sums), squares, unused)
