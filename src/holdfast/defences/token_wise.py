"""Token-wise constrained fine-tuning: the first tokens of an answer may hardly move from the start's.

In place of the mean of -log p_θ over tokens, the mean of

    -(2 / β_t) log σ(β_t · (log p_θ(y_t | x, y_<t) - log p_start(y_t | x, y_<t))),

whose gradient is that of the task loss at the start and dies out as a token becomes likelier than it was; sooner
for a larger β_t. As a defence it adds the difference of the two.

    β_t = b / 4 for t = 1, b for t = 2..5, b / 20 after

Source: Qi et al. 2024, "Safety alignment should be made more than just a few tokens deep", eq. 3, whose b is 2.
Uncertain: how b scales to other models. Costs a second pass over the update's rows, and one of the start.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from holdfast.core.defence import Defence, Material
from holdfast.data import Batch
from holdfast.defences.start import Start
from holdfast.evaluation.remembered import batch_logits
from holdfast.gradients.layout import labelled
from holdfast.models import Subject

EARLY = 5  # tokens that are held


class TokenWise(Defence):
    """See the formula above.

    Args:
        beta: b.
    """

    name = "token-wise"
    knob = "beta"
    needs = frozenset({"rows"})  # type: ignore[assignment]

    def __init__(self, beta: float = 2.0) -> None:
        self.beta = beta
        self.notes: Mapping[str, float] = {}
        self._start: Start | None = None
        self._rows: Batch | None = None

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "TokenWise":
        return cls() if knob is None else cls(knob)

    def begin(self, subject: Subject) -> None:
        self._start = Start(subject)

    def see(self, rows: Batch) -> None:
        self._rows = rows

    def loss(self, model: Any, step: int) -> torch.Tensor | None:
        assert self._start is not None and self._rows is not None
        batch = self._rows.to(next(model.parameters()).device)
        where = labelled(batch)
        target_M = where.target_M[:, None]
        log_p_M = self._start.log_probabilities(model, batch).gather(-1, target_M)[:, 0]
        log_q_M = batch_logits(model, batch).log_softmax(-1).gather(-1, target_M)[:, 0]
        beta_M = self._betas(place_in_answer(where.owner_M))
        held_M = -(2 / beta_M) * F.logsigmoid(beta_M * (log_q_M - log_p_M))
        return (held_M + log_q_M).mean()

    def _betas(self, place_M: torch.Tensor) -> torch.Tensor:
        beta_M = torch.where(place_M < EARLY, self.beta, self.beta / 20)
        return torch.where(place_M == 0, self.beta / 4, beta_M)


def place_in_answer(owner_M: torch.Tensor) -> torch.Tensor:
    """Number of each labelled token within its row, from 0; tokens of a row lie together."""
    first_M = torch.searchsorted(owner_M.contiguous(), owner_M, right=False)
    return torch.arange(len(owner_M), device=owner_M.device) - first_M
