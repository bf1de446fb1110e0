"""A causal LM as a function of its parameters: what vmap, jvp and vjp need instead of a module.

Knows: how to call a model with other parameter values, how to lay a batch out so that no mask is needed,
which attention kernel has forward-mode and second derivatives.
Does not know: what is differentiated, or why; the loss itself (that is ``models.forward``).

Shapes: B batch, T time, V vocab, M scored positions.

Why no attention mask. In a causal model a token never sees what stands to its right, so with all padding on
the right the mask changes nothing at the tokens themselves. Leaving it out makes results independent of the
padding side and width, and avoids the data-dependent mask building that vmap cannot trace.
"""

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import cast

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.data import Batch
from holdfast.models.head import Scored, logits_at

Tree = dict[str, torch.Tensor]


@contextlib.contextmanager
def math_attention() -> Generator[None]:
    """Attention from plain operations: the fused kernels have no jvp, no double backward and no vmap rule.

    Source: geometry.md 3.4, engines.md 4.4. Eager attention is not affected.
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield


def right_padded(batch: Batch) -> Batch:
    """The same rows with every token moved to the front and the width cut to the longest row.

    Raises:
        ValueError: a row whose tokens are not contiguous (a packed or perforated row).
    """
    attention_BT = batch.attention_mask_BT.long()
    lengths_B = attention_BT.sum(1)
    starts_B = attention_BT.argmax(1)
    width = max(int(lengths_B.max()), 1)
    time_T = torch.arange(width, device=attention_BT.device)
    real_BT = (time_T < lengths_B[:, None]).long()
    source_BT = (starts_B[:, None] + time_T).clamp(max=attention_BT.shape[1] - 1)
    if not torch.equal(attention_BT.gather(1, source_BT) * real_BT, real_BT):
        raise ValueError("a row's attention mask has holes; score packed rows before packing")
    ids_BT = batch.input_ids_BT.gather(1, source_BT)
    # What stands at padded positions is irrelevant to the result; the row's own first token is valid everywhere,
    # and no model warns about a padding token without a mask.
    return replace(
        batch,
        input_ids_BT=torch.where(real_BT > 0, ids_BT, ids_BT[:, :1]),
        attention_mask_BT=real_BT,
        completion_mask_BT=batch.completion_mask_BT.gather(1, source_BT) * real_BT,
    )


def detached(parameters: Mapping[str, torch.Tensor]) -> Tree:
    """The parameter values without their gradient history (no copy)."""
    return {name: parameter.detach() for name, parameter in parameters.items()}


def call(
    model: torch.nn.Module, parameters: Mapping[str, torch.Tensor], input_ids_BT: torch.Tensor
) -> torch.Tensor:
    """Logits in at least float32 of one right-padded block of ids, without mask and cache."""
    keywords = {"input_ids": input_ids_BT, "use_cache": False}
    with _inputs_as_they_come(model):
        logits_BTV = functional_call(model, dict(parameters), (), keywords).logits
    return logits_BTV.float() if logits_BTV.dtype in (torch.float16, torch.bfloat16) else logits_BTV


@contextlib.contextmanager
def _inputs_as_they_come(model: torch.nn.Module) -> Generator[None]:
    """Without the hook that gradient checkpointing puts on a frozen embedding to start a graph there: a transform
    does not let a tensor be marked, and its own graph starts at the parameters."""
    tables = [cast(dict[int, object], vars(module)["_forward_hooks"]) for module in model.modules()]
    marking = [
        (hooks, key, hook)
        for hooks in tables
        for key, hook in hooks.items()
        if getattr(hook, "__name__", "").startswith("make_inputs_require_grad")  # of transformers, and of PEFT
    ]
    for hooks, key, _ in marking:  # not by their own switch: it forgets those that were put on twice
        del hooks[key]
    try:
        yield
    finally:
        for hooks, key, hook in marking:
            hooks[key] = hook


def call_scored(
    model: torch.nn.Module, parameters: Mapping[str, torch.Tensor], batch: Batch, where: Scored
) -> torch.Tensor:
    """:func:`call` at the scored positions of a right-padded batch alone: logits_MV."""
    ids_BT = batch.input_ids_BT
    return logits_at(model, lambda: call(model, parameters, ids_BT), where.position_M, tuple(ids_BT.shape))[:]


def counted_tokens(batch: Batch) -> torch.Tensor:
    """Per row, the number of tokens that carry loss (the first token of a row never does): int64, shape B."""
    return (batch.completion_mask_BT[:, 1:] > 0).sum(1)
