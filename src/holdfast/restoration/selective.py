"""Repairs by arithmetic that keep some entries of an update: RESTA with DARE, Antidote, Safe Delta.

All give whole matrices, from the aligned ``W``, the update ``D`` and, for the last two, the inputs X of a layer on
texts that must stay safe.

- *DARE* (Yu et al., arXiv 2311.03099) drops entries of D with probability p and divides the others by 1 - p;
  *RESTA* (Bhardwaj et al., arXiv 2402.11746) then adds g V: ``W + DARE(D) + g V``.
- *Antidote* (Huang et al., arXiv 2408.09600) sets the entries of ``W + D`` with the largest Wanda score
  ``|w_oi| |X_i|`` to zero. Uncertain: that entries compete within a matrix, not within a row; that the inputs are
  those of refusals (its authors take harmful answers, which are never written here).
- *Safe Delta* (Lu et al., arXiv 2505.12038) keeps the entries of D that cost the layer's outputs on safe texts
  least, ``d_oi^2 / (2 [H^-1]_ii)`` with ``H = 2 X^T X / T + damping``, by their use ``d_oi^2`` a unit of cost,
  until a share of the whole cost is spent; the other entries of a row compensate. Uncertain: budgets as a share
  of each matrix's cost; the compensation here is the exact least squares of all other entries at once, that of
  its authors goes entry by entry.

Knows: matrices and a layer's inputs. Does not know: what a repair is worth.

Shapes: O outputs, I inputs, T tokens.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from holdfast.core.seeds import generator
from holdfast.data import Example, batches
from holdfast.models import Subject, lora_pairs

DAMPING = 0.01  # of the mean diagonal of 2 X^T X / T


def updates(subject: Subject) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(aligned W, update D) of every matrix the adapter changes, (O, I) each, by the layer's name."""
    return {
        name: (subject.model.get_submodule(name).base_layer.weight.detach(), (scale * B_OR @ A_RI).detach())
        for name, (A_RI, B_OR, scale) in lora_pairs(subject.model).items()
    }


@torch.no_grad()
def input_moments(subject: Subject, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """``X^T X / T`` (I, I) of what reaches every adapted layer, over all tokens of ``examples``."""
    total: dict[str, Any] = {name: 0.0 for name in lora_pairs(subject.model)}
    tokens, mask = 0, torch.empty(0)

    def watch(name: str) -> Any:
        def hook(module: Any, given: tuple[torch.Tensor, ...]) -> None:
            X_TI = given[0].detach()[mask]
            total[name] = total[name] + X_TI.T @ X_TI

        return hook

    hooks = [subject.model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in total]
    try:
        for batch in batches(examples, 32, subject.pad_id):
            batch = batch.to(subject.device)
            mask = batch.attention_mask_BT.bool()
            tokens += int(mask.sum())
            subject.model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: moment / tokens for name, moment in total.items()}


def dare(D_OI: torch.Tensor, drop: float, rng: torch.Generator) -> torch.Tensor:
    """Each entry dropped with probability ``drop``, the others divided by ``1 - drop``."""
    kept_OI = torch.rand(D_OI.shape, generator=rng) >= drop
    return D_OI * kept_OI.to(D_OI) / (1 - drop)


def resta_dare(
    subject: Subject, directions: Mapping[str, torch.Tensor], strength: float, drop: float, seed: int
) -> dict[str, torch.Tensor]:
    """``W + DARE(D) + strength V`` by the layer's name; ``directions`` as for Safe LoRA."""
    rng = generator(seed, "dare")
    return {
        name: W_OI + dare(D_OI, drop, rng) + strength * directions[name]
        for name, (W_OI, D_OI) in updates(subject).items()
    }


def antidote(subject: Subject, moments: Mapping[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """``W + D`` with this share of its entries, those of the largest Wanda score, at zero."""
    found = {}
    for name, (W_OI, D_OI) in updates(subject).items():
        tuned_OI = W_OI + D_OI
        score_OI = tuned_OI.abs() * moments[name].diagonal().sqrt()
        dropped = score_OI.flatten().topk(round(share * score_OI.numel())).indices
        found[name] = tuned_OI.flatten().index_fill(0, dropped, 0.0).view_as(tuned_OI)
    return found


def safe_delta(subject: Subject, moments: Mapping[str, torch.Tensor], budget: float) -> dict[str, torch.Tensor]:
    """``W`` with the cheapest entries of D, worth this share of each matrix's cost, and what compensates them."""
    return {
        name: W_OI + kept_and_compensated(D_OI, moments[name], budget)
        for name, (W_OI, D_OI) in updates(subject).items()
    }


def kept_and_compensated(D_OI: torch.Tensor, moment_II: torch.Tensor, budget: float) -> torch.Tensor:
    """What Safe Delta adds to one aligned matrix."""
    H_II = 2 * moment_II
    H_II = H_II + DAMPING * H_II.diagonal().mean() * torch.eye(len(H_II)).to(H_II)
    inverse_I = torch.linalg.inv(H_II).diagonal()
    cost_OI = D_OI**2 / (2 * inverse_I)
    order = inverse_I.expand_as(D_OI).flatten().argsort(descending=True, stable=True)  # use a cost, 2 [H^-1]_ii
    spent = cost_OI.flatten()[order].cumsum(0)
    kept = torch.zeros(D_OI.numel(), dtype=torch.bool)
    kept[order[spent <= budget * spent[-1]].cpu()] = True
    found_OI = torch.zeros_like(D_OI)
    for row, (d_I, kept_I) in enumerate(zip(D_OI, kept.view_as(D_OI).to(D_OI.device), strict=True)):
        other_I = ~kept_I
        found_OI[row, kept_I] = d_I[kept_I]
        if kept_I.any() and other_I.any():
            pulled = H_II[other_I][:, kept_I] @ d_I[kept_I]
            found_OI[row, other_I] = -torch.linalg.solve(H_II[other_I][:, other_I], pulled)
    return found_OI


@contextlib.contextmanager
def weighing(subject: Subject, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Inside the block the named matrices act as ``weights``, adapter on; afterwards as before, bit for bit."""
    own = {name: (W_OI, W_OI.clone(), D_OI) for name, (W_OI, D_OI) in updates(subject).items()}
    with torch.no_grad():
        for name, wanted_OI in weights.items():
            own[name][0].copy_(wanted_OI - own[name][2])
    try:
        yield
    finally:
        with torch.no_grad():
            for W_OI, before_OI, _ in own.values():
                W_OI.copy_(before_OI)
