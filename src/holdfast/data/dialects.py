"""Turns in the form that one chat template reads, and proof that it writes all of them.

Knows: what templates disagree about (arguments as object or text, content missing or empty, text or parts).
Does not know: model families by name, rows, tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.data.example import BadRowError
from holdfast.data.templates import Kwargs, Tools, Turns, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


class DroppedError(BadRowError):
    """The template renders the conversation without a part of it."""


def fit(
    turns: Turns, tokenizer: "Tokenizer", tools: Tools = None, kwargs: Kwargs = None, generation: bool = False
) -> tuple[list[dict[str, Any]], str]:
    """The turns in the first dialect in which this template writes every call, tool and turn; and what it writes.

    Raises:
        BadRowError: there is none; says what the template refuses or drops.
    """
    first: BadRowError | None = None
    for dialect in _dialects(turns, tokenizer):
        try:
            text = _written(dialect, turns, tokenizer, tools, kwargs, generation)
        except BadRowError as error:
            # "drops tool calls" says more than what some dialect makes a template stumble over
            if first is None or (isinstance(error, DroppedError) and not isinstance(first, DroppedError)):
                first = error
            continue
        return dialect, text
    if not isinstance(first, DroppedError) and any(
        "tool_calls" in turn or turn["role"] == "tool" for turn in turns
    ):
        raise BadRowError(f"{first}; does this template know tools?")
    raise first or BadRowError("no turns")


def _dialects(turns: Turns, tokenizer: "Tokenizer") -> Iterator[list[dict[str, Any]]]:
    plain = [dict(turn) for turn in turns]
    if "developer" not in str(tokenizer.chat_template):
        plain = [{**turn, "role": "system"} if turn["role"] == "developer" else turn for turn in plain]
    yield plain
    if any("tool_calls" in turn for turn in plain):
        yield [_empty(turn) for turn in plain]
        yield [_arguments_as_text(turn) for turn in plain]
        yield [_arguments_as_text(_empty(turn)) for turn in plain]
    yield [_parts(turn) for turn in plain]


def _empty(turn: dict[str, Any]) -> dict[str, Any]:
    return {"role": turn["role"], "content": "", **turn}


def _arguments_as_text(turn: dict[str, Any]) -> dict[str, Any]:
    calls = []
    for call in turn.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": text}})
    return {**turn, "tool_calls": calls} if calls else turn


def _parts(turn: dict[str, Any]) -> dict[str, Any]:
    """Content as a list of parts: templates of models that also see read nothing else."""
    return {**turn, "content": [{"type": "text", "text": turn["content"]}]} if turn.get("content") else turn


def _written(
    dialect: list[dict[str, Any]],
    turns: Turns,
    tokenizer: "Tokenizer",
    tools: Tools,
    kwargs: Kwargs,
    generation: bool,
) -> str:
    """The rendering, once it is sure that it holds every call, tool and turn.

    Where a text is not found word for word (templates trim and escape), it is dropped if the rendering stays the
    same without it.

    Raises:
        BadRowError: the template refuses the conversation or drops a part of it.
    """

    def rendering(others: Sequence[Mapping[str, Any]], their_tools: Tools = tools) -> str | None:
        try:
            return render(others, tokenizer, generation, their_tools, kwargs)
        except BadRowError:
            return None

    text = render(dialect, tokenizer, generation, tools, kwargs)
    called = [call["function"]["name"] for turn in turns for call in turn.get("tool_calls", ())]
    if called and (
        not all(name in text for name in called) or rendering([_without_calls(turn) for turn in dialect]) == text
    ):
        raise DroppedError("this chat template drops tool calls; use a model whose template writes them")
    names = [str(tool.get("function", tool).get("name", "")) for tool in tools or ()]
    if names and not any(name and name in text for name in names) and rendering(dialect, None) == text:
        raise DroppedError("this chat template does not write 'tools'; use a model whose template does")
    for number, turn in enumerate(turns):
        said = turn.get("content", "").strip()
        if turn["role"] == "assistant" or not said or said in text:
            continue
        other: Any = "other words" if isinstance(dialect[number]["content"], str) else []
        changed = [*dialect[:number], {**dialect[number], "content": other}, *dialect[number + 1 :]]
        if rendering(changed) == text:
            raise DroppedError(f"turn {number}: this chat template drops '{turn['role']}' turns; take them out")
    return text


def _without_calls(turn: dict[str, Any]) -> dict[str, Any]:
    return _empty({key: value for key, value in turn.items() if key != "tool_calls"})
