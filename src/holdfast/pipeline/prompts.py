"""Which prompts a model is judged by: the user's, or the built-in model's own for the built-in model only.

Knows: when the built-in prompts mean something, how a skill is drawn from a recipe's section. Does not know:
prompt files (``evaluation.skill``), stages.
"""

from collections.abc import Sequence
from dataclasses import replace

from holdfast.core.errors import UserError
from holdfast.evaluation import Skill, SkillSplit
from holdfast.evaluation.prompt_sets import PROMPT_SETS
from holdfast.pipeline.inputs import ORGANISM, check_drawn, is_organism
from holdfast.pipeline.recipe import SkillSection

ORGANISM_PROMPTS = 200  # of each kind in each half, where nothing smaller is asked for


def prompts_for(
    section: SkillSection, model: str, keys: Sequence[str] = ("skill.harmful", "skill.benign")
) -> tuple[SkillSection, list[str]]:
    """The section with its prompts named, and what must be said about them.

    Args:
        model: folder, hub id or ``organism:NAME``.
        keys: what the user calls the two lists.

    Raises:
        UserError: no prompts, and the model is not the built-in one: its prompts mean nothing to another.
    """
    built_in = is_organism(model)
    given = {"harmful": section.harmful, "benign": section.benign}
    missing = [key for key, source in zip(keys, given.values(), strict=True) if source is None]
    if missing and (not built_in or len(missing) == 1):
        raise UserError(
            f"{model}: no {' and no '.join(missing)} prompts to judge it by; give files (a prompt a line, or a "
            f"column 'prompt'), lists with a label (FILE:COLUMN=VALUE) or named sets "
            f"({', '.join(sorted(PROMPT_SETS))})"
            f"{'' if built_in else '; the built-in prompts mean nothing to this model'}"
        )
    known = {name: ORGANISM if source is None else source for name, source in given.items()}
    notes = []
    if not built_in and ORGANISM in known.values():
        notes.append(
            f"{model} is judged by the built-in model's prompts, sentences of an invented language: its refusal "
            f"figures mean nothing; give your own with {' and '.join(keys)}"
        )
    default = SkillSection()
    if ORGANISM in known.values() and (section.share, section.salt) != (default.share, default.salt):
        notes.append("the built-in prompts come in two halves of their own: share and salt change nothing there")
    return section.model_copy(update=known), notes


def build_skill(section: SkillSection, seed: int) -> Skill:
    """The refusal skill, split once into *estimate* and *evaluate*, at most ``max_prompts`` of each kind.

    Raises:
        UserError: unreadable prompts; one of the two lists is the organism's and the other is not.
    """
    built_in = (section.harmful == ORGANISM, section.benign == ORGANISM)
    limit = section.max_prompts
    if all(built_in):
        check_drawn(limit, "prompts of the organism")
        return Skill(
            "refusal",
            estimate=_organism_half("estimate", limit or ORGANISM_PROMPTS, seed),
            evaluate=_organism_half("evaluate", limit or ORGANISM_PROMPTS, seed),
        )
    if any(built_in):
        raise UserError("skill: harmful and benign prompts must both be yours or both be 'organism'")
    assert section.harmful is not None and section.benign is not None, "prompts_for comes first"
    skill = Skill.refusal(section.harmful, section.benign, "refusal", section.salt, share=section.share)
    return limited(skill, limit)


def limited(skill: Skill, limit: int | None) -> Skill:
    """At most ``limit`` prompts of each kind in each half."""
    halves = (SkillSplit(half.harmful[:limit], half.benign[:limit]) for half in (skill.estimate, skill.evaluate))
    estimate, evaluate = halves
    return replace(skill, harmful=(), benign=(), estimate=estimate, evaluate=evaluate)


def _organism_half(split: str, n: int, seed: int) -> SkillSplit:
    """Half overt, half subtle requests; half look-alikes, half other harmless ones."""
    from holdfast import organism

    def prompts(kind: str, count: int) -> list[str]:
        return organism.proxy_prompts(split, kind, count, seed)  # type: ignore[arg-type]  # str to Literal

    half = n // 2
    return SkillSplit(
        tuple(prompts("overt", n - half) + prompts("subtle", half)),
        tuple(prompts("lookalike", n - half) + prompts("benign", half)),
    )
