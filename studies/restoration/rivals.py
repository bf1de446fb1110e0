"""Repairs that train nothing, and the ceiling: training anew from the aligned model with the anchor.

Knows: the settings of the rivals. Does not know: what the numbers are made into.

Everything is made from what the bench of a cell may look at. The ceiling has the fine-tune's own rows, steps and
rate, and is measured like the repairs of a cell; of arithmetic the deciding part of the bench is enough.
"""

import time
from pathlib import Path
from typing import Any

from studies.restoration import cell
from studies.training.cell import arm_folder

from holdfast.core import trees
from holdfast.core.files import write_json
from holdfast.data import Example
from holdfast.defences import build
from holdfast.models import Subject, adapter_parameters, add_lora, load
from holdfast.organism import shipped
from holdfast.restoration.arithmetic import alignment_directions, resta, safe_lora
from holdfast.restoration.bench import Bench
from holdfast.restoration.restore import borrowed
from holdfast.restoration.result import put_adapter
from holdfast.restoration.selective import antidote, input_moments, resta_dare, safe_delta, weighing
from holdfast.restoration.validation import Check
from holdfast.training import GuardedTrainer, cpu_safe_args


def run(task: str, seed: int, out: Path, setting: cell.Setting = cell.SETTING) -> dict[str, Any]:
    """Both, for one task and seed; written once it is whole."""
    cpu = time.process_time()
    subject, rows = cell.damaged(task, seed, setting)
    with borrowed(subject.model):
        bench = cell.bench_of(subject, rows, task, cell.Memo(), seed, setting)
        found: dict[str, Any] = {"task": task, "seed": seed, "free": free(bench, seed)}
    found["arms"] = {"ceiling": ceiling(task, rows, seed, setting)}
    found["cpu_seconds"] = round(time.process_time() - cpu, 1)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{task}-{seed}.json", found)
    return found


def free(bench: Bench, seed: int) -> dict[str, dict[str, float]]:
    """On the part that decides: Safe LoRA, RESTA with and without DARE, Antidote, Safe Delta."""
    subject, found = bench.subject, dict[str, Check]()
    adapter = adapter_parameters(subject.model)
    directions = alignment_directions(subject, load(shipped("base")))
    for share in (0.5, 1.0):
        trees.assign(adapter, safe_lora(subject, directions, share))
        found[f"Safe LoRA {share:g}"] = bench.decide.check(0)
        put_adapter(subject.model, bench.original)
    for strength in (0.5, 1.0):
        with resta(subject, directions, strength):
            found[f"RESTA {strength:g}"] = bench.decide.check(0)
    moments = input_moments(subject, bench.material.refusals_fit)
    weights = {f"RESTA {s:g} + DARE": resta_dare(subject, directions, s, 0.3, seed) for s in (0.5, 1.0)}
    weights |= {f"Antidote {share:g}": antidote(subject, moments, share) for share in (0.01, 0.05)}
    weights |= {f"Safe Delta {budget:g}": safe_delta(subject, moments, budget) for budget in (0.1, 0.5)}
    for name, matrices in weights.items():
        with weighing(subject, matrices):
            found[name] = bench.decide.check(0)
    return {
        name: {"refusal": c.refusal, "over_refusal": c.over_refusal, "task_loss_rise": c.task_loss_increase}
        for name, c in found.items()
    }


def ceiling(task: str, rows: list[Example], seed: int, setting: cell.Setting) -> dict[str, Any]:
    """The aligned model trained on the same rows with the anchor, made from the prompts of the bench."""
    base = load(shipped("aligned"))
    subject = Subject(add_lora(base.model, setting.rank, setting.alpha, seed=seed), base.tokenizer, "adapter")
    held = cell.HeldOut.of(task, subject, setting)
    harmful, harmless = cell.given_prompts(seed, setting)
    anchor = build(
        "anchor", None, prompts=harmful, controls=harmless, seed=seed, budget=None,
        subject=subject, max_new_tokens=setting.max_new_tokens,
    )  # fmt: skip
    args = cpu_safe_args(
        per_device_train_batch_size=setting.drift_batch,
        max_steps=setting.slow_steps if task in setting.slow_tasks else setting.drift_steps,
        learning_rate=setting.drift_rate, lr_scheduler_type="constant", weight_decay=0.0, seed=seed,
        output_dir=arm_folder(),
    )  # fmt: skip
    cpu = time.process_time()
    GuardedTrainer(subject, args, rows, defences=[anchor]).train()
    seconds = round(time.process_time() - cpu, 1)
    subject.model.eval()
    found = held.measure(subject) | {"cpu_seconds": seconds}
    return found | cell.lasting(held, subject, rows, seed, setting)
