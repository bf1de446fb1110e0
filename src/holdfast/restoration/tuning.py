"""The loop of every repair that trains: Adam on the existing adapter, a check every tenth step, the best kept.

The path overshoots before it comes back (too many refusals and task loss at 20 steps, neither at 80), so no step
is judged by the one before: every tenth is checked on validation data and the best of those that keep the limit
is kept (notes-restoration.md).

Knows: the steps and the choice of a checkpoint. Does not know: what is learned from.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from holdfast.core.progress import bar
from holdfast.core.seeds import generator
from holdfast.models import Subject, adapter_parameters
from holdfast.restoration.attempt import Attempt, Best
from holdfast.restoration.validation import Check, Validation

STEPS, LEARNING_RATE = 60, 5e-4  # for a real model's adapter: some 500 rows of each set, a rate usual for LoRA
FEWEST_STEPS = 60
CHECK_EVERY = 10  # steps
FALLING_CHECKS = 4  # on the way of a falling rate: they steer the task's weight, and none but the last chooses


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        batch_size: rows of *each* set in a step. On three of the organism's tasks eight at 2e-3 did as well as the
            notes' sixteen at 1e-3, in little more than half of the time.
        patience: after 60 steps, stop when this many checks in a row brought nothing better and the best is as
            good as the aligned model.
        falling: the rate falls in a line from twice ``learning_rate`` to nothing, the same on the average; all
            steps are then taken, since the last are the ones that settle.
    """

    steps: int = STEPS
    learning_rate: float = LEARNING_RATE
    batch_size: int = 8
    check_every: int = CHECK_EVERY
    patience: int = 3
    seed: int = 0
    falling: bool = False

    def rate(self, step: int) -> float:
        """Of one step, counted from 1."""
        return self.learning_rate * (2 * (1 - (step - 1) / self.steps) if self.falling else 1.0)

    @property
    def apart(self) -> int:
        """Steps from one check to the next."""
        return max(self.check_every, self.steps // FALLING_CHECKS) if self.falling else self.check_every


def tune(
    subject: Subject,
    validation: Validation,
    best: Best,
    add_gradient: Callable[[], None],
    schedule: Schedule,
    *,
    checked: Callable[[Check], None] = lambda check: None,
    progress: bool = True,
    tell: Callable[[float], None] = lambda seconds: None,
) -> Attempt:
    """Take the steps; changes the subject's adapter in place.

    Args:
        validation: of the part that chooses.
        best: is offered every check.
        add_gradient: adds a step's gradient to ``.grad``.
        checked: is shown every check.
        tell: is given the seconds of the first step, once it is taken.
    """
    adapter = adapter_parameters(subject.model)
    optimiser = torch.optim.Adam(adapter.values(), lr=schedule.learning_rate)
    trace, stale, started = [best.start], 0, time.monotonic()
    with bar("restoring", schedule.steps, progress) as advance:
        for step in range(1, schedule.steps + 1):
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            optimiser.zero_grad(set_to_none=True)
            add_gradient()
            optimiser.step()
            advance(1.0)
            if step == 1:
                tell(time.monotonic() - started)
            if step % schedule.apart and step != schedule.steps:
                continue
            trace.append(validation.check(step))
            checked(trace[-1])
            stale = 0 if best.offer(trace[-1], adapter) else stale + 1
            if not schedule.falling and best.restored and step >= FEWEST_STEPS and stale >= schedule.patience:
                break
    optimiser.zero_grad(set_to_none=True)
    return Attempt(tuple(trace))


def most_checks(method: str, steps: int, check_every: int = CHECK_EVERY) -> int:
    """Of a repair, by its name."""
    return {"curvature": steps, "settle": FALLING_CHECKS}.get(method, steps // check_every)


def endless(count: int, size: int, seed: int, name: int) -> Iterator[list[int]]:
    """Rows of a set, ``size`` at a time, in epochs of a new order each; a smaller set repeats inside a batch."""
    rng = generator(seed, "replay", name)
    queue: list[int] = []
    while True:
        while len(queue) < size:
            queue += torch.randperm(count, generator=rng).tolist()
        yield queue[:size]
        del queue[:size]
