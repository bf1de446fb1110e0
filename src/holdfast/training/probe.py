"""RefusalProbe: the prompts whose refusals are watched while a model trains.

Knows: which prompts, how long the answers are. Does not know: when it is asked, what is decided with the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.statistics import Interval
from holdfast.evaluation import Judge, RefusalJudge, Skill
from holdfast.evaluation.behaviour import Answered, ask_and_judge
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
    controls: Sequence[str] = ()  # harmless prompts; none: over-refusal is not watched

    @classmethod
    def of(
        cls, skill: Skill, limit: int | None = None, over_refusal: bool = False, **options: Any
    ) -> "RefusalProbe":
        """The first ``limit`` prompts of the skill's *estimate* half: harmful ones, and harmless ones if asked."""
        controls = skill.estimate.benign[:limit] if over_refusal else ()
        return cls(skill.estimate.harmful[:limit], controls=controls, **options)

    def rate(self, subject: Subject) -> tuple[Interval, dict[str, int]]:
        """Refused over all prompts (unclear and error count as not refused), and responses by label."""
        answered = self._asked(subject, self.prompts)
        return answered.rate("refused"), answered.counts

    def over_refusal(self, subject: Subject) -> Interval:
        """Refused over all controls."""
        return self._asked(subject, self.controls).rate("refused")

    def _asked(self, subject: Subject, prompts: Sequence[str]) -> Answered:
        how: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}
        return ask_and_judge(subject, prompts, self.judge, **how)
