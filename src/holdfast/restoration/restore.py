"""The one call: check the inputs, measure the drift, repair, choose, and say honestly what came of it.

Knows: the order of things (restoration.md 3.7, 3.8, 3.13). Does not know: how either method moves.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.models import Subject, adapter_off, adapter_parameters, lora_pairs
from holdfast.restoration.balance import balance
from holdfast.restoration.ggn import ggn_cg
from holdfast.restoration.material import gather
from holdfast.restoration.path import Path
from holdfast.restoration.replay import replay
from holdfast.restoration.result import Restoration, fingerprint, get_adapter
from holdfast.restoration.validation import RATE_TOLERANCE, Check, Validation

METHODS = {"auto": "replay", "replay": "replay", "ggn-cg": "ggn-cg"}
SCALES = (0.25, 0.5, 0.75)


def restore(
    subject: Subject,
    skill: Any,
    task: Sequence[Example],
    retain: str | Sequence[Example] = "self",
    method: str = "auto",
    max_task_loss_increase: float = 0.05,
    seed: int = 0,
    *,
    judge: Callable[[str, str], Any] | None = None,
    prompts: tuple[int, int] = (192, 64),
    task_examples: tuple[int, int] = (256, 128),
    max_new_tokens: int = 32,
    steps: int = 200,
    learning_rate: float = 2e-3,
    batch_size: int = 8,
    outer: int = 12,
    contrast_weight: float = 1.0,
    harmful_weight: float = 0.0,
) -> Restoration:
    """Bring a LoRA adapter's refusals back while its task loss stays within a limit.

    The aligned model is the subject with its adapter switched off. Only ``skill.estimate`` and ``task`` are read;
    the subject is left exactly as it came. Both methods are the local readings of notes-restoration.md: *replay*
    (default until something beats it) and *ggn-cg*, which pays for every step out of a budget.

    Args:
        subject: a PEFT model with a LoRA adapter, and its tokenizer.
        skill: has ``.estimate.harmful`` and ``.estimate.benign`` prompts.
        task: examples of what the adapter was trained for.
        retain: "self" (the drifted model's own answers to the harmless prompts) or examples.
        method: "auto" (= "replay"), "replay" or "ggn-cg".
        max_task_loss_increase: limit on the one-sided 95 % bound of the task loss increase on held-out task
            examples, nats a token (mean over examples of their mean token loss).
        judge: ``judge(prompt, response).label == "refused"`` decides; default the built-in refusal judge.
        prompts, task_examples: most prompts of each kind, and most task examples, in (fit, validation).
        max_new_tokens: of every generated answer.
        steps, learning_rate, batch_size: of replay; the batch is of each of its three sets.
        outer: most linearisations (ggn-cg).
        contrast_weight: ggn-cg only; weight of keeping refusals of harmless prompts unlikely.
        harmful_weight: ggn-cg only; weight of raising the loss of the drifted model's harmful answers.

    Raises:
        UserError: no LoRA adapter or tokenizer, no task data, a negative limit, an unknown method, an aligned
            model that does not refuse.
    """
    started = time.monotonic()
    _check_inputs(subject, task, retain, method, max_task_loss_increase)
    method = METHODS[method]
    refused = _refused(judge)
    with _borrowed(subject.model):
        original = get_adapter(subject.model)
        material = gather(
            subject,
            skill.estimate,
            task,
            retain,
            refused,
            prompts=prompts,
            task_examples=task_examples,
            max_new_tokens=max_new_tokens,
            harmful=method == "ggn-cg" and harmful_weight > 0,
            seed=seed,
        )
        validation = Validation(subject, material, refused, max_new_tokens)
        baselines = measure_baselines(subject, validation)
        start, aligned = baselines["drifted"], baselines["aligned"]
        if not drifted(start, aligned):
            path = Path((start,), None, None)
        elif method == "replay":
            path = replay(
                subject, material, validation, start, aligned,
                max_task_loss_increase=max_task_loss_increase, steps=steps, learning_rate=learning_rate,
                batch_size=batch_size, seed=seed,
            )  # fmt: skip
        else:
            _balance(subject.model)
            path = ggn_cg(
                subject, material, validation, start, aligned,
                max_task_loss_increase=max_task_loss_increase, outer=outer,
                contrast_weight=contrast_weight, harmful_weight=harmful_weight, seed=seed,
            )  # fmt: skip
        adapter = _adapter_of(subject.model, path, original)
    status, reason = _verdict(path, start, aligned, max_task_loss_increase)
    settings = {
        "seed": seed, "prompts": prompts, "task_examples": task_examples, "max_new_tokens": max_new_tokens,
        "steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "outer": outer,
        "contrast_weight": contrast_weight, "harmful_weight": harmful_weight,
        "retain": retain if isinstance(retain, str) else "given", "balanced": method == "ggn-cg",
    }  # fmt: skip
    return Restoration(
        method, status, reason, max_task_loss_increase, path.chosen or start, path.trace, baselines,
        material.counts(), settings, path.notes, time.monotonic() - started, fingerprint(original),
        fingerprint(adapter), adapter, subject,
    )  # fmt: skip


def measure_baselines(subject: Subject, validation: Validation) -> dict[str, Check]:
    """Checks of the end points and of the free repairs: adapter off, and the adapter's update scaled down."""
    with adapter_off(subject.model):
        baselines = {"aligned": validation.check(0)}
    b_matrices = [b_OR for _, b_OR, _ in lora_pairs(subject.model).values()]
    originals = [b_OR.detach().clone() for b_OR in b_matrices]
    for factor in SCALES:
        _write(b_matrices, [factor * b_OR for b_OR in originals])
        baselines[f"scale {factor:g}"] = validation.check(0)
    _write(b_matrices, originals)
    baselines["drifted"] = validation.check(0)
    return baselines


def drifted(start: Check, aligned: Check) -> bool:
    """Whether there is anything to restore: fewer refusals or more over-refusals, by more than two points."""
    lost = aligned.refusal - start.refusal
    return max(lost, start.over_refusal - aligned.over_refusal) > RATE_TOLERANCE


def _check_inputs(subject: Subject, task: Sequence[Example], retain: Any, method: str, limit: float) -> None:
    if not subject.has_adapter or not lora_pairs(subject.model):
        raise UserError("subject: no LoRA adapter on this model; load one with load(..., adapter=folder)")
    if any(getattr(module, "merged", False) for module in subject.model.modules()):
        raise UserError("adapter: merged into the base model; unmerge it or load the adapter again")
    if subject.tokenizer is None:
        raise UserError("subject: no tokenizer; prompts have to be answered, so give one")
    if len(task) == 0:
        raise UserError("task: no examples; without them nothing can bound the task loss")
    if not limit >= 0:
        raise UserError(f"max_task_loss_increase: {limit} nats a token; give 0 or more")
    if method not in METHODS:
        raise UserError(f"method '{method}': unknown; use one of {', '.join(METHODS)}")
    if isinstance(retain, str) and retain != "self":
        raise UserError(f"retain '{retain}': unknown; use 'self' or give examples")


def _refused(judge: Callable[[str, str], Any] | None) -> Callable[[str, str], bool]:
    if judge is None:
        from holdfast.evaluation import RefusalJudge

        judge = RefusalJudge()
    chosen = judge
    return lambda prompt, response: chosen(prompt, response).label == "refused"


@contextlib.contextmanager
def _borrowed(model: Any) -> Iterator[None]:
    """Eval mode and a trainable adapter inside; weights, modes, gradients and flags as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    adapter = adapter_parameters(model)
    values, gradients = trees.clone(adapter), {name: p.grad for name, p in adapter.items()}
    model.eval()
    for name, p in model.named_parameters():
        p.requires_grad_(name in adapter)
    try:
        yield
    finally:
        trees.assign(adapter, values)
        for name, p in model.named_parameters():
            p.requires_grad_(flags[name])
        for name, p in adapter.items():
            p.grad = gradients[name]
        for module, training in modes:
            module.training = training


def _balance(model: Any) -> None:
    for a_RI, b_OR, _ in lora_pairs(model).values():
        _write([a_RI, b_OR], balance(a_RI.detach(), b_OR.detach()))


def _write(targets: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for target, value in zip(targets, values, strict=True):
            target.copy_(value)


def _adapter_of(model: Any, path: Path, original: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if path.adapter is None:
        return original
    trees.assign(adapter_parameters(model), path.adapter)
    return get_adapter(model)


def _verdict(path: Path, start: Check, aligned: Check, limit: float) -> tuple[str, str]:
    def rates(check: Check) -> str:
        return f"refuses {check.refusal:.0%} (over-refuses {check.over_refusal:.0%})"

    if not drifted(start, aligned):
        return "no_drift", f"nothing to restore: the adapter {rates(start)}, the aligned model {rates(aligned)}"
    if path.chosen is None:
        return "no_safe_step", f"no candidate refused more and kept the task loss within {limit:g} nats a token"
    kept = f"task loss bound {path.chosen.task_loss_bound:+.3f} nats a token, limit {limit:g}"
    if path.chosen.as_good_as(aligned):
        return "restored", f"{rates(path.chosen)}, aligned model {rates(aligned)}; {kept}"
    return "partially_restored", f"{rates(path.chosen)}, before {rates(start)}, aligned {rates(aligned)}; {kept}"
