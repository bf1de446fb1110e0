"""The one way from turns to text: a chat template applied, its refusals explained, its date and switches pinned.

Knows: transformers' rendering, today's date in a template.
Does not know: rows, tokens, masks, what templates disagree about (dialects.py).
"""

import contextlib
import copy
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError
from holdfast.data.example import BadRowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

Turns = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None
Kwargs = Mapping[str, Any] | None

_RESERVED = {
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask"),
    *("sanitize_control_tokens", "padding", "truncation", "max_length", "tokenizer_kwargs"),
}
_PIN, _PIN_END = "{#- pinned: the same text on every day -#}", "{#- end of pin -#}"
_DIRECTIVES = "YmdyBbAaHMSIpjeZz"


def render(
    turns: Turns,
    tokenizer: "Tokenizer",
    generation: bool,
    tools: Tools = None,
    kwargs: Kwargs = None,
    chat_template: str | None = None,
) -> str:
    """The text of a conversation, as the tokenizer's chat template writes it.

    Args:
        turns: in the form of :mod:`holdfast.data.messages`.
        generation: end with what opens the assistant's next turn.
        tools: tool descriptions the template may list.
        kwargs: variables of the template (``enable_thinking``, ...).
        chat_template: another template than the tokenizer's.

    Raises:
        BadRowError: (a UserError) the template refuses the conversation, or ``kwargs`` names what is not its own.
    """
    taken = sorted(_RESERVED.intersection(kwargs or ()))
    if taken:
        raise BadRowError(f"chat_template_kwargs: {taken} are not a template's to set; take them out")
    try:
        text = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],  # type: ignore[arg-type]  # plain dicts are what the templates read
            tools=[dict(tool) for tool in tools] if tools else None,  # some templates write boilerplate for []
            chat_template=chat_template,
            tokenize=False,
            add_generation_prompt=generation,
            **(kwargs or {}),
        )
    except Exception as error:  # jinja raises what the template author chose, such as "roles must alternate"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadRowError(f"the chat template refuses the conversation ({reason})") from None
    return str(text)


def pin_template(
    tokenizer: "Tokenizer", today: str | datetime.date | None = None, kwargs: Kwargs = None
) -> "Tokenizer":
    """A copy of the tokenizer whose template writes the same text on every day and for everyone.

    The pins are written into the template itself: they travel with a saved tokenizer and hold for every library.

    Args:
        tokenizer: is left as it is.
        today: the date the template is to write (ISO text or a date); None leaves it to the calendar.
        kwargs: variables of the template (``enable_thinking: false``); a row's own ``chat_template_kwargs`` go
            before them.

    Raises:
        UserError: not a date; no template; a variable the template does not read.
    """
    head = "" if today is None else _PIN + _date_macro(_as_date(today)) + _PIN_END
    for name, value in (kwargs or {}).items():
        _check_variable(name, tokenizer)
        head += f"{{%- if {name} is not defined -%}}{{%- set {name} = {_literal(value)} -%}}{{%- endif -%}}"
    pinned = copy.copy(tokenizer)
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        pinned.chat_template = {name: head + _unpinned(text, today) for name, text in template.items()}  # type: ignore
    elif template is not None:
        pinned.chat_template = head + _unpinned(template, today)
    return pinned


def _unpinned(template: str, today: Any) -> str:
    """Without an earlier date, where a new one is to be pinned."""
    return template if today is None else re.sub(f"{re.escape(_PIN)}.*?{re.escape(_PIN_END)}", "", template)


def depends_on_date(tokenizer: "Tokenizer") -> bool:
    """Whether the chat template writes today's date, so that the same rows give other tokens tomorrow."""
    text = str(tokenizer.chat_template)
    if "strftime_now" not in text or _PIN in text:
        return False
    days = [pin_template(tokenizer, day) for day in ("2001-01-01", "2022-12-13")]
    question, rule = {"role": "user", "content": "a"}, {"role": "system", "content": "b"}
    seen = []
    for turns in ([question], [rule, question]):
        with contextlib.suppress(BadRowError):
            first, second = (render(turns, day, generation=True) for day in days)
            seen.append(first != second)
    return any(seen) or not seen


def _check_variable(name: str, tokenizer: "Tokenizer") -> None:
    if tokenizer.chat_template is None:
        raise UserError(f"chat_template_kwargs: '{name}' is set, but this tokenizer has no chat template")
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or name in _RESERVED:
        raise UserError(f"chat_template_kwargs: '{name}' is not a variable of a template; take it out")
    if not re.search(rf"\b{name}\b", str(tokenizer.chat_template)):
        raise UserError(f"chat_template_kwargs: this model's chat template does not read '{name}'; take it out")


def _as_date(today: str | datetime.date) -> datetime.date:
    if isinstance(today, datetime.date):
        return today
    try:
        return datetime.date.fromisoformat(today)
    except ValueError:
        raise UserError(f"today '{today}': not a date; write it as 2026-01-31") from None


def _date_macro(date: datetime.date) -> str:
    """``strftime_now`` for one day, in the template's own language; clock times are midnight."""
    moment = datetime.datetime(date.year, date.month, date.day)
    plain = "".join(
        f"|replace('%-{letter}', '{moment.strftime('%' + letter).lstrip('0') or '0'}')" for letter in "dmHIMS"
    )
    plain += "".join(f"|replace('%{letter}', '{moment.strftime('%' + letter)}')" for letter in _DIRECTIVES)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{plain} }}}}{{%- endmacro -%}}"


def _literal(value: Any) -> str:
    """A value as jinja writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_literal, value)) + "]"
    raise UserError(f"chat_template_kwargs: a {type(value).__name__} cannot be written into a template")
