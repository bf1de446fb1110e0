"""Elastic weight consolidation with the skill's Fisher: each parameter is held by its own curvature at the start.

    task loss + w / 2 · Σ_j F_jj (θ_j - θ0_j)²,    F_jj = mean over i of (∂ log p(y_i | x_i) / ∂θ_j)²  at θ0

with y_i sampled from the aligned model: the diagonal at θ0 of the Fisher matrix whose full form, at the current
point, the anchor uses (geometry.md 1.3).

Source: Kirkpatrick et al. 2017. Uncertain: of a fresh LoRA adapter one factor is 0, and so is the other's
gradient: only the factor that is 0 is held, and not what both do together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from holdfast.core.defence import Defence, Material
from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.core.trees import Tree, apply, zeros_like
from holdfast.data import Example
from holdfast.defences.start import Start, trained
from holdfast.evaluation.behaviour import sample_answers
from holdfast.evaluation.remembered import answer_logits
from holdfast.models import Subject

PROMPTS = 64  # at most: one backward pass each


class ElasticWeights(Defence):
    """See the formula above.

    Args:
        prompts: of the skill; the first 64 are used.
        weight: w.
        seed: of the answers.
        max_new_tokens: of an answer.

    Raises:
        UserError: no prompts.
    """

    name = "ewc"
    knob = "weight"
    needs = frozenset({"prompts"})  # type: ignore[assignment]

    def __init__(self, prompts: Any, weight: float = 10.0, seed: int = 0, max_new_tokens: int = 32) -> None:
        if not prompts:
            raise UserError("ewc: no prompts; give at least one")
        self.prompts, self.weight, self.seed, self.max_new_tokens = tuple(prompts), weight, seed, max_new_tokens
        self.notes: Mapping[str, float] = {}
        self.fisher: Tree = {}
        self._start: Start | None = None

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "ElasticWeights":
        weight = 10.0 if knob is None else knob
        return cls(material.prompts, weight, seed=material.seed, max_new_tokens=material.max_new_tokens)

    def begin(self, subject: Subject) -> None:
        self._start = Start(subject)
        gradients = answer_gradients(subject, self.prompts, self.max_new_tokens, self.seed)
        total = zeros_like(self._start.parameters)
        for gradient in gradients:
            total = {name: total[name] + gradient[name].square() for name in total}
        self.fisher = apply(total, lambda tensor: tensor / len(gradients))

    def loss(self, model: Any, step: int) -> torch.Tensor | None:
        assert self._start is not None
        start = self._start.parameters
        parts = [(self.fisher[name] * (p - start[name]).square()).sum() for name, p in trained(model).items()]
        loss = torch.stack(parts).sum() / 2
        self.notes = {"penalty_nats": float(loss.detach())}
        return self.weight * loss


def answer_gradients(subject: Subject, prompts: Any, max_new_tokens: int, seed: int) -> list[Tree]:
    """Of the summed log-probability of one sampled answer to each of the first prompts, by trained parameter."""
    own = derive_seed(seed, "answers")
    return log_p_gradients(subject, sample_answers(subject, prompts[:PROMPTS], max_new_tokens, seed=own))


def log_p_gradients(subject: Subject, examples: Sequence[Example]) -> list[Tree]:
    """Of each answer's summed log-probability at the current point, by trained parameter."""
    named, found = trained(subject.model), []
    for example in examples:
        with torch.enable_grad():
            (logits,) = answer_logits(subject.model, [example], subject.pad_id)
            labels = torch.tensor(example.completion_ids, device=logits.device)[:, None]
            log_p = logits.log_softmax(-1).gather(-1, labels).sum()
        gradients = torch.autograd.grad(log_p, list(named.values()), allow_unused=True)
        pairs = zip(named.items(), gradients, strict=True)
        found.append({name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs})
    return found
