"""Plain updates with looks in between: how the experiments train.

Source: elasticity.md 3.4, 3.5. Constant rate, fresh optimiser, the loss of every batch read *before* it is learned
from (its sum is the prequential code length), the last partial batch never dropped.

Knows: an optimiser, an order, when to look. Does not know: what is looked at.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.seeds import derive_seed
from holdfast.data import Example, collate
from holdfast.models import Subject, batch_nll

GRID = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Plan(Result):
    """How a subject is perturbed.

    Attributes:
        updates: in all; None makes one pass over the examples.
        batch_size: examples an update.
        learning_rate: constant.
        optimizer: "adamw", or "sgd": AdamW normalises gradient size, and so the initial speed (control c4).
    """

    updates: int | None = 128
    batch_size: int = 16
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"

    def grid(self, examples: int) -> tuple[int, ...]:
        """Update counts to look at: a log grid from 0, the last update included."""
        last = self.updates if self.updates is not None else updates_in_pass(examples, self.batch_size)
        steps = list(GRID)
        while steps[-1] < last:
            steps += [2 * steps[-2], 2 * steps[-1]]
        return (*(step for step in steps if step < last), last)


@dataclass(frozen=True)
class Trace(Result):
    """What was read before each update: summed nats and counted tokens of its batch."""

    nats: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def bits_per_token(self) -> float:
        """The prequential code length of what was learned, over its tokens."""
        return sum(self.nats) / sum(self.tokens) / math.log(2)


def updates_in_pass(examples: int, batch_size: int) -> int:
    """Updates of one pass; the last partial batch is one. Equal numbers of updates make equal models (2.2)."""
    return math.ceil(examples / batch_size)


def make_updates(
    subject: Subject,
    examples: Sequence[Example],
    plan: Plan,
    seed: int,
    look: Callable[[int], None] | None = None,
    at: Sequence[int] | None = None,
    penalty: Callable[[int], torch.Tensor] | None = None,
) -> Trace:
    """Train the subject's scope in place; whoever needs it as it was keeps a copy.

    Args:
        seed: of the order, and of nothing else.
        look: called with the number of updates made, before the first and after those of ``at``.
        at: update counts; None: the plan's grid.
        penalty: added to each update's loss, told how many were made before; no part of the trace.

    Raises:
        UserError: no examples, or a plan without an update.
    """
    last = plan.updates if plan.updates is not None else updates_in_pass(len(examples), plan.batch_size)
    if not examples or last < 1:
        raise UserError(f"{len(examples)} examples, {last} updates: give at least one of each")
    wanted = set(plan.grid(len(examples)) if at is None else at)
    weights = list(subject.parameters().values())
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.SGD
    optimizer = kind(weights, lr=plan.learning_rate, weight_decay=0.0, fused=True)  # small models: one call
    order = _orders(len(examples), plan.batch_size, seed)
    nats: list[float] = []
    tokens: list[int] = []
    if look is not None and 0 in wanted:
        look(0)
    for made in range(1, last + 1):
        batch = collate([examples[k] for k in next(order)], subject.pad_id).to(subject.device)
        total = batch_nll(subject.model, batch, "sum").sum()
        counted = int(batch.completion_mask_BT[:, 1:].sum())
        optimizer.zero_grad(set_to_none=True)
        loss = total / max(1, counted)
        (loss if penalty is None else loss + penalty(made - 1)).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        nats.append(float(total.detach()))
        tokens.append(counted)
        if look is not None and made in wanted:
            look(made)
    optimizer.zero_grad(set_to_none=True)
    return Trace(tuple(nats), tuple(tokens))


def _orders(examples: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Shuffled passes for ever, the last partial batch of each included."""
    rng = Random(derive_seed(seed, "elasticity", "order"))
    while True:
        order = rng.sample(range(examples), examples)
        yield from (order[start : start + batch_size] for start in range(0, examples, batch_size))
