"""What every method of a repair shares: the material, the two checks, the free repairs, whether there is drift.

Made once, so that methods are compared on the same prompts, rows and answers (studies/restoration).

Knows: what is measured before anything is changed. Does not know: methods, verdicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.core.progress import bar
from holdfast.core.statistics import Interval
from holdfast.data import Example
from holdfast.evaluation import Judge
from holdfast.evaluation.beforehand import warn_if_little
from holdfast.models import Subject
from holdfast.restoration.attempt import Best
from holdfast.restoration.baselines import OFF, Baseline, measure_baselines
from holdfast.restoration.material import Material, gather
from holdfast.restoration.result import get_adapter
from holdfast.restoration.validation import Validation
from holdfast.restoration.verdict import drifted_by


@dataclass(frozen=True)
class Bench:
    """A drifted adapter, all that a repair may look at, and what is known of it before the first step.

    Attributes:
        original: the drifted adapter's tensors.
        choose, decide: checks on the two parts of the validation data.
        free: the free repairs on both.
        lost: refusals lost and over-refusals gained.
    """

    subject: Subject
    original: dict[str, torch.Tensor]
    material: Material
    choose: Validation
    decide: Validation
    free: dict[str, Baseline]
    lost: tuple[Interval, Interval]

    def best(self, max_task_loss_increase: float) -> Best:
        """A fresh record of candidates, without any yet."""
        drifted, aligned = self.free["drifted"], self.free["aligned"]
        return Best(drifted.choose.check, aligned.choose.check, max_task_loss_increase)

    def offer_free(self, best: Best) -> None:
        """The free repairs are candidates like any other."""
        for name, baseline in self.free.items():
            if baseline.adapter is not None:
                best.offer(baseline.choose.check, baseline.adapter, OFF if name == "aligned" else name)


def prepare(
    subject: Subject,
    estimate: Any,
    task: Sequence[Example] | None,
    retain: str | Sequence[Example],
    judge: Judge,
    *,
    max_new_tokens: int,
    progress: bool,
    **sizes: Any,
) -> Bench:
    """Sample, split and measure; changes nothing.

    Args:
        sizes: of :func:`holdfast.restoration.material.gather`.

    Raises:
        UserError: as ``gather``.
    """
    original = get_adapter(subject.model)
    with bar("answers to learn from and to choose by", None, progress):
        material = gather(subject, estimate, task, retain, judge, max_new_tokens=max_new_tokens, **sizes)
    choose, decide = (Validation(subject, part, judge, max_new_tokens) for part in material.parts)
    with bar("the adapter as it is, off, and scaled down", None, progress):
        free = measure_baselines(subject, choose, decide)
    warn_if_little(free["aligned"].refusals, "the aligned model (the adapter switched off)")
    lost = drifted_by([*free["aligned"].both], [*free["drifted"].both])
    return Bench(subject, original, material, choose, decide, free, lost)
