"""Is the loss landscape of harmful answers still that of the aligned model, or does it only look so?

The same change of weights is made to both models, and their losses along it are compared (restoration.md 1.4). Raw
profiles agree for any two models: with many parameters ``d^T H d`` is near its mean for every direction, and all
profiles are one parabola (two independent random Hessians: 0.95 at 500 parameters). What speaks is the *centred*
correlation, each model's mean over the directions taken off at every step, beside the same number on other texts.

Knows: directions, profiles, correlations with intervals over directions. Does not know: which texts are harmful.

Shapes: A amplitudes, K directions, N examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core import trees
from holdfast.core.results import Result
from holdfast.core.seeds import generator
from holdfast.core.statistics import Interval
from holdfast.data import Example
from holdfast.models import Subject, mean_loss

Array = NDArray[np.float64]
AMPLITUDES = (-0.5, -0.25, 0.25, 0.5)
DRAWS = 1000  # of the bootstrap over directions


@dataclass(frozen=True)
class Preservation(Result):
    """How alike two models' losses are along the same directions.

    Attributes:
        raw: Pearson over all (amplitude, direction); high for any two models.
        centred: the same after each model's mean over directions is taken off; interval over directions, 95 %.
        examples: Pearson over examples of the two losses at no change.
    """

    raw: float
    centred: Interval
    examples: float


def random_directions(matrices: Mapping[str, torch.Tensor], count: int, seed: int) -> list[trees.Tree]:
    """Gaussian directions over the matrices, each as long as its matrix, so that amplitude 1 doubles it.

    Raises:
        ValueError: fewer than two; one direction has no spread.
    """
    if count < 2:
        raise ValueError(f"count {count}: give 2 directions or more; 20 tell something")
    found = []
    for k in range(count):
        rng = generator(seed, "landscape", k)
        tree = {name: torch.randn(w.shape, generator=rng).to(w) for name, w in matrices.items()}
        found.append({name: d * (matrices[name].detach().norm() / d.norm()) for name, d in tree.items()})
    return found


@torch.no_grad()
def profiles(
    subject: Subject,
    examples: Sequence[Example],
    matrices: Mapping[str, torch.Tensor],
    directions: Sequence[trees.Tree],
    amplitudes: Sequence[float] = AMPLITUDES,
) -> tuple[Array, Array]:
    """Change of the mean loss along every direction (A, K), and the loss of each example at no change (N,).

    Args:
        matrices: weights of ``subject``'s model to be moved, by the names of the directions; bit-identical
            afterwards. An adapter's base weights do for merged ones: what is added to them is added to the sum.
        amplitudes: in units of the directions, without 0.
    """
    before = trees.clone(matrices)
    start_N = mean_loss(subject, examples).mean_N
    found = np.zeros((len(amplitudes), len(directions)))
    try:
        for k, direction in enumerate(directions):
            for a, amplitude in enumerate(amplitudes):
                trees.assign(matrices, trees.axpy(before, amplitude, direction))
                found[a, k] = mean_loss(subject, examples).mean_N.mean() - start_N.mean()
    finally:
        trees.assign(matrices, before)
    return found, start_N


def preservation(first: tuple[Array, Array], second: tuple[Array, Array], seed: int = 0) -> Preservation:
    """Compare what :func:`profiles` found for two models along the same directions."""
    (first_AK, first_N), (second_AK, second_N) = first, second
    rng = np.random.default_rng(seed)
    count = first_AK.shape[1]
    drawn = [rng.integers(0, count, count) for _ in range(DRAWS)]
    values = [centred_correlation(first_AK[:, k], second_AK[:, k]) for k in drawn if len(set(k)) > 1]
    low, high = np.nanquantile(values, [0.025, 0.975])
    centred = centred_correlation(first_AK, second_AK)
    return Preservation(
        correlation(first_AK, second_AK),
        Interval(centred, float(low), float(high), count, "bootstrap over directions"),
        correlation(first_N, second_N),
    )


def centred_correlation(first_AK: Array, second_AK: Array) -> float:
    """Pearson over all (amplitude, direction) of the profiles less their mean over directions."""
    return correlation(*(f - f.mean(1, keepdims=True) for f in (first_AK, second_AK)))


def correlation(first: Array, second: Array) -> float:
    """Pearson over all entries; NaN where one of the two does not vary."""
    x, y = (f.ravel() - f.mean() for f in (first, second))
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if scale > 0 else float("nan")
