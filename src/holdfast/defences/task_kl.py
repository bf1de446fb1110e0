"""Task KL: the model may not leave its start on the task's own rows.

    task loss + w · mean over tokens of KL(p_start(·|x, y_<t) ‖ p_θ(·|x, y_<t)),    (x, y) the update's first rows

Source: the KL regulariser of fine-tuning and of RLHF (Ziegler et al. 2019), compared as "KL" by Bach et al. 2026
(selection.md 2.1). Uncertain: which rows and which direction the latter take; it holds the task back as much as it
holds the skill, which is the point of comparing it.
"""

from holdfast.core.defence import Material
from holdfast.defences.start import NearStart


class TaskKL(NearStart):
    """See the formula above.

    Args:
        weight: w.
        per_step: rows of an update that it looks at.
    """

    name = "task-kl"

    def __init__(self, weight: float = 0.3, per_step: int = 8) -> None:
        super().__init__(weight, per_step)

    @classmethod
    def build(cls, material: Material, knob: float | None) -> "TaskKL":
        return cls() if knob is None else cls(knob)
