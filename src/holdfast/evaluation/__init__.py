"""Floor 3: how aligned, how able and how far moved a model is. Judges, skills, tasks, drift, the scorecard."""

from holdfast.evaluation.drift import DriftReading, Reference, drift, sample_reference
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.judge import LABELS, Judge, RefusalJudge, Verdict
from holdfast.evaluation.judges import (
    EndpointJudge,
    GuardJudge,
    LikelihoodJudge,
    SequenceClassifierJudge,
    agreement,
    guard_formats,
    judge_all,
)
from holdfast.evaluation.scorecard import ResponseRow, Scorecard, SkillScore, TaskScore, compare_rates
from holdfast.evaluation.skill import Skill, SkillSplit
from holdfast.evaluation.tasks import METRICS, Task

__all__ = [
    "LABELS",
    "METRICS",
    "DriftReading",
    "EndpointJudge",
    "GuardJudge",
    "Judge",
    "LikelihoodJudge",
    "Reference",
    "RefusalJudge",
    "ResponseRow",
    "Scorecard",
    "SequenceClassifierJudge",
    "Skill",
    "SkillScore",
    "SkillSplit",
    "Task",
    "TaskScore",
    "Verdict",
    "agreement",
    "compare_rates",
    "drift",
    "evaluate",
    "guard_formats",
    "judge_all",
    "sample_reference",
]
