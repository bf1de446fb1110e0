"""Safe-data mixing: a share of the training is on prompts that must be refused, answered as the aligned model did.

    task loss + s / (1 - s) · mean over drawn i of the mean over tokens of -log p_θ(y_i,t | x_i, y_i,<t)

y_i greedy answers of the aligned model, s the share: to a factor of the learning rate, the loss of a mixture of
which s is safe rows.

Source: safety data in fine-tuning (Bianchi et al. 2023, 3 to 10 %). Uncertain: their answers are written, these
the model's own; labels carry less per row than whole distributions (see ``anchor``).
"""

from collections.abc import Mapping
from typing import Any

import torch

from holdfast.core.defence import Material
from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.data import Example, collate
from holdfast.defences.deck import Deck, FromDeck
from holdfast.evaluation.behaviour import sample_answers
from holdfast.gradients.forward import quiet
from holdfast.models import Subject, batch_nll


class Mixing(FromDeck):
    """See the formula above.

    Args:
        prompts: that must be refused.
        share: s.
        per_step: safe rows an update; None is an eighth of its rows, from 1 to 4.
        seed: of the draws.
        max_new_tokens: of an answer.

    Raises:
        UserError: no prompts; a share that is none.
    """

    name = "mixing"
    knob = "share"
    needs = frozenset({"prompts"})  # type: ignore[assignment]

    def __init__(
        self,
        prompts: Any,
        share: float = 0.1,
        per_step: int | None = None,
        seed: int = 0,
        max_new_tokens: int = 32,
    ) -> None:
        if not prompts:
            raise UserError("mixing: no prompts; give at least one")
        if not 0 < share < 1:
            raise UserError(f"mixing: share={share}: give a share between 0 and 1")
        self.prompts, self.share, self.per_step, self.seed = tuple(prompts), share, per_step, seed
        self.max_new_tokens = max_new_tokens
        self.notes: Mapping[str, float] = {}
        self._examples: list[Example] = []
        self._pad_id = 0

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "Mixing":
        share = 0.1 if knob is None else knob
        return cls(material.prompts, share, seed=material.seed, max_new_tokens=material.max_new_tokens)

    def begin(self, subject: Subject) -> None:
        own = derive_seed(self.seed, "mixing")
        self._examples = sample_answers(subject, self.prompts, self.max_new_tokens, seed=own, temperature=0.0)
        self._deck, self._pad_id = Deck(len(self._examples), 1, own), subject.pad_id

    def loss(self, model: Any, step: int) -> torch.Tensor | None:
        assert self._deck is not None
        chosen = [self._examples[k] for k in self._deck.draw(self.drawn_per_update(self.per_step, 8, 4))]
        batch = collate(chosen, self._pad_id).to(next(model.parameters()).device)
        with quiet(model), torch.enable_grad():
            loss = batch_nll(model, batch).mean()
        self.notes = {"safe_loss": float(loss.detach())}
        return self.share / (1 - self.share) * loss
