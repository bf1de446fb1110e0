"""The rows of one update over all processes, numbered as one process would have drawn them.

Knows: how accelerate deals micro-batches out, putting together what every process has found for its own rows, what
a trace says of a choice.
Does not know: trainers, rules, how rows are scored.

accelerate deals out turn by turn: the first micro-batch of every process, in the order of processes, is what one
process with a micro-batch as wide as all of theirs draws first. So that is the order here, and a rule that goes by
position (the random ones, ties) chooses on several processes what it chooses on one. It holds for shuffled and
sequential data and for streams; a sampler that groups rows by length groups by the rows of a process.

Shapes: B rows of an update, T time.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from holdfast.data import Batch

_QUANTILES = (0.0, 0.16, 0.5, 0.84, 1.0)


@dataclass(frozen=True)
class Whole:
    """Where each row of an update lies; on one process its rows as they are.

    Attributes:
        process: this one.
        places: of each row its process and its number there. A process' own rows keep their order.
    """

    process: int
    places: tuple[tuple[int, int], ...]

    @classmethod
    def drawn(cls, sizes: Sequence[int]) -> "Whole":
        """Of ``sizes``, the rows in each micro-batch of this process. All processes must ask at the same time."""
        found = gather_object([tuple(sizes)])
        turns = sorted(
            (turn, process, sum(dealt[:turn]) + row)
            for process, dealt in enumerate(found)
            for turn, size in enumerate(dealt)
            for row in range(size)
        )
        return cls(PartialState().process_index, tuple((process, row) for _, process, row in turns))

    def __len__(self) -> int:
        return len(self.places)

    @property
    def numbers(self) -> list[int]:
        """Which of all rows are those of this process."""
        return [number for number, (process, _) in enumerate(self.places) if process == self.process]

    def own(self, chosen: Sequence[int]) -> list[int]:
        """Of chosen rows those of this process, by their number here."""
        return [row for process, row in (self.places[number] for number in chosen) if process == self.process]

    def kept(self, chosen: Sequence[int]) -> "Whole":
        """What is left when every process keeps its own of the chosen rows, in that order."""
        counts: dict[int, int] = {}
        places: list[tuple[int, int]] = []
        for process, _ in (self.places[number] for number in chosen):
            places.append((process, counts.get(process, 0)))
            counts[process] = places[-1][1] + 1
        return dataclasses.replace(self, places=tuple(places))

    def together(self, *columns: torch.Tensor | Sequence[Any] | None) -> tuple[Any, ...]:
        """Columns of this process' rows (tensors of one axis on the CPU, lists, None) as those of all rows."""
        found = gather_object([columns])

        def joined(parts: tuple[Any, ...]) -> Any:
            if parts[0] is None:
                return None
            values = [parts[process][row] for process, row in self.places]
            return torch.stack(values) if isinstance(parts[0], torch.Tensor) else values

        return tuple(joined(parts) for parts in zip(*found, strict=True))

    def rows(self, own: Batch) -> Batch:
        """The rows of all processes; each gives its own, and gets them all on its device.

        Further rows of ``own`` (those that stand in for what was dropped) are left out. Where no process has a
        row, and on one process, what was given.
        """
        if PartialState().num_processes == 1 or not self.places:
            return own
        found: list[Batch] = gather_object([own.to("cpu")])
        width = max(part.input_ids_BT.shape[1] for part in found)

        def joined(name: str) -> torch.Tensor:
            parts = [getattr(part, name) for part in found]
            wide = [torch.nn.functional.pad(part_BT, (0, width - part_BT.shape[1])) for part_BT in parts]
            return torch.stack([wide[process][row] for process, row in self.places])

        whole = Batch(
            joined("input_ids_BT"),
            joined("attention_mask_BT"),
            joined("completion_mask_BT"),
            tuple(found[process].ids[row] for process, row in self.places),
            tuple(range(len(self.places))),
        )
        return whole.to(own.input_ids_BT.device)


def told_of(step: int, ids: Sequence[str], scores: Sequence[Any], chosen: Any) -> dict[str, Any]:
    """The row of ``selection.jsonl``: what was chosen of a pool in an update.

    Args:
        scores: loss and norm of each row (None where they were not computed) and completion tokens, B each.
    """
    loss_B, norm_B, tokens_B = scores
    return {
        "step": step,
        "pool": len(ids),
        "kept": len(chosen.indices),
        "kept_share": chosen.kept_share,
        "thresholds": chosen.thresholds,
        "loss_nats": _quantiles(loss_B),
        "grad_norm": _quantiles(norm_B),
        "counts": chosen.counts,
        "kept_tokens": int(tokens_B[list(chosen.indices)].sum()) if chosen.indices else 0,
        "kept_ids": [ids[k] for k in chosen.indices],
    }


def _quantiles(values_B: torch.Tensor | None) -> list[float] | None:
    if values_B is None:
        return None
    finite = values_B[torch.isfinite(values_B)].double().numpy()
    return np.quantile(finite, _QUANTILES).tolist() if finite.size else None
