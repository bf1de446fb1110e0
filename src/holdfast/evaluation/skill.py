"""A skill: one alignment behaviour to preserve, as prompts that must be refused and controls that must not.

Knows: prompt lists and files, duplicates, groups, the split into what is fitted on and what is judged on.
Does not know: models, judges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.data import near_duplicates, normalise_text, split_by_group
from holdfast.evaluation.prompt_lists import read_prompts

NEAR = 0.8
_BLOCK = 64


@dataclass(frozen=True)
class SkillSplit(Result):
    """One half of a skill: ``harmful`` prompts must be refused, ``benign`` ones must not."""

    harmful: tuple[str, ...]
    benign: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "harmful", tuple(self.harmful))
        object.__setattr__(self, "benign", tuple(self.benign))


@dataclass(frozen=True)
class Skill(Result):
    """Prompts of one behaviour, split once. Nothing that is fitted may see ``evaluate``.

    Build it with :meth:`refusal`, or pass ready-made halves: ``Skill(name, estimate=..., evaluate=...)``.

    Attributes:
        name: used in files and tables.
        harmful, benign: all prompts after duplicates were removed.
        estimate, evaluate: the halves.
        counts: what was removed or found: "exact_duplicates", "near_duplicates" (removed), "contradictions"
            (benign prompts that also stood among the harmful ones, removed), "across_halves" (prompts of
            ``evaluate`` that nearly repeat one of ``estimate``; only ready-made halves can have any).
        sources: a line a list: how many prompts of what, by which choice of rows, under which licence.
    """

    name: str
    harmful: tuple[str, ...] = ()
    benign: tuple[str, ...] = ()
    estimate: SkillSplit = field(default=SkillSplit(()), repr=False)
    evaluate: SkillSplit = field(default=SkillSplit(()), repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    sources: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        halves = (self.estimate, self.evaluate)
        if not self.harmful and not self.benign:
            object.__setattr__(self, "harmful", sum((half.harmful for half in halves), ()))
            object.__setattr__(self, "benign", sum((half.benign for half in halves), ()))
        object.__setattr__(self, "harmful", tuple(self.harmful))
        object.__setattr__(self, "benign", tuple(self.benign))
        if not self.harmful:
            raise UserError(f"skill '{self.name}': no harmful prompts; give at least one")
        if not any(half.harmful or half.benign for half in halves):
            raise UserError(
                f"skill '{self.name}': no split; use Skill.refusal(...), or pass estimate and evaluate"
            )
        if not self.counts:
            across = _across(self.estimate, self.evaluate)
            object.__setattr__(self, "counts", {"across_halves": across})

    @classmethod
    def refusal(
        cls,
        harmful: str | Path | Sequence[str],
        benign: str | Path | Sequence[str] = (),
        name: str = "refusal",
        salt: str = "holdfast",
        groups: Mapping[str, str] | None = None,
        share: float = 0.5,
        near: float | None = NEAR,
    ) -> "Skill":
        """Read prompts, remove duplicates, split by group.

        Args:
            harmful: prompts that must be refused: a list of texts, a file, a hub id or a published list; with
                ``:column=value`` behind it only the rows with that label (prompt_lists.py).
            benign: controls that must not be refused, likewise.
            name: of the skill.
            salt: of the split; another salt gives another split.
            groups: prompt -> group. Prompts of a group (a harmful prompt, its look-alike, paraphrases) land in
                the same half. A file's column ``group`` does the same. Ungrouped prompts are their own group,
                and a benign prompt that nearly repeats a harmful one joins its group.
            share: of the groups that go to ``estimate``; 0 or 1 where the list is one half of an earlier split.
            near: similarity from which two prompts of one list are the same (the first stays); None keeps all
                but exact repetitions.

        Raises:
            UserError: unreadable file, a labelled list without a choice, no prompts, a share outside 0 to 1, or a
                half left without harmful prompts.
        """
        if not 0 <= share <= 1:
            raise UserError(f"skill '{name}': a share of {share:g} for 'estimate'; give 0 to 1")
        lists = read_prompt_lists(harmful, benign, name, groups, near)
        harmful_kept, safe, group_of, counts, sources = lists
        halves = _split(harmful_kept, safe, group_of, salt, share)
        for half, label, part in zip(halves, ("estimate", "evaluate"), (share, 1 - share), strict=True):
            if not half.harmful and part > 0:
                raise UserError(
                    f"skill '{name}': no harmful prompt fell into '{label}' ({len(harmful_kept)} prompts in all); "
                    "give more prompts, or another salt"
                )
        return cls(name, tuple(harmful_kept), tuple(safe), *halves, counts, sources)


def read_prompt_lists(
    harmful: str | Path | Sequence[str],
    benign: str | Path | Sequence[str],
    name: str,
    groups: Mapping[str, str] | None = None,
    near: float | None = NEAR,
) -> tuple[list[str], list[str], dict[str, str], dict[str, int], tuple[str, ...]]:
    """Read both lists and remove what stands there twice; the arguments are those of :meth:`Skill.refusal`.

    Returns:
        Harmful prompts, benign prompts, the group of each grouped prompt, what was removed by reason, and what was
        read, a line a list.

    Raises:
        UserError: unreadable file, no harmful prompts, or none that is only benign.
    """
    group_of = dict(groups or {})
    found = [read_prompts(harmful, "harmful"), read_prompts(benign, "benign")]
    for read in found:
        group_of = {**read.groups, **group_of}
    counts = {"exact_duplicates": 0, "near_duplicates": 0, "contradictions": 0, "across_halves": 0}
    harmful_kept, benign_kept = (_unique(read.prompts, near, counts) for read in found)
    if not harmful_kept:
        raise UserError(f"skill '{name}': no harmful prompts; give at least one")
    known = {normalise_text(prompt) for prompt in harmful_kept}
    safe = [prompt for prompt in benign_kept if normalise_text(prompt) not in known]
    counts["contradictions"] = len(benign_kept) - len(safe)
    if benign_kept and not safe:
        raise UserError(f"skill '{name}': every benign prompt is in the list of harmful ones, too; give two lists")
    if near is not None:
        for i, j, _ in near_duplicates(safe, harmful_kept, near):
            group_of.setdefault(safe[i], group_of.get(harmful_kept[j], harmful_kept[j]))
    return (
        harmful_kept,
        safe,
        group_of,
        counts,
        (*(read.note for read in found if read.prompts), *_left_out(counts)),
    )


def _left_out(counts: Mapping[str, int]) -> list[str]:
    """A line for people on the prompts that were read and are not asked; none where all are."""
    words = {
        "exact_duplicates": "repetitions",
        "near_duplicates": "near repetitions",
        "contradictions": "benign prompts that are harmful ones, too",
    }
    said = [f"{counts[key]} {what}" for key, what in words.items() if counts[key]]
    return [f"left out: {', '.join(said)}"] if said else []


def _unique(prompts: Sequence[str], near: float | None, counts: dict[str, int]) -> list[str]:
    """Drop repetitions, then near-repetitions; the first of its kind stays."""
    first: dict[str, str] = {}
    for prompt in prompts:
        first.setdefault(normalise_text(prompt), prompt)
    distinct = list(first.values())
    counts["exact_duplicates"] += len(prompts) - len(distinct)
    if near is None:
        return distinct
    kept: list[str] = []
    for start in range(0, len(distinct), _BLOCK):  # blocks, so that the index of what is kept is built rarely
        block = distinct[start : start + _BLOCK]
        repeated = {i for i, _, _ in near_duplicates(block, kept, near)}
        fresh: list[str] = []
        for i, prompt in enumerate(block):
            if i not in repeated and not near_duplicates([prompt], fresh, near):
                fresh.append(prompt)
        kept += fresh
    counts["near_duplicates"] += len(distinct) - len(kept)
    return kept


def _split(
    harmful: Sequence[str], benign: Sequence[str], group_of: Mapping[str, str], salt: str, share: float
) -> tuple[SkillSplit, SkillSplit]:
    def halves(prompts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        keys = [group_of.get(prompt, prompt) for prompt in prompts]
        estimate, evaluate = split_by_group(prompts, keys, salt, share)
        return tuple(prompts[k] for k in estimate), tuple(prompts[k] for k in evaluate)

    harmful_halves, benign_halves = halves(harmful), halves(benign)
    return (
        SkillSplit(harmful_halves[0], benign_halves[0]),
        SkillSplit(harmful_halves[1], benign_halves[1]),
    )


def _across(estimate: SkillSplit, evaluate: SkillSplit) -> int:
    pairs: list[tuple[Any, Any]] = [
        (evaluate.harmful, estimate.harmful),
        (evaluate.benign, estimate.benign),
    ]
    return sum(len(near_duplicates(texts, against, NEAR)) for texts, against in pairs)
