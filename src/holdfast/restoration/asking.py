"""How this room asks: prompts answered by the model as it is, answers judged as a list, errors kept apart.

Knows: generation, the judge. Does not know: what the answers are for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.core.errors import UserError
from holdfast.data import Example, encode_prompt
from holdfast.evaluation import Judge
from holdfast.evaluation.judges import judge_all
from holdfast.models import Subject, generate

MOST_ERRORS = 0.1  # share of answers that a judge may fail on before nothing can be said


@dataclass(frozen=True)
class Asked:
    """One prompt, what was answered, and the label it got."""

    example: Example
    label: str


def ask(
    subject: Subject,
    prompts: Sequence[str],
    judge: Judge,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    name: str = "",
    batch_size: int = 64,
) -> list[Asked]:
    """Answer every prompt with the current adapter and have the answers judged.

    Raises:
        UserError: the judge could not judge more than a tenth of the answers.
    """
    assert subject.tokenizer is not None
    prompts_ids = [encode_prompt(prompt, subject.tokenizer) for prompt in prompts]
    answers = generate(subject, prompts_ids, max_new_tokens, temperature, seed, batch_size=batch_size)
    texts = [text_of(subject.tokenizer, ids) for ids in answers]
    verdicts = judge_all(judge, prompts, texts, progress=False)
    errors = [verdict for verdict in verdicts if verdict.label == "error"]
    if len(errors) > MOST_ERRORS * len(verdicts):
        reason = getattr(errors[0], "reason", "no reason given")
        raise UserError(
            f"judge: {len(errors)} of {len(verdicts)} answers could not be judged ({reason}); "
            "a repair cannot be decided like this: mend the judge and run again"
        )
    return [
        Asked(Example(tuple(prompt), tuple(answer), f"{name}/{k}"), verdict.label)
        for k, (prompt, answer, verdict) in enumerate(zip(prompts_ids, answers, verdicts, strict=True))
    ]


def refused(asked: Sequence[Asked]) -> np.ndarray:
    """1 where refused, 0 where not, NaN where the judge failed: an error is neither."""
    return np.array([np.nan if a.label == "error" else float(a.label == "refused") for a in asked])


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """A generated answer as text, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
