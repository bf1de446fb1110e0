"""Inner products between samples' gradients: the n x n Gram matrix that stands in for a p x p Fisher.

Knows: products of rows in float64, their eigenpairs, sign-flipped nulls, block names.
Does not know: how rows come about (``store``), what the samples mean.

Shapes: N samples, D coordinates of a slice of a parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core.progress import bar
from holdfast.core.seeds import derive_seed
from holdfast.data import Example
from holdfast.gradients.ghost import GhostEngine, Reduction
from holdfast.gradients.memory import COPIES, most_tokens
from holdfast.gradients.names import block_of
from holdfast.gradients.store import Store
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
    budget_bytes: int = 1 << 30,
    batch_size: int = 16,
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
        budget_bytes: bounds what is held at once, twice: layer inputs and output gradients of all samples (if all
            layers do not fit, groups of layers take a pass each) and one slice of a parameter's gradients.
        batch_size: samples per pass.

    Source: geometry.md 3.1 fact 2, 3.6 route 1. Exact for the given samples; inner products in float64.
    """
    engine = GhostEngine(subject.model, subject.parameters())
    most = most_tokens(subject, examples, COPIES)
    store = Store(engine, examples, subject.pad_id, reduction, batch_size, budget_bytes, most)
    ids = tuple(example.id for example in examples)
    return gram_of(store, ids, reduction, min(budget_bytes, 1 << 25), by_block, null_draws, seed, progress)


def gram_of(
    store: Store,
    ids: tuple[str, ...],
    reduction: str,
    slice_bytes: int = 1 << 25,
    by_block: bool = False,
    null_draws: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Gram:
    """The same from a store; arguments as :func:`gradient_gram`."""
    blocks: dict[str, Matrix] = {}
    total = np.zeros((len(ids), len(ids)))
    nulls = [np.zeros_like(total) for _ in range(null_draws)]
    with bar("gradient Gram", len(store.engine.parameters), progress) as advance:
        for name, part, rows_ND in store.slices(slice_bytes):
            gram = _product(rows_ND)
            total += gram
            if by_block:
                block = block_of(name)
                blocks[block] = blocks.get(block, 0.0) + gram
            for draw, null in enumerate(nulls):
                words = ("null", draw, name, part) if part else ("null", draw, name)
                null += _product(_sign_flipped(rows_ND, derive_seed(seed, *words)))
            advance(0.0 if part else 1.0)
    return Gram(total, ids, reduction, blocks, tuple(nulls))


def falling_eigenpairs(matrix: Matrix) -> tuple[NDArray[np.float64], Matrix]:
    """Eigenvalues of a Gram matrix, largest first, and their eigenvectors as columns."""
    s_N, u_NN = np.linalg.eigh((matrix + matrix.T) / 2)
    return s_N[::-1], u_NN[:, ::-1]


def _product(rows_ND: torch.Tensor, slice_size: int = 1 << 16) -> Matrix:
    """rows @ rows.T, accumulated in float64 over slices of coordinates; the lower half is the upper one."""
    n = len(rows_ND)
    gram = torch.zeros(n, n, dtype=torch.float64, device=rows_ND.device)
    step = max(64, -(-n // 4))  # thinner blocks lose more than symmetry saves
    for part in rows_ND.split(slice_size, dim=1):
        blocks = part.double().split(step)
        for i, upper in enumerate(blocks):
            for j, lower in enumerate(blocks[: i + 1]):
                gram[j * step : (j + 1) * step, i * step : (i + 1) * step] += lower @ upper.T
    upper_half = gram.triu()
    return (upper_half + upper_half.triu(1).T).cpu().numpy()


def _sign_flipped(rows_ND: torch.Tensor, seed: int) -> torch.Tensor:
    bits = torch.randint(0, 2, rows_ND.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    return rows_ND * (2 * bits - 1).to(rows_ND.device)
