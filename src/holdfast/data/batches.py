"""Examples to padded tensors, with the completion mask beside them.

Knows: padding, masks, length order. Does not know: models, losses.

Shapes: B batch, T time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from holdfast.data.example import Example

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        input_ids_BT: token ids.
        attention_mask_BT: 1 where there is a token.
        completion_mask_BT: 1 where the token itself carries loss, so next-token losses pair
            ``logits[:, :-1]`` with ``completion_mask_BT[:, 1:]``.
        ids: names of the examples.
        index: their positions in the sequence the batch was cut from.
        position_ids_BT: of packed rows: each token's place in its own sample. None for padded rows.
        segment_BT: of packed rows: each token's sample, a position in ``ids``; -1 for padding. None for padded
            rows, where a row is a sample.
    """

    input_ids_BT: torch.Tensor
    attention_mask_BT: torch.Tensor
    completion_mask_BT: torch.Tensor
    ids: tuple[str, ...]
    index: tuple[int, ...]
    position_ids_BT: torch.Tensor | None = None
    segment_BT: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.input_ids_BT.shape[0]

    @property
    def samples(self) -> int:
        """Examples in the batch: its rows, or more where rows are packed."""
        return len(self.ids)

    @property
    def labels_BT(self) -> torch.Tensor:
        """Input ids where the loss looks, -100 elsewhere (the convention of transformers)."""
        return self.input_ids_BT.masked_fill(self.completion_mask_BT == 0, IGNORED)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return replace(
            self,
            input_ids_BT=self.input_ids_BT.to(device),
            attention_mask_BT=self.attention_mask_BT.to(device),
            completion_mask_BT=self.completion_mask_BT.to(device),
            position_ids_BT=None if self.position_ids_BT is None else self.position_ids_BT.to(device),
            segment_BT=None if self.segment_BT is None else self.segment_BT.to(device),
        )


def collate(
    examples: Sequence[Example], pad_id: int, side: str = "right", index: Sequence[int] | None = None
) -> Batch:
    """Pad to the longest example on ``side`` ("right" for training and scoring, "left" for generation)."""
    width = max(len(example.input_ids) for example in examples)
    ids_BT = torch.full((len(examples), width), pad_id, dtype=torch.long)
    attention_BT = torch.zeros_like(ids_BT)
    completion_BT = torch.zeros_like(ids_BT)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        span = slice(0, length) if side == "right" else slice(width - length, width)
        ids_BT[row, span] = torch.tensor(example.input_ids, dtype=torch.long)
        attention_BT[row, span] = 1
        completion_BT[row, span] = torch.tensor(example.loss_mask, dtype=torch.long)
    return Batch(
        ids_BT,
        attention_BT,
        completion_BT,
        tuple(example.id for example in examples),
        tuple(index) if index is not None else tuple(range(len(examples))),
    )


def batches(
    examples: Sequence[Example],
    batch_size: int,
    pad_id: int,
    sort: bool = True,
    side: str = "right",
    max_tokens: int | None = None,
) -> Iterator[Batch]:
    """Cut examples into batches; with ``sort`` by length, so that little is spent on padding.

    ``Batch.index`` leads results back to the order of ``examples``.

    Args:
        batch_size: most rows of a batch.
        max_tokens: most padded tokens of a batch of more than one row; None for no such limit.
    """
    order = list(range(len(examples)))
    if sort:
        order.sort(key=lambda position: len(examples[position].input_ids))
    index: list[int] = []
    width = 0
    for position in order:
        wider = max(width, len(examples[position].input_ids))
        full = max_tokens is not None and (len(index) + 1) * wider > max_tokens
        if index and (full or len(index) == batch_size):
            yield collate([examples[k] for k in index], pad_id, side, index)
            index, wider = [], len(examples[position].input_ids)
        index.append(position)
        width = wider
    if index:
        yield collate([examples[k] for k in index], pad_id, side, index)
