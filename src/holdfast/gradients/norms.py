"""Scoring samples in memory: one gradient norm a sample.

Knows: batching by length, progress, putting rows back in order, which engine computes.
Does not know: selection rules, files.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch

from holdfast.core.progress import bar
from holdfast.data import Batch, Example, batches
from holdfast.gradients.ghost import GhostEngine, Reduction, SampleNorms
from holdfast.gradients.per_sample import (
    TOKENS,
    in_chunks,
    per_sample_gradients,
    rows_of,
    samples_at_a_time,
    squared_norms,
)
from holdfast.gradients.proxies import proxy_batch
from holdfast.gradients.scores import ScoreTable, source_columns
from holdfast.models import Subject

Engine = Literal["auto", "vmap", "loop"]


def gradient_norms(
    subject: Subject,
    examples: Sequence[Example],
    reduction: Reduction = "mean",
    batch_size: int | Literal["auto"] = "auto",
    progress: bool = True,
    engine: Engine = "auto",
    strict: bool = False,
    proxy: str = "full",
    seed: int = 0,
) -> ScoreTable:
    """L2 norm of each sample's loss gradient over the subject's scope, or a cheaper stand-in for it.

    Args:
        subject: model and scope; nothing about it is changed.
        examples: what to score.
        reduction: "mean" over a sample's completion tokens (the score of selection.md 1.2), or "sum".
        batch_size: samples at a time; "auto" bounds the tokens of a pass.
        progress: show a bar when it takes over two seconds.
        engine: "auto" reads norms off one forward and backward (:class:`GhostEngine`); "vmap" and "loop" form
            every gradient, for comparison.
        strict: refuse parameters without a closed form instead of taking the exact generic path.
        proxy: what ``grad_norm`` holds: the norm ("full"), or a proxy (:func:`proxy_batch`), of which
            :func:`rank_agreement` says how well it ranks your rows.
        seed: of the proxies that draw something.

    Returns:
        A table in the order of ``examples``. Samples without completion tokens get NaN and a status.

    Raises:
        UserError: ``strict`` and a parameter without a rule; unknown proxy.
        ValueError: a proxy with another engine than "auto".
    """
    if proxy != "full" and engine != "auto":
        raise ValueError(f"proxy '{proxy}' with engine '{engine}': proxies have the engine 'auto' only")
    longest = max((len(example.input_ids) for example in examples), default=1)
    rows = max(1, min(64, TOKENS // longest)) if batch_size == "auto" else batch_size
    norms = np.full(len(examples), np.nan)
    losses = np.full(len(examples), np.nan)
    tokens = np.zeros(len(examples), dtype=np.int64)
    if engine == "auto":
        score = proxy_batch(subject, proxy, reduction, seed, strict)
    else:
        score = partial(_one_by_one, subject.model, subject.parameters(), reduction, engine)
    with bar("gradient norms" if proxy == "full" else f"proxy {proxy}", len(examples), progress) as advance:
        for batch in batches(examples, rows, subject.pad_id):
            found, index = score(batch), list(batch.index)
            norms[index], losses[index] = found.norm_N.numpy(), found.loss_N.numpy()
            tokens[index] = found.tokens_N.numpy()
            advance(len(batch))
    return ScoreTable(
        tuple(example.id for example in examples),
        norms,
        losses,
        tokens,
        reduction,
        proxy=proxy,
        scope=scope_of(subject),
        **source_columns(examples),
    )


def scope_of(subject: Subject) -> str:
    """The subject's scope with "auto" resolved, as score tables record it."""
    return subject.scope if subject.scope != "auto" else "adapter" if subject.has_adapter else "all"


def _one_by_one(
    model: torch.nn.Module,
    parameters: Mapping[str, torch.nn.Parameter],
    reduction: Reduction,
    engine: Engine,
    batch: Batch,
) -> SampleNorms:
    """By the engines that form every gradient."""
    return SampleNorms(*batch_gradient_norms(model, parameters, batch, reduction, engine))


def pool_norms(
    engine: GhostEngine, batch: Batch, reduction: Reduction = "mean", tokens: int = TOKENS
) -> SampleNorms:
    """Norms of a pool that may be too large for one pass: rows in chunks of at most ``tokens`` tokens."""
    parts = [engine.norms(part, reduction) for part in in_chunks(batch, tokens)]
    return SampleNorms(
        torch.cat([part.norm_N for part in parts]),
        torch.cat([part.loss_N for part in parts]),
        torch.cat([part.tokens_N for part in parts]),
    )


def batch_gradient_norms(
    model: torch.nn.Module,
    parameters: Mapping[str, torch.nn.Parameter],
    batch: Batch,
    reduction: Reduction = "mean",
    engine: Engine = "auto",
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradient norms of one pool of samples. For many pools build one :class:`GhostEngine`: it plans once.

    Args:
        model: any causal LM.
        parameters: the scope, by name.
        batch: the pool.
        reduction: as :func:`gradient_norms`.
        engine: as :func:`gradient_norms`.
        chunk: samples at a time, for "vmap" and "loop".

    Returns:
        Norms (float64, B; NaN for a sample without completion tokens), mean loss per completion token in nats
        (float64, B; NaN likewise), completion tokens (int64, B), on the CPU.
    """
    if engine == "auto":
        found = pool_norms(GhostEngine(model, parameters), batch, reduction)
        return found.norm_N, found.loss_N, found.tokens_N
    rows = chunk or samples_at_a_time(parameters, batch.input_ids_BT.shape[1])
    norms, losses, tokens = [], [], []
    for start in range(0, len(batch), rows):
        part = rows_of(batch, start, start + rows)
        gradients, loss_B, tokens_B = per_sample_gradients(model, parameters, part, reduction, engine)
        norms.append(squared_norms(gradients).sqrt().masked_fill(tokens_B == 0, float("nan")).cpu())
        losses.append(loss_B.cpu())
        tokens.append(tokens_B.cpu())
    return torch.cat(norms), torch.cat(losses), torch.cat(tokens)
