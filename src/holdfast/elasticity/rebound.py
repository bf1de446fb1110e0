"""Experiment B: how an alignment comes undone, update by update, on a log grid.

Source: elasticity.md 3.5. One run with many probes, never one run a point. Controls are further curves of the same
function: c0 the base model on the same data, c1 neutral data, c4 the same with SGD (``Plan.optimizer``); c2 and c3
are choices of checkpoints.

Knows: what is measured on the way, and puts the model back. Does not know: which data, what a score means.

Shapes: T probes, P prompts, N documents.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.seeds import derive_seed, undisturbed
from holdfast.data import Example
from holdfast.elasticity.divergence import Divergence, Prompts, pair
from holdfast.elasticity.updates import Plan, Trace, make_updates
from holdfast.models import Subject, mean_loss

Scorer = Callable[[Subject], Sequence[float]]


@dataclass(frozen=True)
class Point(Result):
    """One probe on the way.

    Attributes:
        updates, tokens, samples: seen so far.
        score: one a prompt, as the scorer gives it.
        kl_to_base_nats, kl_from_base_nats: one a prompt, nats a sequence, each along its own samples.
        bits: of every document, by text.
    """

    updates: int
    tokens: int
    samples: int
    score: tuple[float, ...]
    kl_to_base_nats: tuple[float, ...]
    kl_from_base_nats: tuple[float, ...]
    bits: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class ReboundCurve(Result):
    """One run on one data set from one checkpoint.

    Attributes:
        name, data: of the checkpoint and of what it is trained on.
        plan, seed: how.
        points: from before the first update to after the last.
        document_tokens: by text, the denominators of ``Point.bits``.
        base_score: the base model's score, in the same run on the same prompts; one a prompt.
        trace: prequential loss of the data.
    """

    name: str
    data: str
    plan: Plan
    seed: int
    points: tuple[Point, ...]
    document_tokens: dict[str, tuple[int, ...]]
    base_score: tuple[float, ...]
    trace: Trace

    @property
    def updates(self) -> tuple[int, ...]:
        """Update counts of the points."""
        return tuple(point.updates for point in self.points)

    def of(self, measure: str) -> np.ndarray:
        """(T, P) of "score", "kl_to_base_nats" or "kl_from_base_nats"."""
        return np.array([getattr(point, measure) for point in self.points], dtype=np.float64)

    def bits(self, text: str) -> tuple[list[tuple[float, ...]], tuple[int, ...]]:
        """Bits of the documents of a text at every point, and their tokens."""
        return [point.bits[text] for point in self.points], self.document_tokens[text]


def rebound_curve(
    subject: Subject,
    base: Subject | None,
    data: Sequence[Example],
    *,
    plan: Plan | None = None,
    texts: Mapping[str, Sequence[Example]] | None = None,
    prompts: Prompts = (),
    scorer: Scorer | None = None,
    names: tuple[str, str] = ("aligned", "negative"),
    seed: int = 0,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    at: Sequence[int] | None = None,
) -> ReboundCurve:
    """Train a checkpoint on ``data`` and probe it on the way; the subject's weights are put back at the end.

    Args:
        subject: trained in its scope (its adapter, if it has one).
        base: its parent; None: the subject with its adapter off.
        data: what it is trained on, harmless or not: the caller's.
        texts: held-out examples by name, whose bits are followed.
        prompts: for KL both ways. scorer: gives a score a prompt of its own.
        at: update counts to probe; None: the plan's log grid.

    Raises:
        UserError: no base; no data.
    """
    plan, texts = plan or Plan(), texts or {}
    run_base = pair(subject, base)
    between = None
    if prompts:
        between = Divergence(subject, run_base, prompts, max_new_tokens, batch_size, derive_seed(seed, "rebound"))
    kept = trees.clone(subject.parameters())
    points: list[Point] = []

    def look(made: int) -> None:
        with undisturbed(subject.model):
            score = tuple(map(float, scorer(subject))) if scorer is not None else ()
            to_base = tuple(between.to_base().tolist()) if between else ()
            from_base = tuple(between.from_base().tolist()) if between else ()
            bits = {name: _bits(subject, examples, batch_size) for name, examples in texts.items()}
        points.append(Point(made, 0, 0, score, to_base, from_base, bits))

    base_score: tuple[float, ...] = ()
    if scorer is not None:
        with run_base() as model:
            base_score = tuple(map(float, scorer(model)))
    mode = subject.model.training
    try:
        trace = make_updates(subject, data, plan, seed, look, at)
    finally:
        trees.assign(subject.parameters(), kept)
        subject.model.train(mode)
    counted = tuple(_counted(point, trace, plan, len(data)) for point in points)
    tokens = {name: tuple(e.completion_tokens for e in examples) for name, examples in texts.items()}
    return ReboundCurve(*names, plan, seed, counted, tokens, base_score, trace)


def _bits(subject: Subject, examples: Sequence[Example], batch_size: int) -> tuple[float, ...]:
    loss = mean_loss(subject, examples, batch_size)
    return tuple((np.asarray(loss.nll_N) / math.log(2)).tolist())


def _counted(point: Point, trace: Trace, plan: Plan, examples: int) -> Point:
    """The point with what had been seen by then: never a point above 0 without an update (2.2)."""
    full, rest = divmod(examples, plan.batch_size)
    a_pass = [plan.batch_size] * full + [rest] * (rest > 0)
    samples = sum(a_pass[k % len(a_pass)] for k in range(point.updates))
    seen = sum(trace.tokens[: point.updates])
    if len(trace.tokens) < point.updates:
        raise UserError(f"a probe at {point.updates} updates, of which {len(trace.tokens)} were made")
    return Point(
        point.updates, seen, samples, point.score, point.kl_to_base_nats, point.kl_from_base_nats, point.bits
    )
