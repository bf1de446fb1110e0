"""What an audit at its defaults costs, in steps of the run it looks ahead to: on the organism, on the real model.

Knows: CPU seconds of this process. Does not know: what is measured.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from studies.geometry.predict import organism
from studies.real_model import damage, defended, model, tasks
from studies.real_model.repaired import measured

from holdfast.data import encode_rows
from holdfast.evaluation import Skill
from holdfast.evaluation.skill import SkillSplit
from holdfast.geometry import audit, look_ahead
from holdfast.geometry.calibration import PROMPTS, ROWS
from holdfast.models import Subject, add_lora
from holdfast.organism import proxy_prompts, task_rows
from holdfast.organism.train import train
from holdfast.training import GuardedTrainer, cpu_safe_args

POOL, STEPS = 32, 6


def measure() -> dict[str, Any]:
    """CPU seconds of a step, of the forecast (of one source; with shares) and of the whole audit, warmed up."""
    base = organism()
    subject = Subject(add_lora(base.model, 8, 16, seed=0), base.tokenizer, "adapter")
    rows = encode_rows(task_rows("lessons", "train", 320, 0), base.tokenizer)
    asked = tuple(t for kind in ("overt", "subtle") for t in proxy_prompts("estimate", kind, PROMPTS // 2, 3))
    half = SkillSplit(asked)
    skill = Skill("refusal", estimate=half, evaluate=half)
    options: dict[str, Any] = {"learning_rate": 1e-3, "steps": 60, "update_batch_size": POOL, "progress": False,
                               "max_prompts": PROMPTS}  # fmt: skip
    few_prompts: dict[str, Any] = {**options, "max_prompts": 4}
    few, all_rows = list(rows)[:8], list(rows)[:ROWS]
    look_ahead(subject, skill, few, **few_prompts)
    audit(subject, skill, few, **few_prompts)
    light = _seconds(lambda: look_ahead(subject, skill, all_rows, **options, shares=False))
    shared = _seconds(lambda: look_ahead(subject, skill, all_rows, **options))
    full = _seconds(lambda: audit(subject, skill, all_rows, **options))
    train(subject.model, rows, 1, POOL, 1e-3, subject.pad_id, decay=False)
    step = _seconds(lambda: train(subject.model, rows, STEPS, POOL, 1e-3, subject.pad_id, decay=False)) / STEPS
    return {"step_cpu_seconds": step, "forecast_in_steps": light / step, "shares_in_steps": shared / step,
            "whole_in_steps": full / step}  # fmt: skip


def measure_real(cache: Path, data: Path, pool: int) -> dict[str, Any]:
    """The same on SmolLM2: Alpaca rows, a step of ``pool`` in one micro-batch; and peak memory over the step's."""
    setting = damage.Setting()

    def fresh() -> Subject:
        aligned = model.aligned(cache)
        return Subject(add_lora(aligned.model, setting.rank, setting.alpha, seed=0), aligned.tokenizer, "adapter")

    rows, _ = tasks.split(tasks.KINDS["alpaca"], data)
    examples = list(encode_rows(rows, fresh().tokenizer, setting.max_length))
    args = cpu_safe_args(per_device_train_batch_size=pool, max_steps=1, learning_rate=1e-5)
    measured(GuardedTrainer(fresh(), args, examples).train)  # warms up
    _, step = measured(GuardedTrainer(fresh(), args, examples).train)
    subject, skill, found = fresh(), defended.given(data, setting), {}
    options: dict[str, Any] = {"learning_rate": 2e-4, "steps": 60, "update_batch_size": pool, "progress": False}
    for name, shares in (("forecast", False), ("shares", True)):
        _, took = measured(partial(look_ahead, subject, skill, examples[:ROWS], shares=shares, **options))
        found[f"{name}_in_steps"] = took["repair_cpu_seconds"] / step["repair_cpu_seconds"]
        found[f"{name}_memory"] = took["repair_peak_bytes"] / step["repair_peak_bytes"]
    return found


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
