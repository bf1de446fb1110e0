"""Who carries the forecast drift: which rows, which sources, which layers. First order, from the first update.

Knows: the Gauss-Newton product of the first update, rows' gradients along it. Does not know: what a row says.

With u the mean first update and F the skill's Fisher, the forecast form is ``u^T F u``. A block b of parameters
has the share ``u_b^T (F u)_b / u^T F u``; a row i, ``<g_i, F u> / sum_j <g_j, F u>``: how far its gradient points
the way in which the update drifts. Both add up to 1, and single shares may be negative: such rows pull back. For
plain SGD the rows' shares are exact; Adam rescales coordinates, which is in u but not in the g_i.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.core import trees
from holdfast.core.files import write_table
from holdfast.core.results import Result
from holdfast.curvature import fisher_pull
from holdfast.data import Example
from holdfast.gradients import dots_and_losses
from holdfast.gradients.names import block_of
from holdfast.models import Subject

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SourceShare(Result):
    """One source of rows: its share of the forecast drift beside its share of the tokens."""

    source: str
    rows: int
    drift_share: float
    token_share: float

    @property
    def per_token(self) -> float:
        """Drift for its tokens: 1 is the data's average."""
        return self.drift_share / self.token_share if self.token_share > 0 else float("nan")


@dataclass(frozen=True)
class Attribution(Result):
    """Shares of the forecast drift; NaN where the gradients do not point the update's way at all.

    Attributes:
        ids, row_shares: of the rows, adding up to 1. tokens: of each.
        block_shares: by layer's matrix, adding up to 1.
    """

    ids: tuple[str, ...]
    row_shares: tuple[float, ...]
    tokens: tuple[int, ...]
    block_shares: dict[str, float]

    def by_source(self, sources: Mapping[str, str]) -> list[SourceShare]:
        """Shares of named groups of rows, largest first; a row that ``sources`` does not name is its own group."""
        names = [sources.get(name, name) for name in self.ids]
        total = max(1, sum(self.tokens))
        found = []
        for name in dict.fromkeys(names):
            where = [k for k, other in enumerate(names) if other == name]
            share = sum(self.row_shares[k] for k in where)
            found.append(SourceShare(name, len(where), share, sum(self.tokens[k] for k in where) / total))
        return sorted(found, key=lambda one: -one.drift_share)

    def write(self, path: str | Path, sources: Mapping[str, str] | None = None) -> None:
        """``scores.parquet``: id, completion_tokens, drift_share, and source where it is known."""
        columns = {
            "id": list(self.ids),
            "completion_tokens": list(self.tokens),
            "drift_share": list(self.row_shares),
        }
        if sources is not None:
            columns["source"] = [sources.get(name, "") for name in self.ids]
        import pyarrow

        write_table(path, pyarrow.table(columns))


@dataclass(frozen=True, eq=False)
class Pull:
    """The first update along the completions: ``u^T F u`` by completion, and who carries it.

    Attributes:
        task_loss: of the rows, nats a completion token; the rows' pass gives it.
    """

    form_N: Array
    attribution: Attribution
    task_loss: float


def pull_of(
    subject: Subject,
    reference: Sequence[Example],
    examples: Sequence[Example],
    update: Mapping[str, torch.Tensor],
    max_tokens: int | None = None,
) -> Pull:
    """Measure it at the subject's parameters.

    Args:
        reference: the aligned model's completions. examples: the task's rows.
        update: the mean first update, a tree over the scope.
        max_tokens: padded tokens of a pass; None is as many as fit.
    """
    form_N, along = fisher_pull(subject, reference, update, max_tokens)
    blocks: dict[str, float] = {}
    for name, part in along.items():
        block = block_of(name)
        blocks[block] = blocks.get(block, 0.0) + trees.dot({name: part}, {name: update[name].to(part)})
    dots_N, loss_N = dots_and_losses(subject, examples, along, "sum", max_tokens)
    tokens = sum(example.completion_tokens for example in examples)
    return Pull(
        form_N,
        Attribution(
            tuple(example.id for example in examples),
            tuple(_shares(-dots_N).tolist()),  # u goes down the gradients
            tuple(example.completion_tokens for example in examples),
            dict(zip(blocks, _shares(np.array(list(blocks.values()))).tolist(), strict=True)),
        ),
        float(loss_N.sum()) / max(1, tokens),
    )


def _shares(values: Array) -> Array:
    total = float(values.sum())
    return values / total if total > 0 else np.full(len(values), np.nan)
