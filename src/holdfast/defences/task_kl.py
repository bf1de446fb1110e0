"""Task KL: the model may not leave its start on the task's own rows.

    task loss + w · mean over tokens of KL(p_start(·|x, y_<t) ‖ p_θ(·|x, y_<t)),    (x, y) the update's first rows

Source: the KL regulariser of fine-tuning and of RLHF (Ziegler et al. 2019), compared as "KL" by Bach et al. 2026
(selection.md 2.1). Uncertain: which rows and which direction the latter take; it holds the task back as much as it
holds the skill, which is the point of comparing it.
"""

from collections.abc import Mapping
from typing import Any

import torch

from holdfast.core.defence import Defence, Material
from holdfast.data import Batch
from holdfast.defences.start import Start, first_rows
from holdfast.evaluation.remembered import batch_logits
from holdfast.models import Subject


class TaskKL(Defence):
    """See the formula above.

    Args:
        weight: w.
        per_step: rows of an update that it looks at.
    """

    name = "task-kl"
    knob = "weight"
    needs = frozenset({"rows"})  # type: ignore[assignment]

    def __init__(self, weight: float = 0.3, per_step: int = 8) -> None:
        self.weight, self.per_step = weight, per_step
        self.notes: Mapping[str, float] = {}
        self._start: Start | None = None
        self._rows: Batch | None = None

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "TaskKL":
        return cls() if knob is None else cls(knob)

    def begin(self, subject: Subject) -> None:
        self._start = Start(subject)

    def see(self, rows: Batch) -> None:
        self._rows = first_rows(rows, self.per_step)

    def loss(self, model: Any, step: int) -> torch.Tensor | None:
        assert self._start is not None and self._rows is not None
        batch = self._rows.to(next(model.parameters()).device)
        log_p = self._start.log_probabilities(model, batch)
        log_q = batch_logits(model, batch).log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        self.notes = {"kl_nats_per_token": float(kl.detach())}
        return self.weight * kl
