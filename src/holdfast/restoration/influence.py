"""Repair by damped curvature-aware steps: up the refusals, along directions the task does not mind.

Source: restoration.md 1.5-1.8 and 3.3-3.8 with the corrections of notes-restoration.md: the refusal term is always
on (raising harmful losses alone brings no refusal back), the harmful one is an option; few products and many
linearisations; half of the closed-form step; projection by a rank-one term in the curvature instead of a
second solve. The conservative method: every step is paid for out of a cumulative budget and measured by
forward passes on task examples that the curvature has not seen.

Knows: one outer iteration and the loop around it. Does not know: where examples come from, how a solve works.
"""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from holdfast.core import trees
from holdfast.core.progress import track
from holdfast.curvature import fisher_quadratic, solvers
from holdfast.data import Example
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, adapter_parameters, lora_pairs
from holdfast.restoration import step
from holdfast.restoration.attempt import Attempt, Best
from holdfast.restoration.balance import gauge_residual
from holdfast.restoration.curved import Curvature
from holdfast.restoration.guard import Guard
from holdfast.restoration.material import Material
from holdfast.restoration.objective import Objective
from holdfast.restoration.validation import Validation

PROJECTION = 5.0  # times tr(C), which bounds the largest eigenvalue of C from above without estimating it
MOST_DAMPING = 1e3
GUARDED = 128  # task examples that measure a candidate; the curvature never sees them
CLOSED = 0.1  # greedy refusals come back long before their loss does: go on until a tenth of the gap is left


def task_form(subject: Subject, examples: Sequence[Example], v: trees.Tree) -> float:
    """``v^T C v`` of the GGN of the mean loss (mean of examples' token means): one forward pass."""
    tokens_N = np.array([max(1, example.completion_tokens) for example in examples])
    return float((fisher_quadratic(subject, examples, v, 32) / tokens_N).mean())


def influence(
    subject: Subject,
    material: Material,
    validation: Validation,
    best: Best,
    *,
    outer: int = 12,
    solver: str = "ggn-cg",
    products: int = 6,
    damping: float = 1.0,
    contrast_weight: float = 1.0,
    harmful_weight: float = 0.0,
    most_ratio: float | None = None,
    curvature_examples: int = 32,
    seed: int = 0,
    progress: bool = True,
    tell: Callable[[float], None] = lambda seconds: None,
) -> Attempt:
    """Re-linearise, solve, step, measure, up to ``outer`` times; changes the subject's adapter in place.

    Args:
        validation: of the part that chooses.
        best: is offered every check; its limit is the budget.
        solver: one of :data:`holdfast.restoration.curved.SOLVERS`.
        products: most products a solve; certified efficiency is reported (0: none), not
            required.
        damping: c in ``lambda = c tr(C) / p``; ten times larger after a refused step.
        contrast_weight: weight of keeping refusals of harmless prompts unlikely; 0 leaves over-refusal to chance.
        harmful_weight: weight of raising the drifted model's own harmful answers; off by default.
        most_ratio: refuse a direction that costs the task more than so many times as much on examples the
            curvature has not seen (3.6 has 2). Off: a step is sized by what the unseen ones say, and measured
            on them before it is kept.
        curvature_examples: task examples in the curvature, and as many retained ones.
        tell: is given the seconds of the first iteration, once it is made.
    """
    subject = Subject(subject.model, subject.tokenizer, "adapter")
    adapter = adapter_parameters(subject.model)
    curvature = Curvature(
        subject,
        material.task_fit[: min(curvature_examples, len(material.task_fit) // 2)],
        material.retain_fit[:curvature_examples],
    )
    unseen = material.task_fit[len(curvature.task) :][:GUARDED]
    objective = Objective(subject, material, contrast_weight, harmful_weight)
    guard = Guard(subject, unseen, material.retain_fit, objective, best.limit, validation.max_new_tokens)
    outers = _Outer(subject, adapter, curvature, guard, solver, products, damping, seed, most_ratio)
    trace, notes, refused, started = [best.start], [], 0, time.monotonic()
    for k in track(range(1, outer + 1), "restoring by curvature-aware steps", enabled=progress):
        # the whole budget by two thirds of the way: a schedule as slow as k / K was what held the repair back
        note = outers.step(min(1.0, 1.5 * k / outer))
        if k == 1:
            tell(time.monotonic() - started)
        notes.append({"outer": float(k), **note})
        refused = refused + 1 if note["eta"] == 0 else 0
        if refused == 2:
            break
        if refused:
            continue
        trace.append(validation.check(k))
        best.offer(trace[-1], adapter)
        if best.restored and outers.measured.objective >= CLOSED * outers.gap:
            break
    return Attempt(tuple(trace), tuple(notes))


class _Outer:
    """One outer iteration and what it carries to the next: damping and the trace of the first curvature."""

    def __init__(
        self,
        subject: Subject,
        adapter: dict,
        curvature: Curvature,
        guard: Guard,
        solver: str,
        products: int,
        damping: float,
        seed: int,
        most_ratio: float | None = None,
    ) -> None:
        self.subject, self.adapter, self.curvature, self.guard = subject, adapter, curvature, guard
        self.solver, self.products, self.c, self.most_ratio = solver, products, damping, most_ratio or math.inf
        self.unseen = guard.task[: 2 * len(curvature.task)]
        self.trace = curvature.trace(seed)
        self.measured = guard.measure()
        self.gap = self.measured.objective  # below zero: how far the objective is from the aligned model's level

    def step(self, share: float) -> dict[str, float]:
        """Linearise, solve, size, backtrack, within ``share`` of the budgets.

        A direction above ``most_ratio`` is refused untried: it runs where the curvature was not looking (3.6).

        Returns:
            What the report wants to know; ``eta`` is 0 if the step was refused.
        """
        guard, curvature = self.guard, self.curvature
        gradient = guard.objective.gradient()
        residual = self._gauge_residual(gradient)
        task_gradient = mean_gradient(self.subject, self.unseen)
        protected = [task_gradient]
        if curvature.retain:
            protected.append(mean_gradient(self.subject, curvature.retain))
        curvature.protect(protected, PROJECTION * self.trace)
        lam = self.c * self.trace / trees.size(gradient)
        solved = solvers.solve(self.solver, curvature.problem(gradient, lam, self.solver), self.products)
        s = solved.x
        gain = trees.dot(gradient, s)
        form, seen = task_form(self.subject, self.unseen, s), task_form(self.subject, curvature.task, s)
        ratio = form / seen if seen > 0 else math.inf
        before = self.measured
        slope, left = max(trees.dot(task_gradient, s), 0.0), max(share * guard.limit - before.task, 0.0)
        # the closed-form budget step is too long on nearly every adapter step (notes): start at half of it
        eta = min(0.5 * step.budget_step(left, slope, max(form, 0.0)), step.target_step(-before.objective, gain))
        here = trees.clone(self.adapter)
        taken, halvings = 0.0, 0
        if ratio <= self.most_ratio and gain > 0 and 0 < eta < math.inf:

            def accepted(candidate: float) -> bool:
                trees.assign(self.adapter, trees.axpy(here, candidate, s))
                self.measured = guard.measure()
                return guard.allows(self.measured, share, before.objective + 0.1 * candidate * gain)

            taken, halvings = step.backtrack(eta, accepted)
        if taken == 0:
            trees.assign(self.adapter, here)
            self.measured = before
            self.c = min(10 * self.c, MOST_DAMPING)
        return {
            "eta": taken,
            "first_eta": eta,
            "halvings": float(halvings),
            "lambda": lam,
            "products": float(solved.products),
            "certified_efficiency": solved.certified_efficiency or 0.0,
            "sampling_ratio": ratio,
            "gauge_residual": residual,
            "predicted_gain": taken * gain,
            "predicted_task_increase": step.task_change(taken, slope, max(form, 0.0)),
            "measured_gain": self.measured.objective - before.objective,
            "task_increase_fit": self.measured.task,
            "retain_increase_fit": self.measured.retain,
            "kl_fit": self.measured.kl,
            # gain per root budget of the exact quadratic model: says how cheap the repair is
            "gain_per_root_budget": gain * math.sqrt(2 / form) if form > 0 else math.inf,
        }

    def _gauge_residual(self, gradient: trees.Tree) -> float:
        """The largest of all layers: far from zero, the gradient is not one of a function of ``B A`` (3.1)."""
        names = {id(parameter): name for name, parameter in self.adapter.items()}
        return max(
            gauge_residual(a_RI.detach(), b_OR.detach(), gradient[names[id(a_RI)]], gradient[names[id(b_OR)]])
            for a_RI, b_OR, _ in lora_pairs(self.subject.model).values()
        )
