"""The relearning attack: how much of an alignment a few steps of harmless fine-tuning undo.

Knows: which trainer, which rows, at what cost. Does not know: how the attack is undone and judged
(``evaluation.attacks``), which rows are harmless: the caller does.
"""

import contextlib
import copy
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.data import Example
from holdfast.evaluation.attacks import Attack, Spent, relearning
from holdfast.evaluation.attacks.weights import FineTune
from holdfast.models import Subject

LEARNING_RATE = 1e-4


def benign_fine_tune(
    examples: Sequence[Example], steps: int = 20, learning_rate: float = LEARNING_RATE, batch_size: int = 8
) -> FineTune:
    """A plain fine-tune of the subject's scope (AdamW, constant rate), as a function of subject and seed.

    Args:
        examples: harmless ones.
        steps, batch_size: updates, and examples in each.

    Raises:
        UserError: nothing to learn from, no steps, a learning rate that is none.
    """
    if not examples or steps < 1:
        raise UserError(f"relearning with {len(examples)} examples and {steps} steps: give at least one of each")
    if not learning_rate > 0:
        raise UserError(f"relearning at a learning rate of {learning_rate:g}: give one above 0")

    def fine_tune(subject: Subject, seed: int) -> Spent:
        from holdfast.training import GuardedTrainer, cpu_safe_args

        folder = tempfile.mkdtemp(prefix="holdfast-relearn-")
        order = derive_seed(seed, "relearn") % 2**31
        options: dict[str, Any] = {"lr_scheduler_type": "constant", "weight_decay": 0.0, "seed": order}
        try:
            args = cpu_safe_args(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=batch_size,
                learning_rate=learning_rate,
                **options,
            )
            with _as_found(subject.model):
                GuardedTrainer(model=subject, args=args, train_dataset=list(examples)).train()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        epochs = steps / math.ceil(len(examples) / batch_size)  # the last batch of an epoch may be short
        tokens = sum(example.completion_tokens for example in examples)
        return Spent(gradient_steps=steps, training_tokens=round(tokens * epochs))

    return fine_tune


@contextlib.contextmanager
def _as_found(model: Any) -> Iterator[None]:
    """Take back what a trainer leaves besides weights: settings, a wrapped forward, hooks, checkpointing."""
    objects = [model.config, getattr(model, "generation_config", None)]
    settings = [(found, copy.deepcopy(vars(found))) for found in objects if found is not None]
    modules = [(module, dict(vars(module)), dict(module._forward_hooks)) for module in model.modules()]
    try:
        yield
    finally:
        for found, values in settings:
            vars(found).clear()
            vars(found).update(values)
        for module, attributes, hooks in modules:
            vars(module).clear()
            vars(module).update(attributes)
            module._forward_hooks.clear()
            module._forward_hooks.update(hooks)


def relearning_attack(
    examples: Sequence[Example],
    steps: int = 20,
    learning_rate: float | None = None,
    batch_size: int = 8,
) -> Attack:
    """:func:`benign_fine_tune` as an attack; its name says steps and rate."""
    rate = LEARNING_RATE if learning_rate is None else learning_rate
    return relearning(benign_fine_tune(examples, steps, rate, batch_size), f"relearn-{steps}@{rate:g}")
