"""The start of a run, to be looked back at: the trained parameters as they were handed in.

Knows: how to run a model with them for a moment. Does not know: what is compared.

Source: ours. Costs a copy of the trained parameters, which for an adapter is little.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

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
