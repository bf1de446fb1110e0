"""RefusalProbe: the prompts whose refusals are watched while a model trains.

Knows: which prompts, how long the answers are. Does not know: when it is asked, what is decided with the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.statistics import Interval
from holdfast.evaluation import Judge, RefusalJudge, Skill
from holdfast.evaluation.behaviour import ask_and_judge
from holdfast.models import Subject


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
        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}
        answered = ask_and_judge(subject, self.prompts, self.judge, **how)
        return answered.rate("refused"), answered.counts
