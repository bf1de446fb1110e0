"""The forward pass of scoring: no mask, no dropout, the output head on labelled tokens only.

Knows: which inputs a model gets, checkpointing.
Does not know: hooks, rules, what is differentiated.

Shapes: B batch rows, T time, V vocab, M labelled tokens, N samples.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from holdfast.core.seeds import undisturbed
from holdfast.data import Batch
from holdfast.gradients.layout import Labelled
from holdfast.models import check_length
from holdfast.models.head import head_on


@contextlib.contextmanager
def quiet(model: torch.nn.Module) -> Iterator[bool]:
    """No dropout, no change to modes or random state; yields whether the model checkpoints its activations.

    Layers checkpoint in training mode only, so those that do stay in it while their parts do not, unless they
    drop out themselves.
    """
    checkpointing = [
        module
        for module in model.modules()
        if module.training and getattr(module, "gradient_checkpointing", False) and not _drops_out(module)
    ]
    with undisturbed(model):
        for module in checkpointing:
            module.training = True
        yield bool(checkpointing)


def _drops_out(module: torch.nn.Module) -> bool:
    return any(
        "dropout" in name and isinstance(value, float) and value > 0 for name, value in vars(module).items()
    )


def labelled_logits(
    model: Any, batch: Batch, where: Labelled, head: torch.nn.Module | None, positions: bool
) -> torch.Tensor:
    """Logits that predict the labelled tokens: logits_MV in at least float32.

    Args:
        model: a causal LM.
        batch: right-padded, or packed.
        where: its labelled tokens.
        head: the output head, to be run on labelled tokens only; None runs it on all of them.
        positions: whether the model is told each token's position (packed rows need it).
    """
    keywords: dict[str, Any] = {"input_ids": batch.input_ids_BT, "use_cache": False}
    if positions:
        time_T = torch.arange(batch.input_ids_BT.shape[1], device=batch.input_ids_BT.device)
        padded_BT = time_T.expand_as(batch.input_ids_BT)
        keywords["position_ids"] = padded_BT if batch.position_ids_BT is None else batch.position_ids_BT
    rows_BT = keywords.get("position_ids")
    check_length(model, batch.input_ids_BT.shape[1] if rows_BT is None else int(rows_BT.max()) + 1)
    with head_on(head, where.position_M, tuple(batch.input_ids_BT.shape)):
        logits = model(**keywords).logits
    logits_MV = logits.flatten(0, -2) if head is not None else logits.flatten(0, -2)[where.position_M]
    return logits_MV.float() if logits_MV.dtype in (torch.float16, torch.bfloat16) else logits_MV


def label_nll(logits_MV: torch.Tensor, where: Labelled) -> torch.Tensor:
    """Negative log-likelihood of each label: nats, M."""
    return F.cross_entropy(logits_MV, where.target_M, reduction="none")


def per_sample(nll_M: torch.Tensor, where: Labelled) -> torch.Tensor:
    """Summed loss of each sample: nats, float64, N."""
    total_N = torch.zeros(len(where.tokens_N), dtype=torch.float64, device=nll_M.device)
    return total_N.index_add_(0, where.owner_M, nll_M.detach().double())
