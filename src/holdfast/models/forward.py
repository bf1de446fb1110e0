"""The one way to run a model over examples, and the per-token quantities read off the logits.

Knows: batches, logits, negative log-likelihood, full-vocabulary KL.
Does not know: gradients, what the examples are for.

Shapes: B batch, T time, V vocabulary, N examples, S = T - 1 predicted positions, M scored positions.

Only positions whose next token carries loss are put through the output head (``head.py``), and never more of them
at once than a slice: what is held does not grow with the vocabulary times the tokens of a data set.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from holdfast.core.results import Result
from holdfast.data import Batch, Example, batches
from holdfast.models.head import Scored, ScoredLogits, logits_at, scored, slices
from holdfast.models.limits import check_length, vocabulary_size
from holdfast.models.subject import Subject

DEFAULT_BATCH_SIZE = 32
# Padded tokens of a batch on a CPU: enough for full speed, and 32 rows of mixed lengths are two fifths padding.
CPU_BATCH_TOKENS = 1024


def read_in_batches(
    examples: Sequence[Example], batch_size: int, pad_id: int, device: torch.device | str
) -> Iterator[Batch]:
    """Examples in batches on ``device``, cut so that little of them is padding where padding costs time."""
    most = CPU_BATCH_TOKENS if torch.device(device).type == "cpu" else None
    return (batch.to(device) for batch in batches(examples, batch_size, pad_id, max_tokens=most))


def batch_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits of a batch: no cache, no labels, no fused head.

    Returns:
        logits_BTV in float32.

    Raises:
        UserError: rows longer than the model's table of positions.
    """
    return _logits(model, batch).float()


def _logits(model: Any, batch: Batch) -> torch.Tensor:
    check_length(model, batch.input_ids_BT.shape[1])
    output = model(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        use_cache=False,
        return_dict=True,
    )
    return output.logits


def scored_logits(model: Any, batch: Batch, position_M: torch.Tensor | None = None) -> ScoredLogits:
    """:func:`batch_logits` at the batch's scored positions alone, or at those given: slice it for logits_MV.

    Args:
        position_M: positions among the B·T tokens; None takes those whose next token carries loss.

    Raises:
        UserError: as :func:`batch_logits`.
    """
    position_M = scored(batch).position_M if position_M is None else position_M
    shape = tuple(batch.input_ids_BT.shape)
    width = None if torch.is_grad_enabled() else vocabulary_size(model)  # a graph keeps all of them anyway
    return logits_at(model, lambda: _logits(model, batch), position_M, shape, width)


def batch_nll(model: Any, batch: Batch, reduction: str = "mean") -> torch.Tensor:
    """Loss of each row: mean over its completion tokens, or their sum; differentiable.

    Returns:
        nll_B in nats. A row without completion tokens gives 0.
    """
    where = scored(batch)
    nll_M = _nll(scored_logits(model, batch, where.position_M), where, vocabulary_size(model))
    sums_B = where.sums(nll_M)
    return _reduced(sums_B, where.tokens_N, reduction)


def _nll(logits: ScoredLogits, where: Scored, width: int) -> torch.Tensor:
    """Negative log-likelihood of each label: nats, M."""
    if torch.is_grad_enabled():  # the graph keeps every slice anyway
        return F.cross_entropy(logits[:], where.target_M, reduction="none")
    parts = [
        F.cross_entropy(logits[part], where.target_M[part], reduction="none") for part in slices(len(where), width)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, device=where.target_M.device)


def token_nll(logits_BTV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood of each next token.

    Returns:
        nll_BS in nats, zero where the token carries no loss (``S = T - 1``).
    """
    nll_BS = F.cross_entropy(logits_BTV[:, :-1].transpose(1, 2), batch.input_ids_BT[:, 1:], reduction="none")
    return nll_BS * batch.completion_mask_BT[:, 1:]


def sequence_nll(logits_BTV: torch.Tensor, batch: Batch, reduction: str = "mean") -> torch.Tensor:
    """Loss of each example: mean over its completion tokens, or their sum.

    Returns:
        nll_B in nats. An example without completion tokens gives 0.
    """
    tokens_B = batch.completion_mask_BT[:, 1:].sum(1)
    return _reduced(token_nll(logits_BTV, batch).sum(1), tokens_B, reduction)


def _reduced(nll_B: torch.Tensor, tokens_B: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "sum":
        return nll_B
    if reduction != "mean":
        raise ValueError(f"reduction '{reduction}': use 'mean' or 'sum'")
    return nll_B / tokens_B.clamp(min=1)


def token_kl(log_p_MV: torch.Tensor, log_q_MV: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) over the full vocabulary at each position, from log-probabilities: nats, M."""
    return (log_p_MV.exp() * (log_p_MV - log_q_MV)).sum(-1)


@dataclass(frozen=True)
class LossSummary(Result):
    """Loss over a set of examples.

    Attributes:
        nats_per_token: token-weighted mean.
        nats_per_example: mean over examples of their mean token loss.
        tokens: completion tokens in all.
        nll_N: summed loss of each example, in nats, in input order.
        tokens_N: completion tokens of each example.
    """

    nats_per_token: float
    nats_per_example: float
    tokens: int
    nll_N: tuple[float, ...]
    tokens_N: tuple[int, ...]

    @property
    def mean_N(self) -> np.ndarray:
        """Mean token loss of each example."""
        return np.asarray(self.nll_N) / np.maximum(1, np.asarray(self.tokens_N))


@torch.no_grad()
def mean_loss(subject: Subject, examples: Sequence[Example], batch_size: int = DEFAULT_BATCH_SIZE) -> LossSummary:
    """Loss of ``examples``, accumulated in float64."""
    nll_N = np.zeros(len(examples))
    tokens_N = np.zeros(len(examples), dtype=np.int64)
    for batch in read_in_batches(examples, batch_size, subject.pad_id, subject.device):
        index = list(batch.index)
        where = scored(batch)
        logits = scored_logits(subject.model, batch, where.position_M)
        nll_N[index] = where.sums(_nll(logits, where, subject.vocabulary).double()).cpu().numpy()
        tokens_N[index] = where.tokens_N.cpu().numpy()
    tokens = int(tokens_N.sum())
    return LossSummary(
        float(nll_N.sum() / max(1, tokens)),
        float((nll_N / np.maximum(1, tokens_N)).mean()) if len(examples) else float("nan"),
        tokens,
        tuple(nll_N.tolist()),
        tuple(tokens_N.tolist()),
    )


class Rows(Protocol):
    """Log-probabilities at the scored positions of a batch, a slice at a time; a tensor (M, V) is one."""

    def __getitem__(self, part: slice, /) -> torch.Tensor: ...


LogProbabilities = Callable[[Batch], Rows]


@dataclass(frozen=True, eq=False)
class _LogRows:
    logits: ScoredLogits
    within: Callable[[], contextlib.AbstractContextManager[Any]]

    def __getitem__(self, part: slice, /) -> torch.Tensor:
        with self.within():
            return self.logits[part].log_softmax(-1)


def log_probabilities(
    model: Any, within: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
) -> LogProbabilities:
    """A function from a batch to log-probabilities of ``model`` at its scored positions.

    Args:
        within: entered whenever the model runs (``lambda: adapter_off(model)``: the model without its adapter).

    Returns:
        A function; what it gives is sliced for log_p_MV (float32), rows in the order of
        :func:`holdfast.models.head.scored`.
    """

    def run(batch: Batch) -> _LogRows:
        with within():
            return _LogRows(scored_logits(model, batch), within)

    return run


@torch.no_grad()
def kl_on_examples(
    log_p: LogProbabilities,
    log_q: LogProbabilities,
    examples: Sequence[Example],
    pad_id: int,
    device: torch.device | str = "cpu",
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> tuple[np.ndarray, np.ndarray]:
    """KL(p ‖ q) along given completions, full vocabulary, summed over completion tokens.

    Args:
        log_p, log_q: functions from a batch to log-probabilities (see :func:`log_probabilities`).

    Returns:
        kl_nats_N (float64) and tokens_N.
    """
    kl_N = np.zeros(len(examples))
    tokens_N = np.zeros(len(examples), dtype=np.int64)
    for batch in read_in_batches(examples, batch_size, pad_id, device):
        index = list(batch.index)
        where = scored(batch)
        tokens_N[index] = where.tokens_N.cpu().numpy()
        if not len(where):
            continue
        p, q = log_p(batch), log_q(batch)
        kl_M = torch.cat([token_kl(p[part], q[part]) for part in slices(len(where), p[:1].shape[-1])])
        kl_N[index] = where.sums(kl_M.double()).cpu().numpy()
    return kl_N, tokens_N
