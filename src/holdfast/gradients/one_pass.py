"""Score a pool, select, and have the update's gradient, from one forward and one inputs-only backward.

Knows: the order of events, what each kept sample weighs. Does not know: selection rules, optimisers.

Shapes: N samples of the pool, S tokens, K kept samples.

Weight gradients are formed for kept samples only, after the choice, from the same layer inputs and output
gradients the norms were read from (``ledger``).

Cost in units of an ordinary step on the pool, keeping a share k: (2 + score + k) / 3 per Linear layer, with the
score's share from ``ghost``; the memory above an ordinary step is every covered layer's input and output gradient.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from holdfast.core.trees import Tree
from holdfast.data import Batch
from holdfast.gradients.ghost import GhostEngine, Reduction, SampleNorms
from holdfast.gradients.layout import token_layout
from holdfast.gradients.ledger import Ledger
from holdfast.gradients.per_sample import TOKENS, in_chunks
from holdfast.gradients.squares import Squares

# From (loss_N, norm_N, tokens_N), all float64 or int64 on the CPU, to the positions to train on.
Choose = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Sequence[int]]
Weighting = Literal["tokens", "samples"]


@dataclass(frozen=True, eq=False)
class OnePass:
    """A scored pool and the update of its kept samples.

    Attributes:
        norms: scores of the whole pool.
        kept: positions that were chosen.
        loss: loss of the kept samples, nats a token ("tokens") or mean over samples ("samples").
        gradients: its gradient, by parameter name, in the parameters' dtype.
        kept_bytes: what was held until the choice, in bytes.
    """

    norms: SampleNorms
    kept: tuple[int, ...]
    loss: float
    gradients: Tree
    kept_bytes: int


def one_pass(
    engine: GhostEngine,
    batch: Batch,
    choose: Choose,
    weighting: Weighting = "tokens",
    reduction: Reduction = "mean",
    tokens_at_a_time: int = TOKENS,
) -> OnePass:
    """Score, choose, and differentiate the loss of what was chosen.

    Args:
        engine: of the model and the parameters that are trained.
        batch: the pool, padded or packed.
        choose: from losses, norms and lengths to positions; none is allowed (the gradients are then zero).
        weighting: "tokens" for the mean over all kept completion tokens (what Trainer minimises), "samples" for
            the mean over samples of their token means.
        reduction: loss whose norm is the score; the update does not depend on it.
        tokens_at_a_time: rows run in chunks of at most this many tokens; what is kept of all of them is held
            until the choice.

    Raises:
        ValueError: unknown weighting; a position outside the pool, given twice, or of a sample without tokens.

    Source: selection.md 3.5, pipeline C, extended to full parameters. Equals ordinary training on the kept samples
    without dropout.
    """
    if weighting not in ("tokens", "samples"):
        raise ValueError(f"weighting '{weighting}': use 'tokens' or 'samples'")
    batch = engine.ready(batch)
    passes = [_observed(engine, part) for part in in_chunks(batch, tokens_at_a_time)]
    loss_N, norm_N, counts_N = (torch.cat([getattr(p.norms, f) for p in passes]) for f in _FIELDS)
    if reduction == "sum":
        norm_N = norm_N * counts_N
    kept = _checked(choose(loss_N, norm_N, counts_N), counts_N)
    weight_K = _weights(counts_N, kept, weighting)
    total, held = engine.zeros(), sum(part.ledger.kept_bytes() for part in passes)
    start = 0
    for part in passes:
        stop = start + len(part.norms.tokens_N)
        mine = [k for k, position in enumerate(kept) if start <= position < stop]
        if mine:
            weights = weight_K[mine].to(engine.device)
            part.ledger.combine(weights, total, [kept[k] - start for k in mine], last=True)
        start = stop
    loss = float((weight_K * loss_N[list(kept)]).sum()) if kept else math.nan
    gradients = {name: value.to(engine.parameters[name].dtype) for name, value in total.items()}
    return OnePass(SampleNorms(norm_N, loss_N, counts_N), kept, loss, gradients, held)


_FIELDS = ("loss_N", "norm_N", "tokens_N")


@dataclass(frozen=True, eq=False)
class _Observed:
    norms: SampleNorms
    ledger: Ledger


def _observed(engine: GhostEngine, batch: Batch) -> _Observed:
    plan = engine.plan(batch)
    squares = Squares(plan.sites, batch.samples, token_layout(batch).by_sample(batch.input_ids_BT, 0))
    ledger, sums_N, tokens_N = engine.observe(batch, "mean", squares)
    norm_N = squares.total().sqrt().masked_fill(tokens_N == 0, float("nan")).cpu()
    return _Observed(SampleNorms(norm_N, (sums_N / tokens_N).cpu(), tokens_N.cpu()), ledger)


def _checked(chosen: Sequence[int], tokens_N: torch.Tensor) -> tuple[int, ...]:
    kept = tuple(int(position) for position in chosen)
    if len(set(kept)) != len(kept) or any(not 0 <= position < len(tokens_N) for position in kept):
        raise ValueError(f"chosen positions {kept[:8]}: each must be one of 0 to {len(tokens_N) - 1}, once")
    empty = next((position for position in kept if tokens_N[position] == 0), None)
    if empty is not None:
        raise ValueError(f"chosen position {empty}: that sample has no completion token to learn from")
    return kept


def _weights(tokens_N: torch.Tensor, kept: Sequence[int], weighting: Weighting) -> torch.Tensor:
    """What each kept sample's mean loss weighs in the update: float64, K."""
    tokens_K = tokens_N[list(kept)].double()
    if weighting == "tokens":
        return tokens_K / tokens_K.sum()
    return torch.full_like(tokens_K, 1.0 / max(1, len(kept)))
