"""Selection during training: the options, and the decision for the pool of one update.

Knows: rules, the seed of a step. Does not know: trainers, models.
"""

import logging
from dataclasses import dataclass
from typing import Any

from holdfast.core.defence import Defence, PoolView
from holdfast.core.results import Result
from holdfast.core.seeds import derive_seed
from holdfast.selection.rules import DEFAULT_KEEP, DEFAULT_LOSS_FILTER, DEFAULT_RULE, NORM_RULES, check_options
from holdfast.selection.select import Selection, select_pool

logger = logging.getLogger(__name__)

SMALL_POOL = 32


@dataclass(frozen=True)
class OnlineSelection(Result, Defence):
    """A defence that chooses rows: part of every update's pool, judged by the model as it is at that moment.

    The pool is everything one update would have trained on: ``per_device_train_batch_size`` ×
    ``gradient_accumulation_steps`` (× processes) samples. ``keep`` is a share OF THE POOL, so to train on 16
    samples an update at ``keep=0.5`` make the pool 32. Below about 32 a median means little, which is said once
    (selection.md 1.3 advises 64 or more).

    Attributes:
        keep: share of the pool to train on.
        rule: as :func:`holdfast.select`.
        loss_filter: as :func:`holdfast.select`; applies to every rule.
        seed: of the random rules; each step draws anew.
        one_pass: take the update's gradient from the scoring pass itself, at about the price of one ordinary step
            on the pool. False scores first and then trains on what is kept, as two passes. Where a run's settings
            stand against it (dropout, mixed precision, several processes, a pool too large for one pass) two
            passes are made, and the reason is logged once.
        reduction: "mean" scores a sample by the norm of its mean token loss, "sum" of its summed loss. They
            rank differently (selection.md 1.2).
        low: where the rule "band" begins, as :func:`holdfast.select`.
    """

    keep: float = DEFAULT_KEEP
    rule: str = DEFAULT_RULE
    loss_filter: str = DEFAULT_LOSS_FILTER
    seed: int = 0
    reduction: str = "mean"
    one_pass: bool = True
    low: float | None = None

    name = "selection"
    knob = "keep"

    def __post_init__(self) -> None:
        check_options(self.rule, self.keep, self.loss_filter, self.low)
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction '{self.reduction}': use 'mean' or 'sum'")

    @property
    def needs_norm(self) -> bool:
        """Whether a decision takes gradient norms (the costly score)."""
        return self.rule in NORM_RULES

    @property
    def needs_loss(self) -> bool:
        """Whether a decision takes losses."""
        return self.loss_filter != "none"

    @property
    def needs(self) -> frozenset[str]:
        """Norms come with losses from one pass."""
        return frozenset(("loss", "norm") if self.needs_norm else ("loss",) if self.needs_loss else ())

    def choose(self, pool: PoolView) -> Selection:
        """:meth:`decide` for a trainer's pool."""
        loss_B = pool.loss_B if "loss" in self.needs else None
        norm_B = pool.norm_B if "norm" in self.needs else None
        return self.decide(loss_B, norm_B, pool.tokens_B, pool.step)

    def decide(self, loss: Any, norm: Any, tokens: Any, step: int) -> Selection:
        """Which samples of this step's pool to train on: ``.indices``, with thresholds and reasons.

        Args:
            loss: mean loss per completion token of each sample, nats; None if not needed.
            norm: gradient norm of each sample; None if not needed.
            tokens: completion tokens of each sample.
            step: number of the update; moves the seed of the random rules.
        """
        chosen = select_pool(
            loss,
            norm,
            tokens,
            rule=self.rule,
            keep=self.keep,
            loss_filter=self.loss_filter,
            seed=derive_seed(self.seed, "online", step),
            low=self.low,
            reduction=self.reduction,
            proxy="full",
        )
        self._say_once(self.small_pool(len(chosen.reasons)))
        return chosen

    def small_pool(self, size: int) -> str | None:
        """One sentence about a pool in which this selection decides little; None where there is nothing to say."""
        judges = (self.rule not in ("none", "random") and self.keep < 1) or self.loss_filter != "none"
        if size >= SMALL_POOL or not judges:
            return None
        return (
            f"a pool of {size} samples is under {SMALL_POOL}: its median and its spread of losses are mostly "
            "chance; the selection decides little. Give a larger pool (--pool, training.pool; with a trainer of "
            "your own per_device_train_batch_size * gradient_accumulation_steps)"
        )

    def _say_once(self, sentence: str | None) -> None:
        # Of the first pool only: the last one of an epoch may well be smaller.
        if not getattr(self, "_said", False):
            object.__setattr__(self, "_said", True)
            if sentence is not None:
                logger.warning(sentence)
