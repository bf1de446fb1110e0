"""What a curvature-aware step must keep to be taken: budgets, KL, gain and health, by forward passes alone.

Source: restoration.md 3.7. Every bound refers to the adapter as it came, never to the step before. What is
measured is the adapter in the model, so after rounding to the type it is kept and written in.

Knows: examples that the curvature has not seen, the limits. Does not know: how the step was made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from holdfast.data import Example
from holdfast.evaluation.remembered import Remembered
from holdfast.models import Subject, generate, mean_loss
from holdfast.restoration.curved import RETAIN_FACTOR
from holdfast.restoration.objective import Objective

KL_LIMIT = 0.02  # nats a token on task examples, from the drifted model
HEALTH = 0.2  # of the drifted model's mean answer length; of repeated fours
HEALTH_PROMPTS = 16
KL_BYTES = 1 << 28


@dataclass(frozen=True)
class Measure:
    """Of one candidate, all against the adapter as it came.

    Attributes:
        task, retain: rise of the two losses, nats a token.
        objective: of :class:`holdfast.restoration.objective.Objective`; 0 is the aligned model's level.
        kl: mean KL(drifted ‖ candidate), nats a token, on task examples.
    """

    task: float
    retain: float
    objective: float
    kl: float = 0.0


@dataclass(frozen=True)
class Health:
    """Of greedy answers to harmless prompts.

    Attributes:
        length: mean tokens of an answer.
        repeated: share of runs of four tokens that stood in the same answer before.
    """

    length: float
    repeated: float

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> "Health":
        """Count."""
        fours = [list(zip(*(answer[k:] for k in range(4)), strict=False)) for answer in answers]
        runs = sum(map(len, fours))
        again = runs - sum(len(set(found)) for found in fours)
        return cls(sum(map(len, answers)) / max(1, len(answers)), again / max(1, runs))

    def like(self, before: "Health") -> bool:
        """Length within a fifth of what it was; at most a fifth of all runs repeated beyond those that were."""
        close = abs(self.length - before.length) <= HEALTH * max(before.length, 1.0)
        return close and self.repeated - before.repeated <= HEALTH


class Guard:
    """Measures the adapter that the subject carries and says whether it may be kept.

    Args:
        task: examples that the curvature has not seen.
        limit: on the rise of the task loss, nats a token, at the end of all steps.
        max_new_tokens: of an answer of the health check.
    """

    def __init__(
        self,
        subject: Subject,
        task: Sequence[Example],
        retain: Sequence[Example],
        objective: Objective,
        limit: float,
        max_new_tokens: int = 32,
    ) -> None:
        self.subject, self.task, self.retain, self.objective = subject, task, retain, objective
        self.limit, self.max_new_tokens = limit, max_new_tokens
        self.said = Remembered.of(subject, task, KL_BYTES)
        self.start = self._losses()
        self.health_start = self.health()

    def measure(self) -> Measure:
        """The candidate's losses, objective and KL."""
        task, retain = self._losses()
        return Measure(task - self.start[0], retain - self.start[1], self.objective.value(), self._kl())

    def health(self) -> Health:
        """Of the candidate's greedy answers to the prompts of the retained examples."""
        asked = [example.prompt_ids for example in self.retain[:HEALTH_PROMPTS]]
        return Health.of(generate(self.subject, asked, self.max_new_tokens) if asked else [])

    def allows(self, measured: Measure, share: float, wanted: float) -> bool:
        """Finite, inside ``share`` of the budgets, with the objective at least at ``wanted``, and in good health.

        Args:
            share: of the task and KL budgets that may be used up so far, 0 to 1.
        """
        finite = all(map(math.isfinite, vars(measured).values()))
        return (
            finite
            and measured.task <= share * self.limit
            and measured.kl <= share * KL_LIMIT
            and measured.retain <= RETAIN_FACTOR * self.limit
            and measured.objective >= wanted
            and self.health().like(self.health_start)
        )

    def _losses(self) -> tuple[float, float]:
        retain = mean_loss(self.subject, self.retain).nats_per_example if self.retain else 0.0
        return mean_loss(self.subject, self.task).nats_per_example, retain

    @torch.no_grad()
    def _kl(self) -> float:
        total, tokens_N = 0.0, [example.completion_tokens for example in self.task]
        for first in range(0, len(self.task), 32):
            rows = range(first, min(first + 32, len(self.task)))
            kl_B = self.said.kl(self.subject.model, rows).double().tolist()
            total += sum(kl / max(1, tokens_N[k]) for k, kl in zip(rows, kl_B, strict=True))
        return total / max(1, len(self.task))
