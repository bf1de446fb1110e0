"""One fine-tune under guard, whoever asks for it: the command line and a recipe's stage build and run it here.

Knows: how settings become definite for a model, and a trainer with its monitor.
Does not know: where prompts and rows come from, the order of stages, how a result is shown.
"""

import contextlib
import importlib.util
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from holdfast.core.errors import HoldfastError, UserError
from holdfast.core.seeds import derive_seed
from holdfast.data import Example
from holdfast.evaluation import Reference, Skill
from holdfast.models import Subject, add_lora
from holdfast.pipeline.defended import defences_of, held_own, held_prompts
from holdfast.pipeline.inputs import is_organism
from holdfast.pipeline.recipe import (
    TWINS,
    AdapterSection,
    ArmSection,
    MonitorSection,
    TrainingSection,
)
from holdfast.pipeline.recipe_file import check_twins
from holdfast.pipeline.training_folder import last_checkpoint

if TYPE_CHECKING:
    from holdfast.training import DriftMonitor, GuardedTrainer

log = logging.getLogger(__name__)

# The field's defaults for an adapter on a chat model (ten times TRL's rate for whole models, as its guide to LoRA
# has it; TRL's three epochs), and what the organism was tuned with.
FIELD: dict[str, Any] = {"epochs": 3.0, "learning_rate": 2e-4, "schedule": "cosine", "warmup": 0.03}
ORGANISM: dict[str, Any] = {"steps": 60, "learning_rate": 1e-3, "schedule": "constant", "warmup": 0.0}
ORGANISM_REPAIR: dict[str, Any] = {"steps": 200, "learning_rate": 2e-3}


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides a fine-tune, but for the model, the rows and the prompts.

    Attributes:
        training: definite (:func:`definite`).
        seed: of the whole run; ``training_seed`` is one of a recipe's ``training.seeds``.
        max_new_tokens: of an answer to a prompt of the probe.
    """

    adapter: AdapterSection
    training: TrainingSection
    arm: ArmSection
    monitor: MonitorSection
    seed: int = 0
    training_seed: int = 0
    max_new_tokens: int = 32

    @property
    def adapter_seed(self) -> int:
        """Of the adapter's first values."""
        return derive_seed(self.seed, self.training_seed)

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""
        return self.training.checkpoint_every or self.monitor.every


def definite(training: TrainingSection, model: str, rows: int) -> TrainingSection:
    """The same with every choice made: ours, what ``trl`` says, or the default for this kind of model.

    Args:
        rows: to learn from; they turn epochs into steps.
    """
    default = ORGANISM if is_organism(model) else FIELD
    said = {ours: training.trl[theirs] for theirs, ours in TWINS.items() if theirs in training.trl}
    check_twins(training.trl)
    values: dict[str, Any] = {
        name: value for name in TWINS.values() if (value := getattr(training, name)) is not None
    }
    values |= said
    if values.get("steps", 1) <= 0:  # TRL's way of saying "as many as the epochs take"
        del values["steps"]
    if "steps" not in values and "epochs" not in values:
        values |= {name: default[name] for name in ("steps", "epochs") if name in default}
    values = {"weight_decay": 0.0} | {n: default[n] for n in ("learning_rate", "schedule", "warmup")} | values
    if "steps" not in values:
        values["steps"] = math.ceil(values["epochs"] * math.ceil(rows / training.pool))
    values.pop("epochs", None)
    if values["warmup"] >= 1:  # TRL's number of steps
        values["warmup"] = min(0.999, values["warmup"] / values["steps"])
    values["schedule"] = getattr(values["schedule"], "value", values["schedule"])
    values |= {name: getattr(training, name) for name in ("pool", "micro_batch", "checkpoint_every", "seeds")}
    values["trl"] = {name: value for name, value in training.trl.items() if name not in TWINS}
    return TrainingSection(**values)


def monitored_rows(monitor: MonitorSection, model: str) -> int:
    """Held-out rows for the task loss: what is given, else 64 for the organism and 32 for a real model.

    With 64 there a measurement would cost a fifth of the ten steps that it follows.
    """
    return monitor.task_rows if monitor.task_rows is not None else 64 if is_organism(model) else 32


def repair_settings(model: str, steps: int | None, learning_rate: float | None) -> dict[str, Any]:
    """Of a repair that trains: what is given, else the organism's own values or the library's defaults."""
    given = {"steps": steps, "learning_rate": learning_rate}
    tuned = ORGANISM_REPAIR if is_organism(model) else {}
    return tuned | {name: value for name, value in given.items() if value is not None}


@contextlib.contextmanager
def _refusals_explained(training: TrainingSection) -> Iterator[None]:
    """What a library below us refuses is the user's to mend where the user set its arguments.

    Raises:
        UserError: in place of the library's own error.
    """
    try:
        yield
    except (HoldfastError, torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except Exception as error:
        log.debug("refused", exc_info=True)
        keys = f"with {', '.join(f'trl.{name}' for name in training.trl)}, " if training.trl else ""
        said = " ".join(str(error).split()) or "no reason given"
        raise UserError(
            f"training: {keys}TRL or a library below it refuses this run ({type(error).__name__}: {said})"
        ) from error


def described(training: TrainingSection, rows: int) -> str:
    """What was chosen, in one line."""
    epochs = (training.steps or 0) * training.pool / max(1, rows)
    warmup = f", {training.warmup:.0%} warm-up" if training.warmup else ""
    return (
        f"{training.steps} steps of {training.pool} rows ({epochs:.2g} epochs of {rows} rows), learning rate "
        f"{training.learning_rate:g}, {training.schedule}{warmup}, weight decay {training.weight_decay or 0:g}"
    )


def check_settings(
    training: TrainingSection, adapter: AdapterSection, model: str, arms: Sequence[ArmSection] = ()
) -> None:
    """What can be known before a model is loaded.

    Raises:
        UserError: arguments that TRL refuses on this machine, or that an arm's selection cannot work with;
            bitsandbytes is missing.
    """
    from holdfast.selection import OnlineSelection
    from holdfast.training.guards import unsuited

    arguments = trainer_arguments(definite(training, model, training.pool), 1, 1, "unused", 0, 1)
    for arm in arms:
        needs = OnlineSelection(arm.keep, arm.rule, arm.loss_filter).needs if arm.selects else ()
        if (reason := unsuited(needs, arguments)) is not None:
            raise UserError(f"arm '{arm.name}': {reason}")
    if adapter.quantize is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"adapter.quantize {adapter.quantize}: needs bitsandbytes, which is not installed; `pip install "
            "bitsandbytes`, or leave quantize out"
        )


def quantized(section: AdapterSection) -> dict[str, Any]:
    """What ``load`` is told for QLoRA; nothing otherwise."""
    return {} if section.quantize is None else {"quantize": section.quantize}


def trainer_arguments(
    training: TrainingSection, rows: int, parts: int, folder: str | Path, seed: int, checkpoint_every: int
) -> Any:
    """The ``SFTConfig`` of a definite section.

    Args:
        rows, parts: of a micro-batch, and micro-batches of a pool.

    Raises:
        UserError: TRL refuses the combination.
    """
    from holdfast.training import cpu_safe_args

    assert training.steps is not None and training.learning_rate is not None and training.schedule is not None
    values: dict[str, Any] = {
        "max_steps": training.steps,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": parts,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay or 0.0,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": math.ceil((training.warmup or 0.0) * training.steps),
        "seed": seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": checkpoint_every,
        "save_total_limit": 2,
        **training.trl,
    }
    try:
        return cpu_safe_args(output_dir=str(folder), **values)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"training: TRL refuses these settings ({' '.join(str(error).split())})") from error


def fresh_adapter(section: AdapterSection, subject: Subject, seed: int) -> Subject:
    """The subject with an untrained adapter: the same function, the scope that training moves."""
    targets = section.targets if isinstance(section.targets, str) else list(section.targets)
    model = add_lora(subject.model, section.rank, section.alpha, targets, seed=seed)
    return Subject(model, subject.tokenizer, "adapter")


def build_run(
    spec: RunSpec,
    subject: Subject,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    reference: Reference,
    skill: Skill | None,
    folder: Path,
    further: Sequence[str] = (),
) -> "tuple[GuardedTrainer, DriftMonitor]":
    """A trainer and its monitor; checkpoints and traces go to ``folder``.

    Args:
        subject: with its :func:`fresh_adapter`.
        held_out: for the task loss, as many as :func:`monitored_rows` says; may be empty.
        reference: of the aligned model, on the prompts that :func:`held_prompts` says are watched.
        skill: whose *estimate* prompts are asked; None: refusals are not measured.
        further: prompts that the defence holds beside the skill's, or in their place.
    """
    from holdfast.selection import OnlineSelection
    from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, RefusalProbe
    from holdfast.training.pool import micro_batches

    training, arm, budget = spec.training, spec.arm, spec.arm.budget
    own = arm.defence is not None and arm.prompts == "own"
    held = held_own(spec, subject) if own else held_prompts(skill, further, spec.monitor.prompts)
    monitor = DriftMonitor(
        reference,
        every=spec.monitor.every,
        budget=budget and DriftBudget(**budget.model_dump()),
        probe=skill
        and RefusalProbe.of(
            skill,
            limit=spec.monitor.prompts,
            over_refusal=budget is not None and budget.max_over_refusal is not None,
            max_new_tokens=spec.max_new_tokens,
        ),
        task=list(held_out) or None,
    )
    longest = max(len(example.input_ids) for example in examples)
    vocabulary = int(subject.model.get_input_embeddings().weight.shape[0])
    rows, parts = micro_batches(training.pool, longest, vocabulary, training.micro_batch)
    order = derive_seed(spec.seed, "order", spec.training_seed) % 2**31
    selection = None
    if arm.selects:
        own = derive_seed(spec.seed, "selection", spec.training_seed)
        selection = OnlineSelection(arm.keep, arm.rule, arm.loss_filter, own, low=arm.low)
    arguments = trainer_arguments(training, rows, parts, folder, order, spec.checkpoint_every)
    with _refusals_explained(training):
        trainer = GuardedTrainer(
            model=subject,
            args=arguments,
            train_dataset=list(examples),
            selection=selection,
            defences=defences_of(spec, reference, held),
            callbacks=[monitor],
            eval_dataset=list(held_out) if str(arguments.eval_strategy.value) != "no" and held_out else None,
        )
    return trainer, monitor


def run_training(
    trainer: "GuardedTrainer", monitor: "DriftMonitor", description: str, training: TrainingSection
) -> dict[str, Any]:
    """Train, from the last whole checkpoint if there is one, speaking meanwhile.

    Returns:
        What is kept of it: steps, stopped, losses (one row a step), trace (one row a measurement).
    """
    from holdfast.training.progress import TrainingProgress

    checkpoint = last_checkpoint(Path(str(trainer.args.output_dir)), before=trainer.args.max_steps)
    with TrainingProgress(monitor, description) as progress:
        trainer.add_callback(progress)
        with _refusals_explained(training) if training.trl else contextlib.nullcontext():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    names = ("step", "loss", "grad_norm", "learning_rate", "epoch")
    losses = [
        {name: record[name] for name in names if name in record}
        for record in trainer.state.log_history
        if "loss" in record
    ]
    return {
        "steps": int(trainer.state.global_step),
        "stopped": monitor.stopped.to_dict() if monitor.stopped is not None else None,
        "losses": losses,
        "trace": monitor.trace,
    }
