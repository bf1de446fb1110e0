"""First-order projection: updates keep off the directions in which the skill is most sensitive at the start.

    g ← g - V Vᵀ g,    V the leading k right singular vectors of the gradients of log p(y_i | x_i) at θ0

Source: null-space and gradient-filtering methods, as geometry.md 1.8 describes them. Theory says that it must
fail: the subspace turns as the model moves (c4 of geometry.md 1.7), Adam's scaling turns a projected gradient back
into it, and a fresh LoRA adapter shows half of the directions only. Uncertain: how many to take.
"""

from collections.abc import Mapping
from typing import Any

import torch

from holdfast.core.defence import Defence, Material
from holdfast.core.errors import UserError
from holdfast.defences.ewc import answer_gradients
from holdfast.defences.start import trained
from holdfast.models import Subject


class Projection(Defence):
    """See the formula above.

    Args:
        prompts: of the skill; the first 64 are used.
        directions: k.
        seed: of the answers.
        max_new_tokens: of an answer.

    Raises:
        UserError: no prompts; fewer than one direction.
    """

    name = "projection"
    knob = "directions"
    needs = frozenset({"prompts"})  # type: ignore[assignment]

    def __init__(self, prompts: Any, directions: int = 16, seed: int = 0, max_new_tokens: int = 32) -> None:
        if not prompts or directions < 1:
            raise UserError(f"projection: {len(prompts)} prompts, {directions} directions; give 1 or more of each")
        self.prompts, self.directions, self.seed = tuple(prompts), directions, seed
        self.max_new_tokens = max_new_tokens
        self.notes: Mapping[str, float] = {}
        self._names: list[str] = []
        self._basis_PK = torch.empty(0)

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "Projection":
        count = 16 if knob is None else int(knob)
        return cls(material.prompts, count, seed=material.seed, max_new_tokens=material.max_new_tokens)

    def begin(self, subject: Subject) -> None:
        self._names = list(trained(subject.model))
        gradients = answer_gradients(subject, self.prompts, self.max_new_tokens, self.seed)
        rows_NP = torch.stack([torch.cat([g[name].flatten().float() for name in self._names]) for g in gradients])
        _, _, right_NP = torch.linalg.svd(rows_NP, full_matrices=False)
        self._basis_PK = right_NP[: self.directions].T.contiguous()

    def update(self, step: int, gradients: Mapping[str, torch.Tensor]) -> None:
        names = [name for name in self._names if name in gradients]
        if names != self._names:
            raise UserError(f"projection: no gradient for {sorted(set(self._names) - set(names))[0]}")
        flat_P = torch.cat([gradients[name].flatten().float() for name in names])
        away_P = self._basis_PK @ (self._basis_PK.T @ flat_P)
        self.notes = {"removed_share": float(away_P.norm() / flat_P.norm().clamp_min(1e-30))}
        for name, part in zip(names, away_P.split([gradients[n].numel() for n in names]), strict=True):
            gradients[name].sub_(part.view_as(gradients[name]))
