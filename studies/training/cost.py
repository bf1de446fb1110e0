"""What a defended update costs, as a multiple of a plain one: CPU time, ways taken in turn in one process.

Knows: the setting of the study, how updates are timed. Does not know: claims.
"""

import statistics
import time
from typing import Any

from studies.training import cell
from transformers import TrainerCallback

from holdfast.core.defence import Defence
from holdfast.defences import Anchor
from holdfast.models import Subject, load
from holdfast.organism import shipped
from holdfast.selection import OnlineSelection
from holdfast.training import GuardedTrainer, cpu_safe_args

STEPS, TURNS, WARM = 9, 3, 1
# updates from one anchoring to the next, completions (and as many controls) drawn
ANCHORED = {
    "anchor, every update, 8": (1, 8),
    "anchor, every 4th, 8": (4, 8),
    "anchor, every 2nd, 4": (2, 4),
    "anchor, every 4th, 4": (4, 4),
}
# the paper's rule on half of the pool, against a plain update on the whole of it
SELECTED = {"selection, half of the pool, LoRA": False, "selection, half of the pool, every weight": True}


class _Timed(TrainerCallback):
    """CPU seconds of every update, the choice of its rows included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._began = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        now = time.process_time()
        self.seconds.append(now - self._began)
        self._began = now


def measure(setting: cell.Setting) -> list[dict[str, Any]]:
    """Ratios to plain updates of the same turn: median and range."""
    seconds: dict[str, list[float]] = {}
    for _ in range(TURNS):
        for name in ("plain", *ANCHORED, *SELECTED, "plain, every weight"):
            seconds.setdefault(name, []).append(_updates(setting, name))
    rows = []
    for name in (*ANCHORED, *SELECTED):
        base = "plain, every weight" if SELECTED.get(name) else "plain"
        ratios = [ours / plain for ours, plain in zip(seconds[name], seconds[base], strict=True)]
        spread = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "turns": TURNS}
        rows.append({"name": name, **spread})
    return rows


def _updates(setting: cell.Setting, name: str) -> float:
    full, timed = name.endswith("every weight"), _Timed()
    subject = load(str(shipped("aligned")), device="cpu") if full else cell.start(0, setting)
    args = cpu_safe_args(
        per_device_train_batch_size=setting.pool,
        max_steps=STEPS,
        learning_rate=setting.learning_rate / (10 if full else 1),
        lr_scheduler_type="constant",
        output_dir=cell.arm_folder(),
    )
    rows, defences = cell.task("lessons", setting.rows, 0), _defences(setting, name)
    whole = Subject(subject.model, subject.tokenizer, "all") if full else subject
    GuardedTrainer(whole, args, rows, defences=defences, callbacks=[timed]).train()
    return sum(timed.seconds[WARM:])


def _defences(setting: cell.Setting, name: str) -> list[Defence]:
    if name in SELECTED:
        return [OnlineSelection(0.5, "moderate")]
    if name not in ANCHORED:
        return []
    given = (cell.prompts(kinds, "estimate", setting.given, 0) for kinds in (cell.REFUSED, cell.ANSWERED))
    prompts, controls = given
    every, count = ANCHORED[name]
    return [Anchor(prompts, 1.0, every=every, per_step=count, controls=controls, max_new_tokens=24)]
