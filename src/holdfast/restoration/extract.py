"""A full fine-tune as an adapter on the aligned model, so that it can be repaired like one.

Per linear layer ``W_tuned - W_aligned = U S V^T``; the ``rank`` largest go into ``B = U S^(1/2)`` and
``A = S^(1/2) V^T``. What else changed (norms, embeddings, the head) is kept whole. Off, the adapter leaves the
aligned model; on, the tuned one up to what the rank leaves out, which is said. What comes out of a repair is an
adapter on the *aligned* model, a small file in place of the tuned checkpoint.

Source: restoration.md 3.11 (1), with the aligned model as the base instead of a shifted one.

Knows: two checkpoints of one architecture. Does not know: repairs.
"""

from dataclasses import dataclass
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.models import Subject, lora_pairs


@dataclass(frozen=True)
class Extracted:
    """The tuned model as an adapter.

    Attributes:
        subject: the aligned model with the adapter in it; the model given as aligned is wrapped, not copied.
        kept: share of the squared difference of the linear layers that the rank holds.
        whole: modules kept whole, by name.
    """

    subject: Subject
    kept: float
    whole: tuple[str, ...]


@torch.no_grad()
def as_adapter(aligned: Subject, tuned: Subject, rank: int = 64) -> Extracted:
    """Put the difference of two full checkpoints into an adapter on the first.

    Raises:
        UserError: an adapter on either, other parameters or shapes, nothing that differs.
    """
    if aligned.has_adapter or tuned.has_adapter:
        raise UserError("full fine-tune: one of the models has an adapter; give two full checkpoints")
    before, after = (dict(subject.model.named_parameters()) for subject in (aligned, tuned))
    odd = sorted(before.keys() ^ after.keys()) or [n for n in before if before[n].shape != after[n].shape]
    if odd:
        raise UserError(f"tuned model: '{odd[0]}' is not the aligned model's; give a fine-tune of that model")
    changed = {name for name in before if not torch.equal(before[name], after[name].to(before[name]))}
    if not changed:
        raise UserError("tuned model: no parameter differs from the aligned model; there is nothing to repair")
    linear = _linear_layers(aligned.model)
    others = {name.rpartition(".")[0] for name in changed} - linear
    biased = sorted(name for name in changed if name.rpartition(".")[0] in linear and not name.endswith(".weight"))
    if biased:
        raise UserError(f"tuned model: '{biased[0]}' was trained beside its matrix; only weights can be extracted")
    deltas = {name: after[f"{name}.weight"].float() - before[f"{name}.weight"].float() for name in linear}
    whole = _with_ties(aligned.model, others)
    model = _wrapped(aligned.model, min(rank, max(min(d.shape) for d in deltas.values())), whole)
    kept = _fill(model, deltas)
    for name in whole:
        copy = model.get_submodule(f"base_model.model.{name}").modules_to_save["default"]
        for key, parameter in copy.named_parameters():
            parameter.copy_(tuned.model.get_submodule(name).get_parameter(key))
    return Extracted(Subject(model.eval(), aligned.tokenizer or tuned.tokenizer), kept, tuple(sorted(whole)))


def _linear_layers(model: Any) -> set[str]:
    head = model.get_output_embeddings()
    return {n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head}


def _with_ties(model: Any, names: set[str]) -> set[str]:
    """With the embedding goes the head that shares its weight: PEFT copies each by itself."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    ends = {n for n, module in model.named_modules() if module is table or module is head}
    tied = head is not None and table.weight is head.weight
    return names | ends if tied and names & ends else names


def _wrapped(model: Any, rank: int, whole: set[str]) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(_linear_layers(model)),
        modules_to_save=sorted(whole) or None,
        task_type="CAUSAL_LM",  # type: ignore[arg-type]
    )
    return get_peft_model(model, config)


def _fill(model: Any, deltas: dict[str, torch.Tensor]) -> float:
    """Write the factors; the share of the squared difference they hold."""
    held = there = 0.0
    for layer, (A_RI, B_OR, scale) in lora_pairs(model).items():
        U, S, Vh = torch.linalg.svd(deltas[layer.removeprefix("base_model.model.")], full_matrices=False)
        rank = min(len(S), A_RI.shape[0])
        root = (S[:rank] / scale).sqrt()
        A_RI.zero_()
        B_OR.zero_()
        A_RI[:rank] = root[:, None] * Vh[:rank]
        B_OR[:, :rank] = U[:, :rank] * root
        held, there = held + float(S[:rank].square().sum()), there + float(S.square().sum())
    return held / max(there, 1e-30)
