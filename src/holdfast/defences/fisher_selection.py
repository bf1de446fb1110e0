"""Curvature-aware selection: of a pool's rows, those whose summed update is short where the skill is sensitive.

    keep S of the pool, |S| = keep · B, so that  Σ_k ⟨s_k, Σ_{b in S} g_b⟩²  is small,

g_b the gradient of a row's summed loss, s_k that of log p(y_k | x_k) for A answers of the aligned model, drawn
anew at every update and taken at the current point. (1/A) Σ_k s_k s_kᵀ estimates the Fisher matrix of sequences,
so the sum over A is uᵀFu for the plain step u = Σ g_b: what the step moves the skill by, to second order.
Rows may cancel each other; of all rows the one whose leaving shortens the sum most goes, until S are left.

Source: ours; the form is geometry.md 1.7. Norm rules drop long gradients, this one long shadows on the skill.
Uncertain: an optimiser with its own scaling steps elsewhere than along u; few answers see few directions.
Costs a pass over the pool beside the training step, and A backward passes of one short row each.

Shapes: B rows, A answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core.defence import Choice, Material, PoolView
from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.core.trees import Tree
from holdfast.data import Example
from holdfast.defences.deck import Deck, FromDeck
from holdfast.defences.ewc import log_p_gradients
from holdfast.evaluation.behaviour import sample_answers
from holdfast.gradients import GhostEngine
from holdfast.models import Subject

Array = NDArray[np.float64]


class FisherSelection(FromDeck):
    """See the formula above.

    Args:
        prompts: of the skill.
        keep: share of the pool that is trained on.
        answers: A.
        seed: of the answers and their draws.
        max_new_tokens: of an answer.

    Raises:
        UserError: no prompts; a share that is none.
    """

    name = "fisher-selection"
    knob = "keep"
    needs = frozenset({"prompts", "rows"})  # type: ignore[assignment]

    def __init__(
        self, prompts: Any, keep: float = 0.5, answers: int = 8, seed: int = 0, max_new_tokens: int = 32
    ) -> None:
        if not prompts or answers < 1:
            raise UserError(f"fisher-selection: {len(prompts)} prompts, {answers} answers; give 1 or more of each")
        if not 0 < keep <= 1:
            raise UserError(f"fisher-selection: keep={keep}: give a share above 0, at most 1")
        self.prompts, self.keep, self.answers, self.seed = tuple(prompts), keep, answers, seed
        self.max_new_tokens = max_new_tokens
        self.notes: Mapping[str, float] = {}
        self._subject: Subject | None = None
        self._examples: list[Example] = []
        self._engine: GhostEngine | None = None

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "FisherSelection":
        keep = 0.5 if knob is None else knob
        return cls(material.prompts, keep, seed=material.seed, max_new_tokens=material.max_new_tokens)

    def begin(self, subject: Subject) -> None:
        own = derive_seed(self.seed, self.name)
        self._subject = subject
        self._examples = sample_answers(subject, self.prompts, self.max_new_tokens, seed=own)
        self._deck = Deck(len(self._examples), 1, own)
        self._engine = GhostEngine(subject.model, subject.parameters())

    def choose(self, pool: PoolView) -> Choice:
        assert self._subject is not None and self._deck is not None and self._engine is not None
        drawn = [self._examples[k] for k in self._deck.draw(self.answers)]
        directions: list[Tree] = log_p_gradients(self._subject, drawn)
        dots_BA = self._engine.dots(pool.rows, directions, "sum").numpy()
        usable = np.flatnonzero(torch.as_tensor(pool.tokens_B).numpy() > 0)
        kept = usable[shortest(dots_BA[usable], round(self.keep * len(usable)))]
        whole, part = (float(np.square(dots_BA[rows].sum(0)).mean()) for rows in (usable, kept))
        self.notes = {"fisher_form_kept": part / whole if whole > 0 else 1.0}
        return Choice(tuple(int(k) for k in kept), len(dots_BA), {"fisher_form": part})


def shortest(dots_BA: Array, count: int) -> Sequence[int]:
    """Rows, in order, that are left when the one whose leaving shortens the sum most has gone, again and again."""
    left, total_A = list(range(len(dots_BA))), dots_BA.sum(0)
    while len(left) > max(1, count):
        without_LA = total_A - dots_BA[left]
        worst = int(np.argmin(np.square(without_LA).sum(1)))
        total_A = without_LA[worst]
        del left[worst]
    return left
