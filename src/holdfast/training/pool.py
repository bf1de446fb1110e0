"""The pool of one update: the micro-batches that TRL drew, seen as rows that can be scored, kept and dropped.

Knows: right-padded micro-batches (``input_ids``, ``labels``, ``attention_mask``). Pure tensor work.
Does not know: trainers, rules.

Shapes: B rows of a micro-batch, T time.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from holdfast.data import Batch
from holdfast.data.batches import IGNORED

MicroBatch = dict[str, Any]
# A micro-batch's padded tokens are kept below what makes one copy of its logits this large.
MOST_LOGIT_BYTES = 1 << 30
MOST_TOKENS = 16384


def micro_batches(
    pool: int, longest: int, vocabulary: int, wish: int | Literal["auto"] = "auto"
) -> tuple[int, int]:
    """How a pool is cut: rows of a micro-batch and their number, whose product is ``pool``.

    Args:
        longest: tokens of the longest row; every row is padded to it at worst.
        wish: rows of a micro-batch at most, or "auto" for as many as fit (:data:`MOST_LOGIT_BYTES`).
    """
    room = min(MOST_TOKENS, MOST_LOGIT_BYTES // (4 * max(1, vocabulary)))
    most = max(1, room // max(1, longest)) if wish == "auto" else wish
    rows = next(rows for rows in range(min(most, pool), 0, -1) if pool % rows == 0)
    return rows, pool // rows


def pool_size(micro_batches: Sequence[MicroBatch]) -> int:
    """Rows in all."""
    return sum(batch["input_ids"].shape[0] for batch in micro_batches)


def as_batch(micro_batches: Sequence[MicroBatch], ids: Sequence[str]) -> Batch:
    """All rows of the pool as one batch, padded on the right."""
    width = max(batch["input_ids"].shape[1] for batch in micro_batches)

    def joined(key: str, fill: int) -> torch.Tensor:
        return torch.cat([_widened(batch[key], width, fill) for batch in micro_batches])

    labels_BT = joined("labels", IGNORED)
    return Batch(
        joined("input_ids", 0),
        joined("attention_mask", 0),
        (labels_BT != IGNORED).long(),
        tuple(ids),
        tuple(range(len(ids))),
    )


def keep_rows(micro_batches: Sequence[MicroBatch], kept: Sequence[int], pad_id: int) -> list[MicroBatch]:
    """The kept rows, in their order, spread evenly over the same NUMBER of micro-batches and trimmed.

    The trainer counts micro-batches to know when an update is due, so their number must not change; the rows
    that are dropped cost nothing. With fewer rows than micro-batches, the rest get one short row without labels.
    """
    places = [(b, r) for b, batch in enumerate(micro_batches) for r in range(batch["input_ids"].shape[0])]
    chunks = np.array_split(np.asarray(kept, dtype=np.int64), len(micro_batches))
    return [
        _gathered(micro_batches, [places[k] for k in chunk], pad_id)
        if len(chunk)
        else _without_labels(micro_batches[0], pad_id)
        for chunk in chunks
    ]


def _gathered(micro_batches: Sequence[MicroBatch], places: Sequence[tuple[int, int]], pad_id: int) -> MicroBatch:
    lengths = [int(micro_batches[b]["attention_mask"][r].sum()) for b, r in places]
    width = max(lengths)
    fills = {"input_ids": pad_id, "labels": IGNORED}
    gathered: MicroBatch = {}
    for key, value in micro_batches[places[0][0]].items():
        if not isinstance(value, torch.Tensor):
            gathered[key] = value
            continue
        rows = [micro_batches[b][key][r] for b, r in places]
        if rows[0].ndim:  # per token; anything else is per row
            rows = [_widened(row[:width][None], width, fills.get(key, 0))[0] for row in rows]
        gathered[key] = torch.stack(rows)
    return gathered


def _without_labels(micro_batch: MicroBatch, pad_id: int) -> MicroBatch:
    short = _gathered([micro_batch], [(0, 0)], pad_id)
    per_row = short["input_ids"].shape[1]
    short = {
        key: value[:, :2] if isinstance(value, torch.Tensor) and value.shape[1:] == (per_row,) else value
        for key, value in short.items()
    }
    short["labels"] = torch.full_like(short["labels"], IGNORED)
    return short


def _widened(value_BT: torch.Tensor, width: int, fill: int) -> torch.Tensor:
    return torch.nn.functional.pad(value_BT, (0, width - value_BT.shape[1]), value=fill)
