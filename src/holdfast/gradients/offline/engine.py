"""The scoring of one batch, as the offline loop wants it; the one place here that names an engine.

Knows: the ghost engine, how squared norms are added up by group.
Does not know: plans, shards.

Shapes: N samples of a batch.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from holdfast.data import Batch
from holdfast.gradients.ghost import GhostEngine, Reduction, SampleNorms
from holdfast.gradients.offline.groups import group_of, group_place
from holdfast.models import Subject

ScoreBatch = Callable[[Batch], SampleNorms]


def default_score_batch(
    subject: Subject,
    reduction: Reduction,
    groups: bool,
    strict: bool,
    directions: Sequence[Mapping[str, torch.Tensor]] = (),
) -> ScoreBatch:
    """One forward and one backward of the whole batch (:class:`~holdfast.gradients.ghost.GhostEngine`).

    Args:
        subject: model and scope.
        reduction: as in :func:`holdfast.gradients.gradient_norms`.
        groups: also squared norms layer by layer.
        strict: an error for a parameter without a rule, instead of its slower exact path.
        directions: also inner products with these.
    """
    engine = GhostEngine(subject.model, subject.parameters(), strict=strict)
    return lambda batch: engine.norms(batch, reduction, groups, directions)


def by_group(squares: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Squared norms (N) of parameters or layers added up by :func:`group_of`, in the order of the model."""
    sums: dict[str, torch.Tensor] = {}
    for name, square_N in squares.items():
        group = group_of(name)
        sums[group] = sums[group] + square_N if group in sums else square_N
    return {group: sums[group] for group in sorted(sums, key=group_place)}
