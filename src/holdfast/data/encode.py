"""The one path from a row to an :class:`Example`: template applied, exactly one BOS, loss on assistant tokens.

Knows: the three row shapes TRL accepts (`prompt`/`completion`, `messages`, `text`), chat templates.
Does not know: files, batches, models.

How the mask is found. For a conversation the template is rendered up to and after each assistant turn; the
turn is the text that the longer rendering adds, its tokens are found by character offsets. That needs no
`{% generation %}` marks, so it is right for every template that only appends, which is checked row by row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import UserError
from holdfast.data.example import BadRow, Example, Examples
from holdfast.data.keys import row_key, unique_names
from holdfast.data.sources import Row, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

SHAPES = "'prompt' and 'completion', 'messages', or 'text'"


class _BadRowError(ValueError):
    """Why a row cannot be used; becomes a UserError or an entry of ``bad_rows``."""


def read_examples(
    source: Any,
    tokenizer: "Tokenizer | None",
    max_length: int = 1024,
    limit: int | None = None,
    skip_bad_rows: bool = False,
) -> Examples:
    """Read, template, tokenise and mask.

    Args:
        source: whatever :func:`holdfast.data.sources.read_rows` reads.
        tokenizer: of the model that will see the examples.
        max_length: longer sequences are cut at the end, counted, and dropped if no completion token is left.
        limit: at most this many examples.
        skip_bad_rows: count and list bad rows instead of stopping at the first.

    Raises:
        UserError: missing file, empty data set, a bad row (unless skipped), nothing left, no tokenizer.
    """
    if tokenizer is None:
        raise UserError("text needs a tokenizer; load the model with its own, or build Examples from token ids")
    bad_rows: list[BadRow] = []
    rows = read_rows(source, limit, bad_rows if skip_bad_rows else None)
    name = str(source) if not isinstance(source, (list, tuple)) else ""
    return _encode(rows, tokenizer, max_length, bad_rows if skip_bad_rows else None, name)


def encode_rows(
    rows: Iterable[Mapping[str, Any]], tokenizer: "Tokenizer | None", max_length: int = 1024
) -> Examples:
    """Encode rows that are already in memory.

    Raises:
        UserError: as :func:`read_examples`.
    """
    return read_examples(list(rows), tokenizer, max_length)


def encode_prompt(prompt: str | Sequence[Mapping[str, str]], tokenizer: "Tokenizer") -> list[int]:
    """Token ids of a prompt that is about to be answered (chat template with generation prompt, one BOS)."""
    if tokenizer.chat_template is None:
        if not isinstance(prompt, str):
            prompt = "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt) + "\nassistant: "
        return _one_bos(tokenizer(prompt, add_special_tokens=False)["input_ids"], tokenizer)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return _one_bos(_tokenise(_render(messages, tokenizer, generation=True), tokenizer)[0], tokenizer)


def _encode(
    rows: list[Row], tokenizer: "Tokenizer", max_length: int, bad_rows: list[BadRow] | None, source: str
) -> Examples:
    examples: list[Example] = []
    truncated: list[int] = []
    for row in rows:
        try:
            ids, mask = _encode_row(row.values, tokenizer)
            if len(ids) > max_length:
                truncated.append(len(examples))
                ids, mask = ids[:max_length], mask[:max_length]
            if not any(mask[1:]):
                cut = f" within max_length={max_length}" if len(ids) == max_length else ""
                raise _BadRowError(f"no completion token{cut}")
            examples.append(_to_example(ids, mask, row))
        except _BadRowError as error:
            if bad_rows is None:
                raise UserError(f"{row.where}: {error}; mend the row or pass --skip-bad-rows") from None
            bad_rows.append(BadRow(row.where, str(error)))
    if not examples:
        raise UserError(f"{source or 'rows'}: every row is bad; first: {bad_rows[0] if bad_rows else 'none'}")
    names, renamed = unique_names([example.id for example in examples])
    examples = [replace(example, id=name) for example, name in zip(examples, names, strict=True)]
    notes = (
        [f"{renamed} rows share the id of an earlier row; they are called 'id#2', 'id#3', ..."] if renamed else []
    )
    return Examples(examples, bad_rows or (), [names[k] for k in truncated], source, notes=notes)


def _to_example(ids: list[int], mask: list[bool], row: Row) -> Example:
    start = mask.index(True)
    rest = mask[start:]
    key = row_key(row.values)
    own = row.values.get("id")
    name = str(own) if own not in (None, "") else f"{row.where}#{key[:8]}"
    completion_mask = None if all(rest) else tuple(rest)
    return Example(tuple(ids[:start]), tuple(ids[start:]), name, completion_mask, row.position, key)


def _encode_row(values: Mapping[str, Any], tokenizer: "Tokenizer") -> tuple[list[int], list[bool]]:
    if values.get("messages") is not None:
        return _encode_messages(_checked_messages(values["messages"]), tokenizer)
    if "completion" in values:
        return _encode_pair(values, tokenizer)
    if values.get("text") is not None:
        return _encode_text(_string(values, "text"), tokenizer)
    if "prompt" in values:
        raise _BadRowError("no 'completion' or 'messages' field")
    raise _BadRowError(f"none of {SHAPES}; fields are {sorted(map(str, values))}")


def _string(values: Mapping[str, Any], field: str) -> str:
    value = values.get(field)
    if not isinstance(value, str):
        raise _BadRowError(f"field '{field}' is {'missing' if value is None else type(value).__name__}, not text")
    if not value.strip() and field != "prompt":
        raise _BadRowError(f"field '{field}' is empty")
    return value


def _encode_pair(values: Mapping[str, Any], tokenizer: "Tokenizer") -> tuple[list[int], list[bool]]:
    prompt, completion = values.get("prompt"), values["completion"]
    if isinstance(prompt, list) or isinstance(completion, list):
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": _string(values, "prompt")}]
        answer = (
            completion
            if isinstance(completion, list)
            else [{"role": "assistant", "content": _string(values, "completion")}]
        )
        return _encode_messages(_checked_messages([*turns, *answer]), tokenizer, first_scored=len(turns))
    prompt, completion = _string(values, "prompt"), _string(values, "completion")
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return _encode_messages(turns, tokenizer)
    prompt_ids = _one_bos(tokenizer(prompt, add_special_tokens=False)["input_ids"], tokenizer)
    completion_ids = _with_eos(tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer)
    return prompt_ids + completion_ids, [False] * len(prompt_ids) + [True] * len(completion_ids)


def _encode_text(text: str, tokenizer: "Tokenizer") -> tuple[list[int], list[bool]]:
    ids = _with_eos(_one_bos(tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer), tokenizer)
    return ids, [False] + [True] * (len(ids) - 1)


def _checked_messages(messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise _BadRowError("field 'messages' is not a list of turns")
    for number, turn in enumerate(messages):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("content"), str) or not turn.get("role"):
            raise _BadRowError(f"field 'messages', turn {number}: needs a 'role' and a text 'content'")
    if not any(turn["role"] == "assistant" for turn in messages):
        raise _BadRowError("field 'messages': no assistant turn to learn from")
    return [dict(turn) for turn in messages]


def _encode_messages(
    messages: list[dict[str, str]], tokenizer: "Tokenizer", first_scored: int = 0
) -> tuple[list[int], list[bool]]:
    if tokenizer.chat_template is None:
        return _encode_plain_turns(messages, tokenizer, first_scored)
    full = _render(messages, tokenizer, generation=False)
    ids, starts = _tokenise(full, tokenizer)
    mask = [False] * len(ids)
    for number, turn in enumerate(messages):
        if turn["role"] != "assistant" or number < first_scored:
            continue
        before = _render(messages[:number], tokenizer, generation=True)
        after = _render(messages[: number + 1], tokenizer, generation=False)
        if not full.startswith(before) or not full.startswith(after):
            raise _BadRowError(
                f"turn {number}: this chat template rewrites earlier turns, so the assistant tokens cannot be "
                "found; train on single-turn rows or use a template that only appends"
            )
        turn_tokens = [k for k, start in enumerate(starts) if len(before) <= start < len(after)]
        # What follows the end-of-turn token (often a newline) is the template's, not the assistant's.
        for k in _through_end_of_turn(turn_tokens, ids, tokenizer):
            mask[k] = True
    with_bos = _one_bos(ids, tokenizer)
    shift = len(with_bos) - len(ids)
    return with_bos, [False] * shift + mask if shift >= 0 else mask[-shift:]


def _tokenise(text: str, tokenizer: "Tokenizer") -> tuple[list[int], list[int]]:
    """Token ids and the character at which each begins."""
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["input_ids"]), [start for start, _ in encoded["offset_mapping"]]  # type: ignore  # lists
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    starts, seen = [], 0
    for k in range(len(ids)):  # slow tokenizers keep no offsets: the decoded prefix is the next best thing
        starts.append(seen)
        seen = len(tokenizer.decode(ids[: k + 1]))
    return ids, starts


def _encode_plain_turns(
    messages: list[dict[str, str]], tokenizer: "Tokenizer", first_scored: int
) -> tuple[list[int], list[bool]]:
    """A model without a chat template: 'role: content' lines, EOS after each assistant turn."""
    ids: list[int] = _one_bos([], tokenizer)
    mask = [False] * len(ids)
    for number, turn in enumerate(messages):
        head = tokenizer(f"{turn['role']}: ", add_special_tokens=False)["input_ids"]
        body = tokenizer(turn["content"], add_special_tokens=False)["input_ids"]
        scored = turn["role"] == "assistant" and number >= first_scored
        body = _with_eos(body, tokenizer) if turn["role"] == "assistant" else body
        tail = tokenizer("\n", add_special_tokens=False)["input_ids"] if number + 1 < len(messages) else []
        ids += [*head, *body, *tail]
        mask += [False] * len(head) + [scored] * len(body) + [False] * len(tail)
    return ids, mask


def _render(messages: Sequence[Mapping[str, str]], tokenizer: "Tokenizer", generation: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(
            list(messages),  # type: ignore[arg-type]  # plain dicts are what the templates read
            tokenize=False,
            add_generation_prompt=generation,
        )
    except Exception as error:  # jinja raises what the template author chose, such as "roles must alternate"
        raise _BadRowError(f"the chat template refuses the conversation ({error})") from None
    return str(text)


def _through_end_of_turn(turn_tokens: list[int], ids: Sequence[int], tokenizer: "Tokenizer") -> list[int]:
    special = set(tokenizer.all_special_ids)
    for place in range(len(turn_tokens) - 1, -1, -1):
        if ids[turn_tokens[place]] in special:
            return turn_tokens[: place + 1]
    return turn_tokens


def _one_bos(ids: Sequence[int], tokenizer: "Tokenizer") -> list[int]:
    """Exactly one BOS for tokenizers that have one, whether or not the template wrote it."""
    ids, bos = list(ids), _single_id(tokenizer.bos_token_id)
    if bos is None or not _adds_bos(tokenizer):
        return ids
    while len(ids) > 1 and ids[0] == bos and ids[1] == bos:
        ids = ids[1:]
    return ids if ids and ids[0] == bos else [bos, *ids]


def _adds_bos(tokenizer: "Tokenizer") -> bool:
    """Some tokenizers name a BOS that their models never saw first (Qwen): follow what the tokenizer does."""
    if tokenizer.chat_template is not None and "bos_token" in str(tokenizer.chat_template):
        return True
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _single_id(value: Any) -> int | None:
    return int(value) if isinstance(value, int) else None


def _with_eos(ids: Sequence[int], tokenizer: "Tokenizer") -> list[int]:
    eos = _single_id(tokenizer.eos_token_id)
    return list(ids) if eos is None or (ids and ids[-1] == eos) else [*ids, eos]
