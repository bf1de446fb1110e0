"""Where a repair starts: how much of the fine-tune's update is kept before the first step.

From the drifted adapter refusals have to be learned anew, and come back only where they are shown. From an update
scaled down until the refusals are still there, they only have to be kept while the task comes back in: the same
losses end at more refusals, which last longer (notes-anchor.md).

Knows: the free repairs, measured; how far so many steps can walk. Does not know: what is done from there.
Uncertain: REACH, from two tasks of the organism (60 steps at 2e-3 from 0.25 ended 0.05 nats short, 100 did not).
"""

from collections.abc import Mapping

import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.models import Subject, adapter_parameters
from holdfast.restoration.baselines import Baseline, can_be_scaled, scaled, second_factors
from holdfast.restoration.validation import RATE_TOLERANCE

CANDIDATES = (1.0, 0.5, 0.25)
REACH = 1 / 8  # of steps times learning rate, which bounds what Adam moves an entry: how far it moves a mean one


def safe_scale(free: Mapping[str, Baseline], size: float, walk: float) -> float:
    """The largest candidate that refuses as the aligned model does, by the examples that choose; the last if none.

    Only those are candidates from which the way back to the drifted update, (1 - scale) ``size``, can be walked.
    Over-refusal is not asked for: it falls as the task comes back in. 1 where the adapter cannot be scaled.

    Args:
        size: mean size of the entries that scaling changes.
        walk: steps times learning rate.
    """
    least = free["aligned"].choose.check.refusal - RATE_TOLERANCE
    at = {scale: free.get("drifted" if scale == 1 else f"scale {scale:g}") for scale in CANDIDATES}
    there = {
        scale: found.choose.check.refusal
        for scale, found in at.items()
        if found is not None and (1 - scale) * size <= REACH * walk
    }
    return next((scale for scale, refusal in there.items() if refusal >= least), min(there))


def update_size(subject: Subject) -> float:
    """Mean absolute value of the second factors, which are zero in an adapter that changes nothing."""
    factors = second_factors(adapter_parameters(subject.model))
    return float(torch.cat([t.detach().abs().flatten().float() for t in factors]).mean()) if factors else 0.0


def scale_adapter(subject: Subject, scale: float) -> None:
    """Multiply the subject's update by ``scale``, in place.

    Raises:
        UserError: its update is no multiple of its low-rank factors.
    """
    if scale == 1.0:
        return
    if not can_be_scaled(subject):
        raise UserError(f"start {scale:g}: this adapter cannot be scaled; use 'auto' or 1")
    adapter = adapter_parameters(subject.model)
    trees.assign(adapter, scaled(trees.clone(adapter), scale))
