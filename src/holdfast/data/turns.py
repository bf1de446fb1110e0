"""Which tokens of a conversation the assistant wrote, for every template: one sequence a row, or one a turn.

Knows: how templates open, close and rewrite turns. Does not know: rows, files, model families by name.

A turn's tokens are what the rendering through it has more than the rendering of the prompt before it, counted in
tokens from the longest beginning that both share, as TRL counts them. Where a later turn changes how an earlier
one is written (reasoning is dropped from history, the last turn ends in another token), each assistant turn
becomes a sequence of its own, after the context that the template would give it at inference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from holdfast.data.dialects import fit
from holdfast.data.example import BadRowError
from holdfast.data.templates import Kwargs, Tools, Turns, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

# Notes, each after a number of rows.
REWRITES = "rows trained turn by turn (ids end in '/turn k'): this chat template writes earlier turns differently"
OPENS = "rows whose answers lack what the generation prompt ends in; they follow what both share, as in TRL"
DROPS = (
    "rows hold text of the assistant (reasoning, or words beside a call) that this chat template does not write"
)
TRAINING = "rows keep their reasoning by TRL's training template; the model's own would drop it"
ENDS = "rows whose answers end as in TRL's training template; the model's own writes no end-of-turn token"
NO_END = "rows whose answers end in no end-of-turn token in this chat template, so stopping is not learned"
GREETING = "rows begin with an assistant turn, which is read and not learned"


@dataclass(frozen=True)
class Sequenced:
    """One training sequence of a conversation.

    Attributes:
        ids: token ids.
        mask: which of them the assistant wrote.
        turn: number of its assistant turn, from 1, where a conversation became several sequences; else 0.
        remarks: which of the notes of this module apply.
    """

    ids: list[int]
    mask: list[bool]
    turn: int = 0
    remarks: frozenset[str] = frozenset()


@dataclass
class _Conversation:
    """A conversation, in the template's dialect and as it was given, and the renderings of its beginnings."""

    turns: Turns
    given: Turns
    tokenizer: "Tokenizer"
    tools: Tools
    kwargs: Kwargs
    cache: dict[tuple[int, bool], str] = field(default_factory=dict)

    def text(self, n: int, generation: bool = False) -> str:
        """The first ``n`` turns, rendered."""
        if (n, generation) not in self.cache:
            self.cache[n, generation] = render(self.turns[:n], self.tokenizer, generation, self.tools, self.kwargs)
        return self.cache[n, generation]

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def sequences(
    turns: Turns, tokenizer: "Tokenizer", tools: Tools = None, kwargs: Kwargs = None, first_scored: int = 0
) -> list[Sequenced]:
    """The training sequences of a conversation: one, or one for each assistant turn.

    Args:
        turns: in the form of :mod:`holdfast.data.messages`.
        tokenizer: with a chat template.
        tools: passed to the template.
        kwargs: passed to the template.
        first_scored: assistant turns before this one are context only.

    Raises:
        BadRowError: the template refuses the conversation, drops a part of it, or hides where a turn begins.
    """
    scored = [
        number
        for number, turn in enumerate(turns)
        if turn["role"] == "assistant" and number >= first_scored and turn.get("weight") != 0
    ]
    remarks = set()
    if scored[:1] == [0]:  # no template opens a turn before anything was said
        scored, remarks = scored[1:], {GREETING}
    if not scored:
        raise BadRowError(
            "no assistant turn to learn from" + (" after the first, which has no prompt" * len(remarks))
        )
    dialect, text = fit(turns, tokenizer, tools, kwargs)
    talk = _Conversation(dialect, turns, tokenizer, tools, kwargs, {(len(turns), False): text})
    lost = [number for number in scored if _loses_text(talk, number)]
    whole = None if any(_reasoning(talk.given[number]) for number in lost) else _whole(talk, scored)
    parts = [whole] if whole else _turn_by_turn(talk, scored, set(lost))
    if whole and NO_END in whole.remarks:
        remedied = _turn_by_turn(talk, scored, set(scored))
        if not any(NO_END in part.remarks for part in remedied):
            whole, parts = None, [replace(part, remarks=part.remarks - {TRAINING} | {ENDS}) for part in remedied]
    if not whole and len(parts) > 1:
        remarks |= set() if ENDS in parts[0].remarks else {REWRITES}
    elif not whole:
        parts = [replace(parts[0], turn=0)]
    if lost and TRAINING not in parts[0].remarks:
        remarks.add(DROPS)
    return [replace(part, remarks=part.remarks | remarks) for part in parts]


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Number of leading tokens (or characters) two sequences share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((k for k, (a, b) in pairs if a != b), min(len(one), len(other)))


def _whole(talk: _Conversation, scored: Sequence[int]) -> Sequenced | None:
    """The row as one sequence; None where the template writes earlier turns in another way later."""
    full = talk.text(len(talk.turns))
    ids = talk.ids(full)
    mask, remarks = [False] * len(ids), set()
    for number in scored:
        after = talk.text(number + 1)
        span = _span(talk, number, full, ids, after) if full.startswith(after) else None
        if span is None:
            return None
        start, end, remark = span
        mask[start:end] = [True] * (end - start)
        remarks |= remark
    return Sequenced(ids, mask, 0, frozenset(remarks))


def _turn_by_turn(talk: _Conversation, scored: Sequence[int], remedied: set[int]) -> list[Sequenced]:
    return [_one_turn(talk, number, place, number in remedied) for place, number in enumerate(scored, start=1)]


def _one_turn(talk: _Conversation, number: int, place: int, remedied: bool) -> Sequenced:
    """One assistant turn after its context; ``remedied``: answered as TRL's training template answers."""
    remarks = set()
    before, full = talk.text(number, generation=True), talk.text(number + 1)
    if remedied and (tail := _training_tail(talk, number)) is not None:
        kept, answer = tail
        full = before[: len(before) - kept] + answer
        remarks.add(TRAINING)
    ids = talk.ids(full)
    span = _span(talk, number, full, ids, full)
    if span is None:
        raise BadRowError(
            f"turn {number}: this chat template rewrites earlier turns, so the assistant tokens cannot be found; "
            "use a template that only appends"
        )
    start, end, remark = span
    mask = [start <= k < end for k in range(len(ids))]
    return Sequenced(ids, mask, place, frozenset(remarks | remark))


def _span(
    talk: _Conversation, number: int, full: str, ids: Sequence[int], after: str
) -> tuple[int, int, set[str]] | None:
    """First and last token (exclusive) of an assistant turn in ``ids``; None where they cannot be told."""
    before = talk.text(number, generation=True)
    before_ids = talk.ids(before)
    start, remarks = common_prefix(before_ids, ids), set()
    if not full.startswith(before):
        # Fine if the two part within the generation prompt (an opened <think> that answers do not have), wrong if
        # they part within what was said before.
        said = talk.ids(talk.text(number))
        if start < common_prefix(said, before_ids):
            return None
        remarks.add(OPENS)
    end = len(ids) if after == full else common_prefix(talk.ids(after), ids)
    closed = _through_end_of_turn(ids, start, end, talk.tokenizer)
    if closed is None:
        remarks.add(NO_END)
    return start, end if closed is None else closed, remarks


def _through_end_of_turn(ids: Sequence[int], start: int, end: int, tokenizer: "Tokenizer") -> int | None:
    """Where the turn ends once blanks after its end-of-turn token are left out: they are the template's.

    None where the last thing written is not a special token.
    """
    place = end
    while place > start and not str(tokenizer.decode([ids[place - 1]])).strip():
        place -= 1
    special = place > start and ids[place - 1] in _special_ids(tokenizer)
    return place if special else None


def _special_ids(tokenizer: "Tokenizer") -> set[int]:
    return {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}  # type: ignore[operator]  # transformers' dispatch


def _reasoning(turn: Any) -> str:
    """What the assistant thought before it answered, wherever the row keeps it."""
    own = turn.get("reasoning_content") or turn.get("thinking") or turn.get("reasoning")
    if not isinstance(own, str) and "</think>" in turn.get("content", ""):
        own = turn["content"].rpartition("</think>")[0].rpartition("<think>")[2]
    return own.strip() if isinstance(own, str) else ""


def _loses_text(talk: _Conversation, number: int) -> bool:
    turn, text = talk.given[number], talk.text(number + 1)
    return any(part and part not in text for part in (_reasoning(turn), _said(turn)))


def _said(turn: Any) -> str:
    return turn.get("content", "").rpartition("</think>")[2].strip()


def _training_tail(talk: _Conversation, number: int) -> tuple[int, str] | None:
    """How TRL's training template of this model answers the prompt: characters to take back, then the text."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        template = get_training_chat_template(talk.tokenizer)
    except (ValueError, TypeError, KeyError):  # not a template TRL knows
        return None
    if template is None:
        return None
    texts = [
        render(talk.turns[:n], talk.tokenizer, generation, talk.tools, talk.kwargs, chat_template=template)
        for n, generation in ((number, True), (number + 1, False))
    ]
    turn = talk.given[number]
    if not all(part in texts[1] for part in (_reasoning(turn), _said(turn))):
        return None
    shared = common_prefix(*texts)
    return len(texts[0]) - shared, texts[1][shared:]
