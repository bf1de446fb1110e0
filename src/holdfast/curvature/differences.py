"""Second derivatives where attention has none: differences of gradients and of logits, with their spread.

Knows: central differences, the plateau between truncation and rounding. Does not know: kernels; whatever refuses
forward mode or double backward ends here.

Source: geometry.md 3.4: the best step is far larger than float64 habits suggest, and differs from model to model.
"""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from holdfast.core import trees
from holdfast.core.trees import Tree
from holdfast.curvature.products import check_precision, hvp, like
from holdfast.data import Example
from holdfast.gradients.functional import detached
from holdfast.gradients.means import MeanOver, mean_gradient
from holdfast.models import Subject

log = logging.getLogger(__name__)
# Norms of the parameter displacement that are tried, large to small.
DISPLACEMENTS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class HessianProduct:
    """``H v`` and how it came about.

    Attributes:
        product: a tree over the scope.
        displacement: norm of the parameter step between the two gradients; 0 where the product is exact.
        spread: relative disagreement with the next smaller step on the first micro-batch; large: do not trust.
    """

    product: Tree
    displacement: float = 0.0
    spread: float = 0.0


def hessian_product(
    subject: Subject,
    examples: Sequence[Example],
    v: Mapping[str, torch.Tensor],
    reduction: MeanOver = "mean",
    batch_size: int = 16,
) -> HessianProduct:
    """The exact product, or that by differences where attention has no second derivative (its displacement is then
    above 0, which is for the caller to say)."""
    return otherwise(
        lambda: HessianProduct(hvp(subject, examples, v, reduction, batch_size)),
        lambda: hvp_by_differences(subject, examples, v, reduction, batch_size),
    )


def otherwise(exact: Callable[[], T], differences: Callable[[], T]) -> T:
    """``exact``, or ``differences`` where an operation has no forward mode or no second derivative."""
    try:
        return exact()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        log.info("no exact second derivatives here (%s)", str(error).split("\n")[0][:120])
        return differences()


def hvp_by_differences(
    subject: Subject,
    examples: Sequence[Example],
    v: Mapping[str, torch.Tensor],
    reduction: MeanOver = "mean",
    batch_size: int = 16,
) -> HessianProduct:
    """``H v`` from two gradients of the mean loss, the step chosen on the first micro-batch.

    Cost: ten gradients of a micro-batch and two of the whole.

    Raises:
        UserError: half-precision parameters (rounding swallows the step).
    """
    check_precision(subject)
    values = detached(subject.parameters())
    direction = like(v, values)
    length = trees.norm(direction)
    if length == 0:
        return HessianProduct(trees.zeros_like(direction))

    def at(displacement: float, rows: Sequence[Example]) -> Tree:
        step = displacement / length
        ahead, behind = (
            mean_gradient(subject, rows, reduction, batch_size, at=trees.axpy(values, sign * step, direction))
            for sign in (1.0, -1.0)
        )
        return trees.scale(trees.subtract(ahead, behind), 1 / (2 * step))

    first = [example for example in examples if example.completion_tokens][:batch_size]
    tried = [at(displacement, first) for displacement in DISPLACEMENTS]
    spreads = [
        trees.norm(trees.subtract(one, next_one)) / max(trees.norm(one), trees.norm(next_one), 1e-300)
        for one, next_one in itertools.pairwise(tried)
    ]
    best = min(range(len(spreads)), key=spreads.__getitem__)
    return HessianProduct(at(DISPLACEMENTS[best], examples), DISPLACEMENTS[best], spreads[best])
