"""The one way to run a model over examples, and the per-token quantities read off the logits.

Knows: batches, logits, negative log-likelihood, full-vocabulary KL.
Does not know: gradients, what the examples are for.

Shapes: B batch, T time, V vocabulary, N examples, S = T - 1 predicted positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from holdfast.core.results import Result
from holdfast.data import Batch, Example, batches
from holdfast.models.limits import check_length
from holdfast.models.subject import Subject

DEFAULT_BATCH_SIZE = 32


def batch_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits of a batch: no cache, no labels, no fused head.

    Returns:
        logits_BTV in float32.

    Raises:
        UserError: rows longer than the model's table of positions.
    """
    check_length(model, batch.input_ids_BT.shape[1])
    output = model(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        use_cache=False,
        return_dict=True,
    )
    return output.logits.float()


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
    nll_B = token_nll(logits_BTV, batch).sum(1)
    if reduction == "sum":
        return nll_B
    if reduction != "mean":
        raise ValueError(f"reduction '{reduction}': use 'mean' or 'sum'")
    return nll_B / batch.completion_mask_BT[:, 1:].sum(1).clamp(min=1)


def token_kl(log_p_BTV: torch.Tensor, log_q_BTV: torch.Tensor, batch: Batch) -> torch.Tensor:
    """KL(p ‖ q) over the full vocabulary at each completion position, from log-probabilities.

    Returns:
        kl_BS in nats, zero where the next token carries no loss.
    """
    p_BSV, q_BSV = log_p_BTV[:, :-1], log_q_BTV[:, :-1]
    kl_BS = (p_BSV.exp() * (p_BSV - q_BSV)).sum(-1)
    return kl_BS * batch.completion_mask_BT[:, 1:]


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
    for batch in batches(examples, batch_size, subject.pad_id):
        batch = batch.to(subject.device)
        index = list(batch.index)
        nll_BS = token_nll(batch_logits(subject.model, batch), batch)
        nll_N[index] = nll_BS.double().sum(1).cpu().numpy()
        tokens_N[index] = batch.completion_mask_BT[:, 1:].sum(1).cpu().numpy()
    tokens = int(tokens_N.sum())
    return LossSummary(
        float(nll_N.sum() / max(1, tokens)),
        float((nll_N / np.maximum(1, tokens_N)).mean()) if len(examples) else float("nan"),
        tokens,
        tuple(nll_N.tolist()),
        tuple(tokens_N.tolist()),
    )


LogProbabilities = Callable[[Batch], torch.Tensor]


def log_probabilities(model: Any) -> LogProbabilities:
    """A function from a batch to log-probabilities of ``model`` (log_p_BTV, float32)."""
    return lambda batch: batch_logits(model, batch).log_softmax(-1)


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
        log_p, log_q: functions from a batch to log-probabilities (see :func:`log_probabilities`); with one
            PEFT model, ``log_p`` switches the adapter off inside.

    Returns:
        kl_nats_N (float64) and tokens_N.
    """
    kl_N = np.zeros(len(examples))
    tokens_N = np.zeros(len(examples), dtype=np.int64)
    for batch in batches(examples, batch_size, pad_id):
        batch = batch.to(device)
        index = list(batch.index)
        kl_BS = token_kl(log_p(batch), log_q(batch), batch)
        kl_N[index] = kl_BS.double().sum(1).cpu().numpy()
        tokens_N[index] = batch.completion_mask_BT[:, 1:].sum(1).cpu().numpy()
    return kl_N, tokens_N
