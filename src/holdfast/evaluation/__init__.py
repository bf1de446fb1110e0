"""Floor 3: how aligned, how able and how far moved a model is. Judges, skills, tasks, drift, the scorecard."""

from holdfast.evaluation.drift import DriftReading, Reference, drift, sample_reference
from holdfast.evaluation.evaluate import evaluate, judge_safely
from holdfast.evaluation.judge import LABELS, Judge, RefusalJudge, Verdict
from holdfast.evaluation.scorecard import ResponseRow, Scorecard, SkillScore, TaskScore, compare_rates
from holdfast.evaluation.skill import Skill, SkillSplit
from holdfast.evaluation.tasks import METRICS, Task

__all__ = [
    "LABELS",
    "METRICS",
    "DriftReading",
    "Judge",
    "Reference",
    "RefusalJudge",
    "ResponseRow",
    "Scorecard",
    "Skill",
    "SkillScore",
    "SkillSplit",
    "Task",
    "TaskScore",
    "Verdict",
    "compare_rates",
    "drift",
    "evaluate",
    "judge_safely",
    "sample_reference",
]
