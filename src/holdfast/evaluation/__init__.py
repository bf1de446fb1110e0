"""Floor 3: how aligned, how able and how far moved a model is. Judges, skills, tasks, drift, the scorecard."""

from holdfast.evaluation.attacks import Attack, AttackScore, Basin, safety_basin
from holdfast.evaluation.behaviour import Answered, ask, ask_and_judge, sample_answers
from holdfast.evaluation.comparison import Comparison, Difference, compare_cards, compare_rates
from holdfast.evaluation.drift import DriftReading, Reference, drift, sample_reference
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.judge import LABELS, Judge, RefusalJudge, Verdict
from holdfast.evaluation.judges import (
    Agreement,
    EndpointJudge,
    GuardJudge,
    LikelihoodJudge,
    SequenceClassifierJudge,
    agreement,
    guard_formats,
    judge_all,
)
from holdfast.evaluation.noise import measure_noise
from holdfast.evaluation.scorecard import ResponseRow, Scorecard, SkillScore, TaskScore
from holdfast.evaluation.skill import Skill, SkillSplit
from holdfast.evaluation.tasks import METRICS, Task

__all__ = [
    "LABELS",
    "METRICS",
    "Agreement",
    "Answered",
    "Attack",
    "AttackScore",
    "Basin",
    "Comparison",
    "Difference",
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
    "ask",
    "ask_and_judge",
    "compare_cards",
    "compare_rates",
    "drift",
    "evaluate",
    "guard_formats",
    "judge_all",
    "measure_noise",
    "safety_basin",
    "sample_answers",
    "sample_reference",
]
