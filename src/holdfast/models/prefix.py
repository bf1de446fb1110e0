"""What several inputs begin with, read once: its keys and values, for as many rows as go on from it.

Knows: caches, which models keep one that can be copied. Does not know: what comes after it, what it is for.

Choices after one question, questions after one set of examples, requests under one system prompt: most of what is
fed is the same. The same numbers come out, up to the order of a sum.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from holdfast.models.decoding import base_of, forward_options

FEWEST = 16  # tokens; a shorter beginning is not worth a pass of its own


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    first, last = min(rows, key=tuple), max(rows, key=tuple)  # what these two share, all in between share
    pairs = enumerate(zip(first, last, strict=False))
    return next((k for k, (a, b) in pairs if a != b), min(len(first), len(last)))


class Prefix:
    """A beginning that a model has read; :meth:`rows` gives its cache for a batch."""

    def __init__(self, cache: Any, length: int) -> None:
        self._cache, self.length = cache, length

    @classmethod
    @torch.no_grad()
    def read(cls, model: Any, ids: Sequence[int], device: torch.device) -> "Prefix | None":
        """None where the model keeps no plain cache of keys and values, or takes no positions."""
        from transformers import PreTrainedModel
        from transformers.cache_utils import DynamicLayer

        base = base_of(model)
        named = inspect.signature(type(base).forward).parameters
        if not isinstance(base, PreTrainedModel) or not {"past_key_values", "position_ids"} <= named.keys():
            return None
        ids_1T = torch.tensor([list(ids)], device=device)
        options = forward_options(model)[1]
        output = model(input_ids=ids_1T, use_cache=True, return_dict=True, **options)
        cache = getattr(output, "past_key_values", None)
        layers = getattr(cache, "layers", None)
        if not layers or any(type(layer) is not DynamicLayer for layer in layers):
            return None  # a recurrent or windowed state is not ours to copy
        return cls(cache, len(ids))

    def logits(self, model: Any, input_ids_BT: torch.Tensor, attention_BT: torch.Tensor) -> torch.Tensor:
        """Logits of rows that follow this beginning, padded on the right: B x T x V, in the model's type."""
        rows, width = input_ids_BT.shape
        cache = copy.deepcopy(self._cache)  # the model writes into what it is given
        cache.batch_repeat_interleave(rows)
        before_BP = attention_BT.new_ones(rows, self.length)
        positions_BT = torch.arange(self.length, self.length + width, device=input_ids_BT.device).expand(rows, -1)
        options = {name: value for name, value in forward_options(model)[1].items() if name != "logits_to_keep"}
        return model(
            input_ids=input_ids_BT,
            attention_mask=torch.cat([before_BP, attention_BT], 1),
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            **options,
        ).logits
