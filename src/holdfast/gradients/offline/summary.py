"""One page about a table of scores: what it was computed from, how the numbers are spread, what they go with.

Knows: quantiles, rank correlations, hashes of model and tokenizer.
Does not know: single rows; no times, so equal runs have equal summaries.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.core.ranks import spearman
from holdfast.core.results import Result
from holdfast.gradients.offline import identity
from holdfast.gradients.scores import DIRECTIONS, ScoreTable
from holdfast.models import Subject

PERCENTS = (0, 1, 5, 10, 16, 25, 40, 50, 60, 75, 84, 90, 95, 99, 100)


@dataclass(frozen=True)
class ScoreSummary(Result):
    """About one table of scores.

    Attributes:
        rows: samples in the table.
        status: how many of them are "ok", "no_completion", "not_finite".
        grad_norm_quantiles, loss_nats_quantiles: by percent ("50%"), over the rows that are ok; numpy's linear
            rule. NaN where no row is.
        spearman: rank correlation of the norm with "loss_nats", "completion_tokens" and
            "inverse_completion_tokens", over the same rows.
        reduction: loss a norm belongs to, "mean" over a sample's tokens or "sum".
        scope: as given; scope_parameters and scope_numbers say how many parameters it named, of how many numbers.
        dtype: of the scope.
        hashes: sha256 of "model" (weights and configuration), "examples" (token ids and loss masks),
            "tokenizer", "chat_template"; None where there is none.
        max_tokens: padded tokens of a batch, at the end.
        machine: device, threads.
        libraries: versions.
        proxy: what stands in for the norm; "full" where it is the norm itself.
        directions: what the columns of directions were made of; None without them.
        direction_quantiles: of each of these columns, as the others.

    Source: selection.md 3.8.
    """

    rows: int
    status: dict[str, int]
    grad_norm_quantiles: dict[str, float]
    loss_nats_quantiles: dict[str, float]
    spearman: dict[str, float]
    reduction: str
    scope: str
    scope_parameters: int
    scope_numbers: int
    dtype: str
    hashes: dict[str, str | None]
    max_tokens: int
    machine: dict[str, Any]
    libraries: dict[str, str]
    proxy: str = "full"
    directions: dict[str, Any] | None = None
    direction_quantiles: dict[str, dict[str, float]] = field(default_factory=dict)


def summarise(table: ScoreTable, subject: Subject, plan: Mapping[str, Any]) -> ScoreSummary:
    """The summary of a run.

    Args:
        table: its scores.
        subject: what was scored.
        plan: the plan file's content; its hashes are used, for those of a large model take a while.
    """
    ok = np.array([status == "ok" for status in table.status], dtype=bool)
    norm, loss, tokens = table.grad_norm[ok], table.loss_nats[ok], table.completion_tokens[ok]
    parameters = subject.parameters()
    return ScoreSummary(
        rows=len(table),
        status=dict(sorted(Counter(table.status).items())),
        grad_norm_quantiles=quantiles(norm),
        loss_nats_quantiles=quantiles(loss),
        spearman={
            "loss_nats": spearman(norm.tolist(), loss.tolist()),
            "completion_tokens": spearman(norm.tolist(), tokens.tolist()),
            "inverse_completion_tokens": spearman(norm.tolist(), (1.0 / tokens).tolist()),
        },
        reduction=table.reduction,
        scope=subject.scope,
        scope_parameters=len(parameters),
        scope_numbers=sum(value.numel() for value in parameters.values()),
        dtype=plan["fingerprint"]["dtype"],
        hashes={
            "model": plan["fingerprint"]["model"],
            "examples": plan["fingerprint"]["examples"],
            "tokenizer": identity.tokenizer_hash(subject.tokenizer),
            "chat_template": identity.template_hash(subject.tokenizer),
        },
        max_tokens=plan["max_tokens"],
        machine={name: plan["machine"][name] for name in ("device", "threads")},
        libraries=identity.libraries(),
        proxy=table.proxy,
        directions=plan["fingerprint"].get("directions"),
        direction_quantiles={
            name: quantiles(column[ok]) for name in DIRECTIONS if (column := getattr(table, name)) is not None
        },
    )


def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    """By percent, NaN throughout for no values."""
    found = np.quantile(values, np.array(PERCENTS) / 100) if values.size else np.full(len(PERCENTS), np.nan)
    return {f"{percent}%": float(value) for percent, value in zip(PERCENTS, found, strict=True)}
