"""How far the alignment subspace has turned while a model trained: principal angles to where it was.

Knows: leading directions as parameter trees, the same completions' scores at another point.
Does not know: why it turned. A projector that is kept fixed protects what the subspace was (geometry.md 1.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from holdfast.core import trees
from holdfast.core.results import Result
from holdfast.core.trees import Tree
from holdfast.data import Example
from holdfast.geometry.spectrum import Subspace
from holdfast.gradients import GhostEngine, gradient_gram, mean_gradient
from holdfast.gradients.dots import dots_with
from holdfast.models import Subject


@dataclass(frozen=True)
class Rotation(Result):
    """Between the top d directions of two points.

    Attributes:
        cosines: of the principal angles, falling: all 1 where nothing turned.
        kept: mean squared cosine, the share of the old subspace inside the new one.
        chance: what two random subspaces of this size would share, d / p.
    """

    cosines: tuple[float, ...]
    kept: float
    chance: float


def leading_directions(subject: Subject, examples: Sequence[Example], d: int, batch_size: int = 16) -> list[Tree]:
    """The top d eigenvectors of the sampled Fisher, unit length: d trees over the scope, one backward pass each.

    Args:
        examples: the aligned model's completions.
    """
    space = Subspace.of(gradient_gram(subject, examples, reduction="sum", progress=False).matrix)
    found = []
    for u_N, s in zip(space.u.T[:d], space.s[:d], strict=True):
        weights_N = torch.from_numpy(-u_N / s**0.5)  # a score is minus the gradient of the loss
        found.append(mean_gradient(subject, examples, "sum", batch_size, weights_N=weights_N))
    return found


def rotation(
    before: Sequence[Tree], subject: Subject, examples: Sequence[Example], batch_size: int = 16
) -> Rotation:
    """Turn from ``before`` (:func:`leading_directions` of the aligned model) to the subspace of ``subject`` now.

    Both are along the same completions, so with a model that has moved far this is the Fisher of the new model at
    the old one's answers.
    """
    d = len(before)
    space = Subspace.of(gradient_gram(subject, examples, reduction="sum", progress=False).matrix)
    engine = GhostEngine(subject.model, subject.parameters())
    dots_NK = -dots_with(engine, examples, before, subject.pad_id, "sum", batch_size)
    across = (space.u[:, :d].T @ dots_NK) / np.sqrt(space.s[:d, None])
    cosines = np.clip(np.linalg.svd(across, compute_uv=False), 0.0, 1.0)
    return Rotation(tuple(cosines.tolist()), float((cosines**2).mean()), d / trees.size(before[0]))
