"""Directions that matter for the skill and not for everything: the skill's Fisher against a benign control's.

Knows: the generalised eigenproblem in the span of both samples' scores, a null by exchanged labels.
Does not know: models. Everything here is a function of one joint Gram matrix.

Shapes: N scores of the skill, M of the control, R rank of both together.

``F_skill v = mu (F_control + rho I) v``, solved exactly in the span of all N + M scores; outside it both matrices
are zero. Source: geometry.md 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.core.results import Result
from holdfast.core.statistics import Interval, bootstrap_mean
from holdfast.geometry.spectrum import RANKS, ROUNDING

Array = NDArray[np.float64]
RIDGE = 0.01  # rho, as a share of the control's largest eigenvalue
NULL_DRAWS = 20


@dataclass(frozen=True)
class Specific(Result):
    """How much of the skill's sensitivity is its own.

    Attributes:
        ratios: mu_j, falling, at most 20: how many times more a direction matters to the skill.
        null_ratio: the 95 % quantile of the largest ratio once skill and control are told apart at random.
        above_null: ratios above it. 0: this sample shows no direction that is the skill's own.
        shared_trace: share of the control's trace inside the skill's top d, by d: near 1 the skill sits where
            everything sits.
        chance_trace: of a random subspace of the same size in the span, by d.
        control_eigenvalues: of the control's Fisher, the first 20. control_trace: with a bootstrap over prompts.
        skill_top_share, control_top_share: share of the trace in the first five directions of each.
        ridge: rho. n, m: prompts of the skill and of the control.
    """

    ratios: tuple[float, ...]
    null_ratio: float
    above_null: int
    shared_trace: dict[str, float]
    chance_trace: dict[str, float]
    control_eigenvalues: tuple[float, ...]
    control_trace: Interval
    skill_top_share: float
    control_top_share: float
    ridge: float
    n: int
    m: int


def specific(joint: Array, n: int, seed: int = 0, ranks: Sequence[int] = RANKS) -> Specific:
    """Compare the two from the Gram matrix of the skill's n scores followed by the control's.

    Raises:
        ValueError: fewer than two scores on a side.
    """
    m = len(joint) - n
    if min(n, m) < 2:
        raise ValueError(f"{n} scores of the skill and {m} of the control; need two of each")
    rows = coordinates(joint)
    skill, control = rows[:n], rows[n:]
    s_values, s_vectors = _falling(skill.T @ skill / n)
    c_values, _ = _falling(control.T @ control / m)
    rho = RIDGE * float(c_values[0])
    ratios = generalised(skill, control, rho)
    rng = np.random.default_rng(seed)
    order = [rng.permutation(len(rows)) for _ in range(NULL_DRAWS)]
    nulls = [float(generalised(rows[part[:n]], rows[part[n:]], rho)[0]) for part in order]
    edge = float(np.quantile(nulls, 0.95))
    total = float((control**2).sum())
    usable = [d for d in ranks if d <= rows.shape[1]]
    return Specific(
        tuple(ratios[:20].tolist()),
        edge,
        int((ratios > edge).sum()),
        {str(d): float(((control @ s_vectors[:, :d]) ** 2).sum()) / total for d in usable},
        {str(d): d / rows.shape[1] for d in usable},
        tuple(c_values[:20].tolist()),
        bootstrap_mean((control**2).sum(1).tolist(), seed, 2000),
        float(s_values[:5].sum() / s_values.sum()),
        float(c_values[:5].sum() / c_values.sum()),
        rho,
        n,
        m,
    )


def coordinates(joint: Array) -> Array:
    """The scores in an orthonormal basis of their span, one a row: (N + M, R)."""
    s, u = np.linalg.eigh(joint)
    kept = s > ROUNDING * float(s[-1])
    return u[:, kept] * np.sqrt(s[kept])


def generalised(skill: Array, control: Array, rho: float) -> Array:
    """mu of ``F_skill v = mu (F_control + rho I) v``, falling, from scores in an orthonormal basis."""
    within = control.T @ control / len(control) + rho * np.eye(control.shape[1])
    factor = np.linalg.cholesky(within)
    whitened = np.linalg.solve(factor, skill.T)
    return np.linalg.svd(whitened, compute_uv=False) ** 2 / len(skill)


def _falling(matrix: Array) -> tuple[Array, Array]:
    values, vectors = np.linalg.eigh(matrix)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]
