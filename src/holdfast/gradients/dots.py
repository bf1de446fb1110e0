"""Inner products of every sample's gradient with given directions, without forming a gradient.

Knows: batching, the order of examples. Does not know: what a direction is.

Shapes: N samples, K directions.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.data import Example, batches
from holdfast.gradients.ghost import GhostEngine, Reduction
from holdfast.gradients.memory import most_tokens
from holdfast.models import Subject


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

    Source: geometry.md 3.1 fact 2 (r = G w). One forward and one inputs-only backward; no forward-mode
    differentiation, so fused attention stays on.
    """
    engine = GhostEngine(subject.model, subject.parameters())
    most = most_tokens(subject, examples)
    return dots_with(engine, examples, [v], subject.pad_id, reduction, batch_size, most)[:, 0]


def dots_and_losses(
    subject: Subject,
    examples: Sequence[Example],
    v: Mapping[str, torch.Tensor],
    reduction: Reduction = "mean",
    max_tokens: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """:func:`per_sample_dots`, and each sample's summed loss in nats, which the same pass gives.

    Args:
        max_tokens: padded tokens of a pass; None is as many as fit.
    """
    engine = GhostEngine(subject.model, subject.parameters())
    most = min(most_tokens(subject, examples), max_tokens or sys.maxsize)
    dots_N, loss_N = np.zeros(len(examples)), np.zeros(len(examples))
    for batch in batches(examples, max(1, len(examples)), subject.pad_id, max_tokens=most):
        found_NK, sums_N = engine.dots_and_losses(batch, [v], reduction)
        dots_N[list(batch.index)], loss_N[list(batch.index)] = found_NK[:, 0].numpy(), sums_N.numpy()
    return dots_N, loss_N


def dots_with(
    engine: GhostEngine,
    examples: Sequence[Example],
    directions: Sequence[Mapping[str, torch.Tensor]],
    pad_id: int = 0,
    reduction: Reduction = "mean",
    batch_size: int = 16,
    max_tokens: int | None = None,
) -> NDArray[np.float64]:
    """The same for several directions in one pass: (N, K), float64."""
    dots_NK = np.zeros((len(examples), len(directions)))
    for batch in batches(examples, batch_size, pad_id, max_tokens=max_tokens):
        dots_NK[list(batch.index)] = engine.dots(batch, directions, reduction).numpy()
    return dots_NK
