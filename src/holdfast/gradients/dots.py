"""Inner products of every sample's gradient with one given direction, without forming a gradient.

Knows: forward-mode differentiation of per-sample losses.
Does not know: what the direction is.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import jvp

from holdfast.core.seeds import undisturbed
from holdfast.core.trees import Tree
from holdfast.data import Batch, Example, batches
from holdfast.gradients.functional import call, counted_tokens, detached, math_attention, right_padded
from holdfast.gradients.per_sample import Reduction
from holdfast.models import Subject, sequence_nll


def per_sample_dots(
    subject: Subject,
    examples: Sequence[Example],
    v: Mapping[str, torch.Tensor],
    reduction: Reduction = "mean",
    batch_size: int = 16,
) -> NDArray[np.float64]:
    """``<gradient of sample i's loss, v>`` for every sample, in the order of ``examples``: nats per unit of v.

    Args:
        subject: model and scope.
        examples: the samples; 0 for those without completion tokens.
        v: a tree over ``subject.parameters()``.
        reduction: a sample's loss is the mean over its completion tokens, or their sum (then the result is minus
            the derivative of its log-probability along ``v``).
        batch_size: samples per pass.

    Source: geometry.md 3.1 fact 2 (r = G w). One forward-mode pass.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction '{reduction}': use 'mean' or 'sum'")
    values = detached(subject.parameters())
    direction: Tree = {name: v[name].to(value) for name, value in values.items()}
    dots = np.zeros(len(examples))
    with undisturbed(subject.model), math_attention():
        for batch in batches(examples, batch_size, subject.pad_id):
            aligned = right_padded(batch.to(subject.device))

            def losses(point: Tree, aligned: Batch = aligned) -> torch.Tensor:
                return sequence_nll(call(subject.model, point, aligned.input_ids_BT), aligned, "sum")

            change_B = jvp(losses, (values,), (direction,))[1]
            if reduction == "mean":
                change_B = change_B / counted_tokens(aligned).clamp(min=1)
            dots[list(batch.index)] = change_B.double().cpu().numpy()
    return dots
