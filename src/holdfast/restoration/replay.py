"""Repair by replay: train the existing adapter on refusals, the task and harmless answers, one third each.

Source: notes-restoration.md, defaults 1.

Knows: labels as teachers. Does not know: the loop, where the examples come from.
"""

from collections.abc import Sequence
from typing import Any

from holdfast.data import Example
from holdfast.gradients.memory import fitting_batches
from holdfast.models import Subject, batch_nll
from holdfast.restoration.attempt import Attempt, Best
from holdfast.restoration.material import Material
from holdfast.restoration.tuning import Schedule, endless, tune
from holdfast.restoration.validation import Validation


def replay(
    subject: Subject, material: Material, validation: Validation, best: Best, schedule: Schedule, **how: Any
) -> Attempt:
    """Adam on equal shares of the three sets; changes the subject's adapter in place.

    Args:
        validation, best, schedule, how: of :func:`holdfast.restoration.tuning.tune`.
    """
    sets = [examples for examples in (material.refusals_fit, material.task_fit, material.retain_fit)]
    streams = [
        (examples, endless(len(examples), schedule.batch_size, schedule.seed, k))
        for k, examples in enumerate(sets)
        if examples
    ]

    def step() -> None:
        add_gradient(subject, [examples[k] for examples, stream in streams for k in next(stream)])

    return tune(subject, validation, best, step, schedule, **how)


def add_gradient(subject: Subject, examples: Sequence[Example]) -> None:
    """Add the gradient of the mean loss of ``examples`` to ``.grad``, in passes that fit the machine's memory.

    Rows of like length share a pass: the sets' lengths differ, and padding costs what a token costs.
    """
    for batch in fitting_batches(subject, examples, len(examples)):
        loss = batch_nll(subject.model, batch.to(subject.device)).sum() / len(examples)
        loss.backward()
