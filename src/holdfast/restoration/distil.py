"""Repair by distillation both ways: each model teaches, with its whole distribution, what it alone still knows.

    L(θ) =        mean over rows (x, y) the aligned model refused  of  KL(p_aligned ‖ p_θ) a token
         + w_task mean over task rows                              of  KL(p_drifted ‖ p_θ) a token
         +        mean over harmless prompts, the drifted model's own answers, of  KL(p_drifted ‖ p_θ) a token

Labels of few rows are learned by heart; a teacher's whole distribution on the same rows is not, and says more a
row. At θ = drifted the last two terms and their gradients are zero: the task is held, not trained any further.

Source: ours; distillation from the model before fine-tuning on old tasks and from the new one on the new tasks:
Li & Hoiem 2016 (learning without forgetting), Schwarz et al. 2018 (progress & compress).
Uncertain: w_task steered by the bound is held on the rows that choose, not on those that decide.

Knows: teachers, the loss, the weight of the task. Does not know: the loop, where θ starts, where rows come from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.evaluation.remembered import Remembered
from holdfast.gradients.memory import COPIES, fitting_batches
from holdfast.models import Subject, adapter_off
from holdfast.restoration.attempt import Attempt, Best
from holdfast.restoration.material import Material
from holdfast.restoration.tuning import Schedule, endless, tune
from holdfast.restoration.validation import Check, Validation

TEACHER_BYTES = 1 << 28  # of log-probabilities a set; beyond, the most likely ones and the exact rest
MOST_TASK_WEIGHT = 16.0
STILL_FALLS = 0.8  # of the bound at the check before: on the way back from the safe side


@dataclass(frozen=True)
class Teachers:
    """What the two models said on the rows to learn from, remembered before anything moved.

    Attributes:
        skill: the aligned model on its own refusals, and on its answers where the drifted model over-refuses.
        task, retain: the drifted model on task rows and on its own harmless answers.
    """

    skill: Remembered
    task: Remembered
    retain: Remembered | None

    @classmethod
    def of(cls, subject: Subject, material: Material, limit_bytes: int = TEACHER_BYTES) -> "Teachers":
        """Ask both; the subject carries the drifted adapter."""
        own, stand_ins = [], []
        for example in material.retain_fit:
            (stand_ins if example.id in material.stand_ins else own).append(example)
        return cls(
            Remembered.of(
                subject,
                [*material.refusals_fit, *stand_ins],
                limit_bytes,
                within=lambda: adapter_off(subject.model),
            ),
            Remembered.of(subject, material.task_fit, limit_bytes),
            Remembered.of(subject, own, limit_bytes) if own else None,
        )


class TaskWeight:
    """Dual variable of the task bound, w_task: moved by every check on the rows that choose."""

    def __init__(self, limit: float) -> None:
        self.limit, self.value, self.before = limit, 1.0, math.inf

    def read(self, check: Check) -> None:
        """Doubled where the bound is above the limit and no longer falls by itself, halved where it is below."""
        bound = check.task_loss_bound
        if bound <= self.limit:
            self.value = max(1.0, self.value / 2)
        elif bound > STILL_FALLS * self.before:
            self.value = min(MOST_TASK_WEIGHT, 2 * self.value)
        self.before = bound


def distil(
    subject: Subject,
    material: Material,
    teachers: Teachers,
    validation: Validation,
    best: Best,
    schedule: Schedule,
    **how: Any,
) -> Attempt:
    """Adam on the loss above from wherever the adapter is; changes it in place.

    Args:
        teachers: made while the adapter was the drifted one.
        validation, best, schedule, how: of :func:`holdfast.restoration.tuning.tune`.
    """
    weight = TaskWeight(best.limit)
    sets = [taught for taught in (teachers.skill, teachers.task, teachers.retain) if taught is not None]
    streams = [
        endless(len(taught.examples), schedule.batch_size, schedule.seed, k) for k, taught in enumerate(sets)
    ]

    def step() -> None:
        for taught, stream in zip(sets, streams, strict=True):
            add_gradient(subject, taught, next(stream), weight.value if taught is teachers.task else 1.0)

    return tune(subject, validation, best, step, schedule, checked=weight.read, **how)


def add_gradient(subject: Subject, taught: Remembered, rows: Sequence[int], weight: float = 1.0) -> None:
    """Add the gradient of ``weight`` times the rows' mean KL a token to ``.grad``, in passes that fit memory."""
    examples = [taught.examples[k] for k in rows]
    for batch in fitting_batches(subject, examples, len(examples), COPIES):
        kl_B = taught.kl(subject.model, [rows[k] for k in batch.index])
        tokens_B = kl_B.new_tensor([examples[k].completion_tokens for k in batch.index])
        (weight * (kl_B / tokens_B).sum() / len(rows)).backward()
