"""One fine-tune of the study: the aligned organism on a task, its drift and refusals on the way, its first steps.

Knows: the setting, when a run is looked at, which prompts serve the outcome. Does not know: predictors, claims.

Outcomes are read on *evaluate* prompts; predictors (predict.py) see *estimate* prompts, other samples and rows
alone. What the run was after its first steps is kept, so that predictors can be computed from it later.
"""

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.core.files import new_folder, read_json, write_json, write_tensors
from holdfast.core.seeds import derive_seed, undisturbed
from holdfast.data import Examples, collate, encode_rows
from holdfast.evaluation import Reference, drift
from holdfast.models import Subject, add_lora, load
from holdfast.models.forward import batch_logits, token_nll
from holdfast.models.generate import generate_text
from holdfast.organism import proxy_prompts, shipped, task_rows
from holdfast.organism.measure import LOOKED_AT, looks_refused

REFUSED = ("overt", "subtle")
OUTCOME, ASKED = "evaluate", 7  # split and seed of the prompts that decide


@dataclass(frozen=True)
class Setting:
    """The same for every run: AdamW, constant rate, clip 1."""

    steps: int = 40
    batch: int = 8
    rows: int = 400
    rank: int = 8
    alpha: int = 16
    looked_at: tuple[int, ...] = (4, 8, 16, 40)  # steps at which drift is read
    asked_at: tuple[int, ...] = (16, 40)  # steps at which refusals are read
    kept: tuple[int, ...] = (2,)  # steps whose weights are kept: 5 % of the run
    drift_prompts: int = 20  # of each kind that is refused
    prompts: int = 30  # the same, for refusals
    max_new_tokens: int = 16


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
    shared = organism()
    model = copy.deepcopy(shared.model)
    if not cell.lora:
        return Subject(model, shared.tokenizer, "all")
    return Subject(add_lora(model, setting.rank, setting.alpha, seed=cell.seed), shared.tokenizer, "adapter")


@functools.cache
def organism() -> Subject:
    """The shipped checkpoint; copied, never trained."""
    return load(str(shipped("aligned")), device="cpu")


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


Look = Callable[[int], None]


def train(
    subject: Subject, examples: Examples, rate: float, steps: int, batch: int, seed: int, look: Look
) -> list:
    """Fine-tune ``subject`` in place; ``look`` is called with the number of every step that is done.

    Returns the losses, nats a token.
    """
    weights = [p for p in subject.parameters().values() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    order, losses = np.random.default_rng([seed, 5]), []
    subject.model.train()
    for step in range(1, steps + 1):
        chosen = order.choice(len(examples), batch, replace=False)
        found = collate([examples[k] for k in chosen], subject.pad_id)
        loss = token_nll(batch_logits(subject.model, found), found).sum() / found.completion_mask_BT[:, 1:].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        look(step)
    subject.model.eval()
    return losses


@functools.lru_cache(maxsize=1)
def outcome(setting: Setting) -> Reference:
    """The aligned organism's answers along which a run's drift is read."""
    asked = prompts(OUTCOME, setting.drift_prompts, derive_seed(0, "outcome"))
    base = aligned(Cell("", False, 0.0), setting)
    return Reference.of(base, asked, setting.max_new_tokens, seed=1)


@functools.lru_cache(maxsize=1)
def refused_aligned(setting: Setting) -> float:
    """Of the same prompts, by the aligned organism."""
    return refused(aligned(Cell("", False, 0.0), setting), prompts(OUTCOME, setting.prompts, ASKED))


def run(cell: Cell, root: Path, setting: Setting) -> dict[str, Any]:
    """The record of a cell; made if it is not there yet."""
    folder = root / cell.name
    if (folder / "run.json").exists():
        return read_json(folder / "run.json")
    ticks = time.process_time()
    subject, reference = aligned(cell, setting), outcome(setting)
    asked = prompts(OUTCOME, setting.prompts, ASKED)
    trace: list[dict[str, Any]] = []
    kept: dict[str, torch.Tensor] = {}

    def look(step: int) -> None:
        if step in setting.kept:
            kept.update({f"{step}|{n}": p.detach().clone() for n, p in subject.parameters().items()})
        if step not in setting.looked_at and step not in setting.asked_at:
            return
        row: dict[str, Any] = {"step": step, "kl_nats": drift(subject, reference).kl_nats}
        with undisturbed(subject.model):
            row |= {"refusal": refused(subject, asked)} if step in setting.asked_at else {}
        trace.append(row)

    examples = rows(cell, setting.rows, cell.seed, subject)
    losses = train(subject, examples, cell.learning_rate, setting.steps, setting.batch, cell.seed, look)
    record = {
        "cell": asdict(cell),
        "group": cell.group,
        "setting": asdict(setting),
        "losses": losses,
        "refusal_aligned": refused_aligned(setting),
        "trace": trace,
        "cpu_seconds": round(time.process_time() - ticks, 1),
    }
    with new_folder(folder) as out:
        write_json(out / "run.json", record)
        write_tensors(out / "first.safetensors", kept)
    return record
