"""How a command counts the harmless updates that undo an alignment: prompts, the judge, one curve, its card.

Knows: which judge scores, where the base model is. Does not know: what a curve is made of (holdfast.elasticity).
"""

from collections.abc import Mapping, Sequence

from holdfast.data import Example
from holdfast.elasticity import Card, Plan, Probe, packaged, read_card, rebound_curve
from holdfast.evaluation import RefusalJudge
from holdfast.evaluation.behaviour import ask_and_judge
from holdfast.models import Subject


def undo(
    subject: Subject,
    base: Subject | None,
    harmless: Sequence[Example],
    texts: Mapping[str, Sequence[Example]],
    prompts: Sequence[str],
    reading: Probe,
    plan: Plan,
    *,
    data: str,
    seed: int = 0,
    max_new_tokens: int = 32,
) -> Card:
    """Train on harmless rows, count refusals on the way, put the model back.

    Args:
        prompts: that must be refused.
        reading: of the checkpoint before the first update.
        data: what the rows are called in the sentence.
    """
    judge = RefusalJudge()

    def refused(model: Subject) -> list[float]:
        answered = ask_and_judge(model, prompts, judge, max_new_tokens=max_new_tokens)
        return [float(label == "refused") for label in answered.labels]

    curve = rebound_curve(
        subject,
        base,
        harmless,
        plan=plan,
        texts=texts,
        prompts=prompts,
        scorer=refused,
        names=(reading.name, data),
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    return read_card(
        [curve],
        reading.gradients,
        noise_floor_bits=reading.noise_floor_bits,
        reference=packaged(),
        seed=seed,
    )
