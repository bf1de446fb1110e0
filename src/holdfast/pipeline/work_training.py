"""The training stage: one arm, one seed, an adapter and the trace of how it came about.

Knows: how a recipe's arm becomes a GuardedTrainer. Does not know: order, resume, evaluation.
"""

from pathlib import Path

from holdfast.core.files import write_json
from holdfast.core.seeds import derive_seed
from holdfast.evaluation import Reference
from holdfast.models import save_adapter
from holdfast.pipeline.folder import RunFolder
from holdfast.pipeline.recipe import ArmSection
from holdfast.pipeline.work_before import (
    ADAPTER,
    TRAIN,
    examples_of,
    reference_examples,
    skill_of,
    with_fresh_adapter,
)

TRACE = "trace.json"
LOGS = "logs"  # selection.jsonl and drift.jsonl, a line as it happens


def train(run: RunFolder, folder: Path, arm: ArmSection, seed: int) -> None:
    """Fine-tune a fresh adapter. Every arm sees the same pools in the same order for as many steps."""
    from holdfast.selection import OnlineSelection
    from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, RefusalProbe, cpu_safe_args

    recipe, training = run.recipe, run.recipe.training
    subject = with_fresh_adapter(run, seed)
    probe = RefusalProbe.of(
        skill_of(run), limit=recipe.monitor.prompts, max_new_tokens=recipe.skill.max_new_tokens
    )
    monitor = DriftMonitor(
        Reference.on(subject, reference_examples(run, "estimate"), source="adapter_off"),
        every=recipe.monitor.every,
        budget=arm.budget and DriftBudget(arm.budget.max_kl_nats, arm.budget.min_refusal),
        probe=probe,
    )
    selection = None
    if arm.selects:
        own_seed = derive_seed(recipe.seed, "selection", seed)
        selection = OnlineSelection(arm.keep, arm.rule, arm.loss_filter, own_seed)
    trainer = GuardedTrainer(
        model=subject,
        args=cpu_safe_args(
            output_dir=str(folder / LOGS),
            max_steps=training.steps,
            per_device_train_batch_size=training.pool,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            lr_scheduler_type="constant",
            seed=derive_seed(recipe.seed, "order", seed) % 2**31,
        ),
        train_dataset=examples_of(run, subject, TRAIN),
        selection=selection,
        callbacks=[monitor],
    )
    trainer.train()
    save_adapter(trainer.model, folder / ADAPTER)
    stopped = monitor.stopped.to_dict() if monitor.stopped is not None else None
    write_json(folder / TRACE, {"arm": arm.name, "seed": seed, "trace": monitor.trace, "stopped": stopped})
