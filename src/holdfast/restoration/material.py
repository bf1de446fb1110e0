"""What a repair learns from, what chooses its checkpoint, and what decides about it: three parts, cut once.

Knows: the prompts of ``skill.estimate``, the user's task examples, who answers what (refusals: the aligned
model; harmless answers: the drifted one). Deliberately never touches ``skill.evaluate``.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed, generator
from holdfast.data import Example
from holdfast.evaluation import Judge
from holdfast.models import Subject, adapter_off
from holdfast.restoration.asking import Sampled, sample_and_judge

log = logging.getLogger(__name__)
T = TypeVar("T")

FEWEST_PROMPTS = 4
FEWEST_REFUSALS = 4
FEWEST_TASK_EXAMPLES = 4


@dataclass(frozen=True)
class Part:
    """One part of the validation data.

    Attributes:
        task: the user's examples; harmful, benign: prompts for the two rates.
        refusals: the aligned model's own, to the prompts of ``harmful``.
    """

    task: tuple[Example, ...]
    harmful: tuple[str, ...]
    benign: tuple[str, ...]
    refusals: tuple[Example, ...]


@dataclass(frozen=True)
class Material:
    """Everything a repair may look at; no two parts share an example or a prompt.

    Attributes:
        refusals_fit: the aligned model's own refusals.
        task_fit: the user's examples.
        retain_fit: harmless prompts with the answers that must stay.
        stand_ins: ids of those of ``retain_fit`` that the aligned model answered, the drifted one having refused.
        compliances_fit: the drifted model's answers to the prompts of ``refusals_fit`` (harmful term only).
        choose: picks the checkpoint, and is spent by that.
        decide: is put to the picked one alone, and says what came of the repair.
    """

    refusals_fit: tuple[Example, ...]
    task_fit: tuple[Example, ...]
    retain_fit: tuple[Example, ...]
    compliances_fit: tuple[Example, ...]
    choose: Part
    decide: Part
    stand_ins: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, Part]:
        """The part that chooses and the part that decides."""
        return self.choose, self.decide

    def counts(self) -> dict[str, int]:
        """How many of each, for the report."""
        counts = {name: len(value) for name, value in vars(self).items() if not isinstance(value, Part)}
        for name in ("choose", "decide"):
            counts |= {f"{kind}_{name}": len(value) for kind, value in vars(getattr(self, name)).items()}
        return counts


def split(
    items: Sequence[T], most_fit: int, most_validation: int, seed: int, name: str
) -> tuple[list[T], list[T], list[T]]:
    """Shuffle by the seed and cut into disjoint parts: to fit, to choose and to decide.

    The last two share up to half, since a promise that cannot be checked is worth nothing; fit gets what is left.
    An odd one goes to the part that decides.
    """
    order = torch.randperm(len(items), generator=generator(seed, "restoration", name)).tolist()
    end = min(most_validation, len(items) // 2)
    parts = order[end : end + most_fit], order[: end // 2], order[end // 2 : end]
    fit, choose, decide = ([items[k] for k in part] for part in parts)
    return fit, choose, decide


def check_enough(estimate: Any, task: int | None) -> None:
    """Check that prompts and task examples (None: there are none) can be cut into three parts; needs no model.

    Raises:
        UserError: too little of something.
    """
    if task is not None and task < 2 * FEWEST_TASK_EXAMPLES:
        raise UserError(f"task: {task} examples; give at least {2 * FEWEST_TASK_EXAMPLES} to fit and check on")
    if min(len(estimate.harmful), len(estimate.benign)) < 2 * FEWEST_PROMPTS:
        raise UserError(
            f"skill: {len(estimate.harmful)} harmful and {len(estimate.benign)} benign prompts to estimate with; "
            f"give at least {2 * FEWEST_PROMPTS} of each"
        )


def check_samples(parts: Sequence[Sequence[Any]]) -> None:
    """Check that answers which stand in for lost task examples are enough to fit, to choose and to decide.

    Raises:
        UserError: too few; a bound needs two differences.
    """
    if any(len(part) < fewest for part, fewest in zip(parts, (1, 2, 2), strict=True)):
        kept = _listed([len(part) for part in parts])
        raise UserError(
            f"task: without its examples the adapter's own answers to harmless prompts hold it, and it gives "
            f"{kept} that are no refusals, to learn from, to choose by and to decide by (at least 1, 2 and 2 are "
            "needed); give rows of the task (--data), or more harmless prompts"
        )


def gather(
    subject: Subject,
    estimate: Any,
    task: Sequence[Example] | None,
    retain: str | Sequence[Example],
    judge: Judge,
    *,
    prompts: tuple[int, int],
    task_examples: tuple[int, int],
    max_new_tokens: int,
    harmful: bool,
    seed: int,
) -> Material:
    """Split, sample and sort out the examples of a repair.

    Refusals are sampled at temperature 1 from the aligned model (adapter off) and kept only where ``judge``
    agrees; a prompt whose sample complied is tried once more greedily, then dropped. Harmless answers are the
    drifted model's own greedy ones; where the drifted model refuses a harmless prompt the aligned model's answer
    stands in, so that a repair does not teach over-refusal. Where there are no task examples the drifted model's
    own samples for the harmless prompts of each part are taken: their loss rises by the KL from it.

    Args:
        estimate: the skill's *estimate* half (``.harmful`` and ``.benign`` prompts).
        retain: "self", or examples that bring their own answers.
        prompts: at most this many prompts of each kind in (fit, validation); ``task_examples`` likewise. Half of
            validation chooses, the other half decides.

    Raises:
        UserError: too little data to fit and to validate, an aligned model that does not refuse, or a judge that
            fails on more than a tenth of the answers.
    """
    check_enough(estimate, None if task is None else len(task))
    harmful_fit, *harmful_parts = split(estimate.harmful, *prompts, seed, "harmful")
    benign_fit, *benign_parts = split(estimate.benign, *prompts, seed, "benign")
    answer = _Answers(subject, judge, max_new_tokens, seed)
    task_fit, *task_parts = (
        split(task, *task_examples, seed, "task")
        if task is not None
        else (answer.drifted_samples(part, f"task/{k}") for k, part in enumerate((benign_fit, *benign_parts)))
    )
    if task is None:
        check_samples((task_fit, *task_parts))
    refusals_fit = answer.aligned_refusals(harmful_fit, "refusals/fit")
    refusals = [
        answer.aligned_refusals(part, f"refusals/{name}")
        for part, name in zip(harmful_parts, ("choose", "decide"), strict=True)
    ]
    if len(refusals_fit) < FEWEST_REFUSALS or not all(refusals):
        kept = len(refusals_fit), *map(len, refusals)
        asked = len(harmful_fit), *map(len, harmful_parts)
        way_out = (
            f"too few to learn from, to choose by and to decide by (at least {FEWEST_REFUSALS}, 1 and 1 are "
            "needed): give more harmful prompts"
            if any(kept)
            else "there is no alignment to restore: give an adapter trained on the aligned model"
        )
        raise UserError(
            f"adapter: with it switched off the model refuses {_listed(kept)} of {_listed(asked)} harmful "
            f"prompts; {way_out}"
        )
    parts = [
        Part(tuple(task_), tuple(harmful_), tuple(benign_), tuple(refusals_))
        for task_, harmful_, benign_, refusals_ in zip(
            task_parts, harmful_parts, benign_parts, refusals, strict=True
        )
    ]
    return Material(
        tuple(refusals_fit),
        tuple(task_fit),
        tuple(answer.harmless(benign_fit)) if isinstance(retain, str) else tuple(retain),
        tuple(answer.drifted(harmful_fit, "compliances")) if harmful else (),
        parts[0],
        parts[1],
        tuple(answer.stand_ins),
    )


class _Answers:
    """Lets the aligned and the drifted model answer prompts, as examples."""

    def __init__(self, subject: Subject, judge: Judge, max_new_tokens: int, seed: int) -> None:
        self.subject, self.judge, self.max_new_tokens, self.seed = subject, judge, max_new_tokens, seed
        self.stand_ins: list[str] = []

    def aligned_refusals(self, prompts: Sequence[str], name: str) -> list[Example]:
        with adapter_off(self.subject.model):
            asked = self._answer(prompts, name, temperature=1.0)
            missing = [k for k, answer in enumerate(asked) if answer.label != "refused"]
            greedy = self._answer([prompts[k] for k in missing], f"{name}/greedy", temperature=0.0)
        for k, answer in zip(missing, greedy, strict=True):
            asked[k] = answer
        kept = [answer.example for answer in asked if answer.label == "refused"]
        if len(kept) < len(prompts):
            log.info("%s: the aligned model refuses %d of %d prompts", name, len(kept), len(prompts))
        return kept

    def harmless(self, prompts: Sequence[str]) -> list[Example]:
        own = self._answer(prompts, "retain", temperature=0.0)
        over_refused = [k for k, answer in enumerate(own) if answer.label == "refused"]
        with adapter_off(self.subject.model):
            stand_ins = self._answer([prompts[k] for k in over_refused], "retain/aligned", temperature=0.0)
        for k, answer in zip(over_refused, stand_ins, strict=True):
            own[k] = answer
        self.stand_ins += [answer.example.id for answer in stand_ins]
        return [answer.example for answer in own if answer.label not in ("refused", "error")]

    def drifted_samples(self, prompts: Sequence[str], name: str) -> list[Example]:
        """In place of task examples: what it says to harmless prompts, but for refusals."""
        asked = self._answer(prompts, name, temperature=1.0)
        return [answer.example for answer in asked if answer.label not in ("refused", "error")]

    def drifted(self, prompts: Sequence[str], name: str) -> list[Example]:
        return [answer.example for answer in self._answer(prompts, name, temperature=1.0)]

    def _answer(self, prompts: Sequence[str], name: str, temperature: float) -> list[Sampled]:
        stream = derive_seed(self.seed, "restoration", name)
        return sample_and_judge(
            self.subject, prompts, self.judge, self.max_new_tokens, temperature=temperature, seed=stream, name=name
        )


def _listed(counts: Sequence[int]) -> str:
    return f"{counts[0]}, {counts[1]} and {counts[2]}"
