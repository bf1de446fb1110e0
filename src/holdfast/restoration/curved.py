"""The curvature of what a repair must not hurt: the task and, a tenth as much, what is to be retained.

Source: restoration.md 1.7, 3.3-3.5, notes-restoration.md (projection by stiff directions).

Knows: fixed examples, the matrix they stand for, what each solver needs of it. Does not know: what is raised.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from holdfast.core import trees
from holdfast.core.seeds import generator
from holdfast.curvature import ggn_operator, hvp_operator
from holdfast.curvature.solvers import Problem
from holdfast.data import Example
from holdfast.gradients import mean_gradient
from holdfast.models import Subject

RETAIN_FACTOR = 10.0  # greedy self-answers have loss near 0: a budget as strict as the task's blocks everything
TRACE_DRAWS = 2
DIAGONAL_DRAWS = 4
PATH_STEPS = 10  # of plain descent on the task loss, for lbfgs-traj
SOLVERS = ("ggn-cg", "hessian-cg", "lbfgs-aux", "lbfgs-traj", "woodbury", "diagonal", "identity")


class Curvature:
    """``C = GGN_task + GGN_retain / 10`` on fixed examples, with the protected gradients made stiff.

    Adding ``b g g^T / |g|^2`` for each protected gradient g tends to the explicit projection of restoration.md 1.7
    as b grows and costs one more product in all, not a second solve (notes, what worked, 3).
    """

    def __init__(self, subject: Subject, task: Sequence[Example], retain: Sequence[Example]) -> None:
        self.subject, self.task, self.retain = subject, task, retain
        self.parts = [
            (examples, share) for examples, share in ((task, 1.0), (retain, 1 / RETAIN_FACTOR)) if examples
        ]
        self.operators = [ggn_operator(subject, examples, batch_size=32) for examples, _ in self.parts]
        self.stiff: list[trees.Tree] = []

    def protect(self, gradients: Sequence[trees.Tree], stiffness: float) -> None:
        """Make the given gradients' directions expensive."""
        lengths = [trees.norm(g) for g in gradients]
        self.stiff = [trees.scale(g, stiffness**0.5 / n) for g, n in zip(gradients, lengths, strict=True) if n > 0]

    def plain(self, v: Mapping[str, torch.Tensor]) -> trees.Tree:
        """``C v`` without the stiff directions."""
        return self._sum([operator(v) for operator in self.operators])

    def problem(self, b: trees.Tree, damping: float, solver: str) -> Problem:
        """``(C + stiff + damping I) x = b`` with what ``solver`` needs, at the subject's present parameters."""
        given: dict[str, Any] = {"products": self.plain}
        if solver == "hessian-cg":
            operators = [hvp_operator(self.subject, examples, batch_size=32) for examples, _ in self.parts]
            given["hessian"] = lambda v: self._sum([operator(v) for operator in operators])
        elif solver == "woodbury":
            given["rows"] = self._rows()
        elif solver == "diagonal":
            given["diagonal"] = self._diagonal()
        elif solver == "lbfgs-traj":
            given["pairs"] = self._path(1 / max(self.trace(0) / trees.size(b), 1e-12))
        return Problem(b, damping, stiff=self.stiff, **given)

    def trace(self, seed: int) -> float:
        """Hutchinson's estimate with Rademacher signs (restoration.md 3.5)."""
        signs = [self._signs(f"trace/{seed}", k) for k in range(TRACE_DRAWS)]
        return max(sum(trees.dot(v, self.plain(v)) for v in signs) / TRACE_DRAWS, 1e-12)

    def _sum(self, of_parts: Sequence[Mapping[str, torch.Tensor]]) -> trees.Tree:
        total = trees.zeros_like(of_parts[0])
        for part, (_, share) in zip(of_parts, self.parts, strict=True):
            total = trees.axpy(total, share, part)
        return total

    def _signs(self, name: str, draw: int) -> trees.Tree:
        rng = generator(draw, "restoration", name)
        return {
            name: (p.new_empty(p.shape, device="cpu").bernoulli_(0.5, generator=rng) * 2 - 1).to(p.device)
            for name, p in trees.clone(self.subject.parameters()).items()
        }

    def _rows(self) -> list[trees.Tree]:
        """Gradients of the labels, a row each: the empirical Fisher."""
        return [
            trees.scale(mean_gradient(self.subject, [example]), (share / len(examples)) ** 0.5)
            for examples, share in self.parts
            for example in examples
        ]

    def _diagonal(self) -> trees.Tree:
        """Estimated by signs: mean of ``v * C v``, never below zero."""
        total = trees.zeros_like(self._signs("diagonal", 0))
        for k in range(DIAGONAL_DRAWS):
            signs = self._signs("diagonal", k)
            product = self.plain(signs)
            total = {name: total[name] + signs[name] * product[name] for name in total}
        return trees.apply(trees.scale(total, 1 / DIAGONAL_DRAWS), lambda t: t.clamp_min(0.0))

    def _path(self, rate: float) -> list[tuple[trees.Tree, trees.Tree]]:
        """Pairs met while plain descent lowers the loss on these examples; parameters end where they were."""
        parameters, pairs = self.subject.parameters(), []
        here = trees.clone(parameters)
        try:
            before = self._sum([mean_gradient(self.subject, examples) for examples, _ in self.parts])
            for _ in range(PATH_STEPS):
                step = trees.scale(before, -rate)
                trees.assign(parameters, trees.axpy(trees.clone(parameters), 1.0, step))
                after = self._sum([mean_gradient(self.subject, examples) for examples, _ in self.parts])
                pairs.append((step, trees.subtract(after, before)))
                before = after
        finally:
            trees.assign(parameters, here)
        return pairs
