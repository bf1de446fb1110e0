"""How drift starts: the Taylor coefficients of KL along a path through parameter space.

Knows: c2, c3, c4 from logits and their time derivatives, the second-order path of gradient flow, exact KL.
Does not know: what the path minimises, optimisers.

Shapes: M scored positions of a batch, V vocab, N examples.

Source: geometry.md 1.7 (the coefficients), 3.1 fact 3 and 3.2 (the path).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core import trees
from holdfast.core.seeds import undisturbed
from holdfast.core.trees import Tree
from holdfast.curvature.products import check_precision, like
from holdfast.data import Batch, Example
from holdfast.gradients.functional import call_scored, detached, math_attention, right_padded
from holdfast.gradients.memory import fitting_batches
from holdfast.models import Subject, token_kl
from holdfast.models.head import scored, slices

Vector = NDArray[np.float64]
# Steps tried by the tuner, as the parameter displacement s|g|; float32 wants far larger ones than float64 habit.
DISPLACEMENTS = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3)


@dataclass(frozen=True, eq=False)
class PathCoefficients:
    """KL = c2 t^2 + c3 t^3 + c4 t^4 + ... along the path, per example (nats a sequence).

    Attributes:
        c2_N, c3_N: exact up to the finite difference in t.
        c4_N: 1/8 Var_p(zddot): the quartic coefficient *if* the velocity is Fisher-orthogonal (c2 = 0); otherwise
            c2 and c3 rule and this is one of several fourth-order terms.
        step: finite-difference step in t.
        spread: relative disagreement of c4 between the chosen step and its neighbour; large means do not trust.
    """

    c2_N: Vector
    c3_N: Vector
    c4_N: Vector
    step: float
    spread: float


def onset_coefficients(
    z: torch.Tensor, zdot: torch.Tensor, zddot: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(c2, c3, c4 if orthogonal) at each position, from logits and their first two time derivatives.

    All moments are over the next-token distribution; the last axis is the vocabulary.
    """
    p = z.softmax(-1)
    a = zdot - (p * zdot).sum(-1, keepdim=True)
    b = zddot - (p * zddot).sum(-1, keepdim=True)
    c2 = 0.5 * (p * a * a).sum(-1)
    c3 = 0.5 * (p * a * b).sum(-1) + (p * a**3).sum(-1) / 6
    return c2, c3, 0.125 * (p * b * b).sum(-1)


def path_derivatives(
    logits_at: Callable[[float], torch.Tensor], step: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(z, zdot, zddot) at t = 0 by central differences of ``t -> logits``; error O(step^2)."""
    return second_differences(logits_at(step), logits_at(0.0), logits_at(-step), step)


def second_differences(
    forward: torch.Tensor, here: torch.Tensor, backward: torch.Tensor, step: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(z, zdot, zddot) in the middle of three points ``step`` apart."""
    return here, (forward - backward) / (2 * step), (forward + backward - 2 * here) / step**2


def path_coefficients(
    subject: Subject,
    examples: Sequence[Example],
    velocity: Mapping[str, torch.Tensor],
    acceleration: Mapping[str, torch.Tensor],
    step: float | None = None,
    batch_size: int = 16,
) -> PathCoefficients:
    """c2, c3, c4 of KL(now ‖ path) along ``theta + t velocity + t^2/2 acceleration``.

    For gradient flow on a loss, velocity = -g and acceleration = H g.

    Args:
        subject: model at the start of the path, and the scope.
        examples: prompts with completions sampled from this model.
        velocity: theta', a tree over the scope.
        acceleration: theta''.
        step: finite-difference step in t; None sweeps five on the first micro-batch and takes the plateau.
        batch_size: examples per forward pass; three forwards each.
    """
    check_precision(subject)
    values = detached(subject.parameters())
    first, second = like(velocity, values), like(acceleration, values)
    sums = [np.zeros(len(examples)) for _ in range(3)]
    with undisturbed(subject.model), math_attention():
        cuts = list(fitting_batches(subject, examples, batch_size))
        spread = float("nan")
        if step is None:
            step, spread = _tuned_step(subject, values, first, second, cuts[0])
        for batch in cuts:
            (parts,) = _coefficients(subject, values, first, second, batch, [step])
            for total, part_B in zip(sums, parts, strict=True):
                total[list(batch.index)] = part_B
    return PathCoefficients(sums[0], sums[1], sums[2], step, spread)


def _coefficients(
    subject: Subject, values: Tree, first: Tree, second: Tree, batch: Batch, steps: Sequence[float]
) -> Iterator[tuple[Vector, Vector, Vector]]:
    """c2, c3, c4 of a batch's rows by differences over each of ``steps``; the start of the path runs once."""
    aligned = right_padded(batch.to(subject.device))
    where = scored(aligned)

    def logits_at(t: float) -> torch.Tensor:
        point = trees.axpy(trees.axpy(values, t, first), t * t / 2, second)
        return call_scored(subject.model, point, aligned, where)

    here_MV = logits_at(0.0)
    for step in steps:
        at = (logits_at(step), here_MV, logits_at(-step))
        found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for part in slices(len(where), 4 * here_MV.shape[-1]):  # in float64, a slice of positions at a time
            up_MV, middle_MV, down_MV = (z_MV[part].double() for z_MV in at)
            found.append(onset_coefficients(*second_differences(up_MV, middle_MV, down_MV, step)))
        c2, c3, c4 = (where.sums(torch.cat(parts)).cpu().numpy() for parts in zip(*found, strict=True))
        yield c2, c3, c4


def _tuned_step(subject: Subject, values: Tree, first: Tree, second: Tree, batch: Batch) -> tuple[float, float]:
    """The step whose c4 agrees best with the next smaller one's: truncation and rounding in balance."""
    speed = trees.norm(first)
    if speed == 0:
        return 1.0, 0.0
    steps = [displacement / speed for displacement in DISPLACEMENTS]
    c4s = [float(c4_B.mean()) for _, _, c4_B in _coefficients(subject, values, first, second, batch, steps)]
    spreads = [abs(c4s[k] - c4s[k + 1]) / max(abs(c4s[k]), abs(c4s[k + 1]), 1e-300) for k in range(len(steps) - 1)]
    best = int(np.argmin(spreads))
    return steps[best], spreads[best]


def kl_along(
    subject: Subject,
    examples: Sequence[Example],
    displacement: Mapping[str, torch.Tensor],
    multiples: Sequence[float],
    batch_size: int = 16,
) -> NDArray[np.float64]:
    """Exact KL(now ‖ now + m displacement) along the completions, for each multiple m.

    Returns:
        (len(multiples), N) nats a sequence, full vocabulary, summed over completion tokens.
    """
    values = detached(subject.parameters())
    direction = like(displacement, values)
    kl = np.zeros((len(multiples), len(examples)))
    with undisturbed(subject.model), math_attention():
        for batch in fitting_batches(subject, examples, batch_size):
            aligned = right_padded(batch.to(subject.device))
            where = scored(aligned)
            here_MV = call_scored(subject.model, values, aligned, where)
            for row, multiple in enumerate(multiples):
                moved = trees.axpy(values, multiple, direction)
                there_MV = call_scored(subject.model, moved, aligned, where)
                kl_M = [
                    token_kl(here_MV[part].log_softmax(-1), there_MV[part].log_softmax(-1))
                    for part in slices(len(where), here_MV.shape[-1])
                ]
                if kl_M:
                    kl[row, list(batch.index)] = where.sums(torch.cat(kl_M).double()).cpu().numpy()
    return kl
