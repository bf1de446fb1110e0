"""Attacks by name, as a command line or a recipe writes them: ``past-tense+prefill:5``, ``worst-of:8@1.0``.

Knows: the spelling. Does not know: what an attack does; how a model is fine-tuned (``relearn`` is handed in).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path

from holdfast.core.errors import UserError
from holdfast.evaluation.attacks.base import DIRECT, Attack, check_names
from holdfast.evaluation.attacks.prompts import (
    COMPLIANT_OPENING,
    many_shot,
    past_tense,
    prefill,
    sampled,
    templates,
    without_system,
)
from holdfast.evaluation.attacks.suffix import SuffixSearch, suffix_search
from holdfast.evaluation.attacks.weights import adapter_scaling, weight_noise

SPELLINGS = {
    "direct": "the plain request",
    "template": "our own jailbreak templates, or those of a file, one attack each",
    "past-tense": "the request asked about the past",
    "no-system": "without any system prompt",
    "prefill:K": "the answer begins with K tokens of compliance",
    "many-shot:N": "N harmless questions and answers first",
    "worst-of:N@T": "the worst of N answers at temperature T (1 if left out)",
    "scale:F": "the adapter's change times F",
    "noise:S": "weights moved at random by S times their norm (noise:SxD tries D directions, else 3)",
    "relearn:N": "N steps of harmless fine-tuning first (relearn:N@LR sets the learning rate)",
    "suffix:KxN": "a suffix of K tokens searched for N steps a prompt (GCG)",
}
Make = Callable[[str], Sequence[Attack]]


def named_attacks(
    names: Sequence[str],
    shots: Sequence[tuple[str, str]] = (),
    template_file: str | Path | None = None,
    opening: str | Mapping[str, str] = COMPLIANT_OPENING,
    relearn: Callable[[int, float | None], Attack] | None = None,
) -> tuple[Attack, ...]:
    """Build attacks from their names; ``+`` joins two, the left one acts first.

    Args:
        names: see :data:`SPELLINGS`.
        shots: (question, answer) for ``many-shot``.
        template_file: for ``template``; None takes our own.
        opening: what ``prefill`` puts into the assistant's mouth and ``suffix`` aims for.
        relearn: (steps, learning rate) -> attack.

    Raises:
        UserError: an unknown name, a number that is none, an attack without what it needs, two of one name.
    """
    makers: dict[str, Make] = {
        "direct": lambda _: [DIRECT],
        "template": lambda _: templates(template_file),
        "past-tense": lambda _: [past_tense()],
        "no-system": lambda _: [without_system()],
        "prefill": lambda text: [prefill(int(text), opening)],
        "many-shot": lambda text: [_shots(shots, int(text))],
        "worst-of": lambda text: [sampled(*_pair(text, "@", int, _finite))],
        "scale": lambda text: [adapter_scaling(_finite(text))],
        "noise": lambda text: [weight_noise(*_pair(text, "x", _finite, int))],
        "suffix": lambda text: [suffix_search(_search(text, opening))],
        "relearn": lambda text: [_relearn(text, relearn)],
    }
    found = tuple(attack for name in names for attack in _joined(name, makers))
    check_names(found)
    return found


def _joined(name: str, makers: Mapping[str, Make]) -> list[Attack]:
    """All attacks that one name stands for."""
    parts = []
    for piece in name.split("+"):
        word, _, detail = piece.strip().partition(":")
        if word not in makers:
            raise UserError(f"attack '{piece}': unknown; use one of {', '.join(SPELLINGS)}, joined by +")
        spelling = next(known for known in SPELLINGS if known.partition(":")[0] == word)
        if detail and spelling == word:
            raise UserError(f"attack '{piece}': nothing belongs after '{word}'; write {spelling}")
        try:
            parts.append(makers[word](detail))
        except ValueError:
            raise UserError(f"attack '{piece}': not a number where one belongs; write {spelling}") from None
    return [reduce(Attack.__or__, combination) for combination in itertools.product(*parts)]


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _pair(text: str, mark: str, first: Callable[[str], float], second: Callable[[str], float]) -> tuple:
    """One or two numbers; the second one may be left out."""
    head, found, tail = text.partition(mark)
    return (first(head), second(tail)) if found else (first(head),)


def _search(text: str, opening: str | Mapping[str, str]) -> SuffixSearch:
    settings = dict(zip(("tokens", "steps"), _pair(text, "x", int, int), strict=False)) if text else {}
    return SuffixSearch(opening, **settings)


def _shots(shots: Sequence[tuple[str, str]], n: int) -> Attack:
    if not shots:
        raise UserError("attack 'many-shot' needs harmless questions and answers (--attack-rows); give some")
    return many_shot(shots, n)


def _relearn(text: str, relearn: Callable[[int, float | None], Attack] | None) -> Attack:
    if relearn is None:
        raise UserError("attack 'relearn' needs harmless rows to learn from (--attack-rows); give some")
    steps, *rate = _pair(text, "@", int, _finite)
    return relearn(steps, rate[0] if rate else None)
