"""The chosen side of a preference pair, as a prompt and a completion.

Knows: explicit and implicit prompts (TRL's converter finds the turns that both sides share), transcripts.
Does not know: the rejected side's use, templates, tokens.
"""

import re
from collections.abc import Mapping
from typing import Any

from holdfast.data.example import BadRowError
from holdfast.data.messages import canonical_messages, check_answered, is_messages

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant|System):[ \n]?")
_ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}


def from_preference(row: Mapping[str, Any], prompt_field: str | None) -> dict[str, Any]:
    """Prompt and chosen completion.

    Raises:
        BadRowError: no prompt can be told from the chosen side.
    """
    chosen, prompt = _listed(row["chosen"]), row.get(prompt_field) if prompt_field else None
    if isinstance(chosen, str) and not is_messages(chosen):
        if not chosen.strip():
            raise BadRowError("field 'chosen' is empty")
        return _from_text(prompt, chosen, prompt_field or "prompt")
    turns = canonical_messages(chosen, "chosen")
    if is_messages(prompt):
        earlier = canonical_messages(prompt, prompt_field or "prompt")
        turns = turns[len(earlier) :] if turns[: len(earlier)] == earlier else turns
    else:
        earlier, turns = _shared_turns(turns, _listed(row.get("rejected")))
        if not earlier and isinstance(prompt, str) and prompt.strip():
            earlier = [{"role": "user", "content": prompt}]
    if not earlier:
        raise BadRowError("preference pair: no prompt; the sides share no turn and there is no prompt column")
    check_answered(turns, "chosen")
    return {"prompt": earlier, "completion": turns}


def _listed(side: Any) -> Any:
    """A side that is one turn, as a list of one."""
    return [side] if isinstance(side, Mapping) else side


def _shared_turns(
    chosen: list[dict[str, Any]], rejected: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The turns both sides begin with, and the rest of the chosen side (its last turn where both are equal)."""
    from trl.data_utils import extract_prompt

    other = canonical_messages(rejected, "rejected") if is_messages(rejected) else chosen
    if other == chosen:
        return chosen[:-1], chosen[-1:]
    parts = extract_prompt({"chosen": chosen, "rejected": other})
    if not parts["chosen"]:  # the chosen side is the beginning of the other
        return chosen[:-1], chosen[-1:]
    return list(parts["prompt"]), list(parts["chosen"])


def _from_text(prompt: Any, chosen: str, field: str) -> dict[str, Any]:
    if prompt is not None and not is_messages(prompt):
        if not isinstance(prompt, str):
            raise BadRowError(f"field '{field}' is {type(prompt).__name__}, not text")
        return {"prompt": prompt, "completion": chosen}
    if prompt is not None:
        reply = {"role": "assistant", "content": chosen}
        return {"prompt": canonical_messages(prompt, field), "completion": [reply]}
    pieces = _SPEAKER.split(chosen)
    turns = [
        {"role": _ROLES[speaker], "content": text.strip()}
        for speaker, text in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
    if pieces[0].strip() or len(turns) < 2 or turns[-1]["role"] != "assistant" or not turns[-1]["content"]:
        raise BadRowError(
            "preference pair of texts without a prompt: add a 'prompt' column, or give both as turns"
        )
    return {"prompt": turns[:-1], "completion": turns[-1:]}
