"""The output head on scored positions only: those whose next token carries loss.

Knows: where a batch is scored, how the head's input is cut to those positions, slices that bound memory.
Does not know: losses, gradients, what the logits are for.

The model's own forward runs as always and the cut is made where the head reads, so whatever a model does to its
logits afterwards (a cap, a scale) is done by the model. A model without a head that can be found, or whose head is
not called on (batch, time, width), gives all its logits and they are picked out afterwards: the same numbers.

Shapes: B rows, T time, F = B·T positions, M scored positions, V vocabulary.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from holdfast.data import Batch

# Logits of one model that are held at once, float32; a softmax takes two or three times as much.
SLICE_BYTES = 1 << 26
_CANNOT_CUT = (RuntimeError, ValueError, IndexError, TypeError)


@dataclass(frozen=True, eq=False)
class Scored:
    """The scored positions of a batch, row by row.

    Attributes:
        position_M: position among the F tokens whose logits predict each label.
        target_M: the label.
        owner_M: its sample.
        tokens_N: labels of each sample.
    """

    position_M: torch.Tensor
    target_M: torch.Tensor
    owner_M: torch.Tensor
    tokens_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.position_M)

    def sums(self, value_M: torch.Tensor) -> torch.Tensor:
        """Sum over each sample's positions, in the type of ``value_M``: N."""
        return value_M.new_zeros(len(self.tokens_N)).index_add(0, self.owner_M, value_M)


def scored(batch: Batch) -> Scored:
    """Where a batch carries loss. The label at t belongs to the logits at t - 1 of the same sample."""
    width = batch.input_ids_BT.shape[1]
    row_M, time_M = torch.where(batch.completion_mask_BT[:, 1:] > 0)
    target_M = batch.input_ids_BT[row_M, time_M + 1]
    owner_M = row_M if batch.segment_BT is None else batch.segment_BT[row_M, time_M + 1]
    return Scored(row_M * width + time_M, target_M, owner_M, torch.bincount(owner_M, minlength=batch.samples))


def output_head(model: Any) -> torch.nn.Module | None:
    """The layer that makes logits; None where the model does not say."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


@dataclass
class Cut:
    """What happened at the head: its whole input at the scored positions, once it was cut."""

    seen: list[torch.Tensor] = field(default_factory=list)


@contextlib.contextmanager
def head_on(
    head: torch.nn.Module | None, position_M: torch.Tensor, shape: tuple[int, ...], most: int | None = None
) -> Iterator[Cut]:
    """Inside, the head reads ``position_M`` alone (the first ``most`` of them): logits of shape (1, M, V).

    Args:
        head: None cuts nothing.
        shape: (B, T) of the batch; another input of the head is left alone.
    """
    cut = Cut()
    if head is None:
        yield cut
        return

    def rows_only(_module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or args[0].ndim != 3 or tuple(args[0].shape[:2]) != tuple(shape):
            return None
        read_MH = args[0].flatten(0, 1)[position_M]
        cut.seen.append(read_MH)
        return (read_MH[:most][None], *args[1:])

    handle = head.register_forward_pre_hook(rows_only)
    try:
        yield cut
    finally:
        handle.remove()


class ScoredLogits:
    """Logits at M positions, float32 or more: slice it. What does not fit at once is made slice by slice."""

    def __init__(self, count: int, of: Callable[[slice], torch.Tensor]) -> None:
        self._count, self._of = count, of

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, part: slice) -> torch.Tensor:
        return _wide(self._of(part))


def logits_at(
    model: Any,
    forward: Callable[[], torch.Tensor],
    position_M: torch.Tensor,
    shape: tuple[int, ...],
    width: int | None = None,
) -> ScoredLogits:
    """Logits at some positions of a forward pass.

    Args:
        forward: runs the model over a batch of ``shape`` (B, T) and gives its logits.
        width: V, the logits of a position; None makes all logits at once, inside the model's forward.

    So it is where they are few. Otherwise the model's forward makes one of them, and the rest come slice by slice
    from the head alone: if the head alone gives that one exactly.
    """
    head, count = output_head(model), len(position_M)
    if head is None or not count:
        return _picked(forward(), position_M)
    if width is not None and 4 * count * width > SLICE_BYTES:
        in_slices = _sliced(forward, head, position_M, shape)
        if in_slices is not None:
            return in_slices
    try:
        with head_on(head, position_M, shape) as cut:
            logits = forward()
    except _CANNOT_CUT:  # a genuine error comes again, below
        return _picked(forward(), position_M)
    if not cut.seen:
        return _picked(logits, position_M)
    if logits.numel() // logits.shape[-1] != count:
        return _picked(forward(), position_M)
    logits_MV = logits.reshape(count, -1)
    return ScoredLogits(count, lambda part: logits_MV[part])


def _sliced(
    forward: Callable[[], torch.Tensor], head: torch.nn.Module, position_M: torch.Tensor, shape: tuple[int, ...]
) -> ScoredLogits | None:
    """The head alone on what it read; None if that is not all that makes this model's logits."""
    try:
        with head_on(head, position_M, shape, most=1) as cut:
            one_V = forward().reshape(-1)
        if len(cut.seen) != 1:
            return None
        read_MH = cut.seen[0]
        if not torch.equal(one_V.float(), head(read_MH[:1][None]).float().reshape(-1)):
            return None
    except _CANNOT_CUT:
        return None
    return ScoredLogits(len(position_M), lambda part: head(read_MH[part][None])[0])


def _picked(logits: torch.Tensor, position_M: torch.Tensor) -> ScoredLogits:
    logits_MV = logits.flatten(0, -2)[position_M]
    return ScoredLogits(len(position_M), lambda part: logits_MV[part])


def slices(count: int, width: int) -> Iterator[slice]:
    """Cuts of ``count`` rows of ``width`` float32 values into pieces of at most :data:`SLICE_BYTES`."""
    step = max(1, SLICE_BYTES // (4 * max(1, width)))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
