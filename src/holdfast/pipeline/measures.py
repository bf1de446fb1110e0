"""What a card shall hold, made concrete: suites, attacks and judges by name, for the command line and for recipes.

Knows: how an ``evaluate`` section is read and checked before a model is there, and completed once one is. Does not
know: options of a command line, stages, how anything is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.evaluation import Skill, Task
from holdfast.evaluation.attacks.named import named_attacks
from holdfast.evaluation.judges.named import SPELLINGS as JUDGES
from holdfast.evaluation.judges.named import JudgeNeeds, check_judge, named_judge
from holdfast.evaluation.suites import SuiteSet, common_sense, load_suites
from holdfast.models import Subject
from holdfast.pipeline.evaluating import Measures
from holdfast.pipeline.inputs import Reading, TaskRows, question_and_answer, read_named
from holdfast.pipeline.recipe import EvaluateSection
from holdfast.pipeline.relearning import relearning_attack

_ANY_EXAMPLE = Example((0,), (0,))  # stands for rows that cannot be encoded yet; nothing learns from it


@dataclass(frozen=True)
class Asked:
    """An ``evaluate`` section with its files read; what is left needs the model.

    Attributes:
        suites: of the file, and the built-in items.
        rows: harmless rows for many-shot and relearn.
    """

    section: EvaluateSection
    suites: SuiteSet
    rows: TaskRows | None = None

    def measures(
        self,
        subject: Subject,
        skill: Skill,
        tasks: Sequence[Task] = (),
        seed: int = 0,
        device: str = "auto",
        max_new_tokens: int = 64,
        cache: Path | None = None,
        judge_cache: Path | None = None,
        noise: int = 0,
    ) -> Measures:
        """What ``subject`` is asked.

        Raises:
            UserError: a judge's model cannot be loaded, or rows cannot be encoded for this model.
        """
        asked = self.section
        kept = judge_cache if judge_cache is not None or cache is None else cache / "verdicts"
        needs = JudgeNeeds(
            subject, skill, asked.judge_url, asked.judge_model, asked.judge_rate, kept, device, seed
        )
        return Measures(
            (skill, *self.suites.skills),
            (*tasks, *self.suites.tasks),
            self.suites.suites,
            _attacks(asked, self.rows, subject),
            {name: named_judge(name, needs) for name in asked.judge},
            seed,
            asked.batch_size,
            max_new_tokens,
            asked.system,
            cache,
            noise,
        )


def read_asked(section: EvaluateSection) -> Asked:
    """Read the files that a section names and check every word in it, before any model is loaded.

    Raises:
        UserError: an unknown attack or judge, a missing file, something that one of them needs.
    """
    suites = load_suites(section.suites) if section.suites is not None else SuiteSet()
    if section.choices:
        from holdfast.organism import choice_items

        own = common_sense(choice_items("evaluate"), label="organism", style="chat")
        suites = SuiteSet(suites.skills, suites.tasks, (*suites.suites, own))
    rows = read_named(section.attack_rows, Reading()) if section.attack_rows is not None else None
    _attacks(section, rows, None)
    if not section.judge:
        raise UserError(f"judge: none named; use one of {', '.join(JUDGES)}")
    for name in section.judge:
        check_judge(name)
        if name == "endpoint" and (section.judge_url is None or section.judge_model is None):
            raise UserError("--judge endpoint: needs --judge-url and --judge-model (judge_url and judge_model)")
    return Asked(section, suites, rows)


def _attacks(section: EvaluateSection, rows: TaskRows | None, subject: Subject | None) -> tuple[Any, ...]:
    """Attacks by name; without a subject only their spelling and their files are checked."""
    if rows is None:
        return named_attacks(section.attacks, template_file=section.attack_templates)
    pairs = [pair for row in rows.rows if (pair := question_and_answer(row)) is not None]
    shots = [(question, answer) for question, answer in pairs if isinstance(question, str)]
    examples = rows.encode(subject.tokenizer) if subject is not None else [_ANY_EXAMPLE]
    return named_attacks(
        section.attacks,
        shots,
        section.attack_templates,
        relearn=lambda steps, rate: relearning_attack(examples, steps, rate),
    )
