"""Drift: how far a model's answers have moved from the aligned model's, in nats, over the full vocabulary.

Knows: completions sampled from the aligned model, its log-probabilities along them, the exact KL.
Does not know: harm. Drift is a distance between two models; judges say what it means.

Shapes: V vocabulary, M scored positions of a batch, S completion tokens of a sequence, N sequences, P prompts.

drift = mean over prompts of the sum over the completion of KL(aligned ‖ current), along completions that the
aligned model sampled at temperature 1. Its expectation is the KL between the two distributions over answers
(chain rule, up to ``max_new_tokens``); with few prompts its tail is heavy, so look at the interval.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.seeds import derive_seed, undisturbed
from holdfast.core.statistics import Interval, bootstrap_mean
from holdfast.data import Batch, Example
from holdfast.evaluation.behaviour import sample_answers
from holdfast.models import (
    Subject,
    adapter_off,
    adapter_off_is_base,
    kl_on_examples,
    log_probabilities,
    trained_beside,
)
from holdfast.models.bare import WAY_OUT
from holdfast.models.forward import LogProbabilities, read_in_batches

log = logging.getLogger(__name__)
STORE_LIMIT_BYTES = 1 << 30
_BATCH = 32


@dataclass(frozen=True)
class DriftReading(Result):
    """One measurement of drift.

    Attributes:
        kl_nats: nats a sequence, mean over prompts.
        interval: of ``kl_nats``, bootstrap over prompts.
        kl_nats_per_token: nats over tokens, both summed over all sequences.
        per_prompt: nats of each prompt (mean over its samples).
        tokens: completion tokens in all.
    """

    kl_nats: float
    interval: Interval
    kl_nats_per_token: float
    per_prompt: tuple[float, ...] = field(repr=False)
    tokens: int


def sample_reference(
    subject: Subject,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    max_new_tokens: int = 64,
    seed: int = 0,
    samples: int = 1,
    batch_size: int = _BATCH,
) -> list[Example]:
    """Complete every prompt ``samples`` times at temperature 1 with ``subject``: call it on the aligned model.

    Args:
        prompts: texts (the chat template is applied) or token ids.

    Returns:
        Examples in prompt order, samples of a prompt side by side, ids ``"<prompt>/<sample>"``. The end token is
        part of a completion that reached it.

    Raises:
        UserError: no prompts.
    """
    if not prompts:
        raise UserError("drift needs prompts to sample answers to; give at least one")
    own = derive_seed(seed, "reference")
    return sample_answers(subject, prompts, max_new_tokens, seed=own, samples=samples, batch_size=batch_size)


@dataclass(frozen=True)
class Reference:
    """The aligned model as drift sees it: completions it sampled, and its log-probabilities along them.

    Make one with :meth:`of` (or :meth:`on` for completions sampled before).

    Attributes:
        examples: the completions.
        source: "stored" (log-probabilities kept in memory, exact), "adapter_off" (the current model without its
            adapter) or "model" (a second model).
        samples: per prompt; neighbouring examples belong together.
    """

    examples: tuple[Example, ...]
    source: Literal["stored", "adapter_off", "model"]
    samples: int = 1
    stored_NSV: tuple[torch.Tensor, ...] = field(default=(), repr=False)
    model: Any = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        aligned: Subject,
        prompts: Sequence[str],
        max_new_tokens: int = 64,
        seed: int = 0,
        samples: int = 1,
        source: Literal["auto", "stored", "adapter_off", "model"] = "auto",
        batch_size: int = _BATCH,
    ) -> "Reference":
        """Sample completions from ``aligned`` as it is now and remember its distribution along them."""
        examples = sample_reference(aligned, prompts, max_new_tokens, seed, samples, batch_size)
        return cls.on(aligned, examples, samples, source, batch_size)

    @classmethod
    def on(
        cls,
        aligned: Subject,
        examples: Sequence[Example],
        samples: int = 1,
        source: Literal["auto", "stored", "adapter_off", "model"] = "auto",
        batch_size: int = _BATCH,
    ) -> "Reference":
        """Remember the distribution of ``aligned``, as it is now, along given completions.

        "auto" stores the log-probabilities. "model" keeps ``aligned`` itself: it must not be trained meanwhile.
        "adapter_off" is the base behind the adapter. Where the adapter's training or the subject's scope moves
        the base's own parameters too, which no switch puts back, the base's log-probabilities are stored instead,
        and that is logged.

        Raises:
            UserError: the log-probabilities would not fit in a GiB; "adapter_off" without an adapter, or of a
                model whose base cannot be had by switching it off (:func:`holdfast.models.adapter_off_is_base`).
        """
        kept = tuple(examples)
        if source == "model":
            return cls(kept, source, samples, model=aligned.model)
        if source != "adapter_off":
            return cls(kept, "stored", samples, _store_of(aligned, kept, batch_size))
        if not aligned.has_adapter:
            raise UserError("source='adapter_off' needs a model with an adapter; use source='stored'")
        reason = adapter_off_is_base(aligned.model)
        if reason is not None:
            raise UserError(f"source='adapter_off': that is not the base here: {reason}; {WAY_OUT}")
        moving = trained_beside(aligned.model, aligned.parameters())
        if not moving:
            return cls(kept, "adapter_off", samples)
        log.warning(
            "%d parameters of the base are trained beside the adapter (%s, ...): the base's log-probabilities are "
            "stored, because switching the adapter off will not bring it back",
            len(moving),
            moving[0],
        )
        with adapter_off(aligned.model):
            return cls(kept, "stored", samples, _store_of(aligned, kept, batch_size))

    def kept(self, current: Subject, batch_size: int = _BATCH) -> "Reference":
        """The same reference with its log-probabilities in memory, for whoever measures more than once.

        Where they would not fit in :data:`STORE_LIMIT_BYTES` this is the reference itself: they are computed at
        every measurement, the same numbers.

        Args:
            current: the model that will be measured; the base of an "adapter_off" reference.
        """
        if self.source == "stored":
            return self
        if _stored_bytes(current, self.examples) > STORE_LIMIT_BYTES:
            return self
        off = self.source == "adapter_off"
        bare = adapter_off(current.model) if off else contextlib.nullcontext(self.model)
        with undisturbed(current.model), bare as model:  # asked under the same conditions as a measurement
            held = _store(log_probabilities(model), self.examples, current.pad_id, current.device, batch_size)
        return Reference(self.examples, "stored", self.samples, held)

    def aligned_log_p(self, current: Any) -> LogProbabilities:
        """A function from a batch of these examples to the aligned model's log-probabilities."""
        if self.source == "adapter_off":
            with adapter_off(current):
                pass  # whether that is the base is asked once a measurement, not once a slice of a batch
            return log_probabilities(current, lambda: adapter_off(current, check=False))
        if self.source == "model":
            return log_probabilities(self.model)
        return lambda batch: _StoredRows(tuple(self.stored_NSV[position] for position in batch.index), batch)


class _StoredRows:
    """What was stored for a batch's rows, one below the other."""

    def __init__(self, rows: Sequence[torch.Tensor], batch: Batch) -> None:
        self._rows, self._device = rows, batch.input_ids_BT.device

    def __getitem__(self, part: slice, /) -> torch.Tensor:
        start, stop, _ = part.indices(sum(map(len, self._rows)))
        found, first = [], 0
        for row_SV in self._rows:
            found.append(row_SV[max(0, start - first) : max(0, stop - first)])
            first += len(row_SV)
        return torch.cat(found).to(self._device)


def _stored_bytes(aligned: Subject, examples: Sequence[Example]) -> int:
    return 4 * aligned.vocabulary * sum(example.completion_tokens for example in examples)


def _store_of(aligned: Subject, examples: Sequence[Example], batch_size: int) -> tuple[torch.Tensor, ...]:
    size = _stored_bytes(aligned, examples)
    if size > STORE_LIMIT_BYTES:
        raise UserError(
            f"storing the aligned model's log-probabilities takes {size / 2**30:.1f} GiB (limit 1); use fewer "
            "prompts or tokens, train an adapter with source='adapter_off', or source='model' with a copy"
        )
    with undisturbed(aligned.model):
        return _store(log_probabilities(aligned.model), examples, aligned.pad_id, aligned.device, batch_size)


@torch.no_grad()
def _store(
    log_p: LogProbabilities,
    examples: Sequence[Example],
    pad_id: int,
    device: torch.device,
    batch_size: int,
) -> tuple[torch.Tensor, ...]:
    stored: list[torch.Tensor] = [torch.empty(0)] * len(examples)
    for batch in read_in_batches(examples, batch_size, pad_id, device):
        rows, start = log_p(batch), 0
        for position in batch.index:
            stop = start + examples[position].completion_tokens
            stored[position] = rows[start:stop].cpu()
            start = stop
    return tuple(stored)


def drift(
    subject: Subject, reference: Reference, batch_size: int = _BATCH, seed: int = 0, draws: int = 2000
) -> DriftReading:
    """Exact KL(aligned ‖ current) along the reference completions. Leaves modes and random state alone.

    Source: design section 3; geometry.md 1.7.
    """
    with undisturbed(subject.model):
        kl_N, tokens_N = kl_on_examples(
            reference.aligned_log_p(subject.model),
            log_probabilities(subject.model),
            reference.examples,
            subject.pad_id,
            subject.device,
            batch_size,
        )
    per_prompt_P = np.asarray(kl_N).reshape(-1, reference.samples).mean(axis=1)
    tokens = int(np.sum(tokens_N))
    return DriftReading(
        float(per_prompt_P.mean()),
        bootstrap_mean(per_prompt_P.tolist(), seed, draws),
        float(np.sum(kl_N) / max(1, tokens)),
        tuple(per_prompt_P.tolist()),
        tokens,
    )
