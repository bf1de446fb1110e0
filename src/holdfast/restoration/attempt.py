"""The way a repair took: its checks, and the best candidates that kept the limits.

Knows: how candidates are ranked. Does not know: how the next one is made, nor which one is returned.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from holdfast.core import trees
from holdfast.restoration.validation import OVER_REFUSAL_ALLOWANCE, Check

KEPT = 3  # candidates that may be put to the deciding examples, best first


@dataclass(frozen=True)
class Candidate:
    """One adapter that passed on the choosing examples.

    Attributes:
        name: "step 80", "scale 0.5".
        check: what it was chosen by.
        adapter: its trainable tensors.
    """

    name: str
    check: Check
    adapter: trees.Tree


@dataclass(frozen=True)
class Attempt:
    """What a method did, before anything is decided.

    Attributes:
        trace: every check, the first of the drifted adapter.
        notes: one record an outer iteration (curvature only).
        method: what made it.
        balanced: whether the adapter was seen to be balanced before the first step.
    """

    trace: tuple[Check, ...]
    notes: tuple[dict[str, float], ...] = ()
    balanced: bool = False
    method: str = ""


class Best:
    """Keeps the best passing candidates seen so far, free baselines among them.

    Attributes:
        needed_limit: least uncertainty of the task loss, nats a token, among those that refused more and were
            turned down for it; a limit below it could be kept by none, however little they changed.
    """

    def __init__(self, start: Check, aligned: Check, max_task_loss_increase: float) -> None:
        self.limit, self.start, self.aligned = max_task_loss_increase, start, aligned
        self.most_over_refusal = max(start.over_refusal, aligned.over_refusal) + OVER_REFUSAL_ALLOWANCE
        self.candidates: list[Candidate] = []
        self.needed_limit = math.inf

    def offer(self, check: Check, adapter: Mapping[str, torch.Tensor], name: str = "") -> bool:
        """Take ``check`` if it passes and does better by rates than the start; True if it is the best so far.

        A lower refusal loss alone is no repair: the text may just have become something else.
        """
        if check.score <= self.start.score:
            return False
        if not check.passes(self.limit, self.most_over_refusal):
            if check.task_loss_bound > self.limit:
                self.needed_limit = min(self.needed_limit, check.task_loss_bound - check.task_loss_increase)
            return False
        first = self.check is None or check.rank > self.check.rank
        if len(self.candidates) == KEPT and check.rank <= self.candidates[-1].check.rank:
            return False
        self.candidates.append(Candidate(name or f"step {check.step}", check, trees.clone(adapter)))
        self.candidates.sort(key=lambda candidate: candidate.check.rank, reverse=True)
        del self.candidates[KEPT:]
        return first

    @property
    def check(self) -> Check | None:
        """The check of the best so far."""
        return self.candidates[0].check if self.candidates else None

    @property
    def restored(self) -> bool:
        """Whether the best so far is as good as the aligned model, by the examples that choose."""
        return self.check is not None and self.check.as_good_as(self.aligned)
