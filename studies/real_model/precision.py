"""What half precision and gradient checkpointing do to each verb's numbers, beside what float32 does to itself.

Knows: one small pass of score, evaluate, audit and training in a given precision. Does not know: costs.

Every quantity is compared with float32 on the same rows and the same completions. The noise floor is float32 again
with every row alone: sums in another order. Repairs are not run on their own: they train and read as these do.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from studies.real_model import lists, model

from holdfast.data import Example
from holdfast.evaluation import Reference, drift
from holdfast.evaluation.drift import sample_reference
from holdfast.geometry import audit
from holdfast.gradients import gradient_norms
from holdfast.models import Subject, add_lora, generate_text, load, mean_loss
from holdfast.organism import proxy_prompts, shipped
from holdfast.training import GuardedTrainer, cpu_safe_args

log = logging.getLogger(__name__)

WAYS = ("float32, rows alone", "bfloat16", "float32, checkpointing")
ROWS, TOKENS, STEPS = 3, 12, 2
LENGTHS = (20, 26, 31)
Figures = dict[str, list[float]]


def tuned(aligned: Subject) -> Subject:
    """The aligned model with an adapter that is moved a little, the same in every precision."""
    wrapped: Any = add_lora(aligned.model, 8, 16, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(2e-3 * torch.randn(parameter.shape, generator=draw))
    return Subject(wrapped, aligned.tokenizer, "adapter")


def figures(
    subject: Subject, rows: Sequence[Example], said: Sequence[Example], batch: int, checkpointing: bool
) -> Figures:
    """Numbers of every verb; the subject is trained at the end."""
    module: Any = subject.model
    if checkpointing:
        module.gradient_checkpointing_enable({"use_reentrant": False})
        module.train()
    norms = gradient_norms(subject, rows, batch_size=batch, progress=False).grad_norm
    found: Figures = {"score: norms": [float(norm) for norm in norms]}
    module.eval()
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
    make: Callable[[str], Subject], rows: Sequence[Example], prompts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Way -> relative differences to float32, and answers that differ.

    Args:
        make: the aligned model in a number type, anew at every call.
    """
    first = make("float32")
    said = sample_reference(first, list(prompts), TOKENS)
    answers = generate_text(first, list(prompts), TOKENS)
    standard = figures(tuned(first), rows, said, len(rows), False)
    found: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        subject = make("bfloat16" if way == "bfloat16" else "float32")
        size = 1 if way == WAYS[0] else len(rows)
        differ = sum(
            a != b
            for a, b in zip(generate_text(subject, list(prompts), TOKENS, batch_size=size), answers, strict=True)
        )
        own = figures(tuned(subject), rows, said, size, way == WAYS[2])
        nats = [sum(of["evaluate: drift"]) / len(prompts) for of in (own, standard)]
        counted = {
            "answers that differ": f"{differ} of {len(prompts)}",
            "drift, nats": "{:.1e} for {:.1e}".format(*nats),
        }
        found[way] = {**counted, **differences(own, standard)}
        log.info("%s: %s", way, found[way])
    return found


def run(cache: Path, organism: bool) -> dict[str, Any]:
    """The comparison on SmolLM2 (bfloat16 is slow on a CPU without instructions for it), or on the organism."""
    if organism:
        prompts = proxy_prompts("evaluate", "overt", ROWS)
        first = load(shipped("aligned"))
        found = compare(lambda dtype: load(shipped("aligned"), dtype=dtype), random_rows(first), prompts)
        return {"model": "organism", "ways": found}
    first = model.aligned(cache)
    prompts = lists.lookalikes()[:ROWS]
    found = compare(lambda dtype: model.aligned(cache, dtype=dtype), random_rows(first), prompts)
    return {"model": "SmolLM2-135M", "ways": found}


def random_rows(subject: Subject) -> list[Example]:
    """Rows of random tokens, the second half of each a completion."""
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, subject.vocabulary, (length,), generator=draw).tolist() for length in LENGTHS]
    return [Example(tuple(row[: len(row) // 2]), tuple(row[len(row) // 2 :]), str(k)) for k, row in enumerate(ids)]
