"""What a repair has to beat: arithmetic on weights, refusals alone, a direction added, the anchor from the start.

Knows: the settings of the rivals. Does not know: what the numbers are made into.

Everything is made from what the bench of a cell may look at. What trains nothing is measured on the part that
decides, what trains like the repairs of a cell. *Refusals alone*: the aligned model's refusals without task rows
or harmless answers, one of them being the one-shot patch (arXiv 2601.01887). *Rollback* (after arXiv 2504.09757):
matrices of the update are switched off, those first that bring back most refusal loss for the task loss they
cost, until the limit on the examples that choose. *Direction* (Arditi et al. 2024): the mean residual of harmful
less harmless prompts at their last token, added at every token after one layer. Uncertain: whole matrices are
rolled back where the authors take single weights. The *ceiling* has the fine-tune's own rows, steps and rate.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from studies.restoration import cell
from studies.training.cell import arm_folder

from holdfast.core import trees
from holdfast.core.files import write_json
from holdfast.data import Example
from holdfast.data.encode import encode_prompt
from holdfast.defences import build
from holdfast.models import Subject, adapter_off, adapter_parameters, add_lora, load, lora_pairs, mean_loss
from holdfast.organism import shipped
from holdfast.restoration.arithmetic import alignment_directions, resta, safe_lora
from holdfast.restoration.baselines import ENDS, SCALES, scaled
from holdfast.restoration.bench import Bench
from holdfast.restoration.bound import upper_bound
from holdfast.restoration.restore import borrowed
from holdfast.restoration.result import put_adapter
from holdfast.restoration.selective import antidote, input_moments, resta_dare, safe_delta, weighing
from holdfast.restoration.validation import Check
from holdfast.training import GuardedTrainer, cpu_safe_args

ALONE = {"1 refusal": 1, "10 refusals": 10, "192 refusals": 192}  # the first is a patch by one example
ADDED = (0.5, 1.0)  # times the direction
DEPTH = 2 / 3  # of the layers, where it is added


def run(task: str, seed: int, out: Path, setting: cell.Setting = cell.SETTING) -> dict[str, Any]:
    """All of one task and seed; written once they are whole."""
    cpu = time.process_time()
    subject, rows = cell.damaged(task, seed, setting)
    if seed >= cell.FIRST_SEEDS:  # the ceiling alone
        found = {"task": task, "seed": seed, "weights": "adapter", "free": {}}
        return _written(found | {"arms": {"ceiling": ceiling(task, rows, seed, setting)}}, cpu, out)
    held = cell.HeldOut.of(task, subject, setting, seed)
    with borrowed(subject.model):
        bench = cell.bench_of(subject, rows, held.judge, seed, setting)
        found: dict[str, Any] = {"task": task, "seed": seed, "weights": "adapter", "free": free(bench, seed)}
        arms = refusals_alone(bench, rows, held, seed, setting)
    arms["ceiling"] = ceiling(task, rows, seed, setting)
    if seed < setting.whole:
        arms["ceiling, overt alone"] = ceiling(task, rows, seed, setting, kinds=("overt",))
    found["arms"] = arms
    return _written(found, cpu, out)


def _written(found: dict[str, Any], cpu: float, out: Path) -> dict[str, Any]:
    found["cpu_seconds"] = round(time.process_time() - cpu, 1)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{cell.name_of(found['task'], found['seed'])}.json", found)
    return found


def free(bench: Bench, seed: int) -> dict[str, dict[str, float]]:
    """On the part that decides, what trains nothing; the scaled adapters among it."""
    subject, found = bench.subject, {name: bench.free[name].both[1].check for name in ENDS}
    adapter = adapter_parameters(subject.model)
    directions = alignment_directions(subject, load(shipped("base")))

    def adapted(name: str, tensors: trees.Tree) -> None:
        trees.assign(adapter, tensors)
        found[name] = bench.decide.check(0)
        put_adapter(subject.model, bench.original)

    for factor in SCALES:
        adapted(f"scale {factor:g}", scaled(trees.clone(adapter), factor))
    for share in (0.5, 1.0):
        adapted(f"Safe LoRA {share:g}", safe_lora(subject, directions, share))
    adapted("rollback", rolled_back(bench))
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
    for strength in ADDED:
        with direction_added(bench, strength):
            found[f"direction {strength:g}"] = bench.decide.check(0)
    return {name: _short(check) for name, check in found.items()}


def _short(check: Check) -> dict[str, float]:
    return {
        "refusal": check.refusal, "over_refusal": check.over_refusal,
        "task_loss_rise": check.task_loss_increase, "task_loss_bound": check.task_loss_bound,
    }  # fmt: skip


def rolled_back(bench: Bench, limit: float = cell.SETTING.limit) -> trees.Tree:
    """The adapter with as many of its matrices switched off as the limit lets, cheapest first."""
    subject, part = bench.subject, bench.choose.part
    adapter = adapter_parameters(subject.model)
    here, names = trees.clone(adapter), {id(p): name for name, p in adapter.items()}
    seconds = [names[id(B_OR)] for _, B_OR, _ in lora_pairs(subject.model).values()]

    def losses(off: list[str]) -> tuple[float, float]:
        trees.assign(adapter, {n: torch.zeros_like(t) if n in off else t for n, t in here.items()})
        rises_N = mean_loss(subject, part.task).mean_N - bench.choose.task_loss_start_N
        return upper_bound(rises_N.tolist()), mean_loss(subject, part.refusals).nats_per_example

    _, before = losses([])
    alone = {name: losses([name]) for name in seconds}
    order = sorted(seconds, key=lambda name: (before - alone[name][1]) / max(alone[name][0], 1e-6), reverse=True)
    off: list[str] = []
    for name in order:
        if losses([*off, name])[0] <= limit:
            off.append(name)
    losses(off)
    found = trees.clone(adapter)
    put_adapter(subject.model, bench.original)
    return found


@contextlib.contextmanager
def direction_added(bench: Bench, strength: float) -> Iterator[None]:
    """Inside the block the refusal direction of the aligned model is added to the residuals."""
    subject, part = bench.subject, bench.choose.part
    layers = subject.model.get_submodule("base_model.model.model.layers")
    layer = round(DEPTH * (len(layers) - 1))  # type: ignore[arg-type]
    with adapter_off(subject.model), torch.no_grad():
        harmful_D, harmless_D = (_mean_residual(subject, asked, layer) for asked in (part.harmful, part.benign))
    added_D = strength * (harmful_D - harmless_D)

    def hook(module: Any, given: Any, out: Any) -> Any:
        return (out[0] + added_D, *out[1:]) if isinstance(out, tuple) else out + added_D

    handle = layers[layer].register_forward_hook(hook)  # type: ignore[index]
    try:
        yield
    finally:
        handle.remove()


def _mean_residual(subject: Subject, prompts: tuple[str, ...], layer: int) -> torch.Tensor:
    """At the last token of a prompt, after a layer."""
    tokenizer, found = subject.tokenizer, []
    assert tokenizer is not None
    for prompt in prompts:
        ids = torch.tensor([encode_prompt(prompt, tokenizer)])
        states = subject.model(input_ids=ids, output_hidden_states=True).hidden_states
        found.append(states[layer + 1][0, -1])
    return torch.stack(found).mean(0)


def refusals_alone(
    bench: Bench, rows: list[Example], held: cell.HeldOut, seed: int, setting: cell.Setting
) -> dict[str, Any]:
    """Fine-tunes on refusals and nothing else, chosen and decided as every repair."""
    found = {}
    for name, count in ALONE.items():
        few = bench.material.refusals_fit[:count]
        material = replace(bench.material, refusals_fit=few, task_fit=(), retain_fit=())
        found[name] = cell.repaired(replace(bench, material=material), "replay", held, seed, setting)
        found[name] |= cell.lasting(held, bench.subject, rows, seed, setting)
    return found


def ceiling(
    task: str,
    rows: list[Example],
    seed: int,
    setting: cell.Setting,
    kinds: Sequence[str] = ("overt", "subtle"),
) -> dict[str, Any]:
    """The aligned model trained on the same rows with the anchor, made from the prompts of the bench."""
    base = load(shipped("aligned"))
    subject = Subject(add_lora(base.model, setting.rank, setting.alpha, seed=seed), base.tokenizer, "adapter")
    held = cell.HeldOut.of(task, subject, setting, seed)
    harmful, harmless = cell.given_prompts(seed, setting, kinds)
    anchor = build(
        "anchor", None, prompts=harmful, controls=harmless, seed=seed, budget=None,
        max_new_tokens=setting.max_new_tokens,
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
    return held.measure(subject) | {"cpu_seconds": seconds} | cell.lasting(held, subject, rows, seed, setting)
