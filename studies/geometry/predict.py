"""What could have been known before a run's first step, and after 5 % of it: every predictor of a cell.

Knows: the predictors that were written down before any outcome was read (README.md). Does not know: outcomes.

All of them are "more is worse". Prompts are *estimate* prompts with samples of their own; rows are fresh draws of
the task. A run's first steps are those that were kept when it was made.
"""

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from studies.geometry import cell as runs
from studies.geometry.cell import Cell, Setting

from holdfast.core import trees
from holdfast.core.files import read_json, read_tensors, write_json
from holdfast.core.seeds import derive_seed
from holdfast.curvature import fisher_quadratic, kl_along
from holdfast.data import Example, Examples
from holdfast.evaluation import sample_reference
from holdfast.geometry import forecast_after_short_run
from holdfast.geometry.forecast import loss_at
from holdfast.geometry.measure import PlannedRun, mean_first_update
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, mean_loss

PROMPTS, ROWS = 16, 40  # prompts of each kind; task rows, five batches
PILOT_STEPS, PILOT_RATE = 4, 4.0


@functools.lru_cache(maxsize=1)
def answers() -> tuple[Example, ...]:
    """The aligned organism's own answers to *estimate* prompts."""
    setting = Setting()
    asked = runs.prompts("estimate", PROMPTS, derive_seed(0, "predictor"))
    base = runs.aligned(Cell("arithmetic", False, 1e-3), setting)
    return tuple(sample_reference(base, asked, setting.max_new_tokens, seed=2))


def predict(cell: Cell, root: Path, setting: Setting) -> dict[str, Any]:
    """All predictors of a finished run; kept beside it."""
    path = root / cell.name / "predictors.json"
    if path.exists():
        return read_json(path)
    ticks, reference = time.process_time(), answers()
    subject = runs.aligned(cell, setting)
    examples = runs.rows(cell, ROWS, 1000 + cell.seed, subject)
    found = before(subject, reference, examples, cell, setting)
    first = read_tensors(root / cell.name / "first.safetensors")
    for step in setting.kept:
        point = {n.split("|", 1)[1]: t for n, t in first.items() if n.startswith(f"{step}|")}
        found |= after(subject, reference, examples, point, step, setting)
    found |= pilot(subject, reference, examples, cell, setting)
    write_json(path, found | {"cpu_seconds": round(time.process_time() - ticks, 1)})
    return read_json(path)


def before(
    subject: Subject, reference: tuple[Example, ...], examples: Examples, cell: Cell, setting: Setting
) -> dict[str, float]:
    """Without a step."""
    loss = mean_loss(subject, examples).nats_per_token
    g = mean_gradient(subject, examples, "tokens")
    plan = PlannedRun("adamw", cell.learning_rate, setting.steps, {}, setting.batch, cell.seed)
    update = mean_first_update(subject, examples, plan, 16).tree
    form = 0.5 * float(fisher_quadratic(subject, reference, update).mean()) * setting.steps**2
    line = float(kl_along(subject, reference, update, [setting.steps / 8])[0].mean())
    return {
        "task_loss": loss,
        "gradient_norm": trees.norm(g),
        "length": float(np.mean([e.completion_tokens for e in examples])),
        "similarity": similarity(subject, reference, examples),
        "c2_sgd": 0.5 * float(fisher_quadratic(subject, reference, g).mean()),
        "form": form,
        "form_x_loss": form * loss,
        "line_x_loss": line * loss,
    }


def after(
    subject: Subject,
    reference: tuple[Example, ...],
    examples: Examples,
    point: dict[str, torch.Tensor],
    step: int,
    setting: Setting,
) -> dict[str, float]:
    """After the run's own first steps."""
    found = forecast_after_short_run(subject, point, reference, examples, step, setting.steps, ())
    at, loss = found.kl_at, found.task_loss
    return {
        f"{name}@{step}": value
        for name, value in {
            "task_loss_now": loss,
            "update_norm": found.displacement_norm,
            "kl": at["1"].value,
            "kl_x_loss": at["1"].value * loss,
            "form_probe_x_loss": found.kl_quadratic.value * loss,
            "line": at[f"{setting.steps / (2 * step):g}"].value,
            "probe": found.score,
        }.items()
    }


def pilot(
    subject: Subject, reference: tuple[Example, ...], examples: Examples, cell: Cell, setting: Setting
) -> dict[str, float]:
    """A few steps at four times the rate, on a model of its own: drift there, times the loss there."""
    start = {n: p.detach().clone() for n, p in subject.parameters().items()}
    rows = runs.rows(cell, PILOT_STEPS * setting.batch, 2000 + cell.seed, subject)
    rate = PILOT_RATE * cell.learning_rate
    runs.train(subject, rows, rate, PILOT_STEPS, setting.batch, cell.seed, lambda step: None)
    end = {n: p.detach().clone() for n, p in subject.parameters().items()}
    trees.assign(subject.parameters(), start)
    kl = float(kl_along(subject, reference, trees.subtract(end, start), [1.0])[0].mean())
    loss = loss_at(subject, end, examples)
    return {"pilot": kl * loss, "pilot_kl": kl}


@torch.no_grad()
def similarity(subject: Subject, reference: tuple[Example, ...], examples: Examples) -> float:
    """Cosine of the mean hidden states of the task's prompts and of prompts that are refused."""
    mean_states = [
        torch.stack([_last_state(subject, e.prompt_ids) for e in some]).mean(0) for some in (examples, reference)
    ]
    return float(torch.cosine_similarity(mean_states[0], mean_states[1], dim=0))


def _last_state(subject: Subject, ids: Any) -> torch.Tensor:
    model: Any = subject.model
    out = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    return out.hidden_states[-1][0, -1].float()
