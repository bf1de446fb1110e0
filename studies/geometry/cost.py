"""What an audit at its defaults costs, in steps of the run it looks ahead to: on the organism, on the real model.

Knows: CPU seconds of this process. Does not know: what is measured.
"""

import time
from collections.abc import Callable
from typing import Any

from studies.geometry.predict import organism

from holdfast.data import encode_rows
from holdfast.evaluation import Skill
from holdfast.evaluation.skill import SkillSplit
from holdfast.geometry import audit, look_ahead
from holdfast.geometry.calibration import PROMPTS, ROWS
from holdfast.models import Subject, add_lora
from holdfast.organism import proxy_prompts, task_rows
from holdfast.organism.train import train

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


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
