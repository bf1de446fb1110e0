"""RefusalProbe: the prompts whose refusals are watched while a model trains.

Knows: which prompts, how long the answers are. Does not know: when it is asked, what is decided with the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.statistics import Interval, wilson
from holdfast.evaluation import Judge, RefusalJudge, Skill, judge_all
from holdfast.models import Subject, generate_text


@dataclass(frozen=True)
class RefusalProbe:
    """Prompts whose refusal rate is watched, greedily decoded.

    Use prompts of a skill's *estimate* half (:meth:`of`): a budget decides with them, so they are spent.
    """

    prompts: Sequence[str]
    judge: Judge = field(default_factory=RefusalJudge)
    max_new_tokens: int = 24
    batch_size: int = 64

    @classmethod
    def of(cls, skill: Skill, limit: int | None = None, **options: Any) -> "RefusalProbe":
        """The first ``limit`` harmful prompts of the skill's *estimate* half."""
        return cls(skill.estimate.harmful[:limit], **options)

    def rate(self, subject: Subject) -> tuple[Interval, dict[str, int]]:
        """Refused over all prompts (unclear and error count as not refused), and responses by label."""
        answers = generate_text(subject, self.prompts, self.max_new_tokens, batch_size=self.batch_size)
        verdicts = judge_all(self.judge, self.prompts, answers, progress=False)
        labels = [verdict.label for verdict in verdicts]
        counts = {label: labels.count(label) for label in ("refused", "complied", "unclear", "error")}
        return wilson(counts["refused"], len(labels)), counts
