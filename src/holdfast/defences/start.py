"""The start of a run, to be looked back at: the trained parameters as they were handed in.

Knows: how to run a model with them for a moment, and how a defence is held near them on the task's own rows. Does
not know: what is compared there.

Source: ours. Costs a copy of the trained parameters, which for an adapter is little.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from holdfast.core.defence import Defence
from holdfast.core.trees import Tree, assign, clone
from holdfast.data import Batch
from holdfast.evaluation.remembered import batch_logits
from holdfast.models import Subject


class Start:
    """Trained parameters by name, as they were."""

    def __init__(self, subject: Subject) -> None:
        self.parameters: Tree = clone(trained(subject.model))

    @contextlib.contextmanager
    def again(self, model: Any) -> Iterator[None]:
        """The model as it was, inside; bit for bit as it is, afterwards."""
        now, here = trained(model), clone(trained(model))
        assign(now, self.parameters)
        try:
            yield
        finally:
            assign(now, here)

    @torch.no_grad()
    def log_probabilities(self, model: Any, batch: Batch) -> torch.Tensor:
        """(M, V) at the labelled positions of a batch."""
        with self.again(model):
            return batch_logits(model, batch).log_softmax(-1)


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Parameters that require a gradient, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def first_rows(batch: Batch, count: int) -> Batch:
    """The first rows of an update; a trainer has shuffled them."""
    return replace(
        batch,
        input_ids_BT=batch.input_ids_BT[:count],
        attention_mask_BT=batch.attention_mask_BT[:count],
        completion_mask_BT=batch.completion_mask_BT[:count],
        ids=batch.ids[:count],
        index=batch.index[:count],
    )


class NearStart(Defence):
    """What holds a model near its start on the first rows of every update; :meth:`kl` says how near is measured.

    Args:
        weight: of the KL, nats a token.
        per_step: rows of an update that it looks at.
    """

    knob = "weight"
    needs = frozenset({"rows"})  # type: ignore[assignment]

    def __init__(self, weight: float, per_step: int) -> None:
        self.weight, self.per_step = weight, per_step
        self.notes: Mapping[str, float] = {}
        self._start: Start | None = None
        self._rows: Batch | None = None

    def begin(self, subject: Subject) -> None:
        self._start = Start(subject)

    def see(self, rows: Batch) -> None:
        self._rows = first_rows(rows, self.per_step)

    def loss(self, model: Any, step: int) -> torch.Tensor | None:
        assert self._start is not None and self._rows is not None
        batch = self._rows.to(next(model.parameters()).device)
        kl = self.kl(model, batch, self._start.log_probabilities(model, batch), step)
        self.notes = {"kl_nats_per_token": float(kl.detach())}
        return self.weight * kl

    def kl(self, model: Any, batch: Batch, log_p_MV: torch.Tensor, step: int) -> torch.Tensor:
        """Mean KL over labelled tokens, from what the start says there."""
        del step
        log_q_MV = batch_logits(model, batch).log_softmax(-1)
        return (log_p_MV.exp() * (log_p_MV - log_q_MV)).sum(-1).mean()
