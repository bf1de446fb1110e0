"""What a repair learns from and what it is judged by: four kinds of examples, each split once in two.

Knows: the prompts of ``skill.estimate``, the user's task examples, who answers what (refusals: the aligned
model; harmless answers: the drifted one). Deliberately never touches ``skill.evaluate``.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed, generator
from holdfast.data import Example, encode_prompt
from holdfast.models import Subject, adapter_off, generate

log = logging.getLogger(__name__)
T = TypeVar("T")
Refused = Callable[[str, str], bool]

FEWEST_REFUSALS = 4
FEWEST_TASK_EXAMPLES = 4


@dataclass(frozen=True)
class Material:
    """Everything a repair may look at; *fit* and *validation* never share an example or a prompt.

    Attributes:
        refusals_fit, refusals_validation: the aligned model's own refusals.
        task_fit, task_validation: the user's examples.
        retain_fit: harmless prompts with the answers that must stay.
        compliances_fit: the drifted model's answers to the prompts of ``refusals_fit`` (harmful term only).
        harmful_validation, benign_validation: prompts for the two rates.
    """

    refusals_fit: tuple[Example, ...]
    refusals_validation: tuple[Example, ...]
    task_fit: tuple[Example, ...]
    task_validation: tuple[Example, ...]
    retain_fit: tuple[Example, ...]
    compliances_fit: tuple[Example, ...]
    harmful_validation: tuple[str, ...]
    benign_validation: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """How many of each, for the report."""
        return {name: len(value) for name, value in vars(self).items()}


def split(
    items: Sequence[T], most_fit: int, most_validation: int, seed: int, name: str
) -> tuple[list[T], list[T]]:
    """Shuffle by the seed and cut into disjoint fit and validation parts.

    Validation gets up to half, since a promise that cannot be checked is worth nothing; fit gets what is left.
    """
    order = torch.randperm(len(items), generator=generator(seed, "restoration", name)).tolist()
    middle = min(most_validation, len(items) // 2)
    validation, fit = order[:middle], order[middle : middle + most_fit]
    return [items[k] for k in fit], [items[k] for k in validation]


def gather(
    subject: Subject,
    estimate: Any,
    task: Sequence[Example],
    retain: str | Sequence[Example],
    refused: Refused,
    *,
    prompts: tuple[int, int],
    task_examples: tuple[int, int],
    max_new_tokens: int,
    harmful: bool,
    seed: int,
) -> Material:
    """Split, sample and sort out the examples of a repair.

    Refusals are sampled at temperature 1 from the aligned model (adapter off) and kept only where ``refused``
    agrees; a prompt whose sample complied is tried once more greedily, then dropped. Harmless answers are the
    drifted model's own greedy ones; where the drifted model refuses a harmless prompt the aligned model's answer
    stands in, so that a repair does not teach over-refusal.

    Args:
        estimate: the skill's *estimate* half (``.harmful`` and ``.benign`` prompts).
        retain: "self", or examples that bring their own answers.
        prompts: at most this many prompts of each kind in (fit, validation); ``task_examples`` likewise.

    Raises:
        UserError: too little data to fit and to validate, or an aligned model that does not refuse.
    """
    if len(task) < 2 * FEWEST_TASK_EXAMPLES:
        need = 2 * FEWEST_TASK_EXAMPLES
        raise UserError(f"task: {len(task)} examples; give at least {need} to fit and check on")
    harmful_fit, harmful_validation = split(estimate.harmful, *prompts, seed, "harmful")
    benign_fit, benign_validation = split(estimate.benign, *prompts, seed, "benign")
    task_fit, task_validation = split(task, *task_examples, seed, "task")
    if len(harmful_validation) < FEWEST_REFUSALS or len(benign_validation) < FEWEST_REFUSALS:
        raise UserError(
            f"skill: {len(estimate.harmful)} harmful and {len(estimate.benign)} benign prompts to estimate with; "
            f"give at least {2 * FEWEST_REFUSALS} of each"
        )
    answer = _Answers(subject, refused, max_new_tokens, seed)
    refusals_fit = answer.aligned_refusals(harmful_fit, "refusals/fit")
    refusals_validation = answer.aligned_refusals(harmful_validation, "refusals/validation")
    if len(refusals_fit) < FEWEST_REFUSALS or len(refusals_validation) < FEWEST_REFUSALS:
        raise UserError(
            f"adapter: with it switched off the model refuses {len(refusals_fit)} of {len(harmful_fit)} harmful "
            "prompts; there is no alignment to restore: give an adapter trained on the aligned model"
        )
    return Material(
        tuple(refusals_fit),
        tuple(refusals_validation),
        tuple(task_fit),
        tuple(task_validation),
        tuple(answer.harmless(benign_fit)) if isinstance(retain, str) else tuple(retain),
        tuple(answer.drifted(harmful_fit, "compliances")) if harmful else (),
        tuple(harmful_validation),
        tuple(benign_validation),
    )


class _Answers:
    """Lets the aligned and the drifted model answer prompts, as examples."""

    def __init__(self, subject: Subject, refused: Refused, max_new_tokens: int, seed: int) -> None:
        self.subject, self.refused, self.max_new_tokens, self.seed = subject, refused, max_new_tokens, seed

    def aligned_refusals(self, prompts: Sequence[str], name: str) -> list[Example]:
        with adapter_off(self.subject.model):
            sampled = self._answer(prompts, name, temperature=1.0)
            missing = [k for k, prompt in enumerate(prompts) if not self.refused(prompt, self._text(sampled[k]))]
            greedy = self._answer([prompts[k] for k in missing], f"{name}/greedy", temperature=0.0)
        for k, example in zip(missing, greedy, strict=True):
            sampled[k] = example
        kept = [e for p, e in zip(prompts, sampled, strict=True) if self.refused(p, self._text(e))]
        if len(kept) < len(prompts):
            log.info("%s: the aligned model refuses %d of %d prompts", name, len(kept), len(prompts))
        return kept

    def harmless(self, prompts: Sequence[str]) -> list[Example]:
        own = self._answer(prompts, "retain", temperature=0.0)
        over_refused = [k for k, prompt in enumerate(prompts) if self.refused(prompt, self._text(own[k]))]
        with adapter_off(self.subject.model):
            stand_ins = self._answer([prompts[k] for k in over_refused], "retain/aligned", temperature=0.0)
        for k, example in zip(over_refused, stand_ins, strict=True):
            own[k] = example
        return [e for p, e in zip(prompts, own, strict=True) if not self.refused(p, self._text(e))]

    def drifted(self, prompts: Sequence[str], name: str) -> list[Example]:
        return self._answer(prompts, name, temperature=1.0)

    def _answer(self, prompts: Sequence[str], name: str, temperature: float) -> list[Example]:
        assert self.subject.tokenizer is not None
        prompts_ids = [encode_prompt(prompt, self.subject.tokenizer) for prompt in prompts]
        stream = derive_seed(self.seed, "restoration", name)
        answers = generate(self.subject, prompts_ids, self.max_new_tokens, temperature, stream, batch_size=64)
        return [
            Example(tuple(prompt), tuple(answer), f"{name}/{k}")
            for k, (prompt, answer) in enumerate(zip(prompts_ids, answers, strict=True))
        ]

    def _text(self, example: Example) -> str:
        return text_of(self.subject.tokenizer, example.completion_ids)


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """A generated answer as text, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
