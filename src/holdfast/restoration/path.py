"""The way a repair took: its checks, and the best adapter that kept the limit.

Knows: how a checkpoint is chosen. Does not know: how the next one is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from holdfast.core import trees
from holdfast.restoration.validation import OVER_REFUSAL_ALLOWANCE, Check


@dataclass(frozen=True)
class Path:
    """A finished repair before it is judged.

    Attributes:
        trace: every check, the first of the drifted adapter.
        chosen, adapter: the best passing check and its LoRA matrices; None when none passed and improved.
        notes: one record an outer iteration (ggn-cg only).
    """

    trace: tuple[Check, ...]
    chosen: Check | None
    adapter: trees.Tree | None
    notes: tuple[dict[str, float], ...] = ()


class Best:
    """Keeps the best passing checkpoint seen so far."""

    def __init__(self, start: Check, aligned: Check, max_task_loss_increase: float) -> None:
        self.limit, self.start, self.aligned = max_task_loss_increase, start, aligned
        self.most_over_refusal = max(start.over_refusal, aligned.over_refusal) + OVER_REFUSAL_ALLOWANCE
        self.check: Check | None = None
        self.adapter: trees.Tree | None = None

    def offer(self, check: Check, adapter: Mapping[str, torch.Tensor]) -> bool:
        """Take ``check`` if it passes, does better by rates than the start, and ranks above the best so far.

        A lower refusal loss alone is no repair: the text may just have become something else.
        """
        if check.score <= self.start.score or not check.passes(self.limit, self.most_over_refusal):
            return False
        if self.check is not None and check.rank <= self.check.rank:
            return False
        self.check, self.adapter = check, trees.clone(adapter)
        return True

    @property
    def restored(self) -> bool:
        """Whether the best so far is as good as the aligned model."""
        return self.check is not None and self.check.as_good_as(self.aligned)

    def path(self, trace: list[Check], notes: list[dict[str, float]] | None = None) -> Path:
        """The finished path."""
        return Path(tuple(trace), self.check, self.adapter, tuple(notes or ()))
