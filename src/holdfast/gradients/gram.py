"""Inner products between samples' gradients: the n x n Gram matrix that stands in for a p x p Fisher.

Knows: per-sample gradients parameter group by parameter group, sign-flipped nulls, block names.
Does not know: eigenvalues, what the samples mean.

Shapes: N samples, D coordinates of a parameter group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core.progress import bar
from holdfast.core.seeds import derive_seed
from holdfast.data import Example, batches
from holdfast.gradients.per_sample import Engine, Reduction, per_sample_gradients, samples_at_a_time
from holdfast.models import Subject

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gram:
    """Inner products of per-sample gradients.

    Attributes:
        matrix: (n, n) float64; with ``reduction="sum"`` and completions sampled from the model,
            ``matrix / n`` has the eigenvalues of the sampled Fisher matrix (unit=sequence).
        ids: names of the samples.
        reduction: loss the gradients belong to, "mean" or "sum".
        blocks: per block of parameters its own Gram matrix (they add up to ``matrix``); empty unless asked for.
        nulls: Gram matrices of the same gradients with random signs on every coordinate of every sample;
            their eigenvalues say what size arises without any shared direction. (A direction along a single
            coordinate survives the flips, so the null is conservative there.) Empty unless asked for.
    """

    matrix: Matrix
    ids: tuple[str, ...]
    reduction: str
    blocks: dict[str, Matrix] = field(default_factory=dict)
    nulls: tuple[Matrix, ...] = ()


def gradient_gram(
    subject: Subject,
    examples: Sequence[Example],
    by_block: bool = False,
    reduction: Reduction = "mean",
    null_draws: int = 0,
    seed: int = 0,
    progress: bool = True,
    engine: Engine = "auto",
    budget_bytes: int = 1 << 30,
) -> Gram:
    """Gram matrix of per-sample gradients over the scope.

    Args:
        subject: model and scope.
        examples: the samples; those without completion tokens have zero rows.
        by_block: also one matrix per block; a block is a layer's matrix, with its bias and its LoRA pair.
        reduction: as in :func:`holdfast.gradients.gradient_norms`; the diagonal is its squared norm.
        null_draws: how many sign-flipped nulls to draw (geometry.md 3.5).
        seed: of the nulls.
        progress: show a bar when it takes over two seconds.
        engine: see :func:`holdfast.gradients.per_sample.per_sample_gradients`.
        budget_bytes: n gradients of one parameter group must fit in this; more groups mean more passes over
            the examples. A single parameter is never split, so n times the largest one is the real floor.

    Source: geometry.md 3.1 fact 2, 3.6 route 1. Exact for the given samples.
    """
    parameters = subject.parameters()
    groups = _groups(parameters, len(examples), budget_bytes)
    longest = max((len(example.input_ids) for example in examples), default=1)
    blocks: dict[str, Matrix] = {}
    total = np.zeros((len(examples), len(examples)))
    nulls = [np.zeros_like(total) for _ in range(null_draws)]
    with bar("gradient Gram", len(groups) * len(examples), progress) as advance:
        for group in groups:
            chosen = {name: parameters[name] for name in group}
            store = {
                name: torch.zeros(len(examples), value.numel(), dtype=torch.float32)
                for name, value in chosen.items()
            }
            for batch in batches(examples, samples_at_a_time(chosen, longest), subject.pad_id):
                gradients, _, _ = per_sample_gradients(subject.model, chosen, batch, reduction, engine)
                for name, tensor in gradients.items():
                    store[name][list(batch.index)] = tensor.flatten(1).float().cpu()
                advance(len(batch))
            for name, rows_ND in store.items():
                gram = _product(rows_ND)
                total += gram
                if by_block:
                    block = block_of(name)
                    blocks[block] = blocks.get(block, 0.0) + gram
                for draw, null in enumerate(nulls):
                    null += _product(_sign_flipped(rows_ND, derive_seed(seed, "null", draw, name)))
    ids = tuple(example.id for example in examples)
    return Gram(total, ids, reduction, blocks, tuple(nulls))


def block_of(name: str) -> str:
    """The layer a parameter belongs to: without weight/bias, adapter and wrapper parts of its name."""
    name = name.removeprefix("base_model.model.").replace(".base_layer", "")
    for marker in (".lora_", ".modules_to_save."):
        name = name.split(marker)[0]
    for ending in (".weight", ".bias"):
        name = name.removesuffix(ending)
    return name


def _groups(parameters: dict[str, torch.nn.Parameter], n: int, budget_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    used = 0
    for name, value in parameters.items():
        size = 4 * n * value.numel()
        if groups[-1] and used + size > budget_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _product(rows_ND: torch.Tensor, slice_size: int = 1 << 16) -> Matrix:
    """rows @ rows.T, accumulated in float64 over slices of coordinates."""
    gram = torch.zeros(len(rows_ND), len(rows_ND), dtype=torch.float64)
    for part in rows_ND.split(slice_size, dim=1):
        part = part.double()
        gram += part @ part.T
    return gram.numpy()


def _sign_flipped(rows_ND: torch.Tensor, seed: int) -> torch.Tensor:
    bits = torch.randint(0, 2, rows_ND.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    return rows_ND * (2 * bits - 1)
