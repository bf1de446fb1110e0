"""Quadratic and bilinear forms of the Fisher matrix at given completions: unit=sequence, labels=model.

Knows: forward-mode logit changes, the variance of a logit change under the next-token distribution.
Does not know: where completions come from (they must be the model's own samples for this to be the Fisher).

Shapes: M scored positions of a batch, V vocab, N examples.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import jvp

from holdfast.core import trees
from holdfast.core.seeds import undisturbed
from holdfast.core.trees import Tree
from holdfast.curvature.differences import otherwise
from holdfast.curvature.products import check_precision, like, softmax_hessian_product
from holdfast.data import Batch, Example, batches
from holdfast.gradients.functional import call_scored, detached, math_attention, right_padded
from holdfast.gradients.memory import fitting_batches, most_tokens
from holdfast.models import Subject
from holdfast.models.head import Scored, scored

Vector = NDArray[np.float64]
# Norm of the parameter step where a kernel has no forward mode: logits are steadier than gradients.
DISPLACEMENT = 1e-2


def fisher_quadratic(
    subject: Subject, examples: Sequence[Example], v: Mapping[str, torch.Tensor], batch_size: int = 16
) -> Vector:
    """Per example ``sum_t Var_{p_t}(dz_t)`` with ``dz = J v``; its mean over examples is ``v^T F v``.

    Args:
        subject: the model at the aligned parameters, and the scope.
        examples: prompts with completions *sampled from this model*; only their prefixes matter.
        v: a direction, a tree over the scope.
        batch_size: examples per forward-mode pass.

    Returns:
        (N,) float64, nats per squared unit of v; 0 for an example without completion tokens. The vocabulary is
        summed analytically, so the only noise left is which prompts and prefixes were drawn.

    Raises:
        UserError: half-precision parameters.

    Source: geometry.md 1.3, 3.2. One forward-mode pass.
    """
    return fisher_bilinear(subject, examples, v, None, batch_size)


def fisher_pull(
    subject: Subject, examples: Sequence[Example], v: Mapping[str, torch.Tensor], max_tokens: int | None = None
) -> tuple[Vector, Tree]:
    """:func:`fisher_quadratic` and the product ``F v`` from one forward-mode pass and one ordinary backward pass.

    The first keeps nothing for a backward pass and the second has no tangents, so a batch takes about the memory
    of an ordinary step on it; :func:`holdfast.curvature.ggn_operator` nests the two and takes several times that.

    Args:
        max_tokens: padded tokens of a batch; None is as many as fit.

    Returns:
        Forms as :func:`fisher_quadratic`; F v over the scope, F the mean over ``examples``.

    Raises:
        UserError: half-precision parameters.
    """
    check_precision(subject)
    values = detached(subject.parameters())
    direction = like(v, values)
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    forms, total = np.zeros(len(examples)), trees.zeros_like(values)
    most = min(most_tokens(subject, examples), max_tokens or sys.maxsize)
    with undisturbed(subject.model), math_attention():
        for padded in batches(examples, max(1, len(examples)), subject.pad_id, max_tokens=most):
            batch = right_padded(padded.to(subject.device))
            where = scored(batch)
            if not len(where):
                continue
            z_MV, dz_MV = _logits_and_change(subject.model, values, direction, batch, where)
            forms[list(batch.index)] = where.sums(token_covariance(z_MV, dz_MV, dz_MV).double()).cpu().numpy()
            weights_M = torch.full((len(where),), 1.0 / len(examples), device=z_MV.device)
            along_MV = softmax_hessian_product(z_MV, dz_MV, weights_M)
            del z_MV, dz_MV
            with torch.enable_grad():
                logits_MV = call_scored(subject.model, leaves, batch, where)
                pieces = torch.autograd.grad(
                    logits_MV, list(leaves.values()), along_MV, allow_unused=True, materialize_grads=True
                )
            for name, piece in zip(leaves, pieces, strict=True):
                total[name] += piece
    return forms, total


def fisher_bilinear(
    subject: Subject,
    examples: Sequence[Example],
    u: Mapping[str, torch.Tensor],
    v: Mapping[str, torch.Tensor] | None,
    batch_size: int = 16,
) -> Vector:
    """Per example ``sum_t Cov_{p_t}(J u, J v)``; its mean is ``u^T F v``. ``v=None`` means u.

    With u and v from disjoint data this estimates a squared length without the upward bias of noise
    (geometry.md 3.5); it may be negative.
    """
    check_precision(subject)
    values = detached(subject.parameters())
    first = like(u, values)
    second = None if v is None else like(v, values)
    forms = np.zeros(len(examples))
    with undisturbed(subject.model), math_attention():
        for batch in _aligned_batches(subject, examples, batch_size):
            where = scored(batch)
            z_MV, du_MV = _logits_and_change(subject.model, values, first, batch, where)
            dv_MV = du_MV if second is None else _logits_and_change(subject.model, values, second, batch, where)[1]
            forms[list(batch.index)] = where.sums(token_covariance(z_MV, du_MV, dv_MV).double()).cpu().numpy()
    return forms


def token_covariance(z_MV: torch.Tensor, du_MV: torch.Tensor, dv_MV: torch.Tensor) -> torch.Tensor:
    """Covariance over the vocabulary, under softmax(z), of two logit changes at each position: shape M."""
    p_MV = z_MV.softmax(-1)
    centred_MV = du_MV - (p_MV * du_MV).sum(-1, keepdim=True)
    # One centred factor is enough for the covariance, but two keep rounding symmetric and the variance >= 0.
    other_MV = centred_MV if dv_MV is du_MV else dv_MV - (p_MV * dv_MV).sum(-1, keepdim=True)
    return (p_MV * centred_MV * other_MV).sum(-1)


def _aligned_batches(subject: Subject, examples: Sequence[Example], batch_size: int) -> Iterator[Batch]:
    for batch in fitting_batches(subject, examples, batch_size):
        yield right_padded(batch.to(subject.device))


def _logits_and_change(
    model: torch.nn.Module, values: Tree, direction: Tree, batch: Batch, where: Scored
) -> tuple[torch.Tensor, torch.Tensor]:
    def logits(point: Tree) -> torch.Tensor:
        return call_scored(model, point, batch, where)

    def forward_mode() -> tuple[torch.Tensor, torch.Tensor]:
        pair = jvp(logits, (values,), (direction,))
        return pair[0], pair[1]

    def differences() -> tuple[torch.Tensor, torch.Tensor]:
        step = DISPLACEMENT / max(trees.norm(direction), 1e-300)
        with torch.no_grad():
            ends = [logits(trees.axpy(values, sign * step, direction)) for sign in (1.0, -1.0)]
            return logits(values), (ends[0] - ends[1]) / (2 * step)

    return otherwise(forward_mode, differences)
