"""L-BFGS: the inverse a list of (step, change of gradient) pairs stands for, and minimisation by it.

Source: restoration.md 1.8 and 3.4 (Nocedal 1980; Powell's damping); the test numbers are its 4.6.

Knows: pairs and the two-loop recursion on trees. Does not know: where pairs come from.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from holdfast.core import trees
from holdfast.core.trees import Tree

Pair = tuple[Tree, Tree]
FLAT = 1e-8  # of |s||y|: a pair below it has no curvature to tell
POWELL = 0.2  # of s^T D s: what s^T y must reach, or y is mixed with D s


def two_loop(pairs: Sequence[Pair], v: Mapping[str, torch.Tensor], gamma: float | None = None) -> Tree:
    """About ``M^-1 v``, by the recursion over ``pairs``, oldest first.

    Exact where as many pairs as parameters are conjugate; otherwise only the last secant equation holds.

    Args:
        gamma: the inverse starts as ``gamma I``; None: ``s^T y / y^T y`` of the newest pair, 1 without pairs.
    """
    z = trees.clone(v)
    weights: list[float] = []
    for s, y in reversed(pairs):
        weights.append(trees.dot(s, z) / trees.dot(s, y))
        z = trees.axpy(z, -weights[-1], y)
    if gamma is None:
        gamma = trees.dot(*pairs[-1]) / trees.dot(pairs[-1][1], pairs[-1][1]) if pairs else 1.0
    z = trees.scale(z, gamma)
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        z = trees.axpy(z, weight - trees.dot(y, z) / trees.dot(s, y), s)
    return z


def sound(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs fit for :func:`two_loop`: flat ones dropped, those of little curvature damped as Powell does."""
    kept: list[Pair] = []
    for s, y in pairs:
        change, scale = trees.dot(s, y), trees.norm(s) * trees.norm(y)
        if kept:
            newest = kept[-1]
            straight = trees.dot(s, s) * trees.dot(newest[1], newest[1]) / trees.dot(*newest)  # s^T D s
            if change < POWELL * straight:
                w = (1 - POWELL) * straight / (straight - change)
                y = trees.axpy(trees.scale(y, w), (1 - w) * straight / trees.dot(s, s), s)
                change, scale = trees.dot(s, y), trees.norm(s) * trees.norm(y)
        if change > FLAT * scale:
            kept.append((s, y))
    return kept


def minimise(
    value_and_gradient: Callable[[Tree], tuple[float, Tree]],
    start: Mapping[str, torch.Tensor],
    most: int,
    memory: int = 20,
) -> Tree:
    """Where torch's L-BFGS with a strong Wolfe search ends after at most ``most`` evaluations.

    Args:
        memory: pairs kept; with fewer than the evaluations a quadratic is no longer solved as by CG.
    """
    point = {name: tensor.detach().clone().requires_grad_() for name, tensor in start.items()}
    optimiser = torch.optim.LBFGS(
        list(point.values()), max_iter=most, max_eval=most, history_size=memory,
        tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> float:
        value, gradient = value_and_gradient({name: tensor.detach() for name, tensor in point.items()})
        for name, tensor in point.items():
            tensor.grad = gradient[name].clone()
        return value

    optimiser.step(closure)  # pyright: ignore[reportUnknownMemberType]
    return {name: tensor.detach() for name, tensor in point.items()}
