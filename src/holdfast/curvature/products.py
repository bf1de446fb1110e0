"""Products with the curvature of a mean completion loss: Hessian and generalised Gauss-Newton.

Knows: forward-over-reverse and jvp-vjp products, the softmax Hessian, which loss a product belongs to.
Does not know: what is solved with the products.

Shapes: B batch, T time, S = T - 1 predicted positions, V vocab, D parameters in scope.

Cost, measured on a 0.4 M-parameter Llama on one CPU thread, in ordinary forward-and-backward passes over the
examples: a GGN product 2.0 (all parameters) to 2.5 (LoRA), a Hessian product 4.0. Besides the model a product
holds two more trees of the scope's size and one micro-batch's logits, four times.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import cast

import torch
from torch.func import grad, jvp, vjp

from holdfast.core.errors import UserError
from holdfast.core.seeds import undisturbed
from holdfast.core.trees import Tree
from holdfast.data import Batch, Example
from holdfast.gradients.functional import call_scored, detached, math_attention
from holdfast.gradients.means import MeanOver, mean_loss_of, weighted_batches
from holdfast.gradients.memory import COPIES
from holdfast.models import Subject
from holdfast.models.head import scored

Product = Callable[[Mapping[str, torch.Tensor]], Tree]
_Pulled = tuple[torch.Tensor, Callable[[torch.Tensor], tuple[Tree]], torch.Tensor]


def softmax_hessian_product(z_MV: torch.Tensor, dz_MV: torch.Tensor, weights_M: torch.Tensor) -> torch.Tensor:
    """``w (diag(p) - p p^T) dz`` at each position: the Hessian of weighted cross-entropy in the logits.

    Positions with weight 0 contribute exactly nothing. Source: restoration.md 3.3.
    """
    p_MV = z_MV.softmax(-1)
    centred_MV = dz_MV - (p_MV * dz_MV).sum(-1, keepdim=True)
    return torch.where(weights_M[..., None] > 0, p_MV * centred_MV * weights_M[..., None], 0.0)


def ggn_operator(
    subject: Subject,
    examples: Sequence[Example],
    reduction: MeanOver = "mean",
    batch_size: int = 16,
    damping: float = 0.0,
) -> Product:
    """The generalised Gauss-Newton matrix ``C = J^T H J`` of the mean loss at the present parameters.

    Args:
        subject: model and scope. The operator holds on to the model: change its parameters and it is the operator
            at the new ones; change the data by making a new operator.
        examples: what the mean is over, see :func:`holdfast.gradients.means.loss_weights`.
        reduction: "mean", "sum" (then C is the Fisher matrix at these prefixes, unit=sequence), or "tokens".
        batch_size: examples per micro-batch; cut and order are fixed, so every product is by the same matrix.
        damping: added to the diagonal.

    Returns:
        ``v -> C v + damping v`` on trees over the scope. Positive semi-definite; exact (the vocabulary is summed
        analytically, no label is sampled).

    Raises:
        UserError: half-precision parameters (rounding destroys the product), no completion tokens.

    Source: restoration.md 3.3.
    """
    check_precision(subject)
    parts = weighted_batches(subject, examples, reduction, batch_size, 2 * COPIES)

    def product(v: Mapping[str, torch.Tensor]) -> Tree:
        values = detached(subject.parameters())
        direction = like(v, values)
        total = {name: damping * tensor for name, tensor in direction.items()}
        with undisturbed(subject.model), math_attention():
            for batch, weights_B in parts:
                _accumulate(total, _ggn_part(subject.model, values, direction, batch, weights_B))
        return total

    return product


def _ggn_part(
    model: torch.nn.Module, values: Tree, direction: Tree, batch: Batch, weights_B: torch.Tensor
) -> Tree:
    where = scored(batch)

    def logits(point: Tree) -> torch.Tensor:
        return call_scored(model, point, batch, where)

    def logits_and_change(point: Tree) -> tuple[torch.Tensor, torch.Tensor]:
        pair = jvp(logits, (point,), (direction,))
        return pair[0], pair[1]

    # One forward gives z with its graph and J v beside it (as auxiliary output, so nothing flows back through it).
    z_MV, pull, dz_MV = cast(_Pulled, vjp(logits_and_change, values, has_aux=True))
    return pull(softmax_hessian_product(z_MV, dz_MV, weights_B[where.owner_M]))[0]


def hvp_operator(
    subject: Subject, examples: Sequence[Example], reduction: MeanOver = "mean", batch_size: int = 16
) -> Product:
    """The exact Hessian of the mean loss, ``v -> H v``, forward over reverse. Indefinite in general.

    Arguments and errors as :func:`ggn_operator`. Source: geometry.md 3.2.
    """
    check_precision(subject)
    parts = weighted_batches(subject, examples, reduction, batch_size, 2 * COPIES)

    def product(v: Mapping[str, torch.Tensor]) -> Tree:
        values = detached(subject.parameters())
        direction = like(v, values)
        total = {name: torch.zeros_like(tensor) for name, tensor in direction.items()}
        with undisturbed(subject.model), math_attention():
            for batch, weights_B in parts:

                def loss(point: Tree, batch: Batch = batch, weights_B: torch.Tensor = weights_B) -> torch.Tensor:
                    return mean_loss_of(subject.model, point, batch, weights_B)

                _accumulate(total, jvp(grad(loss), (values,), (direction,))[1])
        return total

    return product


def hvp(
    subject: Subject,
    examples: Sequence[Example],
    v: Mapping[str, torch.Tensor],
    reduction: MeanOver = "mean",
    batch_size: int = 16,
) -> Tree:
    """One product with :func:`hvp_operator`."""
    return hvp_operator(subject, examples, reduction, batch_size)(v)


@contextmanager
def in_float32(model: torch.nn.Module) -> Generator[None]:
    """The model with its half-precision parameters and buffers widened; afterwards the same ones, bit for bit.

    Widening loses nothing, so what is computed inside belongs to the stored weights. It costs twice their memory.
    """
    half = [t for t in chain(model.parameters(), model.buffers()) if t.dtype in (torch.float16, torch.bfloat16)]
    kept = [(tensor, tensor.data) for tensor in half]
    try:
        for tensor, data in kept:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def check_precision(subject: Subject) -> None:
    """Second derivatives need float32 throughout the model.

    Raises:
        UserError: a floating parameter is stored in less.
    """
    for name, parameter in subject.model.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise UserError(f"{name}: stored in {parameter.dtype}; curvature needs dtype='float32' when loading")


def like(v: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> Tree:
    """``v`` in the names, order, dtype and device of ``values``.

    Raises:
        ValueError: other names or shapes.
    """
    if v.keys() != values.keys():
        odd = sorted(v.keys() ^ values.keys())[:3]
        raise ValueError(f"direction and scope have different names, for example {odd}")
    for name, value in values.items():
        if v[name].shape != value.shape:
            raise ValueError(f"{name}: direction {tuple(v[name].shape)}, parameter {tuple(value.shape)}")
    return {name: v[name].detach().to(value) for name, value in values.items()}


def _accumulate(total: Tree, part: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in part.items():
        total[name] += tensor
