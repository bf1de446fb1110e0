"""Repairs by arithmetic on weights, rivals that train nothing: Safe LoRA and RESTA.

Both need the model before it was aligned: ``V = W_aligned - W_unaligned`` is taken for what alignment did.

Source: Safe LoRA (Hsu et al., NeurIPS 2024): ``ΔW <- P ΔW`` with ``P = V V^T / |V|_F`` in the matrices whose
update is least like its own image; every likeness is taken from the updates as they came (the published code
writes a matrix before it has compared the next). RESTA (Bhardwaj et al., arXiv 2402.11746): ``W_tuned + g V``.

Knows: matrices of an adapter and of two models. Does not know: what a repair is worth.

Shapes: R rank, I inputs, O outputs.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.models import Subject, adapter_parameters, lora_pairs


def alignment_directions(subject: Subject, unaligned: Subject) -> dict[str, torch.Tensor]:
    """V of every matrix that ``subject``'s adapter changes, (O, I), by the layer's name.

    Raises:
        UserError: ``unaligned`` has no such matrix.
    """
    other, found = dict(unaligned.model.named_modules()), {}
    for name in lora_pairs(subject.model):
        plain = name.split("base_model.model.", 1)[-1]
        weight_OI = getattr(other.get(plain), "weight", None)
        base_OI = subject.model.get_submodule(name).base_layer.weight
        if weight_OI is None or weight_OI.shape != base_OI.shape:
            raise UserError(
                f"unaligned model: no matrix '{plain}' {tuple(base_OI.shape)}; give the same architecture"
            )
        found[name] = (base_OI - weight_OI).detach()
    return found


def safe_lora(subject: Subject, directions: Mapping[str, torch.Tensor], share: float) -> trees.Tree:
    """The adapter's tensors with the given share of its matrices projected; the subject is left as it is.

    Args:
        directions: of :func:`alignment_directions`.
        share: of the matrices, those least like their projection first; 1 projects all.
    """
    names = {id(parameter): name for name, parameter in adapter_parameters(subject.model).items()}
    projected, likeness = {}, {}
    for layer, V_OI in directions.items():
        A_RI, B_OR, _ = lora_pairs(subject.model)[layer]
        update_OI = (B_OR @ A_RI).detach()
        P_OO = V_OI @ V_OI.T / V_OI.norm().clamp_min(1e-30)
        projected[names[id(B_OR)]] = P_OO @ B_OR.detach()
        likeness[names[id(B_OR)]] = torch.cosine_similarity(
            (P_OO @ update_OI).flatten(), update_OI.flatten(), 0
        ).item()
    changed = sorted(likeness, key=likeness.__getitem__)[: round(share * len(likeness))]
    return trees.clone(adapter_parameters(subject.model)) | {name: projected[name] for name in changed}


@contextlib.contextmanager
def resta(subject: Subject, directions: Mapping[str, torch.Tensor], strength: float) -> Iterator[None]:
    """Inside the block every matrix is ``W_tuned + strength V``; afterwards what it was, bit for bit."""
    weights = {name: subject.model.get_submodule(name).base_layer.weight for name in directions}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(strength * directions[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])
