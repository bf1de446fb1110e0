"""Repair by replay: train the existing adapter on refusals, the task and harmless answers, one third each.

Source: notes-restoration.md, defaults 1. The path overshoots before it comes back (too many refusals and task
loss at 20 steps, neither at 80), so no step is judged by the one before: every tenth is checked on validation
data and the best of those that keep the limit is kept.

Knows: the loop and the choice of a checkpoint. Does not know: where the examples come from.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from holdfast.core.progress import bar
from holdfast.core.seeds import generator
from holdfast.data import Example
from holdfast.gradients.memory import fitting_batches
from holdfast.models import Subject, adapter_parameters, batch_nll
from holdfast.restoration.attempt import Attempt, Best
from holdfast.restoration.material import Material
from holdfast.restoration.validation import Validation

STEPS, LEARNING_RATE = 60, 5e-4  # for a real model's adapter: some 500 rows of each set, a rate usual for LoRA
FEWEST_STEPS = 60
CHECK_EVERY = 10  # steps


def replay(
    subject: Subject,
    material: Material,
    validation: Validation,
    best: Best,
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    batch_size: int = 8,
    check_every: int = CHECK_EVERY,
    patience: int = 3,
    seed: int = 0,
    progress: bool = True,
    tell: Callable[[float], None] = lambda seconds: None,
) -> Attempt:
    """Adam on equal shares of the three sets; changes the subject's adapter in place.

    Args:
        validation: of the part that chooses.
        best: is offered every check.
        batch_size: examples of *each* set in a step. On three of the organism's tasks eight at 2e-3 did as well as
            the notes' sixteen at 1e-3, in little more than half of the time.
        patience: after 60 steps, stop when this many checks in a row brought nothing better and the best is as
            good as the aligned model.
        tell: is given the seconds of the first step, once it is taken.
    """
    adapter = adapter_parameters(subject.model)
    optimiser = torch.optim.Adam(adapter.values(), lr=learning_rate)
    sets = (material.refusals_fit, material.task_fit, material.retain_fit)
    streams = [_endless(examples, batch_size, seed, k) for k, examples in enumerate(sets) if examples]
    trace, stale, started = [best.start], 0, time.monotonic()
    with bar("restoring by replay", steps, progress) as advance:
        for step in range(1, steps + 1):
            examples = [example for stream in streams for example in next(stream)]
            optimiser.zero_grad(set_to_none=True)
            add_gradient(subject, examples)
            optimiser.step()
            advance(1.0)
            if step == 1:
                tell(time.monotonic() - started)
            if step % check_every and step != steps:
                continue
            trace.append(validation.check(step))
            stale = 0 if best.offer(trace[-1], adapter) else stale + 1
            if best.restored and step >= FEWEST_STEPS and stale >= patience:
                break
    optimiser.zero_grad(set_to_none=True)
    return Attempt(tuple(trace))


def add_gradient(subject: Subject, examples: Sequence[Example]) -> None:
    """Add the gradient of the mean loss of ``examples`` to ``.grad``, in passes that fit the machine's memory.

    Rows of like length share a pass: the sets' lengths differ, and padding costs what a token costs.
    """
    for batch in fitting_batches(subject, examples, len(examples)):
        loss = batch_nll(subject.model, batch.to(subject.device)).sum() / len(examples)
        loss.backward()


def _endless(examples: Sequence[Example], size: int, seed: int, name: int) -> Iterator[list[Example]]:
    """Batches of ``size`` in epochs of a new order each; a set smaller than a batch repeats inside it."""
    rng = generator(seed, "replay", name)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(len(examples), generator=rng).tolist()
        yield [examples[k] for k in queue[:size]]
        del queue[:size]
