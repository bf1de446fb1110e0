"""What a model said, remembered: completions, its log-probabilities along them, the KL of another one from them.

Knows: exact and shortened storage, the KL of a model that is being trained, with its graph.
Does not know: which completions, how they are drawn, what the KL is for.

Shapes: S completion tokens of a sequence, V vocabulary, K kept tokens, M scored positions of a batch, B rows.

Within ``limit_bytes`` all V log-probabilities are kept (float32) and the KL is exact. Beyond, the K most likely at
each position and the logarithm of the exact remaining mass r = 1 - Σ_K p. The KL then is that between the
distributions over those K tokens and "anything else": a lower bound, exact in all but r · KL(p ‖ q among the
rest), which is what is missed. ``rest`` says how large r is.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.data import Batch, Example, batches, collate
from holdfast.gradients.forward import labelled_logits, quiet
from holdfast.gradients.layout import labelled
from holdfast.models import Subject

LIMIT_BYTES = 1 << 30
FEWEST = 16
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Remembered:
    """Completions with the aligned model's distribution along them.

    Attributes:
        examples: the completions.
        log_p: (S, V) or (S, K) a completion, float32.
        token: (S, K) ids, int32; empty where all of V is kept.
        log_rest: (S,) logarithm of the remaining mass; empty likewise.
        pad_id: for batches.
    """

    examples: tuple[Example, ...]
    log_p: tuple[torch.Tensor, ...]
    token: tuple[torch.Tensor, ...]
    log_rest: tuple[torch.Tensor, ...]
    pad_id: int

    @property
    def exact(self) -> bool:
        """Whether every log-probability is kept."""
        return not self.token

    @property
    def rest(self) -> float:
        """Mean remaining mass of a position."""
        return 0.0 if self.exact else float(torch.cat(self.log_rest).exp().mean())

    @classmethod
    def of(
        cls,
        aligned: Subject,
        examples: Sequence[Example],
        limit_bytes: int = LIMIT_BYTES,
        within: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> "Remembered":
        """What ``aligned`` says, as it is now. Leaves modes and random state alone.

        Args:
            within: entered around the model (its adapter switched off).

        Raises:
            UserError: nothing to remember; not even 16 log-probabilities a position fit.
        """
        tokens = sum(example.completion_tokens for example in examples)
        if not tokens:
            raise UserError("a teacher needs completions; none of the prompts was answered with a token")
        kept = (
            aligned.vocabulary if 4 * tokens * aligned.vocabulary <= limit_bytes else limit_bytes // (8 * tokens)
        )
        if kept < min(FEWEST, aligned.vocabulary):
            raise UserError(
                f"remembering {tokens} completion tokens within {limit_bytes} bytes leaves {kept} of them a "
                f"position, fewer than {FEWEST}; give fewer prompts or tokens, or more bytes"
            )
        found: list[tuple[torch.Tensor, ...]] = [()] * len(examples)
        with quiet(aligned.model), within():
            for batch in batches(examples, _BATCH, aligned.pad_id):
                logits_MV = _logits(aligned.model, batch.to(aligned.device))
                parts = _shortened(logits_MV.log_softmax(-1), kept)
                lengths = [examples[k].completion_tokens for k in batch.index]
                for k, *row in zip(batch.index, *(part.cpu().split(lengths) for part in parts), strict=True):
                    found[k] = tuple(piece.clone() for piece in row)
        log_p, *others = zip(*found, strict=True)
        token, log_rest = others or ((), ())
        return cls(tuple(examples), log_p, token, log_rest, aligned.pad_id)

    @classmethod
    def stored(cls, examples: Sequence[Example], log_p: Sequence[torch.Tensor], pad_id: int) -> "Remembered":
        """Log-probabilities (S, V) that are in memory already."""
        return cls(tuple(examples), tuple(log_p), (), (), pad_id)

    def kl(self, model: Any, rows: Sequence[int]) -> torch.Tensor:
        """Sum over the completion of KL(aligned ‖ ``model``) of each of ``rows``: nats, B, in their order.

        With its graph where gradients are on. No dropout; modes and random state are left alone.
        """
        return self.kl_of(answer_logits(model, [self.examples[k] for k in rows], self.pad_id), rows)

    def kl_of(self, logits: Sequence[torch.Tensor], rows: Sequence[int]) -> torch.Tensor:
        """The same from logits that predict the completions of ``rows``, one (S, V) each."""
        kl_M = self._kl(torch.cat(list(logits)), rows)
        return torch.stack([part.sum() for part in kl_M.split([len(row_SV) for row_SV in logits])])

    def _kl(self, logits_MV: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
        device = logits_MV.device
        log_p = torch.cat([self.log_p[k] for k in order]).to(device)
        if self.exact:
            return (log_p.exp() * (log_p - logits_MV.log_softmax(-1))).sum(-1)
        token_MK = torch.cat([self.token[k] for k in order]).to(device).long()
        log_rest_M = torch.cat([self.log_rest[k] for k in order]).to(device)
        log_all_M = logits_MV.logsumexp(-1)
        log_q_MK = logits_MV.gather(-1, token_MK) - log_all_M[:, None]
        others_M = logits_MV.scatter(-1, token_MK, -torch.inf).logsumexp(-1) - log_all_M
        rest_M = log_rest_M.exp()
        missed_M = torch.where(rest_M > 0, rest_M * (log_rest_M - others_M), 0.0)
        return (log_p.exp() * (log_p - log_q_MK)).sum(-1) + missed_M


def answer_logits(model: Any, examples: Sequence[Example], pad_id: int) -> tuple[torch.Tensor, ...]:
    """Logits (S, V) that predict each completion, in order, from one forward pass; the head sees no other place.

    With its graph where gradients are on. No dropout; modes and random state are left alone.
    """
    batch = collate(examples, pad_id).to(next(model.parameters()).device)
    return batch_logits(model, batch).split([example.completion_tokens for example in examples])


def batch_logits(model: Any, batch: Batch) -> torch.Tensor:
    """The same for a batch, row by row: (M, V)."""
    graph = torch.is_grad_enabled()
    with quiet(model), torch.set_grad_enabled(graph):
        return _logits(model, batch)


def _logits(model: Any, batch: Batch) -> torch.Tensor:
    """At completion positions only: the head sees no others."""
    return labelled_logits(model, batch, labelled(batch), model.get_output_embeddings(), positions=False)


def _shortened(log_p_MV: torch.Tensor, kept: int) -> tuple[torch.Tensor, ...]:
    if kept >= log_p_MV.shape[-1]:
        return (log_p_MV,)
    log_p_MK, token_MK = log_p_MV.topk(kept, dim=-1)
    log_rest_M = log_p_MV.scatter(-1, token_MK, -torch.inf).logsumexp(-1)
    return log_p_MK, token_MK.int(), log_rest_M
