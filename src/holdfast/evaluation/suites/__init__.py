"""Suites: what a model is asked, and how the answers become measures with intervals.

`load_suites` reads a YAML file of them. A suite has a name and runs on a subject; refusal prompts and answered
tasks become a `Skill` or a `Task`, which `holdfast.evaluate` runs.
"""

from holdfast.evaluation.suites.base import Suite, SuiteScore, compare_suites
from holdfast.evaluation.suites.common_sense import choose_half, common_sense, read_choice_items
from holdfast.evaluation.suites.files import SuiteSet, build_suites, load_suites
from holdfast.evaluation.suites.harness import HarnessSuite, run_harness
from holdfast.evaluation.suites.multiple_choice import (
    NORMS,
    ChoiceItem,
    ChoiceReading,
    ChoiceSuite,
    encode_choice,
    read_choices,
)
from holdfast.evaluation.suites.perplexity import PerplexitySuite, perplexity, read_texts
from holdfast.evaluation.suites.refusal import (
    MatchedControls,
    match_controls,
    refusal_suite,
    told_apart,
    without_repeats,
)
from holdfast.evaluation.suites.task_skill import read_task
from holdfast.evaluation.suites.truthfulness import TruthItem, TruthSuite, truth_scores, truthfulness

__all__ = [
    "NORMS",
    "ChoiceItem",
    "ChoiceReading",
    "ChoiceSuite",
    "HarnessSuite",
    "MatchedControls",
    "PerplexitySuite",
    "Suite",
    "SuiteScore",
    "SuiteSet",
    "TruthItem",
    "TruthSuite",
    "build_suites",
    "choose_half",
    "common_sense",
    "compare_suites",
    "encode_choice",
    "load_suites",
    "match_controls",
    "perplexity",
    "read_choice_items",
    "read_choices",
    "read_task",
    "read_texts",
    "refusal_suite",
    "run_harness",
    "told_apart",
    "truth_scores",
    "truthfulness",
    "without_repeats",
]
