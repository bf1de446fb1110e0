"""The first step an optimiser would really take, without taking it.

Knows: torch optimisers from a zero state.
Does not know: data, schedules. Weight decay and clipping are left out: the theory does not speak about them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.trees import Tree

OptimizerFactory = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


def first_update(
    values: Mapping[str, torch.Tensor],
    gradient: Mapping[str, torch.Tensor],
    optimizer: str | OptimizerFactory = "adamw",
    learning_rate: float = 1e-4,
    **options: Any,
) -> Tree:
    """Parameter change of the optimiser's first step at ``values`` with ``gradient``.

    Args:
        values: present parameters (copied, not touched).
        gradient: a tree like ``values``.
        optimizer: "adamw", "adam", "sgd", or a function from a list of tensors to a torch optimiser (then
            ``learning_rate`` and ``options`` are its own business).
        learning_rate: of the first step.
        options: further keywords of the torch optimiser (``eps``, ``betas``, ...).

    Raises:
        UserError: unknown optimiser.

    Source: geometry.md 3.7: Adam's first step is close to learning_rate * sign(g), so an orthogonal gradient does
    not make an orthogonal step.
    """
    leaves = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    for name, leaf in leaves.items():
        leaf.grad = gradient[name].detach().to(leaf).clone()
    stepper = _make(optimizer, list(leaves.values()), learning_rate, options)
    stepper.step()
    return {name: (leaf.detach() - values[name].detach()).clone() for name, leaf in leaves.items()}


def _make(
    optimizer: str | OptimizerFactory, tensors: list[torch.Tensor], learning_rate: float, options: dict[str, Any]
) -> torch.optim.Optimizer:
    if not isinstance(optimizer, str):
        return optimizer(tensors)
    # TRL and transformers write adamw_torch, adamw_torch_fused, ...: the mathematics is the same.
    kind = optimizer.lower().split("_")[0]
    if kind == "adamw":
        return torch.optim.AdamW(tensors, lr=learning_rate, weight_decay=0.0, **options)
    if kind == "adam":
        return torch.optim.Adam(tensors, lr=learning_rate, **options)
    if kind == "sgd":
        return torch.optim.SGD(tensors, lr=learning_rate, **options)
    raise UserError(f"optimizer '{optimizer}': unknown; use 'adamw', 'adam', 'sgd' or a function that makes one")
