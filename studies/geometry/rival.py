"""alignment-risk, the one other package that forecasts alignment collapse, beside ours on the same fine-tunes.

    pip install --no-deps --target FOLDER alignment-risk==1.14.1      (it asks for an older torch)
    PYTHONPATH=FOLDER python -m studies.geometry rival --out RUNS

Knows: its public interface, what it is handed: the aligned model's refusals of *estimate* prompts, the run's own
rows and rate, and its defaults otherwise. Does not know: how a run ended. None of its code is here.
"""

import copy
import importlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from studies.geometry import predict
from studies.geometry.tunes import Tune
from studies.geometry.tunes import all_of_them as everything

from holdfast.core.errors import UserError
from holdfast.core.files import read_json, write_json
from holdfast.core.seeds import derive_seed
from holdfast.data import Example, encode_rows
from holdfast.evaluation import sample_reference
from holdfast.gradients.functional import math_attention
from holdfast.models import add_lora
from holdfast.organism import proxy_prompts
from holdfast.organism.train import train

SAFETY_PROMPTS, NEW_TOKENS = 128, 24  # as many as it reads by default
BATCHES = 4  # the most that its defaults look at
TIMED_STEPS = 10


def all_of_them() -> list[Tune]:
    """LoRA runs first, which cost it least; neither second seeds at the first rate nor slower mixtures."""
    order = ("first", "slower", "mixtures")
    return sorted(
        (t for t in everything() if t.part in order), key=lambda t: (t.method != "lora", order.index(t.part))
    )


def run(tune: Tune, root: Path) -> dict[str, Any]:
    """What it says of a fine-tune, made unless it is in ``root``.

    Raises:
        UserError: the package is not there.
    """
    path = root / f"rival-{tune.name}.json"
    if path.exists():
        return read_json(path)
    try:
        package = importlib.import_module("alignment_risk")
    except ImportError as error:
        raise UserError(f"{error}; this comparison needs it: see {Path(__file__).name}") from error
    base, setting = predict.organism(), tune.setting
    model = copy.deepcopy(base.model)
    model = add_lora(model, rank=8, alpha=16, seed=tune.seed) if setting.lora else model
    examples = list(encode_rows(tune.rows()[: BATCHES * setting.batch], base.tokenizer))
    config = package.PipelineConfig(mode="lora" if setting.lora else "full", learning_rate=setting.learning_rate)
    ticks = time.process_time()
    with math_attention():
        said = package.AlignmentRiskPipeline(config).run(
            model=model,
            safety_dataloader=list(_batches(_refusals(), setting.batch)),
            safety_loss_fn=_loss,
            fine_tune_dataloader=list(_batches(examples, setting.batch)),
            fine_tune_loss_fn=_loss,
        )
    spent = time.process_time() - ticks
    collapse = said.forecast.collapse_step
    never = len(said.forecast.steps)
    write_json(path, {
        "alignment_risk": -float(never if collapse is None else collapse),
        "alignment_risk_loss": float(said.forecast.estimated_loss[setting.steps]),
        "alignment_risk_overlap": float(said.initial_risk.projected_ratio),
        "collapse_step": collapse,
        "gamma_hat": float(said.curvature.gamma_hat),
        "epsilon_hat": float(said.curvature.epsilon_hat),
        "in_steps": round(spent / _step_seconds(tune, model, examples), 1),
    })  # fmt: skip
    return read_json(path)


def _refusals() -> list[Example]:
    kinds: tuple[Any, ...] = ("overt", "subtle")
    asked = [
        text
        for kind in kinds
        for text in proxy_prompts("estimate", kind, SAFETY_PROMPTS // 2, derive_seed(0, "rival"))
    ]
    return sample_reference(predict.organism(), asked, NEW_TOKENS, seed=3)


def _batches(examples: Sequence[Example], size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Padded on the right; labels of the completion only."""
    for start in range(0, len(examples), size):
        some = examples[start : start + size]
        width = max(len(e.input_ids) for e in some)
        ids, mask, labels = (torch.zeros(len(some), width, dtype=torch.long) for _ in range(3))
        labels -= 100
        for k, one in enumerate(some):
            n = len(one.input_ids)
            ids[k, :n], mask[k, :n] = torch.tensor(one.input_ids), 1
            labels[k, len(one.prompt_ids) : n] = torch.tensor(one.completion_ids)
        yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _loss(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch).loss


def _step_seconds(tune: Tune, model: Any, examples: Sequence[Example]) -> float:
    """CPU seconds of one of the run's own steps."""
    pad, setting = predict.organism().pad_id, tune.setting
    ticks = time.process_time()
    train(model, examples, TIMED_STEPS, setting.batch, setting.learning_rate, pad, 0, decay=False)
    return (time.process_time() - ticks) / TIMED_STEPS
