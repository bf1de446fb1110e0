"""What the limit of the task loss leaves after a repair is spent: the update is scaled down as far as it lets.

Every part of the fine-tune's update that the task can spare is a part that moved the model away from the aligned
one. A repaired adapter mostly stays well inside the limit, and a slightly smaller update refuses more.

Source: ours; choosing.json of the study has what else was tried. Uncertain: organism only.

Knows: the loss on the examples that choose. Does not know: how the adapter was repaired, what decides.
"""

from holdfast.core import trees
from holdfast.models import Subject, adapter_parameters
from holdfast.restoration.attempt import Best
from holdfast.restoration.baselines import can_be_scaled, scaled
from holdfast.restoration.validation import Check, Validation

SCALES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
SPENT = 0.4  # of the limit, by the examples that choose: more costs task score and buys little


def spend(subject: Subject, validation: Validation, best: Best, last: Check) -> tuple[Check, ...]:
    """Offer the subject's adapter scaled as far as the limit lets, and half as far; the adapter is left as it is.

    Args:
        validation: of the part that chooses.
        last: the check of the adapter as it is.
    """
    if not can_be_scaled(subject):
        return ()
    adapter = adapter_parameters(subject.model)
    here, held = trees.clone(adapter), 0
    for scale in SCALES:
        trees.assign(adapter, scaled(here, scale))
        if not validation.task_bound() <= SPENT * best.limit:
            break
        held += 1
    checks = []
    for place in sorted({held, (held + 1) // 2} - {0}):
        scale = SCALES[place - 1]
        trees.assign(adapter, scaled(here, scale))
        checks.append(validation.check(last.step))
        best.offer(checks[-1], adapter, f"step {last.step} at scale {scale:g}")
    trees.assign(adapter, here)
    return tuple(checks)
