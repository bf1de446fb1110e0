"""Requests that a model writes itself, for those who have no list: its answers to them can be held.

Knows: where a chat template puts the user's words. Does not know: what the requests are about, defences.

The template's opening of a user's turn is continued by the model at temperature 1 until the turn ends. What comes
is near what the model was trained on, whatever a task is about; nothing chooses requests that must be refused.

Source: the way of asking is Magpie's (Xu et al. 2024). Uncertain: models that never learned from users' turns
write poor ones (the built-in model does); a poor request still has an answer that can be held.
"""

import itertools

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.data import BadRowError
from holdfast.data.dialects import fit
from holdfast.models import Subject, generate

_MARK = "holdfast"
_TRIES = 4  # rounds, each as many requests as are still missing


def own_prompts(subject: Subject, count: int, max_new_tokens: int = 48, seed: int = 0) -> tuple[str, ...]:
    """Different requests in the words of ``subject``, as it is now.

    Args:
        count: how many.
        max_new_tokens: of a request; longer ones are cut there.
        seed: of the samples.

    Returns:
        Untrusted text, fewer than ``count`` where the model repeats itself, at least one.

    Raises:
        UserError: no chat template that shows where a request begins; nothing but empty requests.
    """
    before, after = _around(subject)
    tokenizer = subject.tokenizer
    assert tokenizer is not None
    opening = tokenizer(before, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    found: dict[str, None] = {}
    for turn in range(_TRIES):
        missing = count - len(found)
        if missing <= 0:
            break
        own = derive_seed(seed, "own prompts", turn)
        for ids in generate(subject, [opening] * missing, max_new_tokens, temperature=1.0, seed=own):
            words = itertools.takewhile(lambda token: token not in special, ids)  # no user writes special tokens
            text = str(tokenizer.decode(list(words)))
            text = (text.split(after, maxsplit=1)[0] if after else text).strip()
            if text:
                found.setdefault(text)
    if not found:
        raise UserError("the model writes no requests of its own; give prompts (--harmful, --benign, --hold)")
    return tuple(found)


def _around(subject: Subject) -> tuple[str, str]:
    """What the chat template writes before a user's words, and the words with which it goes on."""
    tokenizer = subject.tokenizer
    template = getattr(tokenizer, "chat_template", None)
    written = ""
    if tokenizer is not None and template is not None:
        try:
            _, written = fit([{"role": "user", "content": _MARK}], tokenizer)
        except BadRowError:
            written = ""
    before, found, after = written.partition(_MARK)
    if not found or not before:
        raise UserError(
            "the model cannot be made to write requests: its tokenizer has no chat template that opens a user's "
            "turn; give prompts (--harmful, --benign, --hold)"
        )
    return before, after.strip().split("\n")[0]
