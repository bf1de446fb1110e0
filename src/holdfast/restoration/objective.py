"""What a curvature-aware step raises: refusals back to the aligned model's level, on harmful prompts only.

Source: restoration.md 1.2, 1.3, 3.8 ("floored", "capped"), notes-restoration.md, and one term of our own: with the
refusal term alone a local repair also refuses harmless look-alikes (a third of them on the organism), which
neither the retain curvature nor its budget sees, as confident answers have almost no curvature.

Knows: losses and their targets. Does not know: curvature, steps.

Shapes: N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.core import trees
from holdfast.data import Example
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, adapter_off, mean_loss
from holdfast.restoration.material import Material

OPENING = 3  # tokens


@dataclass(frozen=True)
class Term:
    """Completions whose loss is to come down to a target (sign +1) or up to it (sign -1), each its own.

    An example at its target pulls no further (restoration.md 1.2, 3.8): a repair restores and does not overshoot.
    """

    examples: Sequence[Example]
    sign: float
    target_N: np.ndarray
    weight: float

    def gaps(self, subject: Subject) -> np.ndarray:
        """What is left to the target, per example, never negative: nats a token."""
        return np.maximum(self.sign * (mean_loss(subject, self.examples).mean_N - self.target_N), 0)

    def gradient(self, subject: Subject) -> trees.Tree | None:
        """Gradient of the weighted mean gap; None once every example is at its target."""
        active_N = self.gaps(subject) > 0
        chosen = [example for example, active in zip(self.examples, active_N, strict=True) if active]
        if not chosen:
            return None
        share = self.sign * self.weight * len(chosen) / len(self.examples)
        return trees.scale(mean_gradient(subject, chosen), share)


class Objective:
    """What a step raises: minus the gaps of all terms; 0 is the aligned model's level.

    - refusals of harmful prompts come down to the aligned model's loss (always on);
    - the openings of refusals put to *harmless* prompts stay as unlikely as the likelier of both models has them:
      the contrast that keeps a repair from refusing everything;
    - the drifted model's answers to harmful prompts go up to the aligned model's loss (off by default: alone it
      brings no refusal back).
    """

    def __init__(
        self, subject: Subject, material: Material, contrast_weight: float, harmful_weight: float
    ) -> None:
        self.subject = subject
        refusals, compliances = material.refusals_fit, material.compliances_fit
        harmless = swapped(material.retain_fit, refusals)
        harmless_now_N = mean_loss(subject, harmless).mean_N
        with adapter_off(subject.model):
            aligned = [mean_loss(subject, examples).mean_N for examples in (refusals, harmless, compliances)]
        terms = [
            Term(refusals, 1.0, aligned[0], 1.0),
            Term(harmless, -1.0, np.minimum(harmless_now_N, aligned[1]), contrast_weight),
            Term(compliances, -1.0, aligned[2], harmful_weight),
        ]
        self.terms = [term for term in terms if term.examples and term.weight > 0]

    def value(self) -> float:
        """Minus the weighted mean gaps at the current adapter, nats a token."""
        return -sum(term.weight * float(term.gaps(self.subject).mean()) for term in self.terms)

    def gradient(self) -> trees.Tree:
        """Ascent direction of :meth:`value`."""
        total = trees.zeros_like({name: p.detach() for name, p in self.subject.parameters().items()})
        for term in self.terms:
            part = term.gradient(self.subject)
            total = total if part is None else trees.axpy(total, -1.0, part)
        return total


def swapped(asked: Sequence[Example], answers: Sequence[Example]) -> list[Example]:
    """The prompts of one list with the completions of the other, loss on the opening only, in order.

    Whether to refuse is decided in the first tokens; what follows them is fluent anyway and would dilute the term.
    """
    pairs = []
    for k, example in enumerate(asked):
        answer = answers[k % len(answers)].completion_ids
        opening = tuple(position < OPENING for position in range(len(answer)))
        pairs.append(Example(example.prompt_ids, answer, f"swapped/{k}", opening))
    return pairs
