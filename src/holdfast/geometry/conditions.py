"""The three instability conditions in numbers (geometry.md 1.4, Definition 5.1), truncated and not.

Knows: how epsilon and gamma follow from inner products with scores, and their unbiased split estimates.
Does not know: models; how the inner products were taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.core.results import Result
from holdfast.core.statistics import Interval
from holdfast.geometry.spectrum import Subspace

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ConditionsAt(Result):
    """The conditions for one number d of retained directions.

    Attributes:
        d: retained directions. lambda_d: the last one's eigenvalue.
        tail: trace outside the top d (condition 1; units of F).
        epsilon_E: ``||P_d g||``. epsilon_F: ``||F^1/2 P_d g||`` (condition 2; Euclidean and Fisher length).
        gamma_E: ``||P_d H g||``. gamma_F: ``||F^1/2 P_d H g||`` (condition 3 is gamma_F).
    """

    d: int
    lambda_d: float
    tail: float
    epsilon_E: float
    epsilon_F: float
    gamma_E: float
    gamma_F: float


@dataclass(frozen=True)
class Conditions(Result):
    """The instability conditions of a checkpoint for one skill and one task.

    Attributes:
        chosen: at the audit's d (directions before the noise, at least 1).
        by_d: the same for other d.
        epsilon_F, gamma_F: untruncated, by forward mode; their squares are unbiased in the prompts; intervals by
            bootstrap over prompts.
        epsilon_first_update: ``||F^1/2 u||`` of the optimiser's real first update per unit learning rate. For Adam
            this, not epsilon_F, decides how the onset starts.
        first_update_norm: ``||u||``.
        g_norm, Hg_norm: of the task gradient and of H g.
        epsilon_F_squared_split, gamma_F_squared_split: the squares from disjoint task data, free of the upward
            bias of gradient noise; may be negative, which is information.
        relative: lambda_d / trace, epsilon_E / ||g||, gamma_F / (sqrt(lambda_1) ||Hg||), epsilon_F likewise:
            comparable between models.
        optimizer, learning_rate: whose first update. task_examples: behind g and H.
    """

    chosen: ConditionsAt
    by_d: tuple[ConditionsAt, ...]
    epsilon_F: Interval
    gamma_F: Interval
    epsilon_first_update: Interval
    first_update_norm: float
    g_norm: float
    Hg_norm: float
    epsilon_F_squared_split: float
    gamma_F_squared_split: float
    relative: dict[str, float]
    optimizer: str
    learning_rate: float
    task_examples: int


def conditions_at(space: Subspace, trace: float, r_g: Array, r_Hg: Array, d: int) -> ConditionsAt:
    """Truncated quantities from ``r_g = G g`` and ``r_Hg = G H g``.

    Raises:
        ValueError: d is not between 1 and the sample's rank.
    """
    if not 1 <= d <= len(space.s):
        raise ValueError(f"d={d}: the sampled Fisher has {len(space.s)} directions")
    eigenvalues = space.eigenvalues
    return ConditionsAt(
        d,
        float(eigenvalues[d - 1]),
        max(0.0, trace - float(eigenvalues[:d].sum())),
        space.euclidean_squared(r_g, d) ** 0.5,
        space.fisher_squared(r_g, d) ** 0.5,
        space.euclidean_squared(r_Hg, d) ** 0.5,
        space.fisher_squared(r_Hg, d) ** 0.5,
    )


def conditions_by_d(
    space: Subspace, trace: float, r_g: Array, r_Hg: Array, ranks: Sequence[int]
) -> tuple[ConditionsAt, ...]:
    """:func:`conditions_at` for every d the sample supports."""
    usable = [d for d in ranks if 1 <= d <= len(space.s)]
    return tuple(conditions_at(space, trace, r_g, r_Hg, d) for d in usable)


def root(interval: Interval) -> Interval:
    """The interval of a length from that of its square; negative ends become 0."""
    low, high = (max(0.0, end) ** 0.5 for end in (interval.low, interval.high))
    return Interval(max(0.0, interval.value) ** 0.5, low, high, interval.n, interval.method)
