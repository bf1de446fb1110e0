"""Where each sample's tokens lie in a tensor, for padded and for packed rows, and for the labelled rows alone.

Knows: rows, segments, gather positions. Does not know: layers, gradients.

Shapes: R rows, T time, F = R·T flattened tokens, N samples, S tokens of the longest sample, M labelled tokens.

A row of a padded batch is a sample. A row of a packed batch holds several, told apart by ``Batch.segment_BT``.
"""

from dataclasses import dataclass

import torch

from holdfast.data import Batch
from holdfast.models.head import Scored, scored


class LayoutError(ValueError):
    """A tensor whose leading dimensions are not the batch's: a layer that sees no samples."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How flattened tokens belong to samples.

    Attributes:
        samples: N.
        rows, width: R and T of the tensors that come in.
        place_NS: position among the F tokens of each sample's tokens; None where reshaping does it.
        real_NS: False where a sample has fewer tokens than the longest.
    """

    samples: int
    rows: int
    width: int
    place_NS: torch.Tensor | None = None
    real_NS: torch.Tensor | None = None

    def by_sample(self, tensor: torch.Tensor, trailing: int) -> torch.Tensor:
        """(R, T, …) or (R·T, …) to (N, S, …); dimensions in between (heads) count as further tokens.

        Raises:
            LayoutError: the leading dimensions are neither.
        """
        lead, tail = tensor.shape[: tensor.ndim - trailing], tensor.shape[tensor.ndim - trailing :]
        flat = len(lead) == 1
        if (flat and lead[0] != self.rows * self.width) or (not flat and lead[0] != self.rows):
            raise LayoutError(f"leading dimensions {tuple(lead)}; expected ({self.rows}, {self.width}, …)")
        if self.place_NS is None or self.real_NS is None:
            return tensor.reshape(self.samples, -1, *tail)
        if not flat and lead[1] != self.width and len(lead) > 2 and lead[2] == self.width:
            tensor = tensor.transpose(1, 2)  # heads before time
        tokens = tensor.reshape(self.rows * self.width, -1, *tail)
        if tokens.shape[1] != 1 and (flat or tensor.shape[1] != self.width):
            raise LayoutError(f"leading dimensions {tuple(lead)}; expected ({self.rows}, {self.width}, …)")
        gathered = tokens[self.place_NS]
        empty = ~self.real_NS.view(*self.real_NS.shape, *[1] * (gathered.ndim - 2))
        return gathered.masked_fill(empty, 0).flatten(1, 2)


def token_layout(batch: Batch) -> Layout:
    """The layout of what the layers of a model see."""
    rows, width = batch.input_ids_BT.shape
    if batch.segment_BT is None:
        return Layout(rows, rows, width)
    owner_F = batch.segment_BT.flatten()
    place_NS, real_NS = _places(owner_F, batch.samples)
    return Layout(batch.samples, rows, width, place_NS, real_NS)


def _places(owner_F: torch.Tensor, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of each sample's tokens, in order; ``owner_F`` is -1 where there is none."""
    order_F = torch.argsort(owner_F, stable=True)
    counts_N = torch.bincount(owner_F[owner_F >= 0], minlength=samples)
    starts_N = (owner_F < 0).sum() + counts_N.cumsum(0) - counts_N
    steps_S = torch.arange(max(int(counts_N.max()), 1), device=owner_F.device)
    real_NS = steps_S < counts_N[:, None]
    return order_F[(starts_N[:, None] + steps_S).clamp(max=len(owner_F) - 1)], real_NS


@dataclass(frozen=True, eq=False)
class Labelled(Scored):
    """The labelled tokens of a batch: all that the output head has to see.

    Attributes:
        layout: samples of tensors with M rows.
    """

    layout: Layout


def labelled(batch: Batch) -> Labelled:
    """Where a batch carries loss, and how what is made there belongs to samples."""
    where = scored(batch)
    owner_M, tokens_N = where.owner_M, where.tokens_N
    count, samples = len(owner_M), batch.samples
    uniform = bool((tokens_N == tokens_N[0]).all()) and bool((owner_M.diff() >= 0).all())
    layout = Layout(samples, 1, count) if uniform else Layout(samples, 1, count, *_places(owner_M, samples))
    return Labelled(where.position_M, where.target_M, owner_M, tokens_N, layout)
