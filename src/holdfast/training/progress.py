"""A run that speaks: a bar with the time left, and a line for every measurement.

Knows: the trainer's events, the monitor's trace. Does not know: how anything was measured.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from holdfast.core.progress import QUIET_VARIABLE, Advance, bar
from holdfast.training.budget import figure
from holdfast.training.monitor import DriftMonitor


class TrainingProgress(TrainerCallback):
    """Open it around ``trainer.train()`` and add it to the trainer::

    with TrainingProgress(monitor) as progress:
        trainer.add_callback(progress)
        trainer.train()
    """

    def __init__(self, monitor: DriftMonitor, description: str = "training") -> None:
        self.monitor, self.description = monitor, description
        self._stack = contextlib.ExitStack()
        self._advance: Callable[..., None] | Advance | None = None
        self._told, self._loss, self._steps = 0, "", 0

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(self, *_details: Any) -> None:
        self._tell()
        self._stack.close()

    def on_train_begin(self, args, state, control, **kwargs):
        self._steps, self._told = state.max_steps, 0
        self._advance = self._stack.enter_context(bar(self.description, state.max_steps, done=state.global_step))

    def on_step_begin(self, args, state, control, **kwargs):
        self._tell()

    def on_step_end(self, args, state, control, **kwargs):
        assert isinstance(self._advance, Advance)
        self._advance(1.0)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self._loss = f"loss {logs['loss']:.3f}"
        self._tell()
        if isinstance(self._advance, Advance):
            self._advance.note(self._note())

    def _note(self) -> str:
        row = self.monitor.trace[-1] if self.monitor.trace else {}
        return ", ".join(part for part in (self._loss, *_numbers(row, self.monitor)) if part)

    def _tell(self) -> None:
        """A line for each measurement that was not told yet; a resumed run does not repeat itself."""
        rows = self.monitor.trace
        fresh = rows[self._told :] if self._told else rows[-1:]
        self._told = len(rows)
        if os.environ.get(QUIET_VARIABLE):
            return
        for row in fresh:
            parts = [f"step {row['step']} of {self._steps}", self._loss, *_numbers(row, self.monitor, True)]
            print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)


def _numbers(row: dict[str, Any], monitor: DriftMonitor, intervals: bool = False) -> list[str]:
    found = []
    for name, text, unit in (
        ("task_loss_nats_per_token", "task loss", ""),
        ("kl_nats", "drift", " nats"),
        ("refusal", "refusals", ""),
    ):
        if row.get(name) is None:
            continue
        said = figure(row, name)
        found.append(f"{text} {said if intervals else said.partition(' [')[0]}{unit}")
    used = monitor.budget.used(row, monitor.trace[0]) if monitor.budget is not None and row else None
    if used is not None:
        found.append(f"{100 * used:.0f} % of the budget used")
    if row.get("forecast_kl_nats") is not None:
        breaks = f", past the budget at step {step}" if (step := row.get("breaks_at_step")) else ""
        found.append(f"forecast {row['forecast_kl_nats']:.3g} nats at the end{breaks}")
    return found
