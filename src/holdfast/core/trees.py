"""Arithmetic on parameter trees: a vector in parameter space, kept as named tensors.

Knows: inner products in float64, linear combinations.
Does not know: models, or which parameters are in scope.
"""

from collections.abc import Callable, Mapping

import torch

Tree = dict[str, torch.Tensor]


def _same_names(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())[:3]
        raise ValueError(f"trees have different names, for example {odd}")


def dot(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Inner product, accumulated in float64."""
    _same_names(a, b)
    return float(sum((a[name].double() * b[name].double()).sum() for name in a))


def norm(a: Mapping[str, torch.Tensor]) -> float:
    """Euclidean norm, accumulated in float64."""
    return dot(a, a) ** 0.5


def axpy(a: Mapping[str, torch.Tensor], s: float, b: Mapping[str, torch.Tensor]) -> Tree:
    """``a + s b``."""
    _same_names(a, b)
    return {name: a[name] + s * b[name] for name in a}


def scale(a: Mapping[str, torch.Tensor], s: float) -> Tree:
    """``s a``."""
    return {name: s * tensor for name, tensor in a.items()}


def subtract(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> Tree:
    """``a - b``."""
    return axpy(a, -1.0, b)


def apply(a: Mapping[str, torch.Tensor], function: Callable[[torch.Tensor], torch.Tensor]) -> Tree:
    """``function`` on every tensor."""
    return {name: function(tensor) for name, tensor in a.items()}


def zeros_like(a: Mapping[str, torch.Tensor]) -> Tree:
    """A tree of zeros with the same names and shapes."""
    return apply(a, torch.zeros_like)


def clone(a: Mapping[str, torch.Tensor]) -> Tree:
    """A detached copy."""
    return apply(a, lambda tensor: tensor.detach().clone())


def size(a: Mapping[str, torch.Tensor]) -> int:
    """Number of coordinates."""
    return sum(tensor.numel() for tensor in a.values())


def assign(target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> None:
    """Copy ``source`` into the tensors of ``target`` in place (parameters stay the same objects)."""
    _same_names(target, source)
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])
