"""The one call: check the inputs, measure the drift, repair, choose, decide, and say what came of it.

Knows: the order of things (restoration.md 3.7, 3.8, 3.13). Does not know: how either method moves.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.progress import bar
from holdfast.data import Example
from holdfast.evaluation import Judge
from holdfast.models import Subject, adapter_off_is_base, adapter_parameters, lora_pairs
from holdfast.models.bare import WAY_OUT
from holdfast.restoration.attempt import Attempt, Best
from holdfast.restoration.balance import balance_all
from holdfast.restoration.bench import Bench, prepare
from holdfast.restoration.cost import Cost
from holdfast.restoration.distil import Teachers, distil
from holdfast.restoration.influence import influence
from holdfast.restoration.replay import replay
from holdfast.restoration.result import Restoration, fingerprint, get_adapter, put_adapter
from holdfast.restoration.sizes import Sizes, fitted
from holdfast.restoration.start import safe_scale, scale_adapter, update_size
from holdfast.restoration.tuning import CHECK_EVERY, LEARNING_RATE, STEPS, Schedule
from holdfast.restoration.verdict import conclude, has_drifted

log = logging.getLogger(__name__)
SCHEDULED = ("steps", "learning_rate", "batch_size", "check_every", "seed", "falling")
METHODS = ("auto", "settle", "distil", "replay", "curvature")
AUTO = "settle"  # what the study has found best (studies/restoration)


def restore(
    subject: Subject,
    skill: Any,
    task: Sequence[Example] | None = None,
    retain: str | Sequence[Example] = "self",
    method: str = "auto",
    max_task_loss_increase: float = 0.05,
    seed: int = 0,
    *,
    judge: Judge | None = None,
    prompts: tuple[int, int] = (192, 128),
    task_examples: tuple[int, int] = (256, 256),
    max_new_tokens: int = 32,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    batch_size: int = 8,
    outer: int = 12,
    solver: str = "ggn-cg",
    contrast_weight: float = 1.0,
    harmful_weight: float = 0.0,
    most_ratio: float | None = None,
    start: float | str = "auto",
    minutes: float | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Restoration:
    """Bring an adapter's refusals back while its task loss stays within a limit.

    The aligned model is the subject with its adapter switched off. Only ``skill.estimate`` and ``task`` are read;
    the subject is left exactly as it came. *replay* trains on labels; *distil* starts on the safe side (see
    ``start``) and learns from the aligned model on what it refuses and from the drifted one on the task;
    *curvature* is the influence step, paid for out of a budget (notes-restoration.md). *settle* distils
    from the adapter as it came, at a rate that falls to nothing. *auto* is what wins the study of them,
    settle (studies/restoration).

    Args:
        subject: a PEFT model with an adapter in its layers (curvature: LoRA), and its tokenizer.
        skill: has ``.estimate.harmful`` and ``.estimate.benign`` prompts.
        task: examples of what the adapter was trained for; None: they are lost, and the drifted model's own
            samples for the harmless prompts stand in.
        retain: "self" (the drifted model's own answers to the harmless prompts) or examples.
        method: "auto", "settle", "distil", "replay" or "curvature"; the result names what ran.
        max_task_loss_increase: limit on the one-sided 95 % bound of the task loss increase on held-out task
            examples, nats a token (mean over examples of their mean token loss).
        judge: its label "refused" counts, its "error" counts nowhere; default the built-in refusal judge.
        prompts, task_examples: most prompts of each kind, and most task examples, in (fit, validation). Half of
            validation chooses the checkpoint, the other half decides about it.
        max_new_tokens: of every generated answer.
        steps, learning_rate, batch_size: of settle, distil and replay; the batch is of each of the three sets. The
            defaults are for an adapter of a real model; the built-in one takes 200 steps at 2e-3 (``holdfast
            restore`` knows).
        outer: most linearisations (curvature).
        solver: curvature only; of its linear systems, one of :data:`holdfast.restoration.influence.SOLVERS`.
        contrast_weight: curvature only; weight of keeping refusals of harmless prompts unlikely.
        harmful_weight: curvature only; weight of raising the loss of the drifted model's harmful answers.
        most_ratio: curvature only; most times a step may cost more on unseen examples than on those of its
            curvature, 2 in the specification. Off by default: no step is kept that the unseen ones do not bear
            out, and with it the repair of the demo stops at once (studies/demo).
        start: the scale of the adapter's update at the first step. "auto": 1 for settle; for distil
            the largest of 1, 0.5 and 0.25 that refuses as the aligned model does on the examples that choose, and
            from which the steps lead back.
        minutes: cut prompts, task_examples and steps to what ends in this time here, by a timed first batch; None
            keeps them, and the result does not depend on the machine's speed.
        progress: draw a bar on a terminal.
        say: is told beforehand what the repair will cost, and after the first step how long it may take.

    Raises:
        UserError: no adapter or tokenizer, an adapter without which the model is not its base, no task data, a
            negative limit, an unknown method, an aligned model that does not refuse, a judge that fails on more
            than a tenth of the answers.
    """
    started = time.monotonic()
    _check_inputs(subject, task, retain, method, max_task_loss_increase, start)
    method = AUTO if method == "auto" else method
    judge = judge or _default_judge()
    with borrowed(subject.model):
        if minutes is not None:
            asked = Sizes(prompts, task_examples, outer if method == "curvature" else steps, batch_size)
            chosen_sizes = fitted(
                subject, skill.estimate, task, asked, minutes, method=method,
                max_new_tokens=max_new_tokens, say=say or log.info,
            )  # fmt: skip
            prompts, task_examples, batch_size = (
                chosen_sizes.prompts,
                chosen_sizes.task_examples,
                chosen_sizes.batch,
            )
            steps, outer = (steps, chosen_sizes.steps) if method == "curvature" else (chosen_sizes.steps, outer)
        settings = {
            "seed": seed, "prompts": prompts, "task_examples": task_examples, "max_new_tokens": max_new_tokens,
            "steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "check_every": CHECK_EVERY,
            "outer": outer, "solver": solver, "contrast_weight": contrast_weight, "harmful_weight": harmful_weight,
            "most_ratio": most_ratio,
            "retain": retain if isinstance(retain, str) else "given", "task": "self" if task is None else "given",
        }  # fmt: skip
        bench = prepare(
            subject, skill.estimate, task, retain, judge, prompts=prompts, task_examples=task_examples,
            max_new_tokens=max_new_tokens, harmful=method == "curvature" and harmful_weight > 0, seed=seed,
            progress=progress,
        )  # fmt: skip
        result = repair(bench, method, max_task_loss_increase, settings, start, progress, say)
    return replace(result, seconds=time.monotonic() - started)


def repair(
    bench: Bench,
    method: str,
    max_task_loss_increase: float,
    settings: dict[str, Any],
    start: float | str = "auto",
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Restoration:
    """One method on a bench whose adapter is trainable; leaves its outcome in the adapter.

    Args:
        settings: of :func:`restore`, all of them.
    """
    started, subject, free = time.monotonic(), bench.subject, bench.free
    put_adapter(subject.model, bench.original)
    settings = {"falling": False} | settings
    if method in ("settle", "distil"):
        walk = settings["steps"] * settings["learning_rate"]
        automatic = 1.0 if method == "settle" else safe_scale(free, update_size(subject), walk)
        settings["start"] = automatic if isinstance(start, str) else float(start)
    cost = Cost(method, settings, bench, say)
    best = bench.best(max_task_loss_increase)
    attempt = Attempt((best.start,), method=method)
    if has_drifted(bench.lost):
        bench.offer_free(best)
        attempt = _moved(method, bench, best, settings, {"progress": progress, "tell": cost.a_step_took})
    outcome = conclude(subject, best, bench.decide, free, bench.lost)
    adapter = bench.original if outcome.candidate is None else get_adapter(subject.model)
    chosen = outcome.candidate
    settings |= {"balanced": attempt.balanced, "bound_level": outcome.level}
    return Restoration(
        attempt.method, outcome.status, outcome.reason, max_task_loss_increase,
        best.start if chosen is None else chosen.check, attempt.trace,
        {name: baseline.choose.check for name, baseline in free.items()}, bench.material.counts(), settings,
        attempt.notes, time.monotonic() - started, fingerprint(bench.original), fingerprint(adapter),
        "drifted" if chosen is None else chosen.name, outcome.checks, outcome.decision, adapter, subject,
    )  # fmt: skip


def _moved(method: str, bench: Bench, best: Best, settings: dict[str, Any], how: dict[str, Any]) -> Attempt:
    """Let the method move the adapter, offering what it finds to ``best``."""
    subject, material, choose = bench.subject, bench.material, bench.choose
    if method == "settle":
        return replace(_settled(bench, best, settings, how), method=method)
    if method == "curvature":
        balanced = balance_all(subject.model)
        names = ("seed", "outer", "solver", "contrast_weight", "harmful_weight", "most_ratio")
        attempt = influence(subject, material, choose, best, **{name: settings[name] for name in names}, **how)
        return replace(attempt, balanced=balanced, method=method)
    schedule = Schedule(**{name: settings[name] for name in SCHEDULED})
    if method == "replay":
        return replace(replay(subject, material, choose, best, schedule, **how), method=method)
    with bar("what both models say, to be held to", None, how["progress"]):
        teachers = Teachers.of(subject, material)
    scale_adapter(subject, settings["start"])
    return replace(distil(subject, material, teachers, choose, best, schedule, **how), method=method)


def _settled(bench: Bench, best: Best, settings: dict[str, Any], how: dict[str, Any]) -> Attempt:
    """Distil at a falling rate.

    Checks on the way are of weights that have not settled, and some look better by chance: where the last keeps
    the limits none before it is a candidate.
    """
    on_the_way = bench.best(best.limit)
    attempt = _moved("distil", bench, on_the_way, settings | {"falling": True}, how)
    last, here = attempt.trace[-1], adapter_parameters(bench.subject.model)
    if not last.passes(best.limit, best.most_over_refusal):
        for candidate in on_the_way.candidates:
            best.offer(candidate.check, candidate.adapter, candidate.name)
        best.needed_limit = min(best.needed_limit, on_the_way.needed_limit)
        return attempt
    best.offer(last, here)
    return attempt


def _check_inputs(
    subject: Subject, task: Sequence[Example] | None, retain: Any, method: str, limit: float, start: float | str
) -> None:
    if not subject.has_adapter:
        raise UserError("subject: no LoRA adapter on this model, nor another; load(..., adapter=folder) loads one")
    if any(getattr(module, "merged", False) for module in subject.model.modules()):
        raise UserError("adapter: merged into the base model; unmerge it or load the adapter again")
    if (reason := adapter_off_is_base(subject.model)) is not None:
        raise UserError(f"adapter: switched off it does not leave the aligned model ({reason}); {WAY_OUT}")
    if subject.tokenizer is None:
        raise UserError("subject: no tokenizer; prompts have to be answered, so give one")
    if task is not None and len(task) == 0:
        raise UserError("task: no examples; without them nothing can bound the task loss; None if they are lost")
    if start != "auto" and (isinstance(start, str) or not 0 <= start <= 1):
        raise UserError(f"start '{start}': use 'auto' or a scale from 0 to 1")
    if not limit >= 0:
        raise UserError(f"max_task_loss_increase: {limit} nats a token; give 0 or more")
    if method not in METHODS:
        raise UserError(f"method '{method}': unknown; use one of {', '.join(METHODS)}")
    if isinstance(retain, str) and retain != "self":
        raise UserError(f"retain '{retain}': unknown; use 'self' or give examples")
    pairs = {id(matrix) for a_RI, b_OR, _ in lora_pairs(subject.model).values() for matrix in (a_RI, b_OR)}
    adapter = adapter_parameters(subject.model).items()
    other = [name for name, p in adapter if id(p) not in pairs and ".lora_magnitude_vector" not in name]
    if method == "curvature" and other:
        raise UserError(
            f"method 'curvature': works on LoRA matrices, and this adapter trains {other[0]}; use 'replay'"
        )


def _default_judge() -> Judge:
    from holdfast.evaluation import RefusalJudge

    return RefusalJudge()


@contextlib.contextmanager
def borrowed(model: Any) -> Iterator[None]:
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
