"""What could have been known before a fine-tune's first step, and after 5 % of it: its predictors.

Knows: the predictors that were written down before they were scored (README.md), the runs of studies/organism,
whose first steps are made again here, bit for bit. Does not know: how a run ended.

All are "more is worse". Prompts are *estimate* prompts with samples of their own; outcomes are of *evaluate* ones.
"""

import copy
import functools
from collections.abc import Sequence

import numpy as np
import torch
from studies.organism.damage import Setting

from holdfast.core import trees
from holdfast.core.seeds import derive_seed, seeded
from holdfast.curvature import fisher_quadratic, kl_along
from holdfast.data import Example, Examples
from holdfast.evaluation import sample_reference
from holdfast.geometry.calibration import NEW_TOKENS, PROMPTS, ROWS
from holdfast.geometry.measure import PlannedRun, mean_first_update
from holdfast.models import Subject, add_lora, load, mean_loss
from holdfast.organism import proxy_prompts, shipped
from holdfast.organism.train import train

SATURATED_NATS = 3.0  # as it was written down
PROBE_STEPS = 3  # of 60


def predict(base: Subject, rows: Examples, setting: Setting, seed: int) -> dict[str, float]:
    """All predictors of a fine-tune of the organism ``base`` on ``rows``, which is left alone."""
    model = copy.deepcopy(base.model)
    model = add_lora(model, rank=8, alpha=16, seed=seed) if setting.lora else model
    subject = Subject(model, base.tokenizer, "adapter" if setting.lora else "all")
    plan = PlannedRun("adamw", setting.learning_rate, setting.steps, {}, setting.batch, 0)
    found = before(subject, list(rows)[:ROWS], plan, answers(), setting.batch)
    found["representation_similarity"] = representation_similarity(base, list(rows)[:ROWS], answers())
    found |= after(subject, rows, setting, seed)
    return found | {"line_x_loss": found["line"] * found["task_loss_now"]}


@functools.cache
def organism() -> Subject:
    """The shipped checkpoint; copied, never trained."""
    return load(str(shipped("aligned")), device="cpu")


@functools.cache
def answers() -> tuple[Example, ...]:
    """The aligned organism's own answers to *estimate* prompts."""
    asked = [
        text
        for kind in ("overt", "subtle")
        for text in proxy_prompts("estimate", kind, PROMPTS // 2, derive_seed(0, "predictor"))  # type: ignore[arg-type]
    ]
    return tuple(sample_reference(organism(), asked, NEW_TOKENS, seed=2))


def before(
    subject: Subject, examples: list[Example], plan: PlannedRun, said: Sequence[Example], batch_size: int
) -> dict[str, float]:
    """Without a step; ``said``: the aligned model's answers. The real model's study calls this, too."""
    loss = mean_loss(subject, examples, batch_size).nats_per_token
    update = mean_first_update(subject, examples, plan, batch_size)
    form = 0.5 * float(fisher_quadratic(subject, said, update.tree, batch_size).mean()) * plan.steps**2
    return {
        "task_loss": loss,
        "gradient_norm": trees.norm(update.gradient),
        "length": float(np.mean([e.completion_tokens for e in examples])),
        "form": form,
        "form_x_loss": form * loss,
    }


@torch.no_grad()
def representation_similarity(base: Subject, rows: Sequence[Example], harmful: Sequence[Example]) -> float:
    """Cosine of the mean last hidden states where an answer begins: the task's prompts against harmful ones."""
    means = []
    for some in (rows, harmful):
        states = [
            base.model(torch.tensor([e.prompt_ids]), output_hidden_states=True).hidden_states[-1][0, -1]
            for e in some
        ]
        means.append(torch.stack(states).mean(0))
    return float(torch.nn.functional.cosine_similarity(*means, dim=0))


def after(subject: Subject, rows: Examples, setting: Setting, seed: int) -> dict[str, float]:
    """After the run's own first steps."""
    start = trees.clone(subject.parameters())
    with seeded(seed):
        pad, rate = subject.pad_id, setting.learning_rate
        train(subject.model, rows, PROBE_STEPS, setting.batch, rate, pad, seed, decay=False)
    loss = mean_loss(subject, list(rows)[:ROWS]).nats_per_token
    displacement = trees.subtract(trees.clone(subject.parameters()), start)
    trees.assign(subject.parameters(), start)
    reach = setting.steps / (2 * PROBE_STEPS)
    near, line = kl_along(subject, answers(), displacement, [1.0, reach]).mean(1).tolist()
    return {
        "task_loss_now": loss,
        "update_norm": trees.norm(displacement),
        "kl": near,
        "kl_x_loss": near * loss,
        "line": line,
        "probe": (line if line <= SATURATED_NATS else near) * loss,
    }
