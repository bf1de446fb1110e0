"""What a raw row means: which of the known shapes it has, and the row in the one form that is encoded.

Knows: the names people give to columns. Does not know: files, templates, tokens.

Canonical rows are ``{prompt, completion}`` (texts, or lists of turns), ``{messages}`` or ``{text}``, each with
``tools`` and ``chat_template_kwargs`` where the row has them. A new shape is one entry of :data:`SHAPES`, a new
spelling one word in a tuple.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.data.example import BadRowError
from holdfast.data.messages import (
    ROLES,
    canonical_messages,
    canonical_tools,
    check_answered,
    from_json,
    is_messages,
    without_nulls,
)
from holdfast.data.preference import from_preference

CONVERSATIONS = ("messages", "conversations", "conversation")
QUESTIONS = ("instruction", "question", "query", "problem", "prompt", "input", "user")
ANSWERS = ("output", "response", "answer", "completion", "target", "solution", "assistant")
EXTRA_INPUTS = ("input", "context")
SYSTEMS = ("system", "system_prompt")
PICTURES = ("image", "images", "video", "videos", "audio", "audios")
BESIDE = (*EXTRA_INPUTS, *SYSTEMS, "history", *PICTURES)  # what an answer may rest on: said where it is not read
KNOWN = "'prompt' and 'completion', 'messages', or 'text'"
Canonical = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How a row is read.

    Attributes:
        line: what becomes what, for people.
        used: the columns that are read.
        read: makes the canonical row; raises BadRowError.
    """

    line: str
    used: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Canonical]


@dataclass(frozen=True)
class Recognition:
    """How the rows of a source are read.

    Attributes:
        line: one line for people: "Alpaca rows: instruction + input -> user turn, output -> assistant turn".
        notes: what was decided where rows could be read in more than one way.
    """

    line: str
    notes: tuple[str, ...] = ()


def normalise_row(
    row: Mapping[str, Any], prompt_column: str | None = None, completion_column: str | None = None
) -> Canonical:
    """The canonical form of a raw row.

    Raises:
        BadRowError: (a UserError) no known shape, or a field that is not what its shape needs.
    """
    if prompt_column is None and completion_column is None:
        row = _small_letters(row)
    shape = shapes_of(row, prompt_column, completion_column)[0]
    canonical = shape.read(row)
    tools = canonical_tools(row.get("tools"))
    kwargs = without_nulls(from_json(row.get("chat_template_kwargs")))
    if kwargs and not isinstance(kwargs, Mapping):
        raise BadRowError("field 'chat_template_kwargs' is not an object of names and values")
    return (
        canonical
        | ({"tools": tools} if tools else {})
        | ({"chat_template_kwargs": dict(kwargs)} if kwargs else {})
    )


def prompt_and_answer(row: Mapping[str, Any]) -> tuple[str | list[dict[str, Any]], str] | None:
    """The question that a canonical row ends on, and its answer; None where there is no single answer in text.

    The prompt is a text, or turns where it has more than one or a system turn.
    """
    if "completion" in row:
        prompt, answer = row["prompt"], row["completion"]
    elif "messages" in row and row["messages"][-1]["role"] == "assistant":
        prompt, answer = list(row["messages"][:-1]), [row["messages"][-1]]
    else:
        return None
    if isinstance(answer, list):
        if len(answer) != 1 or "content" not in answer[0] or "tool_calls" in answer[0]:
            return None
        answer = answer[0]["content"]
    if isinstance(prompt, list) and [turn["role"] for turn in prompt] == ["user"]:
        prompt = prompt[0]["content"]
    return (prompt, answer) if prompt else None


def recognise(
    rows: Iterable[Mapping[str, Any]], prompt_column: str | None = None, completion_column: str | None = None
) -> Recognition:
    """How these rows are read, in a line, with every choice that was made between two readings.

    Rows of no known shape are left to :func:`normalise_row`, which says what is wrong with each.
    """
    lines: Counter[str] = Counter()
    rivals: Counter[str] = Counter()
    for row in rows:
        try:
            first, *others = shapes_of(row, prompt_column, completion_column)
        except BadRowError:
            continue
        lines[first.line] += 1
        unread = [
            name for name, value in _small_letters(row).items() if name in BESIDE and value and value == value
        ]
        for name in sorted({*unread} - {column.lower() for column in first.used}):
            rivals[f"rows also hold '{name}', which is not read; their answers may rest on it"] += 1
        for other in others:
            rivals[f"rows could also be read as {other.line}; they were read as {first.line}"] += 1
    notes = [f"{count} {text}" for text, count in rivals.items()]
    if len(lines) == 1:
        return Recognition(next(iter(lines)), tuple(notes))
    return Recognition("; ".join(f"{count} x {line}" for line, count in lines.most_common()), tuple(notes))


def shapes_of(
    row: Mapping[str, Any], prompt_column: str | None = None, completion_column: str | None = None
) -> list[Shape]:
    """Every way to read the row, the one that counts first.

    Raises:
        BadRowError: there is none.
    """
    if prompt_column is not None or completion_column is not None:
        return [_explicit(row, prompt_column, completion_column)]
    row = _small_letters(row)
    found = [shape for find in SHAPES if (shape := find(row)) is not None]
    distinct: list[Shape] = []
    for shape in found:  # a shape that reads a part of what an earlier one reads is no rival
        if not any(set(shape.used) <= set(other.used) for other in distinct):
            distinct.append(shape)
    if distinct:
        return distinct
    if "completion" in row:
        raise BadRowError("field 'completion' is missing, not text")
    if "prompt" in row:
        raise BadRowError("no 'completion' or 'messages' field")
    raise BadRowError(
        f"none of {KNOWN}; fields are {sorted(map(str, row))}; name two with prompt and completion columns"
    )


def _small_letters(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with 'Prompt' and 'PROMPT' called 'prompt', unless it has a column of that name."""
    if all(str(name).islower() for name in row):
        return row
    return {str(name).strip().lower(): value for name, value in row.items()} | dict(row)


def _explicit(row: Mapping[str, Any], prompt: str | None, completion: str | None) -> Shape:
    if prompt is None or completion is None:
        raise BadRowError("a prompt column needs a completion column, and the other way round; name both")
    for column in (prompt, completion):
        if column not in row:
            raise BadRowError(f"no column '{column}'; columns are {sorted(map(str, row))}")
    line = f"columns you named: {prompt} -> prompt, {completion} -> completion"

    def read(row: Mapping[str, Any]) -> Canonical:
        return _pair(row, prompt, completion)

    return Shape(line, (prompt, completion), read)


def _conversation(row: Mapping[str, Any]) -> Shape | None:
    column = _present(row, CONVERSATIONS)
    if column is None or _open_conversation(row):
        return None
    turns = from_json(row[column])
    first = turns[0] if isinstance(turns, (list, tuple)) and turns else None
    sharegpt = isinstance(first, Mapping) and "from" in first
    system = None if column == "messages" else _present(row, SYSTEMS)

    def read(row: Mapping[str, Any]) -> Canonical:
        turns = canonical_messages(row[column], column)
        check_answered(turns, column)
        return {"messages": [*_system_turn(row, system, turns), *turns]}

    extra = f", {system} -> system turn" if system else ""
    kind = "ShareGPT rows" if sharegpt else "chat messages"
    return Shape(f"{kind}: {column} -> turns{extra}", tuple(filter(None, (column, system))), read)


def _prompt_completion(row: Mapping[str, Any]) -> Shape | None:
    if row.get("completion") is None or ("prompt" not in row and _present(row, QUESTIONS)):
        return None
    line = "prompt/completion rows: prompt -> user turn, completion -> assistant turn"
    if str(row.get("label")).lower() in ("true", "false"):  # unpaired preferences; in CSV all is text
        line += " (label is not read: completions marked false are learned too)"
    return Shape(line, ("prompt", "completion"), lambda row: _pair(row, "prompt", "completion"))


def _preference(row: Mapping[str, Any]) -> Shape | None:
    if row.get("chosen") is None:
        return None
    prompt = _open_conversation(row) or _present(row, ("prompt", *QUESTIONS))
    told = f"{prompt} -> prompt, " if prompt else "the turns both sides share -> prompt, "
    line = f"preference pairs: {told}chosen -> completion (the rejected side is not used)"
    used = tuple(filter(None, (prompt, "chosen", "rejected")))
    return Shape(line, used, lambda row: from_preference(row, prompt))


def _question_answer(row: Mapping[str, Any]) -> Shape | None:
    answer = _present(row, ANSWERS)
    question = next((name for name in QUESTIONS if row.get(name) is not None and name != answer), None)
    if answer is None or question is None:
        return None
    # 'input' beside a question is Alpaca's only there
    extra = EXTRA_INPUTS if question == "instruction" else ("context",)
    more = next((name for name in extra if row.get(name) is not None and name != question), None)
    system, history = _present(row, SYSTEMS), _present(row, ("history",))

    def read(row: Mapping[str, Any]) -> Canonical:
        if is_messages(row[question]):
            return _pair(row, question, answer)
        parts = [_string(row, name, optional=True) for name in (question, more) if name]
        text = "\n".join(part for part in parts if part.strip())
        if not text:
            raise BadRowError(f"field '{question}' is empty")
        turns = [*_history(row), {"role": "user", "content": text}]
        reply = {"role": "assistant", "content": _string(row, answer)}
        return {"prompt": [*_system_turn(row, system, turns), *turns], "completion": [reply]}

    kind = "Alpaca rows" if question == "instruction" and answer == "output" else f"{question}/{answer} rows"
    line = f"{kind}: {question}{f' + {more}' if more else ''} -> user turn, {answer} -> assistant turn"
    line += "".join(
        f", {name} -> {what}" for name, what in ((system, "system turn"), (history, "earlier turns")) if name
    )
    return Shape(line, tuple(filter(None, (question, more, answer, system, history))), read)


def _text(row: Mapping[str, Any]) -> Shape | None:
    if row.get("text") is None:
        return None
    return Shape("text rows: every token is learned", ("text",), lambda row: {"text": _string(row, "text")})


SHAPES: Sequence[Callable[[Mapping[str, Any]], Shape | None]] = (
    _conversation,
    _prompt_completion,
    _preference,
    _question_answer,
    _text,
)


def _open_conversation(row: Mapping[str, Any]) -> str | None:
    """The column of a conversation that waits for its chosen answer, which stands in a column of its own."""
    column = _present(row, CONVERSATIONS)
    turns = from_json(row[column]) if column and row.get("chosen") is not None else None
    last = turns[-1] if isinstance(turns, (list, tuple)) and turns else {}
    role = last.get("role", last.get("from")) if isinstance(last, Mapping) else None
    return column if turns and ROLES.get(str(role)) != "assistant" else None


def _present(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    return next((name for name in names if row.get(name) is not None), None)


def _string(row: Mapping[str, Any], field: str, optional: bool = False) -> str:
    value = row.get(field)
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        kind = "missing" if value is None else type(value).__name__
        raise BadRowError(f"field '{field}' is {kind}, not text")
    if not value.strip() and not optional:
        raise BadRowError(f"field '{field}' is empty")
    return value


def _pair(row: Mapping[str, Any], prompt: str, completion: str) -> Canonical:
    """Texts stay texts; turns on either side make both sides turns."""
    question, answer = (is_messages(row.get(field)) for field in (prompt, completion))
    if not question and not answer:
        if row.get(prompt) is None:
            raise BadRowError(f"field '{prompt}' is missing, not text")
        return {"prompt": _string(row, prompt, optional=True), "completion": _string(row, completion)}
    turns = canonical_messages(row[prompt], prompt) if question else [_user(_string(row, prompt))]
    reply = {"role": "assistant", "content": _string(row, completion)} if not answer else None
    replies = [reply] if reply else canonical_messages(row[completion], completion)
    check_answered(replies, completion)
    return {"prompt": turns, "completion": replies}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _system_turn(
    row: Mapping[str, Any], column: str | None, turns: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    if column is None or turns[0]["role"] == "system" or not _string(row, column, optional=True).strip():
        return []
    return [{"role": "system", "content": row[column]}]


def _history(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Earlier turns beside an instruction: a list of [question, answer] pairs, read and not learned."""
    turns: list[dict[str, Any]] = []
    for pair in from_json(row.get("history")) or ():
        if (
            not isinstance(pair, (list, tuple))
            or len(pair) != 2
            or not all(isinstance(text, str) for text in pair)
        ):
            raise BadRowError("field 'history' is not a list of [question, answer] pairs")
        turns += [_user(pair[0]), {"role": "assistant", "content": pair[1]}]
    return turns
