"""One fine-tune of the study: the aligned organism on a task, its drift and refusals along the way, its first steps.

Knows: the setting, when a run is looked at, which prompts serve the outcome. Does not know: any predictor, any claim.

Outcomes are read on *evaluate* prompts; predictors (predict.py) see *estimate* prompts, other samples and other rows
alone. What the run was after its first steps is kept, so that predictors can be computed from it later.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from holdfast.core.files import new_folder, read_json, write_json, write_tensors
from holdfast.core.seeds import derive_seed
from holdfast.data import Examples, encode_rows
from holdfast.evaluation import Reference, drift
from holdfast.models import Subject, add_lora, load
from holdfast.models.generate import generate_text
from holdfast.organism import proxy_prompts, shipped, task_rows
from holdfast.organism.measure import LOOKED_AT, looks_refused
from holdfast.training import GuardedTrainer, cpu_safe_args

REFUSED = ("overt", "subtle")
OUTCOME, ASKED = "evaluate", 7  # split and seed of the prompts that decide


@dataclass(frozen=True)
class Setting:
    """The same for every run: AdamW, constant rate, clip 1."""

    steps: int = 60
    batch: int = 16
    rows: int = 960
    rank: int = 8
    alpha: int = 16
    looked_at: tuple[int, ...] = (3, 6, 12, 24, 40, 60)  # steps at which drift and refusals are read
    kept: tuple[int, ...] = (3, 6)  # steps whose weights are kept: 5 and 10 % of the run
    drift_prompts: int = 32  # of each kind that is refused
    prompts: int = 60  # the same, for refusals
    max_new_tokens: int = 24


@dataclass(frozen=True)
class Cell:
    """What is run."""

    task: str
    lora: bool
    learning_rate: float
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task}-{'lora' if self.lora else 'full'}-{self.learning_rate:g}-{self.seed}"

    @property
    def group(self) -> str:
        """Runs that are ranked among each other: one method at one rate."""
        return f"{'lora' if self.lora else 'full'} {self.learning_rate:g}"


def aligned(cell: Cell, setting: Setting) -> Subject:
    """The aligned organism, with an untrained adapter where one is trained."""
    subject = load(str(shipped("aligned")), device="cpu")
    if not cell.lora:
        return Subject(subject.model, subject.tokenizer, "all")
    return Subject(
        add_lora(subject.model, setting.rank, setting.alpha, seed=cell.seed), subject.tokenizer, "adapter"
    )


def prompts(split: str, each: int, seed: int) -> list[str]:
    """``each`` overt and as many subtle ones."""
    return [text for kind in REFUSED for text in proxy_prompts(split, kind, each, seed)]  # type: ignore[arg-type]


def rows(cell: Cell, n: int, seed: int, subject: Subject) -> Examples:
    """Rows of the task's train split."""
    return encode_rows(task_rows(cell.task, "train", n, seed), subject.tokenizer)


@torch.no_grad()
def refused(subject: Subject, asked: list[str]) -> float:
    """Share of greedy answers that are refusals."""
    answers = generate_text(subject, asked, max_new_tokens=LOOKED_AT + 2, batch_size=128)
    return sum(map(looks_refused, answers)) / len(answers)


class Watch(TrainerCallback):
    """Reads outcomes at their steps and keeps the first weights."""

    def __init__(self, subject: Subject, setting: Setting, reference: Reference, asked: list[str]) -> None:
        self.subject, self.setting, self.reference, self.asked = subject, setting, reference, asked
        self.trace: list[dict[str, Any]] = []
        self.kept: dict[str, torch.Tensor] = {}

    def look(self, step: int) -> None:
        """One row of the trace."""
        training = self.subject.model.training
        self.subject.model.eval()
        reading = drift(self.subject, self.reference)
        self.trace.append(
            {"step": step, "kl_nats": reading.kl_nats, "refusal": refused(self.subject, self.asked)}
            | ({"per_prompt": list(reading.per_prompt)} if step in (0, self.setting.steps) else {})
        )
        self.subject.model.train(training)

    def on_step_end(self, args, state, control, **kwargs):
        """After every update."""
        step = int(state.global_step)
        if step in self.setting.kept:
            found = {n: p.detach().clone().contiguous() for n, p in self.subject.parameters().items()}
            self.kept |= {f"{step}|{name}": tensor for name, tensor in found.items()}
        if step in self.setting.looked_at:
            self.look(step)


def trained(subject: Subject, examples: Examples, cell: Cell, setting: Setting, watch: Any, **changes: Any) -> Any:
    """Fine-tune ``subject`` in place, as a user's trainer would."""
    values: dict[str, Any] = {
        "per_device_train_batch_size": setting.batch,
        "max_steps": setting.steps,
        "learning_rate": cell.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "seed": cell.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "output_dir": tempfile.gettempdir() + "/holdfast-geometry",
    }
    trainer = GuardedTrainer(subject, cpu_safe_args(**(values | changes)), examples, callbacks=[watch])
    trainer.train()
    subject.model.eval()
    return trainer


def run(cell: Cell, root: Path, setting: Setting) -> dict[str, Any]:
    """The record of a cell; made if it is not there yet."""
    folder = root / cell.name
    if (folder / "run.json").exists():
        return read_json(folder / "run.json")
    ticks = time.process_time()
    subject = aligned(cell, setting)
    asked = prompts(OUTCOME, setting.drift_prompts, derive_seed(0, "outcome"))
    reference = Reference.of(subject, asked, setting.max_new_tokens, seed=1)
    watch = Watch(subject, setting, reference, prompts(OUTCOME, setting.prompts, ASKED))
    watch.look(0)
    trainer = trained(subject, rows(cell, setting.rows, cell.seed, subject), cell, setting, watch)
    logs = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    record = {
        "cell": asdict(cell),
        "group": cell.group,
        "setting": asdict(setting),
        "losses": logs,
        "trace": watch.trace,
        "cpu_seconds": round(time.process_time() - ticks, 1),
    }
    with new_folder(folder) as out:
        write_json(out / "run.json", record)
        write_tensors(out / "first.safetensors", watch.kept)
    return record
