"""Task skill: prompts with known answers, scored by one of the metrics.

Knows: tasks, which prompts and answers can be asked and scored, the rows they come from.
Does not know: how a metric works (metrics.py), models, safety.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data import BadRowError, Example, normalise_row, prompt_and_answer
from holdfast.evaluation.judges.reasoning import final_answer
from holdfast.evaluation.metrics import (
    METRICS,
    exact_match,
    final_number,
    longest_common_subsequence,
    numeric,
    rouge_l,
    token_f1,
)

__all__ = [
    "METRICS",
    "NO_METRIC",
    "Task",
    "exact_match",
    "final_number",
    "longest_common_subsequence",
    "numeric",
    "rouge_l",
    "token_f1",
]

NO_METRIC = "none"
"""In the place of a metric: only the loss is measured."""

Conversation = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Task:
    """A task to score: greedy responses to ``prompts`` against ``answers``.

    Everything is checked here, before a model is asked: an answer that no text can be compared with is refused.

    Attributes:
        name: used in files and tables.
        prompts: texts, or conversations that end where the model is to go on.
        answers: one a prompt: text or number (kept as text), or the assistant message that holds it.
        metric: "exact_match", "accuracy", "numeric", "token_f1" or "rouge_l"; "none" measures only the loss.
        examples: held-out examples for the task loss; None encodes prompts and answers themselves.
        max_new_tokens: of a response.

    Raises:
        UserError: an unknown metric, no prompt to score, or a prompt or an answer that is none, by row.
    """

    name: str
    prompts: tuple[Any, ...]
    answers: tuple[Any, ...]
    metric: str = "exact_match"
    examples: tuple[Example, ...] | None = field(default=None, repr=False)
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        check_metric(self.metric, f"task '{self.name}'")
        prompts, answers = tuple(self.prompts), tuple(self.answers)
        if len(prompts) != len(answers):
            raise UserError(
                f"task '{self.name}': {len(prompts)} prompts but {len(answers)} answers; give one each"
            )
        where = f"task '{self.name}' row"
        checked = [checked_prompt(prompt, f"{where} {k}") for k, prompt in enumerate(prompts)]
        object.__setattr__(self, "prompts", tuple(checked))
        texts = [checked_answer(answer, f"{where} {k}", self.metric) for k, answer in enumerate(answers)]
        object.__setattr__(self, "answers", tuple(texts))
        if self.examples is not None:
            object.__setattr__(self, "examples", tuple(self.examples))

    @classmethod
    def from_rows(cls, name: str, rows: Iterable[Mapping[str, Any]], **options: Any) -> "Task":
        """From rows with ``prompt`` and ``completion`` (or ``answer``), with ``messages``, of which the last
        turn is the answer, or of another shape that training data comes in.

        Raises:
            UserError: naming the row and what it lacks.
        """
        pairs = [sides_of_row(row, f"task '{name}' row {k}") for k, row in enumerate(rows)]
        return cls(name, tuple(prompt for prompt, _ in pairs), tuple(answer for _, answer in pairs), **options)

    def score(self, response: str, answer: str) -> float:
        """The metric, in [0, 1], of what a reader is shown; 0 where no answer came out of the reasoning."""
        shown, problem = final_answer(response)
        return 0.0 if problem else METRICS[self.metric](shown, answer)


def check_metric(metric: str, where: str) -> None:
    """Known before anything is read.

    Raises:
        UserError: an unknown metric.
    """
    if metric not in METRICS and metric != NO_METRIC:
        known = ", ".join([*METRICS, NO_METRIC])
        raise UserError(f"{where}: metric '{metric}' unknown; use one of {known}")


def sides_of_row(row: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """What a row asks and what it answers, as they stand there, in any shape that training reads too.

    Raises:
        UserError: a side is missing.
    """
    if row.get("messages") is not None:
        turns = row["messages"]
        if not _is_conversation(turns) or turns[-1]["role"] != "assistant":
            raise UserError(
                f"{where}: 'messages' do not end with an assistant's turn; there is no answer to score"
            )
        if len(turns) < 2:
            raise UserError(f"{where}: 'messages' hold nothing but the answer; give the turns before it")
        return turns[:-1], turns[-1:]
    if "prompt" not in row and (known := _known_shape(row)) is not None:
        return known
    lacks = [side for side in ("prompt", "completion") if side not in row]
    if "completion" in lacks and "answer" in row:
        lacks.remove("completion")
    if lacks:
        raise UserError(
            f"{where} lacks '{lacks[0]}'; rows need 'prompt' and 'completion' (or 'answer'), or 'messages' "
            f"(found {', '.join(sorted(map(str, row)))})"
        )
    return row["prompt"], row["completion"] if "completion" in row else row["answer"]


def _known_shape(row: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The sides of Alpaca rows, ShareGPT conversations and the like; None for a row of another shape."""
    try:
        return prompt_and_answer(normalise_row({key: _number_as_text(value) for key, value in row.items()}))
    except BadRowError:
        return None


def checked_prompt(value: Any, where: str) -> str | Conversation:
    """A prompt that can be asked; a number is asked as text.

    Raises:
        UserError: neither a text nor a conversation.
    """
    value = _number_as_text(value)
    if isinstance(value, str) and value.strip():
        return value
    if not isinstance(value, str) and _is_conversation(value):
        turns: Sequence[Mapping[str, Any]] = value
        return tuple(dict(turn) for turn in turns)
    raise UserError(f"{where}: the prompt is {_kind(value)}; give a text, or messages with 'role' and 'content'")


def checked_answer(value: Any, where: str, metric: str = "exact_match") -> str:
    """An answer as the text that responses are compared with; a number as people write it.

    Raises:
        UserError: nothing that a text can be compared with; for "numeric", a text without a number.
    """
    if _is_conversation(value) and [turn["role"] for turn in value] == ["assistant"]:
        value = _text(value[0].get("content"))
    value = _number_as_text(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{where}: the answer is {_kind(value)}, which no response can be compared with; write it as the text "
            "that is expected (a yes or a no in words), or leave the row out"
        )
    if metric == "numeric" and final_number(value) is None:
        raise UserError(
            f"{where}: the answer {value[:40]!r} has no number to compare; use another metric than numeric"
        )
    return value


def prompt_text(prompt: str | Conversation) -> str:
    """A prompt as one text, for tables."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return _text(prompt[0].get("content")) or ""
    return "\n".join(f"{turn['role']}: {_text(turn.get('content')) or ''}" for turn in prompt)


def _number_as_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return str(int(value)) if value == int(value) else repr(value)


def _is_conversation(value: Any) -> bool:
    turns = value if isinstance(value, Sequence) and not isinstance(value, str) and len(value) else ()
    return bool(turns) and all(map(_is_turn, turns))


def _is_turn(value: Any) -> bool:
    """Something is said, or, by an assistant, a tool is called."""
    return isinstance(value, Mapping) and "role" in value and bool({"content", "tool_calls"} & value.keys())


def _text(content: Any) -> str | None:
    """The text of a message's content, which may come in parts."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(parts) else None
    return content if isinstance(content, str) else None


def _kind(value: Any) -> str:
    if value is None:
        return "missing (null)"
    if isinstance(value, bool):
        return f"a boolean ({str(value).lower()})"
    if isinstance(value, str):
        return "empty"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return f"a {type(value).__name__} ({str(value)[:40]})"
