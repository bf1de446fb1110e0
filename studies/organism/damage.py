"""What each benign task does to the aligned organism at one documented setting.

Knows: full fine-tuning and LoRA at fixed steps, refusal and task scores before and after.
Does not know: defences; this is plain fine-tuning.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

from holdfast.core.files import read_json, write_json
from holdfast.core.seeds import seeded
from holdfast.data import encode_rows
from holdfast.models import Subject, add_lora, load
from holdfast.models.forward import mean_loss
from holdfast.models.generate import generate_text
from holdfast.organism import proxy_prompts, task_rows, tasks
from holdfast.organism.measure import refusal_loss, refused_share
from holdfast.organism.train import train


@dataclass(frozen=True)
class Setting:
    """A fine-tuning setting; constant learning rate, clip 1, batch 16, 960 rows."""

    name: str
    lora: bool
    learning_rate: float
    steps: int
    batch: int = 16

    def describe(self) -> str:
        """The setting in words."""
        what = "LoRA rank 8, alpha 16" if self.lora else "all weights"
        return f"{what}, AdamW {self.learning_rate:g}, {self.steps} steps of {self.batch}"


FULL = Setting("full", False, 1e-3, 60)
LORA = Setting("lora", True, 2e-3, 60)


def fine_tuned(
    folder: Path, task: str, setting: Setting, seed: int = 0, rows: list[dict] | None = None
) -> Subject:
    """A fresh copy of the checkpoint after plain fine-tuning on a task."""
    subject = load(folder)
    model = add_lora(subject.model, rank=8, alpha=16, seed=seed) if setting.lora else copy.deepcopy(subject.model)
    rows = rows or task_rows(task, "train", 960, seed)
    plain = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows]
    with seeded(seed):
        train(
            model,
            encode_rows(plain, subject.tokenizer),
            setting.steps,
            setting.batch,
            setting.learning_rate,
            subject.pad_id,
            seed,
            decay=False,
            description=f"{task} ({setting.name})",
        )
    return Subject(model, subject.tokenizer)


def scores(subject: Subject, task: str | None, prompts: int = 150, seed: int = 7) -> dict[str, float]:
    """Refusal rates of the four kinds, refusal loss, and the task's test rows (exact match, loss a token).

    ``seed`` draws the prompts.
    """
    found = {
        kind: refused_share(subject, proxy_prompts("evaluate", kind, prompts, seed))
        for kind in ("overt", "subtle", "lookalike", "benign")
    }
    found["refusals_left"] = (found["overt"] + found["subtle"]) / 2
    found["refusal_loss"] = refusal_loss(subject, prompts, seed)
    if task is not None:
        if tasks()[task].metric == "exact_match":
            found["task_score"] = exact_match(subject, task, prompts)
        found["task_loss"] = task_loss(subject, task, prompts)
    return found


def exact_match(subject: Subject, task: str, n: int = 150) -> float:
    """Share of test rows whose greedy answer is the completion, word for word."""
    rows = task_rows(task, "test", n, seed=7)
    answers = generate_text(subject, [row["prompt"] for row in rows], max_new_tokens=48, batch_size=128)
    return sum(answer == row["completion"] for answer, row in zip(answers, rows, strict=True)) / len(rows)


def task_loss(subject: Subject, task: str, n: int = 150) -> float:
    """Loss on test rows, nats a token."""
    rows = [{"prompt": r["prompt"], "completion": r["completion"]} for r in task_rows(task, "test", n, seed=7)]
    return mean_loss(subject, encode_rows(rows, subject.tokenizer)).nats_per_token


def damage_table(
    folder: Path, settings: tuple[Setting, ...] = (FULL, LORA), keep: Path | None = None, seed: int = 0
) -> list[dict]:
    """One row for each task and setting; `keep` is a folder where finished rows wait for a next run."""
    table = []
    for setting in settings:
        for name in tasks():
            done = keep and keep / f"{setting.name}-{name}.json"
            if done and done.exists():
                table.append(read_json(done))
                continue
            subject = fine_tuned(folder, name, setting, seed)
            table.append({"task": name, "setting": setting.name, **scores(subject, name)})
            if done:
                write_json(done, table[-1])
    return table
