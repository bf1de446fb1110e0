"""The arithmetic of one budgeted step: how long it may be.

Numbers in, numbers out: this file knows nothing of models, tensors or solvers. Letters as in restoration.md
1.1: ``s`` the preconditioned direction M^-1 g, ``a`` = g_T^T s, ``b`` = s^T C s, ``tau`` the budget in nats a
token. Gains are to first order and costs to
second order: both are predictions, and every step is measured again before it is taken.
"""

import math
from collections.abc import Callable

from holdfast.core.errors import UserError


def task_change(eta: float, a: float, b: float) -> float:
    """Quadratic model of the task change by ``eta s``: ``eta a + eta^2 b / 2`` (restoration.md 1.7)."""
    return eta * a + 0.5 * eta * eta * b


def budget_step(tau: float, a: float, b: float) -> float:
    """Largest ``eta`` with ``eta a + eta^2 b / 2 <= tau``, by the stable root (restoration.md 3.6, 1).

    Infinite where the model sees no cost (``a <= 0`` and ``b = 0``): another rule must then bind.
    Callers that do not trust a descending task gradient pass ``max(a, 0)``.

    Raises:
        UserError: for a budget or a curvature below zero.
    """
    if tau < 0 or b < 0:
        raise UserError(f"task budget {tau} and curvature {b} must not be negative; check the budget you set")
    denominator = a + math.sqrt(a * a + 2 * b * tau)
    if denominator > 0:
        return 2 * tau / denominator
    # a <= 0 with no budget or no curvature: the parabola's other root, or no limit at all
    return -2 * a / b if b > 0 else math.inf


def target_step(remaining_gap: float, gain_per_unit: float) -> float:
    """``eta`` that closes the gap left to the aligned model, to first order (restoration.md 3.6, 3)."""
    return math.inf if gain_per_unit <= 0 else max(remaining_gap, 0.0) / gain_per_unit


def backtrack(eta: float, accepted: Callable[[float], bool], max_halvings: int = 12) -> tuple[float, int]:
    """Halve ``eta`` until ``accepted(eta)``: (eta, halvings), eta = 0 if none was (restoration.md 3.7).

    ``accepted`` measures the candidate by forward passes: the quadratic model is not asked again here.
    """
    for halvings in range(max_halvings + 1):
        if accepted(eta):
            return eta, halvings
        eta /= 2
    return 0.0, max_halvings
