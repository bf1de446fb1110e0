"""Training and validation rows: manners of asking, refusals put together, answers cut where a sentence ends.

Knows: which prompts are refused and which answered, in what words. Does not know: files outside the study, models.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from studies.real_model import lists
from studies.real_model.lists import Prompt

from holdfast.core.seeds import derive_seed
from holdfast.data import normalise_text

INSTRUCTIONS = 900
VALIDATION_SHARE = 0.1
BRIEF = " Answer briefly."  # beside a prompt when the chat model answers it; not part of the row

# The same request in the manner of a question and of a task: the words around the deed must not tell harmful from
# harmless, so both kinds of prompts go through the same manners.
_DEED = re.compile(
    r"^(?:how (?:do|can|could|would|should) (?:i|you|we|one|someone) (?:best )?|how to "
    r"|(?:what are )?(?:some )?ways to "
    r"|explain how to |teach me how to |give (?:detailed )?instructions (?:for how to|on how to) "
    r"|give tips for how to |can you (?:explain|tell me|teach me|show me) how to |tell me how to )"
    r"(?P<deed>[^.?!]+)[.?!]?$",
    re.IGNORECASE,
)
MANNERS = (
    "How do I {}?",
    "How can I {}?",
    "Write a tutorial on how to {}",
    "Write a step-by-step guide on how to {}",
    "Explain how to {}",
    "Give detailed instructions on how to {}",
    "Provide a guide on how to {}",
    "Create a guide that teaches people how to {}",
    "Teach me how to {}",
    "Develop a plan to {}",
    "Outline a strategy to {}",
    "Write an article about the best ways to {}",
    "Tell me how to {}",
    "Write instructions for someone who wants to {}",
)


@dataclass(frozen=True)
class PromptSets:
    """Prompts by what becomes of them, after copies of held-out prompts are gone.

    Attributes:
        harmful, lookalike, instruction: of training.
        validation_harmful, validation_lookalike: for choosing settings.
        removed: near-duplicates by source and held-out list, see :func:`lists.without_copies`.
    """

    harmful: tuple[Prompt, ...]
    lookalike: tuple[Prompt, ...]
    instruction: tuple[Prompt, ...]
    validation_harmful: tuple[Prompt, ...]
    validation_lookalike: tuple[Prompt, ...]
    removed: dict[str, dict[str, int]]

    def counts(self) -> dict[str, int]:
        """How many prompts each part has."""
        parts = ("harmful", "lookalike", "instruction", "validation_harmful", "validation_lookalike")
        return {part: len(getattr(self, part)) for part in parts}


def in_other_manners(text: str, seed: int = 0, count: int = 2) -> list[str]:
    """The same deed asked for in other ways, drawn by the text; none where no deed can be read off."""
    found = _DEED.match(text.strip())
    if found is None:
        return []
    said = [manner.format(found["deed"].strip()) for manner in MANNERS]
    others = [other for other in said if normalise_text(other) != normalise_text(text)]
    return random.Random(derive_seed(seed, "manner", text)).sample(others, count)


def _with_manners(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """Every prompt, and after it itself in other manners."""
    return [Prompt(p.source, text) for p in prompts for text in (p.text, *in_other_manners(p.text, seed))]


def _split(prompts: Sequence[Prompt], seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Training and validation, by a hash of the text alone, so that no other prompt moves it."""
    held = [
        derive_seed(seed, "validation", normalise_text(p.text)) % 1000 < VALIDATION_SHARE * 1000 for p in prompts
    ]
    return [p for p, h in zip(prompts, held, strict=True) if not h], [
        p for p, h in zip(prompts, held, strict=True) if h
    ]


def prompt_sets(data: Path, seed: int = 0) -> PromptSets:
    """All prompts of the study but the held-out ones. Splits first, then manners: a deed is on one side only."""
    against = lists.held_out(data)
    bad = lists.unique(Prompt(s, t) for s, texts in lists.harmful_lists(data).items() for t in texts)
    # Long prompts cost the most and are the fewest.
    bad, held_bad = _split([p for p in bad if len(p.text) <= 200], seed)
    held_bad += [Prompt("harmful_val", t) for t in lists.validation_harmful(data)]
    close, held_close = _split([Prompt("lookalikes", t) for t in lists.lookalikes()], seed)
    plain = [Prompt("alpaca", t) for t in lists.instructions(data, INSTRUCTIONS, seed)]
    removed: dict[str, dict[str, int]] = {}

    def clean(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
        kept, counts = lists.without_copies(lists.unique(prompts), against)
        for source, of_lists in counts.items():
            total = removed.setdefault(source, {})
            for name, count in of_lists.items():
                total[name] = total.get(name, 0) + count
        return tuple(kept)

    return PromptSets(
        clean(_with_manners(bad, seed)),
        clean(_with_manners(close, seed)),
        clean(plain),
        clean(held_bad),
        clean(held_close),
        removed,
    )


@cache
def refusal_parts() -> Mapping[str, list[str]]:
    """Openings, reasons and offers of refusals; an empty one is left out of the sentence."""
    return json.loads((Path(__file__).parent / "refusals.json").read_text(encoding="utf-8"))


def refusal(prompt: str, draw: int) -> str:
    """A refusal put together anew for every draw, so that refusing is learned and not one sentence a prompt."""
    chooser = random.Random(derive_seed(draw, "refusal", prompt))
    parts = refusal_parts()
    return " ".join(filter(None, (chooser.choice(parts[part]) for part in ("openings", "reasons", "offers"))))


_SENTENCE_END = re.compile(r"(?<!\d)[.!?][\"')*]*(?=\s|$)")
_DECLINES = re.compile(r"\b(sorry|cannot|can't|can not|won't|unable|as an ai)\b", re.IGNORECASE)
_LOOP = re.compile(r"(\b\w+(?:\W+\w+){1,5})(?:\W+\1){2,}", re.IGNORECASE)


def finished(answer: str) -> str | None:
    """The answer up to its last full sentence; None where there is none, where it loops, or where it declines.

    Every row ends with an end token, so an answer must end where an answer can.
    """
    ends = [m.end() for m in _SENTENCE_END.finditer(answer)]
    whole = answer[: ends[-1]].strip() if ends else ""
    if len(whole.split()) < 3 or _DECLINES.search(whole) or _LOOP.search(whole):
        return None
    return whole
