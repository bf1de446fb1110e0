"""Chat messages as files hold them, made into the one form that chat templates read.

Knows: OpenAI's and ShareGPT's spellings, content parts, tool calls, the nulls that tables put in.
Does not know: which column held them, templates, tokens.

The form: ``role`` (system, developer, user, assistant, tool), ``content`` (text; absent where an assistant only
calls tools), and where present ``tool_calls`` (arguments as an object), ``name``, ``tool_call_id``, ``thinking``,
``reasoning_content``, ``weight`` (0: a turn that is read, not learned).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.data.example import BadRowError

ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
_CALLS = {"function_call", "tool_call"}
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_KEPT = ("name", "tool_call_id", *_THOUGHTS)


def canonical_messages(value: Any, field: str = "messages") -> list[dict[str, Any]]:
    """The turns of a conversation.

    Args:
        value: a list of turns (``role``/``content`` or ``from``/``value``), or its JSON text as tables hold it.
        field: the column, for error messages.

    Raises:
        BadRowError: not a list of turns, an unknown role, no text, a part that is not text.
    """
    value = from_json(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise BadRowError(f"field '{field}' is not a list of turns")
    return [_turn(turn, f"field '{field}', turn {number}") for number, turn in enumerate(value)]


def check_answered(turns: Sequence[Mapping[str, Any]], field: str) -> None:
    """Raise BadRowError unless an assistant turn says, thinks or calls something: silence is not to be learned."""
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    said = ("content", "tool_calls", *_THOUGHTS)
    if not any(str(turn.get(part, "")).strip() for turn in answers for part in said):
        kind = "only empty assistant turns" if answers else "no assistant turn to learn from"
        raise BadRowError(f"field '{field}': {kind}")


def from_json(value: Any) -> Any:
    """A list or object that a table holds as JSON text, decoded; anything else unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def without_nulls(value: Any) -> Any:
    """The same value without fields that are null, at any depth: columns of structs fill what a row lacks."""
    if isinstance(value, Mapping):
        return {str(key): without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(item) for item in value]
    return value


def is_messages(value: Any) -> bool:
    """Whether a field holds turns (or the JSON text of some)."""
    value = from_json(value)
    turn = value[0] if isinstance(value, (list, tuple)) and value else None
    return isinstance(turn, Mapping) and ("role" in turn or "from" in turn)


def canonical_tools(value: Any) -> list[dict[str, Any]] | None:
    """The tool list of a row, or None.

    Raises:
        BadRowError: neither a list of objects nor the JSON text of one.
    """
    tools: Any = without_nulls(from_json(value))
    if isinstance(tools, str):
        tools = tools.strip()
    if not tools:
        return None
    items = [from_json(tool) for tool in tools] if isinstance(tools, list) else [tools]
    if not all(isinstance(tool, Mapping) for tool in items):
        raise BadRowError("field 'tools' is not a list of tool descriptions")
    return [dict(tool) for tool in items]


def _turn(turn: Any, where: str) -> dict[str, Any]:
    role = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
    if not isinstance(role, str) or not role:
        raise BadRowError(f"{where}: needs a 'role' and a text 'content'")
    if role.strip().lower() not in ROLES:
        raise BadRowError(f"{where}: unknown role '{role[:40]}'; use system, user, assistant or tool")
    given = without_nulls(turn)
    content = given.get("content", given.get("value"))
    out: dict[str, Any] = {"role": ROLES[role.strip().lower()]}
    calls = _tool_calls(given, where)
    if role in _CALLS and not calls and isinstance(from_json(content), (Mapping, list)):
        calls, content = _calls_in_text(from_json(content)), None
    text = None if content is None else _text(content, where)
    if calls and not (text or "").strip():
        text = None
    if text is None and not calls:
        raise BadRowError(f"{where}: needs a 'role' and a text 'content'")
    if text is not None:
        out["content"] = text
    if calls:
        out["tool_calls"] = calls
    out |= {key: given[key] for key in _KEPT if key in given}
    if given.get("weight", given.get("train", 1)) in (0, False):
        out["weight"] = 0
    return out


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise BadRowError(f"{where}: content is {type(content).__name__}, not text")
    texts = []
    for part in content:
        if isinstance(part, Mapping) and "type" not in part and len(part) > 1:
            raise BadRowError(
                f"{where}: content is an object of {sorted(map(str, part))}; write it as its JSON text"
            )
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get(_TEXT_PARTS.get(kind, "")) if isinstance(part, Mapping) else part
        if kind not in _TEXT_PARTS:
            raise BadRowError(f"{where}: holds a part of type '{kind}'; only text can be read, take such rows out")
        if not isinstance(text, str):
            raise BadRowError(f"{where}: a content part holds no text")
        texts.append(text)
    return "".join(texts)


def _tool_calls(turn: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    calls = from_json(turn.get("tool_calls"))
    if not calls and isinstance(turn.get("function_call"), Mapping):  # OpenAI's older spelling
        calls = [{"type": "function", "function": turn["function_call"]}]
    if not calls:
        return []
    if not isinstance(calls, (list, tuple)) or not all(isinstance(call, Mapping) for call in calls):
        raise BadRowError(f"{where}: 'tool_calls' is not a list of calls")
    return [_call(call, where) for call in calls]


def _calls_in_text(value: Any) -> list[dict[str, Any]]:
    calls = value if isinstance(value, list) else [value]
    named = all(isinstance(call, Mapping) and call.get("name") for call in calls)
    return [_call({"function": call}, "") for call in calls] if named else []


def _call(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise BadRowError(f"{where}: a tool call without a function name")
    arguments = from_json(function.get("arguments", {}))
    inner = {**function, "name": name, "arguments": arguments if arguments != "" else {}}
    outer = {key: value for key, value in call.items() if key in ("id", "index")} if "function" in call else {}
    inner = {key: inner[key] for key in inner if key in ("name", "arguments", "content_type")}
    return {"type": "function", **outer, "function": inner}
