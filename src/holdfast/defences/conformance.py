"""Does a defence keep the rules of the house? Ours and other packages' are put through the same short runs.

Knows: a small aligned model, a task, three fine-tunes. Does not know: any method.

``check_conformance(make)`` builds the defence anew for each run and gives one :class:`Finding` a rule:

    inputs          hooks leave weights, modes, random state, gradients (but for ``update``) and the pool alone
    deterministic   the same seed gives the same weights, whatever other randomness the process has used
    resumes         a run that goes on from a checkpoint ends with the weights of one that was never stopped
    reads           nothing is read that ``needs`` does not declare
    steps           the optimiser steps as often as the run has steps, and nothing else moves weights
"""

import copy
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from holdfast.core.defence import Defence, Material, UndeclaredReadError
from holdfast.core.results import Result
from holdfast.defences.registry import declared, find
from holdfast.models import Subject, add_lora
from holdfast.organism import proxy_prompts, shipped, task_rows
from holdfast.training import GuardedTrainer, cpu_safe_args
from holdfast.training.place import fingerprint

RULES = ("inputs", "deterministic", "resumes", "reads", "steps")
_STEPS, _STOP, _ROWS, _TOKENS = 4, 2, 8, 8
_HOOKS = ("begin", "read", "choose", "see", "loss", "update")

Make = Callable[[Material], Defence]


@dataclass(frozen=True)
class Finding(Result):
    """What one rule found; ``problem`` is empty where it is kept."""

    rule: str
    problem: str

    @property
    def kept(self) -> bool:
        """Whether nothing was found."""
        return not self.problem


@dataclass
class _Seen:
    """What the watched hooks did wrong, by rule."""

    problems: dict[str, str] = field(default_factory=dict)
    views: list[Any] = field(default_factory=list)
    optimizer_steps: int = 0

    def add(self, rule: str, problem: str) -> None:
        self.problems.setdefault(rule, problem)


def check_conformance(
    make: Make | str, needs: frozenset[str] | None = None, seed: int = 0, subject: Subject | None = None
) -> tuple[Finding, ...]:
    """Put a defence through three runs of four steps of a small model, in a few seconds.

    Args:
        make: a name, or a function from its material to a new defence.
        needs: what the function may read of its material; None: what the defence's own class declares, or for a
            function everything.
        subject: the aligned model with an adapter; None takes the built-in one. Copies of it are trained.

    Returns:
        One finding a rule, in the order of :data:`RULES`.
    """
    if isinstance(make, str):
        kind: Any = find(make)
        needs, make = declared(kind), lambda material: kind.build(material, None)
    seen = _Seen()
    subject = subject if subject is not None else _subject(seed)
    material = _material(needs if needs is not None else frozenset({"prompts", "controls", "further"}), seed)
    try:
        with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
            whole = _run(subject, make(material), Path(folder) / "a", seed, seen, saves=True)
            random.seed(seed + 1)  # the trainer seeds torch's and NumPy's itself
            again = _run(subject, make(material), Path(folder) / "b", seed, seen)
            checkpoint = Path(folder) / "a" / f"checkpoint-{_STOP}"
            resumed = _run(subject, make(material), Path(folder) / "c", seed, seen, checkpoint)
            if not _same(whole, again):
                seen.add("deterministic", "two runs with one seed end with different weights")
            if not _same(whole, resumed):
                seen.add(
                    "resumes", f"going on from step {_STOP} ends with other weights; keep all of it in `state`"
                )
    except UndeclaredReadError as error:
        seen.add("reads", str(error))
    for view in [material, *seen.views]:
        if view.undeclared:
            seen.add("reads", f"read {', '.join(sorted(view.undeclared))} without declaring it")
    return tuple(Finding(rule, seen.problems.get(rule, "")) for rule in RULES)


def _subject(seed: int) -> Subject:
    from holdfast.models import load

    aligned = load(str(shipped("aligned")), device="cpu")
    return Subject(add_lora(aligned.model, 2, 4, seed=seed), aligned.tokenizer, "adapter")


def _material(needs: frozenset[str], seed: int) -> Material:
    kinds = ("overt", "lookalike", "benign")
    prompts, controls, further = (proxy_prompts("estimate", kind, 12, seed) for kind in kinds)
    return Material(needs, prompts, controls, seed, max_new_tokens=_TOKENS, further=further)


def _run(
    start: Subject,
    defence: Defence,
    folder: Path,
    seed: int,
    seen: _Seen,
    checkpoint: Path | None = None,
    saves: bool = False,
) -> dict[str, torch.Tensor]:
    """Weights that come out of one fine-tune of a copy of ``start``."""
    from holdfast.data import encode_rows

    subject = Subject(copy.deepcopy(start.model), start.tokenizer, "adapter")
    examples = encode_rows(task_rows("lessons", n=_ROWS * _STEPS, seed=seed), subject.tokenizer)
    args = cpu_safe_args(
        output_dir=str(folder), per_device_train_batch_size=_ROWS // 2, gradient_accumulation_steps=2,
        max_steps=_STEPS, learning_rate=1e-3, lr_scheduler_type="constant", save_steps=_STOP,
        save_strategy="steps" if saves else "no", seed=seed, use_cpu=True,
    )  # fmt: skip
    with _watched(defence, subject, seen):
        trainer = GuardedTrainer(subject, args, examples, defences=[defence])
        with _counted(seen):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    wanted = _STEPS - (_STOP if checkpoint else 0)
    if seen.optimizer_steps != wanted:
        seen.add("steps", f"{seen.optimizer_steps} steps of the optimiser in a run of {wanted}")
    return {name: p.detach().clone() for name, p in subject.model.named_parameters() if p.requires_grad}


@contextmanager
def _counted(seen: _Seen) -> Iterator[None]:
    """Count the steps of every optimiser, whoever makes it."""
    seen.optimizer_steps = 0

    def count(*_: Any) -> None:
        seen.optimizer_steps += 1

    handle = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watched(defence: Defence, subject: Subject, seen: _Seen) -> Iterator[None]:
    """Compare everything a hook could touch before and after it."""
    plain = {hook: getattr(defence, hook) for hook in _HOOKS if type(defence).overrides(hook)}

    def around(hook: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if hook == "choose":
                seen.views.append(args[0])
            before = _snapshot(subject.model, hook, args)
            found = plain[hook](*args)
            after = _snapshot(subject.model, hook, args)
            for what in before:
                if before[what] != after[what]:
                    rule = "steps" if what == "weights" else "inputs"
                    seen.add(rule, f"{hook}() changed the {what}" + ("" if rule == "inputs" else " itself"))
            return found

        return call

    for hook in plain:
        object.__setattr__(defence, hook, around(hook))
    try:
        yield
    finally:
        for hook in plain:
            object.__delattr__(defence, hook)


def _snapshot(model: torch.nn.Module, hook: str, args: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "weights": fingerprint(model),
        "modes": tuple(module.training for module in model.modules()),
        "random state": (torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())),
        "trained parameters": tuple(p.requires_grad for p in model.parameters()),
    }
    if hook != "update":
        found["gradients"] = tuple(
            float(p.grad.norm()) if p.grad is not None else None for p in model.parameters()
        )
    if hook == "choose":
        pool = args[0]
        rows = pool._rows
        values = [pool.tokens_B, pool._loss_B, pool._norm_B, rows.input_ids_BT, rows.completion_mask_BT]
        found["pool"] = tuple(None if value is None else value.numpy().tobytes() for value in values)
    if hook == "see":
        found["rows"] = (args[0].input_ids_BT.numpy().tobytes(), args[0].completion_mask_BT.numpy().tobytes())
    return found


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
