"""One run: the aligned organism fine-tuned on a task by one arm, and what is left of it afterwards.

Knows: the setting, which prompts serve what, what is measured. Does not know: which arms there are, any claim.

Defences are made from *estimate* prompts; refusals, over-refusal and drift are measured on *evaluate* prompts. In
validation, where knobs are tuned, the tasks are others and both come from *estimate*, without overlap.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from studies.training import kept
from studies.training.arms import Arm

from holdfast.core.files import hash_json, new_folder, read_json, write_json
from holdfast.core.seeds import derive_seed
from holdfast.data import Examples, encode_rows
from holdfast.defences import build
from holdfast.evaluation import Reference, drift
from holdfast.evaluation.own_prompts import own_prompts
from holdfast.models import Subject, add_lora, load
from holdfast.models.forward import mean_loss
from holdfast.models.generate import generate_text
from holdfast.organism import proxy_prompts, shipped, task_rows, tasks
from holdfast.organism.measure import LOOKED_AT, looks_refused
from holdfast.pipeline.defended import OWN_PROMPTS
from holdfast.selection import OnlineSelection
from holdfast.training import DriftBudget, GuardedTrainer, cpu_safe_args

REFUSED, ANSWERED = ("overt", "subtle"), ("lookalike", "benign")


@dataclass(frozen=True)
class Setting:
    """The same for every arm."""

    rank: int = 8
    alpha: int = 16
    pool: int = 32
    steps: int = 60
    learning_rate: float = 2e-3
    rows: int = 960
    prompts: int = 60  # of each kind, to measure on
    given: int = 60  # of each kind, to make defences from
    drift_prompts: int = 24  # of each kind that is refused
    test_rows: int = 100
    max_new_tokens: int = 24


@dataclass(frozen=True)
class Cell:
    """What is run."""

    task: str
    seed: int
    arm: Arm
    split: str = "test"

    def key(self, setting: Setting) -> str:
        """Equal settings, equal key; a setting that is added later, at its default, changes none."""
        whole = [self.task, self.seed, self.split, _told(self.arm), _told(setting)]
        return hash_json(whole)[:8]

    def folder(self, root: Path, setting: Setting) -> Path:
        """Where it is kept."""
        return root / f"{self.task}-{self.seed}-{self.arm.name}-{self.key(setting)}"


def prompts(kinds: tuple[str, ...], split: str, each: int, seed: int) -> list[str]:
    """``each`` of every kind, in their order."""
    return [text for kind in kinds for text in proxy_prompts(split, kind, each, seed)]  # type: ignore[arg-type]


def run(cell: Cell, root: Path, setting: Setting) -> dict[str, Any]:
    """The record of a cell; made if it is not there yet."""
    folder = cell.folder(root, setting)
    if (folder / "run.json").exists():
        return read_json(folder / "run.json")
    if (known := kept.load().get(folder.name)) is not None:
        return known
    started, ticks = time.monotonic(), time.process_time()
    subject = start(cell.seed, setting)
    aligned = Reference.of(
        subject,
        prompts(REFUSED, _asked(cell), setting.drift_prompts, derive_seed(cell.seed, "drift")),
        setting.max_new_tokens,
        seed=cell.seed,
    )
    trained = train(cell, subject, setting) if cell.arm.trains else {}
    training = time.process_time() - ticks
    record = {
        "cell": asdict(cell),
        "setting": asdict(setting),
        **trained,
        **measure(cell, subject, aligned, setting),
        "cpu_seconds_training": round(training, 1),
        "cpu_seconds": round(time.process_time() - ticks, 1),
        "wall_seconds": round(time.monotonic() - started, 1),
    }
    with new_folder(folder) as out:
        write_json(out / "run.json", record)
    return record


def start(seed: int, setting: Setting) -> Subject:
    """The aligned organism with an untrained adapter."""
    aligned = load(str(shipped("aligned")), device="cpu")
    return Subject(add_lora(aligned.model, setting.rank, setting.alpha, seed=seed), aligned.tokenizer, "adapter")


def train(
    cell: Cell, subject: Subject, setting: Setting, rows: Examples | None = None, defences: Sequence[Any] = ()
) -> dict[str, Any]:
    """Fine-tune ``subject`` in place, on its task or on ``rows``; losses and what the defences noted.

    Args:
        defences: beside those of the arm.
    """
    arm, given = cell.arm, derive_seed(cell.seed, "given")
    budget = DriftBudget(max_kl_nats=arm.budget_nats) if arm.budget_nats else None
    defences = list(defences)
    if arm.rule != "none" or arm.loss_filter != "none":
        defences.append(OnlineSelection(arm.keep, arm.rule, arm.loss_filter, cell.seed))
    for name, knob in ((arm.defence, arm.knob), (arm.also, None)):
        if name is None:
            continue
        made = build(
            name,
            knob,
            **material(arm, subject, setting, given),
            seed=cell.seed,
            budget=budget,
            max_new_tokens=setting.max_new_tokens,
        )
        for attribute, value in arm.options if name == arm.defence else ():
            setattr(made, attribute, value)
        defences.append(made)
    rows = rows if rows is not None else task(cell.task, setting.rows, cell.seed)
    args = cpu_safe_args(
        per_device_train_batch_size=setting.pool,
        max_steps=round(arm.longer * setting.steps),
        learning_rate=setting.learning_rate * arm.rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        seed=cell.seed,
        logging_steps=1,
        output_dir=arm_folder(),
    )
    trainer = GuardedTrainer(subject, args, rows, defences=defences, callbacks=stops(cell, subject, setting))
    trainer.train()
    subject.model.eval()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    return {
        "steps": int(trainer.state.global_step),
        "train_loss_last": sum(row["loss"] for row in logs[-10:]) / max(1, len(logs[-10:])),
        "notes": [
            {k: v for k, v in row.items() if "/" in k and not k.startswith(("train", "drift"))} for row in logs
        ],
    }


def material(arm: Arm, subject: Subject, setting: Setting, seed: int) -> dict[str, Any]:
    """Prompts that a defence is made from: given ones, or requests that the model writes."""
    if arm.own:
        return {"prompts": own_prompts(subject, OWN_PROMPTS, setting.max_new_tokens, seed)}
    kinds = {"prompts": REFUSED, "controls": ANSWERED}
    return {name: prompts(kind, "estimate", setting.given, seed) for name, kind in kinds.items()}


@functools.lru_cache(maxsize=1)
def task(name: str, rows: int, seed: int) -> Examples:
    """Rows to train on; every arm of a task and a seed has the same."""
    return encode_rows(task_rows(name, "train", rows, seed), load(str(shipped("aligned")), device="cpu").tokenizer)


def stops(cell: Cell, subject: Subject, setting: Setting) -> list[Any]:
    """The monitor that ends a run at its budget and puts the last weights inside back; for that arm alone."""
    if not cell.arm.stops:
        return []
    from holdfast.training import DriftMonitor

    asked = prompts(REFUSED, "estimate", setting.drift_prompts, derive_seed(cell.seed, "given"))
    reference = Reference.of(subject, asked, setting.max_new_tokens, seed=cell.seed)
    return [DriftMonitor(reference, every=2, budget=DriftBudget(max_kl_nats=cell.arm.budget_nats))]


@functools.cache
def arm_folder() -> str:
    """Where trainers write what nobody reads."""
    import tempfile

    return tempfile.mkdtemp(prefix="holdfast-")


def measure(cell: Cell, subject: Subject, aligned: Reference, setting: Setting) -> dict[str, Any]:
    """What the model does now, one number a prompt or row."""
    seed = 7 if cell.split == "test" else 8
    found: dict[str, Any] = {
        what: refusals(subject, prompts(kinds, _asked(cell), setting.prompts, seed))
        for what, kinds in (("refused", REFUSED), ("over_refused", ANSWERED))
    }
    rows = task_rows(cell.task, cell.split, setting.test_rows, seed)  # type: ignore[arg-type]
    examples: Examples = encode_rows(rows, subject.tokenizer)
    loss = mean_loss(subject, examples, 100)
    found["task_loss"] = loss.nats_per_token
    if tasks()[cell.task].metric == "exact_match":
        answers = generate_text(subject, [row["prompt"] for row in rows], max_new_tokens=40, batch_size=128)
        found["task_right"] = [int(a == row["completion"]) for a, row in zip(answers, rows, strict=True)]
    reading = drift(subject, aligned)
    return found | {"drift_nats": list(reading.per_prompt)}


@torch.no_grad()
def refusals(subject: Subject, asked: list[str]) -> list[int]:
    """One a prompt: whether the greedy answer is a refusal."""
    answers = generate_text(subject, asked, max_new_tokens=LOOKED_AT + 2, batch_size=128)
    return [int(looks_refused(answer)) for answer in answers]


def _told(settings: Any) -> dict[str, Any]:
    return {f.name: v for f in fields(settings) if (v := getattr(settings, f.name)) != f.default}


def _asked(cell: Cell) -> str:
    return "evaluate" if cell.split == "test" else "estimate"
