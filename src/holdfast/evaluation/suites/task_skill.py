"""Task skill from files: rows become a `Task`, which `evaluate` answers greedily and scores.

Knows: the columns of a task file, templates. Does not know: metrics (metrics.py), models.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data.sources import Row, read_rows
from holdfast.evaluation.tasks import Task, checked_answer, checked_prompt, sides_of_row

PROMPTS = ("prompt", "question", "instruction", "input", "sentence", "dialogue", "text")
ANSWERS = ("completion", "answer", "output", "summary", "label", "target")


def read_task(
    source: str | Path | Sequence[Mapping[str, Any]],
    name: str,
    metric: str = "exact_match",
    prompt: str | None = None,
    answer: str | None = None,
    labels: Sequence[str] = (),
    max_new_tokens: int = 64,
    limit: int | None = None,
) -> Task:
    """A task from JSONL, JSON, CSV, Parquet, a saved data set, a hub id, or rows.

    Rows of any shape that training reads are read alike: of a conversation the last assistant turn is the answer
    and the turns before it are the prompt; an instruction is asked with its input.

    Args:
        metric: of :data:`holdfast.evaluation.METRICS`; "numeric" for GSM8K, whose answers end in ``#### 42``.
        prompt: the column of the prompt, or a template with columns in braces: ``"Summarise: {dialogue}"``. None
            takes the first of ``prompt``, ``question``, ``instruction``, ``input``, ... that is there.
        answer: the column of the answer; None as above.
        labels: names for an answer column of numbers or booleans: SST-2 with ``labels=("negative", "positive")``.
        max_new_tokens: of a response; worked solutions need some hundred.

    Raises:
        UserError: naming the row and the column it lacks, or the answer that nothing can be compared with.
    """
    prompts, answers = [], []
    for row in read_rows(source, limit):
        sides = _sides(row, prompt, answer, labels)
        prompts.append(checked_prompt(sides[0], row.where))
        answers.append(checked_answer(sides[1], row.where, metric))
    return Task(name, tuple(prompts), tuple(answers), metric, max_new_tokens=max_new_tokens)


def _sides(row: Row, prompt: str | None, answer: str | None, labels: Sequence[str]) -> tuple[Any, Any]:
    if prompt is None and answer is None and not labels:
        try:
            return sides_of_row(row.values, row.where)
        except UserError:  # not a shape of training data: columns such as 'sentence' and 'label'
            if row.values.get("messages") is not None:
                raise
    return _prompt(row, prompt), _answer(row, answer, labels)


def _prompt(row: Row, wanted: str | None) -> Any:
    if wanted is not None and "{" in wanted:
        try:
            return wanted.format_map({key: str(value) for key, value in row.values.items()})
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(
                f"{row.where}: the template {wanted!r} asks for {error}, which the row lacks"
            ) from None
    return _value(row, (wanted,) if wanted else PROMPTS, "prompt")


def _answer(row: Row, wanted: str | None, labels: Sequence[str]) -> Any:
    value = _value(row, (wanted,) if wanted else ANSWERS, "answer")
    if labels and (isinstance(value, bool) or str(value).lstrip("-").isdigit()):
        number = int(value)
        if not 0 <= number < len(labels):
            raise UserError(f"{row.where}: label {number}, but there are {len(labels)} labels (from 0)")
        return labels[number]
    return value


def _value(row: Row, names: Sequence[str], what: str) -> Any:
    """The first of these columns that is there; one that is there and empty is for the caller to refuse."""
    present = [name for name in names if name in row.values]
    if not present:
        raise UserError(
            f"{row.where}: no {what}; name the column one of {', '.join(names)} "
            f"(found {', '.join(sorted(map(str, row.values)))})"
        )
    return row.values[next((name for name in present if row.values[name] is not None), present[0])]
