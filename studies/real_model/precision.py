"""What half precision and gradient checkpointing do to each verb's numbers, beside what float32 does to itself.

Knows: one small pass of score, evaluate, audit and training in a given precision. Does not know: costs.

Every quantity is compared with float32 on the same rows and the same completions. The noise floor is float32 again
with every row alone: sums in another order. Repairs are not run on their own: they train and read as these do.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from holdfast.data import Example
from holdfast.evaluation import Reference, drift
from holdfast.evaluation.drift import sample_reference
from holdfast.geometry import audit
from holdfast.gradients import gradient_norms
from holdfast.models import Subject, add_lora, generate_text, mean_loss
from holdfast.training import GuardedTrainer, cpu_safe_args

log = logging.getLogger(__name__)

WAYS = ("float32, rows alone", "bfloat16", "float32, checkpointing")
ROWS, TOKENS, STEPS = 3, 12, 2
Figures = dict[str, list[float]]


def tuned(aligned: Subject) -> Subject:
    """The aligned model with an adapter that is moved a little, the same in every precision."""
    model: Any = add_lora(aligned.model, 8, 16, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(2e-3 * torch.randn(parameter.shape, generator=draw))
    return Subject(model, aligned.tokenizer, "adapter")


def figures(
    subject: Subject, rows: Sequence[Example], said: Sequence[Example], batch: int, checkpointing: bool
) -> Figures:
    """Numbers of every verb; the subject is trained at the end."""
    model: Any = subject.model
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    norms = gradient_norms(subject, rows, batch_size=batch, progress=False).grad_norm
    found: Figures = {"score: norms": [float(norm) for norm in norms]}
    model.eval()
    found["evaluate: loss of rows"] = list(mean_loss(subject, rows, batch).nll_N)
    reference = Reference.on(subject, said, source="adapter_off", batch_size=batch)
    found["evaluate: drift"] = list(drift(subject, reference, batch).per_prompt)
    looked = audit(subject, None, rows, reference_examples=said, batch_size=batch, progress=False)
    found["audit: Fisher's trace"] = [looked.spectrum.trace.value]
    found["audit: epsilon_F"] = [looked.conditions.epsilon_F.value]
    found["audit: onset c2"] = [looked.onset.c2.value]
    before = {name: p.detach().float().clone() for name, p in subject.parameters().items()}
    arguments = cpu_safe_args(
        per_device_train_batch_size=batch, gradient_accumulation_steps=len(rows) // batch, max_steps=STEPS,
        learning_rate=1e-4, logging_steps=1, lr_scheduler_type="constant", gradient_checkpointing=checkpointing,
    )  # fmt: skip
    trainer = GuardedTrainer(subject, arguments, list(rows))
    trainer.train()
    found["train: loss, two steps"] = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    moves = [(p.detach().float() - before[name]).flatten() for name, p in subject.parameters().items()]
    found["train: length of the update"] = [float(torch.cat(moves).norm())]
    return found


def differences(of: Figures, standard: Figures) -> dict[str, float]:
    """Largest relative difference of each quantity."""
    return {
        name: max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(of[name], values, strict=True))
        for name, values in standard.items()
    }


def compare(
    load: Callable[[str], Subject], rows: Sequence[Example], prompts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Way -> relative differences to float32, and answers that differ.

    Args:
        load: the aligned model in a number type, anew at every call.
    """
    first = load("float32")
    said = sample_reference(first, list(prompts), TOKENS)
    answers = generate_text(first, list(prompts), TOKENS)
    standard = figures(tuned(first), rows, said, len(rows), False)
    found: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        subject = load("bfloat16" if way == "bfloat16" else "float32")
        size = 1 if way == WAYS[0] else len(rows)
        differ = sum(
            a != b
            for a, b in zip(generate_text(subject, list(prompts), TOKENS, batch_size=size), answers, strict=True)
        )
        own = figures(tuned(subject), rows, said, size, way == WAYS[2])
        found[way] = {"answers that differ": [differ, len(prompts)], **differences(own, standard)}
        log.info("%s: %s", way, found[way])
    return found


def table(results: Mapping[str, Any]) -> str:
    """Markdown: relative differences to float32, bold where ten times the floor and more than a thousandth."""
    found = results.get("precision", {})
    lines = [f"| quantity | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for name in next(iter(found.values()), {}):
        cells = []
        for values in found.values():
            value, floor = values[name], found[WAYS[0]][name]
            if isinstance(value, list):
                cells.append(f"{value[0]} of {value[1]}")
                continue
            mark = "**" if value > max(1e-3, 10 * floor) else ""
            cells.append(f"{mark}{value:.0e}{mark}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
