"""Conjugate gradients for ``(C + damping I) x = b`` with a certificate of how good an unfinished solve is.

Knows: CG on parameter trees, Gauss-Radau bounds of ``q = b^T M^-1 b``.
Does not know: what C is.

Source: restoration.md 3.4; the test numbers are its 4.5.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core import trees
from holdfast.core.trees import Tree

Stop = Literal["certified", "exact", "max_products", "not_positive"]
# Below this share of |b| a residual is rounding, not information.
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-13}


@dataclass(frozen=True)
class CGResult:
    """An (often unfinished) solve.

    Attributes:
        x: the iterate, a tree like ``b``. An early iterate is a safe step, only a less effective one.
        lower: ``b^T x``, a lower bound of q that grows with every product.
        upper: Gauss-Radau upper bound of q (infinite without damping until the solve is exact).
        certified_efficiency: ``sqrt(lower / upper)``: a step along x sized to a budget reaches at least this share
            of the best possible gain.
        products: matrix-vector products spent.
        residual: norm of the residual relative to ``b``. Not monotone; do not stop on it.
        stopped: "certified", "exact" (nothing left but rounding), "max_products", or "not_positive": a direction
            of non-positive curvature was met, so M is not positive definite; raise the damping and solve again.
        trace: (lower, upper) after every product.
    """

    x: Tree
    lower: float
    upper: float
    certified_efficiency: float
    products: int
    residual: float
    stopped: Stop
    trace: tuple[tuple[float, float], ...]


def solve(
    matvec: Callable[[Tree], Mapping[str, torch.Tensor]],
    b: Mapping[str, torch.Tensor],
    damping: float = 0.0,
    max_products: int = 100,
    target_efficiency: float = 0.95,
    progress: Callable[[float], None] | None = None,
) -> CGResult:
    """Solve ``(C + damping I) x = b`` from zero until the efficiency is certified.

    Args:
        matvec: ``v -> C v``, *without* the damping; symmetric positive semi-definite and the same matrix on every
            call (fixed data, fixed order), or the bounds are void.
        b: right-hand side, a tree.
        damping: >= 0; the bounds use that M >= damping I.
        max_products: stop after this many products.
        target_efficiency: stop when ``sqrt(lower / upper)`` reaches it.
        progress: called with 1.0 after every product.

    Returns:
        The iterate with its bounds. With b = 0 the solve is exact and empty.
    """
    if damping < 0:
        raise ValueError(f"damping {damping}: must not be negative")
    x, r = trees.zeros_like(b), trees.clone(b)
    b_square = trees.dot(r, r)
    if not np.isfinite(b_square):
        raise ValueError("the right-hand side has a NaN or an infinity")
    if b_square == 0:
        return CGResult(x, 0.0, 0.0, 1.0, 0, 0.0, "exact", ())
    p, r_square = trees.clone(r), b_square
    alphas: list[float] = []
    betas: list[float] = []
    trace: list[tuple[float, float]] = []
    lower, upper, stopped = 0.0, float("inf"), "max_products"
    rounding = max(ROUNDING.get(tensor.dtype, 1e-6) for tensor in r.values())
    for _ in range(max_products):
        m_p = trees.axpy(dict(matvec(p)), damping, p)
        curvature = trees.dot(p, m_p)
        if progress is not None:
            progress(1.0)
        if not np.isfinite(curvature) or curvature <= 0:
            trace.append((lower, upper))
            stopped = "not_positive"
            break
        alpha = r_square / curvature
        x, r = trees.axpy(x, alpha, p), trees.axpy(r, -alpha, m_p)
        new_square = trees.dot(r, r)
        beta = new_square / r_square
        alphas.append(alpha)
        betas.append(beta)
        lower = trees.dot(b, x)
        exact = new_square**0.5 <= rounding * b_square**0.5
        upper = lower if exact else min(upper, radau_upper(alphas, betas, b_square, damping))
        upper = max(upper, lower)
        trace.append((lower, upper))
        p, r_square = trees.axpy(r, beta, p), new_square
        if exact or (lower / upper) ** 0.5 >= target_efficiency:
            stopped = "exact" if exact else "certified"
            break
    efficiency = (lower / upper) ** 0.5 if np.isfinite(upper) and upper > 0 else 0.0
    residual = (r_square / b_square) ** 0.5
    return CGResult(x, lower, upper, efficiency, len(trace), residual, stopped, tuple(trace))


def radau_upper(alphas: list[float], betas: list[float], b_square: float, damping: float) -> float:
    """Gauss-Radau upper bound of ``b^T M^-1 b`` after k = len(alphas) iterations, from CG's own coefficients.

    The Lanczos matrix T_k has diagonal ``1/alpha_j + beta_{j-1}/alpha_{j-1}`` and off-diagonal
    ``sqrt(beta_j)/alpha_j``; one row is appended so that the extended matrix has ``damping`` as an eigenvalue.
    """
    if damping <= 0:
        return float("inf")
    alpha, beta = np.asarray(alphas), np.asarray(betas)
    k = len(alpha)
    diagonal = 1 / alpha
    diagonal[1:] += beta[:-1] / alpha[:-1]
    off = np.sqrt(beta) / alpha
    extended = np.diag(np.append(diagonal, 0.0)) + np.diag(off, 1) + np.diag(off, -1)
    last = np.zeros(k)
    last[-1] = off[-1] ** 2
    try:
        x = np.linalg.solve(extended[:k, :k] - damping * np.eye(k), last)
        extended[k, k] = damping + x[-1]
        column = cast(NDArray[np.float64], np.linalg.solve(extended, np.eye(k + 1)[0]))
        first = cast(float, column[0])
    except np.linalg.LinAlgError:
        return float("inf")
    bound = b_square * first
    # A Ritz value that rounding has pushed below the damping makes the extension indefinite: no bound then.
    return bound if bound > 0 and x[-1] > -damping else float("inf")
