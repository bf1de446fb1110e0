"""Where a repair starts: how much of the fine-tune's update is kept before the first step.

From the drifted adapter refusals have to be learned anew, and come back only where they are shown. From an update
scaled down until the refusals are still there, they only have to be kept while the task comes back in
(notes-anchor.md): the same losses end at more refusals, which last longer.

Knows: the free repairs, measured. Does not know: what is done from there.
"""

from collections.abc import Mapping

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.models import Subject, adapter_parameters
from holdfast.restoration.baselines import Baseline, can_be_scaled, scaled
from holdfast.restoration.validation import RATE_TOLERANCE

CANDIDATES = (1.0, 0.5, 0.25)


def safe_scale(free: Mapping[str, Baseline]) -> float:
    """The largest candidate that refuses as the aligned model does, by the examples that choose; the last if none.

    Over-refusal is not asked for: it falls as the task comes back in. 1 where the adapter cannot be scaled.
    """
    least = free["aligned"].choose.check.refusal - RATE_TOLERANCE
    at = {scale: free.get("drifted" if scale == 1 else f"scale {scale:g}") for scale in CANDIDATES}
    there = {scale: found.choose.check.refusal for scale, found in at.items() if found is not None}
    return next((scale for scale, refusal in there.items() if refusal >= least), min(there))


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
