"""The pool of one update: the micro-batches that TRL drew, seen as rows that can be scored, kept and dropped.

Knows: right-padded micro-batches (``input_ids``, ``labels``, ``attention_mask``), and joined ones (packed, or free
of padding), whose sequences begin where ``position_ids`` is 0. Pure tensor work.
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


def as_rows(micro_batches: list[MicroBatch], pad_id: int) -> list[MicroBatch]:
    """Joined micro-batches as one padded row a sequence; others as they are."""
    return (
        [_separated(batch, pad_id) for batch in micro_batches] if _is_joined(micro_batches[0]) else micro_batches
    )


def as_drawn(micro_batches: list[MicroBatch], like: MicroBatch) -> list[MicroBatch]:
    """The way back: joined where ``like``, one of those that were drawn, is."""
    return [_rejoined(batch, like) for batch in micro_batches] if _is_joined(like) else micro_batches


def _is_joined(micro_batch: MicroBatch) -> bool:
    return "attention_mask" not in micro_batch and "position_ids" in micro_batch


def _separated(micro_batch: MicroBatch, pad_id: int) -> MicroBatch:
    place_T = micro_batch["position_ids"][0]
    starts = torch.nonzero(place_T == 0).flatten().tolist()
    lengths = [end - start for start, end in zip(starts, [*starts[1:], len(place_T)], strict=True)]
    width = max(lengths)

    def cut(value_T: torch.Tensor, fill: int) -> torch.Tensor:
        return torch.cat([_widened(part[None], width, fill) for part in value_T.split(lengths)])

    found = {key: cut(micro_batch[key][0], fill) for key, fill in (("input_ids", pad_id), ("labels", IGNORED))}
    return found | {"attention_mask": cut(torch.ones_like(place_T), 0)}


def _rejoined(micro_batch: MicroBatch, like: MicroBatch) -> MicroBatch:
    """What the collator told attention kernels of the sequences is told anew."""
    lengths = micro_batch["attention_mask"].sum(1).tolist()
    found = {
        key: torch.cat([row_T[:n] for row_T, n in zip(micro_batch[key], lengths, strict=True)])[None]
        for key in ("input_ids", "labels")
    }
    device = found["input_ids"].device
    found["position_ids"] = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
    length_N = torch.tensor(lengths, device=device)
    ends = torch.nn.functional.pad(length_N.cumsum(0), (1, 0)).to(torch.int32)
    told = {
        **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), ends),
        **dict.fromkeys(("max_length_q", "max_length_k"), max(lengths)),
        "seq_idx": torch.arange(len(lengths), dtype=torch.int32, device=device).repeat_interleave(length_N)[None],
    }
    return found | {key: value for key, value in told.items() if key in like}


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
