"""What an anchored update costs, as a multiple of a plain one: CPU time, arms taken in turn.

Knows: the setting of the study, how updates are timed. Does not know: claims.
"""

import statistics
import time
from typing import Any

from studies.training import cell
from transformers import TrainerCallback

from holdfast.defences import Anchor
from holdfast.training import GuardedTrainer, cpu_safe_args

STEPS, TURNS, WARM = 9, 3, 1
# updates from one anchoring to the next, completions (and as many controls) drawn
ARMS = {"every update, 8": (1, 8), "every 4th, 8": (4, 8), "every 2nd, 4": (2, 4), "every 4th, 4": (4, 4)}


class _Timed(TrainerCallback):
    """CPU seconds of every update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self._began = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.process_time() - self._began)


def measure(setting: cell.Setting) -> list[dict[str, Any]]:
    """Ratios to plain updates of the same turn: median and range."""
    seconds: dict[str, list[float]] = {}
    for _ in range(TURNS):
        for name in ("plain", *ARMS):
            seconds.setdefault(name, []).append(_updates(setting, ARMS.get(name)))
    rows = []
    for name in ARMS:
        ratios = [ours / plain for ours, plain in zip(seconds[name], seconds["plain"], strict=True)]
        rows.append({"name": name, "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)})
    return rows


def _updates(setting: cell.Setting, arm: tuple[int, int] | None) -> float:
    subject, timed, defences = cell.start(0, setting), _Timed(), []
    if arm is not None:
        given = (cell.prompts(kinds, "estimate", setting.given, 0) for kinds in (cell.REFUSED, cell.ANSWERED))
        prompts, controls = given
        every, count = arm
        defences = [Anchor(prompts, 1.0, every=every, per_step=count, controls=controls, max_new_tokens=24)]
    args = cpu_safe_args(
        per_device_train_batch_size=setting.pool,
        max_steps=STEPS,
        learning_rate=setting.learning_rate,
        lr_scheduler_type="constant",
        output_dir=cell.arm_folder(),
    )
    rows = cell.task("lessons", setting.rows, 0)
    GuardedTrainer(subject, args, rows, defences=defences, callbacks=[timed]).train()
    return sum(timed.seconds[WARM:])
