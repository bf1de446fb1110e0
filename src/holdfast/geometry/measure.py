"""The audit's measurements: task gradients, first updates, lengths and products along the reference completions.

Knows: which data each number is taken on, and disjoint splits of the task.
Does not know: what the numbers add up to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.core import trees
from holdfast.core.trees import Tree
from holdfast.curvature import (
    PathCoefficients,
    fisher_bilinear,
    fisher_quadratic,
    hessian_product,
    path_coefficients,
)
from holdfast.data import Example
from holdfast.geometry.sizes import FEWEST_BATCHES
from holdfast.geometry.updates import OptimizerFactory, first_update
from holdfast.gradients import GhostEngine, mean_gradient
from holdfast.gradients.dots import dots_with
from holdfast.gradients.functional import detached
from holdfast.gradients.memory import most_tokens
from holdfast.models import Subject

Array = NDArray[np.float64]
MOST_BATCHES = 16  # of the mean first update; beyond, nothing is gained (notes-forecast.md, cost)
DOWNHILL = 3e-3  # parameter displacement over which the change of H g is taken


@dataclass(frozen=True)
class PlannedRun:
    """The planned fine-tune, as far as its first update knows it."""

    optimizer: str | OptimizerFactory
    learning_rate: float
    steps: int
    options: dict[str, Any]
    update_batch_size: int
    seed: int

    @property
    def name(self) -> str:
        """Of the optimiser."""
        return self.optimizer if isinstance(self.optimizer, str) else getattr(self.optimizer, "__name__", "custom")


@dataclass(frozen=True)
class MeanUpdate:
    """The mean of a real optimiser's first updates: over how many batches, of which size.

    Attributes:
        tree: parameter change. gradient: the mean of the batches' gradients.
    """

    tree: Tree
    batches: int
    size: int
    gradient: Tree


@dataclass(frozen=True)
class Splits:
    """Gradients of disjoint parts of the task data: two halves, and (H's data, g) of four quarters."""

    halves: tuple[Tree, Tree] | None
    crossed: tuple[tuple[Sequence[Example], Tree], ...]


@dataclass(frozen=True)
class Measured:
    """Per-sample numbers along the reference completions, and norms."""

    dots: dict[str, Array]
    forms: dict[str, Array]
    split_squares: dict[str, float]
    norms: dict[str, float]
    path: PathCoefficients
    third_F: float
    hessian: dict[str, float] = field(default_factory=dict)


def task_gradients(
    subject: Subject, examples: Sequence[Example], seed: int, batch_size: int
) -> tuple[Tree, Splits]:
    """Gradient of the task loss (mean over tokens, as a trainer minimises it), and those of disjoint parts."""
    g = mean_gradient(subject, examples, "tokens", batch_size)
    order = np.random.default_rng(seed).permutation(len(examples))
    quarters = [[examples[k] for k in order[start::4]] for start in range(4)]
    if any(not any(e.completion_tokens for e in quarter) for quarter in quarters):
        return g, Splits(None, ())
    gradients = [mean_gradient(subject, quarter, "tokens", batch_size) for quarter in quarters]
    halves = tuple(trees.scale(trees.axpy(gradients[a], 1.0, gradients[b]), 0.5) for a, b in ((0, 2), (1, 3)))
    return g, Splits((halves[0], halves[1]), ((quarters[0], gradients[1]), (quarters[2], gradients[3])))


def mean_first_update(
    subject: Subject, examples: Sequence[Example], plan: PlannedRun, batch_size: int
) -> MeanUpdate:
    """Mean of the optimiser's first updates on several batches: one batch's noise is a third of its form."""
    usable = [example for example in examples if example.completion_tokens]
    size = max(1, min(plan.update_batch_size, len(usable) // FEWEST_BATCHES))
    count = max(1, min(MOST_BATCHES, len(usable) // size))
    order = np.random.default_rng([plan.seed, 1]).permutation(len(usable))
    values = detached(subject.parameters())
    total, mean = trees.zeros_like(values), trees.zeros_like(values)
    for number in range(count):
        part = [usable[k] for k in order[number * size : (number + 1) * size]]
        gradient = mean_gradient(subject, part, "tokens", batch_size)
        step = first_update(values, gradient, plan.optimizer, plan.learning_rate, **plan.options)
        total = trees.axpy(total, 1.0 / count, step)
        mean = trees.axpy(mean, 1.0 / count, gradient)
    return MeanUpdate(total, count, size, mean)


def third_term(subject: Subject, examples: Sequence[Example], batch_size: int) -> Tree:
    """``H^2 g + T[g, g]`` of gradient flow on these rows, by how ``H g`` changes along a short way downhill."""
    values = trees.clone(subject.parameters())
    g = mean_gradient(subject, examples, "tokens", batch_size)
    length = trees.norm(g)
    if length == 0:
        return g
    step = DOWNHILL / length
    here = hessian_product(subject, examples, g, "tokens", batch_size).product
    try:
        trees.assign(subject.parameters(), trees.axpy(values, -step, g))
        there_g = mean_gradient(subject, examples, "tokens", batch_size)
        there = hessian_product(subject, examples, there_g, "tokens", batch_size).product
    finally:
        trees.assign(subject.parameters(), values)
    return trees.scale(trees.subtract(here, there), 1 / step)


def measure(
    subject: Subject,
    reference: Sequence[Example],
    directions: Mapping[str, Tree],
    third: Tree,
    splits: Splits,
    Hg_splits: list[Tree],
    batch_size: int,
) -> Measured:
    """Lengths and inner products of directions ("g" and "Hg" among them) along the completions."""
    g, Hg = directions["g"], directions["Hg"]
    split_squares = {"g": float("nan"), "Hg": float("nan")}
    if splits.halves is not None:
        split_squares["g"] = float(fisher_bilinear(subject, reference, *splits.halves, batch_size).mean())
        first, second = Hg_splits
        split_squares["Hg"] = float(fisher_bilinear(subject, reference, first, second, batch_size).mean())
    engine = GhostEngine(subject.model, subject.parameters())
    ways, most = list(directions.values()), most_tokens(subject, reference)
    dots_NK = dots_with(engine, reference, ways, subject.pad_id, "sum", batch_size, most)
    return Measured(
        # a score is the gradient of a log-probability: minus that of the loss
        dict(zip(directions, -dots_NK.T, strict=True)),
        {name: fisher_quadratic(subject, reference, w, batch_size) for name, w in directions.items()},
        split_squares,
        {name: trees.norm(w) for name, w in directions.items()},
        path_coefficients(subject, reference, trees.scale(g, -1.0), Hg, batch_size=batch_size),
        float(fisher_quadratic(subject, reference, third, batch_size).mean()) ** 0.5,
    )
