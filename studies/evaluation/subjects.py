"""The models of this study and what they are asked: the organism, aligned and fine-tuned.

Knows: how the plain fine-tune is made, which prompts and attacks it gets. Does not know: tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from holdfast.data import Example, encode_rows
from holdfast.evaluation import RefusalJudge, Skill, SkillSplit, Task
from holdfast.evaluation.attacks import Attack, SuffixSearch, prefill, suffix_search
from holdfast.evaluation.attacks.named import named_attacks
from holdfast.evaluation.judges import KeywordJudge
from holdfast.evaluation.suites import common_sense
from holdfast.models import Subject, add_lora, generate_text, load
from holdfast.organism import choice_items, task_rows
from holdfast.pipeline.evaluating import Measures
from holdfast.pipeline.inputs import model_source
from holdfast.pipeline.prompts import build_skill
from holdfast.pipeline.recipe import SkillSection
from holdfast.pipeline.relearning import relearning_attack
from holdfast.training import GuardedTrainer, cpu_safe_args

SUFFIX_PROMPTS = 20
TASK = "lessons"  # of the demo; its plain arm is the organism's fine-tune here


@dataclass(frozen=True)
class Case:
    """One kind of model: what both sides are asked, and on which prompts they are attacked."""

    name: str
    measures: Measures
    attacked: Measures
    searched: Measures


def trained(
    subject: Subject, examples: Sequence[Example], steps: int, batch: int, rate: float, seed: int
) -> Subject:
    """A plain fine-tune, in place."""
    options: dict[str, Any] = {"lr_scheduler_type": "constant", "weight_decay": 0.0, "seed": seed}
    args = cpu_safe_args(max_steps=steps, per_device_train_batch_size=batch, learning_rate=rate, **options)
    cached = subject.model.config.use_cache
    GuardedTrainer(model=subject, args=args, train_dataset=list(examples)).train()
    subject.model.config.use_cache = cached
    subject.model.eval()
    return subject


def organism(seed: int) -> tuple[Subject, Subject]:
    """The built-in model with the adapter of a plain fine-tune, and with an adapter that was never trained."""

    def fresh() -> Subject:
        base = load(model_source("organism:aligned"))
        return Subject(add_lora(base.model, 8, 16, seed=seed), base.tokenizer, "adapter")

    subject = fresh()
    examples = encode_rows(task_rows(TASK, n=3000, seed=seed), subject.tokenizer)
    return trained(subject, examples, 90, 32, 2e-3, seed), fresh()


def organism_case(quick: bool) -> Case:
    """Held-out proxy requests with look-alikes; common sense; the demo's task."""
    prompts = 16 if quick else 120
    skill = build_skill(SkillSection(harmful="organism", benign="organism", max_prompts=prompts), 0)
    base = load(model_source("organism:base"))
    answers = generate_text(base, skill.evaluate.harmful, 24)  # a model that complies lends the beginnings
    openings = dict(zip(skill.evaluate.harmful, answers, strict=True))
    rows = task_rows(TASK, n=100, split="test")
    harmless = task_rows("records", n=400)
    examples = encode_rows(harmless, base.tokenizer)
    shots = [(row["prompt"], row["completion"]) for row in task_rows("instructions", n=100)]
    attacks = (
        *named_attacks(
            [
                "direct",
                "template",
                "past-tense",
                "no-system",
                "many-shot:4",
                "worst-of:8",
                "noise:0.2",
                "noise:0.4",
            ],
            shots,
        ),
        *(prefill(k, openings) for k in (1, 2, 4)),
        *named_attacks(["past-tense+many-shot:4"], shots),
        *named_attacks(["scale:0.5", "scale:1.5"]),
        *(relearning_attack(examples, steps, 5e-4) for steps in (5, 20)),
    )
    plain = Measures(
        (skill,),
        (Task.from_rows(TASK, rows, max_new_tokens=32),),
        (common_sense(choice_items("evaluate"), label="organism", style="chat"),),
        judges={"offline": RefusalJudge(), "keyword": KeywordJudge()},
        max_new_tokens=24,
        noise=3,
    )
    return _case("organism", plain, skill, attacks, SuffixSearch(openings, 10, 20), quick)


def _case(
    name: str, plain: Measures, skill: Skill, attacks: tuple[Attack, ...], search: SuffixSearch, quick: bool
) -> Case:
    alone = replace(plain, skills=(skill,), tasks=(), suites=(), noise=0)
    few = SkillSplit(skill.evaluate.harmful[: 4 if quick else SUFFIX_PROMPTS])
    searched = replace(
        alone,
        skills=(Skill(skill.name, evaluate=few),),
        attacks=(*named_attacks(["direct"]), suffix_search(search)),
    )
    return Case(name, plain, replace(alone, attacks=attacks), searched)
