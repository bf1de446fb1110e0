"""A judge's errors in this room: they are kept apart, and many of them end the repair.

Knows: verdicts, sampled answers with their labels. Does not know: what the answers are for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.evaluation import Judge, judge_all, sample_answers
from holdfast.evaluation.behaviour import read_answer
from holdfast.evaluation.judges import Verdict
from holdfast.models import Subject

MOST_ERRORS = 0.1  # share of answers that a judge may fail on before nothing can be said


@dataclass(frozen=True)
class Sampled:
    """A sampled answer, as an example to learn from, and the label it got."""

    example: Example
    label: str


def sample_and_judge(
    subject: Subject,
    prompts: Sequence[str],
    judge: Judge,
    max_new_tokens: int,
    *,
    temperature: float,
    seed: int,
    name: str,
) -> list[Sampled]:
    """Let the subject, as it is now, answer every prompt once.

    Raises:
        UserError: the judge could not judge more than a tenth of the answers.
    """
    examples = sample_answers(
        subject, prompts, max_new_tokens, seed=seed, temperature=temperature, batch_size=64, name=name
    )
    texts = [read_answer(subject, example.completion_ids) for example in examples]
    verdicts = judge_all(judge, prompts, texts, progress=False)
    check_errors(verdicts)
    return [Sampled(example, verdict.label) for example, verdict in zip(examples, verdicts, strict=True)]


def check_errors(verdicts: Sequence[Verdict]) -> None:
    """Stop where a judge fails too often.

    Raises:
        UserError: more than a tenth of the verdicts are errors.
    """
    errors = [verdict for verdict in verdicts if verdict.label == "error"]
    if len(errors) > MOST_ERRORS * len(verdicts):
        reason = getattr(errors[0], "reason", "no reason given")
        raise UserError(
            f"judge: {len(errors)} of {len(verdicts)} answers could not be judged ({reason}); "
            "a repair cannot be decided like this: mend the judge and run again"
        )


def refused(labels: Sequence[str]) -> np.ndarray:
    """1 where refused, 0 where not, NaN where the judge failed: an error is neither."""
    return np.array([np.nan if label == "error" else float(label == "refused") for label in labels])
