"""The gradient of a mean loss over a data set: ordinary backward passes, summed in a fixed order.

Knows: which of three means is meant, accumulation.
Does not know: per-sample gradients, curvature.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from holdfast.core.errors import UserError
from holdfast.core.seeds import undisturbed
from holdfast.core.trees import Tree
from holdfast.data import Batch, Example
from holdfast.gradients.functional import call_scored, detached, math_attention, right_padded
from holdfast.gradients.memory import COPIES, fitting_batches
from holdfast.models import Subject
from holdfast.models.head import scored

MeanOver = Literal["mean", "sum", "tokens"]


def loss_weights(tokens_N: torch.Tensor, reduction: MeanOver) -> torch.Tensor:
    """Weight of every completion token of each example in the mean loss of a data set: float64, shape N.

    - "mean": mean over examples of their mean token loss, 1 / (N n_i);
    - "sum": mean over examples of their summed loss, 1 / N (the unit=sequence Fisher belongs to it);
    - "tokens": mean over all completion tokens, 1 / sum n (what Trainer minimises).

    Examples without completion tokens count in N and contribute nothing.
    """
    n_N = tokens_N.double()
    if reduction == "mean":
        return 1.0 / (len(n_N) * n_N.clamp(min=1))
    if reduction == "sum":
        return torch.full_like(n_N, 1.0 / len(n_N))
    if reduction == "tokens":
        return torch.full_like(n_N, 1.0 / float(n_N.sum().clamp(min=1)))
    raise ValueError(f"reduction '{reduction}': use 'mean', 'sum' or 'tokens'")


def weighted_batches(
    subject: Subject, examples: Sequence[Example], reduction: MeanOver, batch_size: int, copies: float = COPIES
) -> list[tuple[Batch, torch.Tensor]]:
    """Right-padded batches on the subject's device, each with its rows' loss weights (float32, shape B).

    The cut and the order depend on the examples and the model's sizes only, so every pass over the list is the
    same function; ``copies`` as :func:`holdfast.gradients.memory.automatic_max_tokens` takes it.

    Raises:
        UserError: there are no examples, or none of them has a completion token.
    """
    if not any(example.completion_tokens for example in examples):
        raise UserError(f"{len(examples)} examples without a single completion token; give examples to learn from")
    tokens_N = torch.tensor([example.completion_tokens for example in examples])
    weights_N = loss_weights(tokens_N, reduction)
    return [
        (right_padded(batch.to(subject.device)), weights_N[list(batch.index)].float().to(subject.device))
        for batch in fitting_batches(subject, examples, batch_size, copies)
    ]


def mean_loss_of(
    model: torch.nn.Module, values: Mapping[str, torch.Tensor], batch: Batch, weights_B: torch.Tensor
) -> torch.Tensor:
    """A batch's share of the mean loss, as a differentiable scalar."""
    where = scored(batch)
    nll_M = F.cross_entropy(call_scored(model, values, batch, where), where.target_M, reduction="none")
    return (nll_M * weights_B[where.owner_M]).sum()


def mean_gradient(
    subject: Subject,
    examples: Sequence[Example],
    reduction: MeanOver = "mean",
    batch_size: int = 32,
    at: Mapping[str, torch.Tensor] | None = None,
    weights_N: torch.Tensor | None = None,
) -> Tree:
    """Gradient of the mean completion loss over the scope.

    Args:
        subject: model and scope; ``.grad``, modes and the random state are left as they were.
        examples: all of them count; see :func:`loss_weights` for what the mean is over.
        reduction: "mean", "sum" or "tokens".
        batch_size: examples per backward pass; the result does not depend on it beyond rounding.
        at: other parameter values than the model's own, a tree over the scope.
        weights_N: of each example's summed loss, in the place of ``reduction``.

    Returns:
        A tree over ``subject.parameters()``, in their dtype but at least float32.

    Raises:
        UserError: no completion tokens at all.
    """
    parts = weighted_batches(subject, examples, reduction, batch_size)
    if weights_N is not None:
        parts = [(batch, weights_N[list(batch.index)].to(weights_B)) for batch, weights_B in parts]
    values = detached(subject.parameters() if at is None else at)
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    total: Tree = {
        name: torch.zeros_like(leaf, dtype=torch.promote_types(leaf.dtype, torch.float32))
        for name, leaf in leaves.items()
    }
    with undisturbed(subject.model), torch.enable_grad(), math_attention():
        for batch, weights_B in parts:
            loss = mean_loss_of(subject.model, leaves, batch, weights_B)
            pieces = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
            for name, piece in zip(leaves, pieces, strict=True):
                total[name] += piece
    return total
