"""When an update may come out of the scoring pass itself, and how it reaches the optimiser.

Knows: what in a trainer's settings makes its own forward and backward differ from the scoring pass.
Does not know: selection rules, how the pass works (``gradients.one_pass``).
"""

from collections.abc import Mapping
from typing import Any

import torch

# What the layers of a pool saw is held until the choice; above this two passes take less memory.
MOST_HELD_BYTES = 4 << 30


def held_bytes(trained: Mapping[str, torch.Tensor], tokens: int) -> int:
    """About what one pass holds of a pool: the input and the output gradient of every trained matrix."""
    return 4 * tokens * sum(sum(value.shape) for value in trained.values() if value.ndim == 2)


def obstacle(model: torch.nn.Module, args: Any, mixed_precision: str) -> str | None:
    """Why an update cannot come from the scoring pass; None if it can.

    The pass drops nothing out, computes in the weights' own precision and knows one loss, the mean over kept
    completion tokens. Where a run asks for anything else, the kept samples take an ordinary step.
    """
    if mixed_precision not in ("no", None):
        return f"mixed precision ({mixed_precision})"
    if getattr(args, "neftune_noise_alpha", None):
        return "NEFTune noise"
    if args.world_size > 1:  # its gradient would pass by what averages theirs
        return "several processes"
    if getattr(getattr(model, "config", None), "output_router_logits", False):
        return "an auxiliary loss on the router"
    return _dropout(model)


def _dropout(model: torch.nn.Module) -> str | None:
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"dropout {module.p} in {path}"
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float) and value > 0:
                return f"{name} {value} in {path or 'the model'}"
    return None


def deposit(model: torch.nn.Module, gradients: Mapping[str, torch.Tensor]) -> None:
    """Add gradients to ``.grad``, as a backward pass would."""
    for name, parameter in model.named_parameters():
        gradient = gradients.get(name)
        if gradient is None:
            continue
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
