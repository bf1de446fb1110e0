"""The models of this study and what they are asked: the organism and the real model, aligned and fine-tuned.

Knows: how the organism's plain fine-tune is made and where the real model's stand (`studies.real_model damage`),
which prompts and attacks they get. Does not know: tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studies.real_model import damage, lists, model, tasks

from holdfast.core.errors import UserError
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
    searched: Measures | None = None  # with the safety basin beside it


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


REAL_ARM = damage.Arm("alpaca", 2e-4, 0)
REAL_PAIRS = 24  # of JailbreakBench: some 15 attacks of 24 answers take ten minutes a model on one core


def real(cache: Path, seed: int) -> tuple[Subject, Subject]:
    """SmolLM2 with a plain fine-tune of the damage table, and as it was aligned.

    Raises:
        UserError: the fine-tune has not been made.
    """
    arm = replace(REAL_ARM, seed=seed)
    adapter = damage.run_folder(cache, arm, damage.Setting()) / "adapter"
    if not adapter.is_dir():
        raise UserError(f"{adapter}: not there; python -m studies.real_model damage makes it")
    aligned = model.aligned(cache)
    untouched = Subject(add_lora(aligned.model, 8, 16, seed=seed), aligned.tokenizer, "adapter")
    return load_on(model.aligned(cache), adapter), untouched


def load_on(aligned: Subject, adapter: Path) -> Subject:
    """The aligned model with a saved adapter on it."""
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(aligned.model, str(adapter))
    wrapped.eval()
    return Subject(wrapped, aligned.tokenizer, "adapter")


def real_case(cache: Path, data: Path, quick: bool) -> Case:
    """JailbreakBench in pairs; attacks with words and weights, no search: no basin and no suffix at this size."""
    held, count = lists.held_out(data), 4 if quick else REAL_PAIRS
    harmful = lists.drawn(held["jailbreakbench_harmful"], count)
    partner = dict(zip(held["jailbreakbench_harmful"], held["jailbreakbench_benign"], strict=True))
    skill = Skill("jailbreakbench", evaluate=SkillSplit(tuple(harmful), tuple(partner[p] for p in harmful)))
    answers = generate_text(model.chat(cache), harmful, 8)  # the chat model complies with nearly everything
    openings = dict(zip(harmful, answers, strict=True))
    rows = tasks.split(tasks.KINDS["alpaca"], data)[1]
    shots = sorted(((row["prompt"], row["completion"]) for row in rows), key=lambda shot: len("".join(shot)))
    attacks = (
        *named_attacks(["direct", "template", "past-tense", "no-system", "many-shot:4"], shots[:8]),
        *(prefill(k, openings) for k in (1, 2, 4)),
        *named_attacks(["scale:0.5", "scale:1.5"]),
    )
    kept = cache / "evaluation" / ("quick" if quick else "answers")
    plain = Measures((skill,), judges={"offline": RefusalJudge()}, max_new_tokens=24, cache=kept)
    return Case("real", plain, replace(plain, attacks=attacks))
