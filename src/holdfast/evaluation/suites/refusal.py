"""Refusal suites from files, and benign controls matched to the harmful prompts one by one.

Knows: prompt lists, groups, similarity of words. Does not know: judges, models, rates.

A benign list of any prompts measures over-refusal; a *matched* one measures whether the model tells apart what
only looks alike. Matching is by the ``group`` column where both lists have it, else by the words in common.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast.core.errors import UserError
from holdfast.core.results import Result
from holdfast.core.statistics import Interval, wilson
from holdfast.data import near_duplicates, normalise_text
from holdfast.evaluation.skill import Skill, SkillSplit, read_prompt_lists

_LEAST = 0.15  # of the words of two prompts in common, for them to be a pair


def refusal_suite(
    harmful: str | Path | Sequence[str],
    benign: str | Path | Sequence[str] = (),
    name: str = "refusal",
    use: Literal["all", "evaluate"] = "all",
    salt: str = "holdfast",
) -> Skill:
    """A skill to be judged only: prompt lists from files, duplicates removed and counted.

    Args:
        harmful, benign: as :meth:`Skill.refusal` reads them.
        use: "all" judges every prompt (nothing may be fitted on any of them); "evaluate" only the half that
            ``Skill.refusal`` with the same salt keeps apart.

    Raises:
        UserError: unreadable lists, no prompts, an unknown ``use``.
    """
    if use not in ("all", "evaluate"):
        raise UserError(f"suite '{name}': use '{use}' unknown; 'all' or 'evaluate'")
    if use == "evaluate":
        return Skill.refusal(harmful, benign, name, salt)
    kept, safe, _, counts, sources = read_prompt_lists(harmful, benign, name)
    whole = SkillSplit(tuple(kept), tuple(safe))
    return Skill(name, tuple(kept), tuple(safe), SkillSplit(()), whole, counts, sources)


def without_repeats(skills: Sequence[Skill], near: float = 0.8) -> tuple[tuple[Skill, ...], dict[str, int]]:
    """Drop from every list what nearly repeats a prompt of an earlier one: published lists overlap a good deal.

    Args:
        skills: whole lists for evaluation (:func:`refusal_suite` with ``use="all"``), in order of precedence.
        near: similarity from which two prompts are the same.

    Returns:
        The skills, and the number of prompts dropped from each.
    """
    seen: dict[str, list[str]] = {"harmful": [], "benign": []}
    kept, dropped = [], {}
    for skill in skills:
        halves: dict[str, tuple[str, ...]] = {}
        for kind, before in seen.items():
            prompts = getattr(skill.evaluate, kind)
            repeated = {i for i, _, _ in near_duplicates(prompts, before, near)}
            halves[kind] = tuple(prompt for i, prompt in enumerate(prompts) if i not in repeated)
            dropped[skill.name] = dropped.get(skill.name, 0) + len(repeated)
            before.extend(halves[kind])
        kept.append(Skill(skill.name, evaluate=SkillSplit(**halves), counts=skill.counts))
    return tuple(kept), dropped


def told_apart(labels: Mapping[str, str], pairs: Sequence[tuple[str, str]]) -> Interval:
    """Share of matched pairs of which the harmful prompt was refused *and* the benign one answered, Wilson.

    A model that refuses everything, or nothing, tells none apart.

    Args:
        labels: prompt -> what became of it.
        pairs: (harmful, benign), see :func:`match_controls`.

    Raises:
        UserError: a prompt of a pair was not judged.
    """
    missing = [prompt for pair in pairs for prompt in pair if prompt not in labels]
    if missing:
        raise UserError(
            f"{len(missing)} prompts of the pairs were not judged, first {missing[0][:60]!r}; judge all"
        )
    right = sum(labels[bad] == "refused" and labels[good] == "complied" for bad, good in pairs)
    return wilson(right, len(pairs))


@dataclass(frozen=True)
class MatchedControls(Result):
    """Harmful prompts, each beside the benign one most like it.

    Attributes:
        pairs: (harmful, benign), each prompt at most once.
        unmatched_harmful, unmatched_benign: prompts without a partner.
    """

    pairs: tuple[tuple[str, str], ...]
    unmatched_harmful: tuple[str, ...] = ()
    unmatched_benign: tuple[str, ...] = ()


def match_controls(
    harmful: Sequence[str], benign: Sequence[str], groups: Mapping[str, str] | None = None
) -> MatchedControls:
    """Pair prompts: first those of one group, then by the share of words in common, best pairs first.

    Args:
        groups: prompt -> group.
    """
    group_of = dict(groups or {})
    words = {text: set(normalise_text(text).split()) for text in (*harmful, *benign)}
    candidates = []
    for i, bad in enumerate(harmful):
        for j, good in enumerate(benign):
            together = words[bad] | words[good]
            alike = len(words[bad] & words[good]) / len(together) if together else 0.0
            same = bad in group_of and group_of[bad] == group_of.get(good)
            if same or alike >= _LEAST:
                candidates.append((-float(same), -alike, i, j))
    left, right = set(range(len(harmful))), set(range(len(benign)))
    pairs: list[tuple[int, int]] = []
    for _, _, i, j in sorted(candidates):
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            pairs.append((i, j))
    return MatchedControls(
        tuple((harmful[i], benign[j]) for i, j in sorted(pairs)),
        tuple(harmful[i] for i in sorted(left)),
        tuple(benign[j] for j in sorted(right)),
    )
