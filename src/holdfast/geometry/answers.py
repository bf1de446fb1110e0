"""The answers along which an audit measures: the model's own, a benign control's, or one fixed text.

Knows: which prompts of a skill are asked. Does not know: gradients.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.core.statistics import Interval
from holdfast.data import Example, encode_rows
from holdfast.evaluation import sample_reference
from holdfast.evaluation.beforehand import refusals_among, warn_if_little
from holdfast.models import Subject

if TYPE_CHECKING:
    from holdfast.evaluation import Skill


def benign_answers(
    subject: Subject, skill: "Skill | None", controls: int, max_new_tokens: int, seed: int
) -> list[Example]:
    """The model's own answers to benign prompts of the skill; none where none were asked for.

    Raises:
        UserError: fewer than two such prompts.
    """
    if not controls:
        return []
    prompts = list(skill.estimate.benign)[:controls] if skill is not None else []
    if len(prompts) < 2:
        raise UserError(
            f"controls={controls}: the skill has {len(prompts)} benign prompts to compare with; give two"
        )
    answers = sample_reference(subject, prompts, max_new_tokens, derive_seed(seed, "controls"))
    return [answer for answer in answers if answer.completion_tokens]


def target_answers(subject: Subject, prompts: Sequence[str], text: str) -> list[Example]:
    """The same answer to every prompt, as examples: labels of an empirical Fisher, not the model's own."""
    rows = [{"prompt": prompt, "completion": text} for prompt in prompts]
    return list(encode_rows(rows, subject.tokenizer))


def skill_answers(
    subject: Subject,
    skill: "Skill | None",
    given: Sequence[Example] | None,
    max_prompts: int,
    max_new_tokens: int,
    seed: int,
    target: str | None,
) -> tuple[tuple[Example, ...], Interval | None]:
    """Those of the skill: given, sampled at temperature 1, or the same ``target`` to every prompt.

    Returns:
        The answers, and how many of the sampled ones refuse; None where none were sampled.

    Raises:
        UserError: no skill and none given, both a target and given ones, fewer than two with an answer.
    """
    if target is not None and given is not None:
        raise UserError("target and reference_examples: both say which answers are scored; leave one out")
    refusals = None
    if given is None:
        if skill is None:
            raise UserError("the audit needs a skill, or reference_examples sampled from this model")
        prompts = list(skill.estimate.harmful)[:max_prompts]
        if target is not None:
            given = target_answers(subject, prompts, target)
        else:
            given = sample_reference(subject, prompts, max_new_tokens, seed)
            refusals = refusals_among(subject, prompts, given)
            warn_if_little(refusals)
    kept = tuple(example for example in given if example.completion_tokens)
    if len(kept) < 2:
        raise UserError(f"{len(kept)} usable completions; the audit needs at least two prompts with an answer")
    return kept, refusals
