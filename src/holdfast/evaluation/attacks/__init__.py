"""Attacks: the same request in other words, with other decoding, on other weights; each with its budget."""

from holdfast.evaluation.attacks.base import (
    DIRECT,
    Access,
    Attack,
    Budget,
    Conversation,
    Place,
    Sampling,
    Spent,
    Transform,
    WeightChange,
)
from holdfast.evaluation.attacks.basin import Basin, safety_basin, visage
from holdfast.evaluation.attacks.prompts import (
    many_shot,
    past_tense,
    prefill,
    sampled,
    template,
    templates,
    without_system,
)
from holdfast.evaluation.attacks.run import AttackScore, run_attack
from holdfast.evaluation.attacks.suffix import SuffixSearch, suffix_search
from holdfast.evaluation.attacks.tense import in_the_past
from holdfast.evaluation.attacks.weights import adapter_scaling, relearning, weight_noise

__all__ = [
    "DIRECT",
    "Access",
    "Attack",
    "AttackScore",
    "Basin",
    "Budget",
    "Conversation",
    "Place",
    "Sampling",
    "Spent",
    "SuffixSearch",
    "Transform",
    "WeightChange",
    "adapter_scaling",
    "in_the_past",
    "many_shot",
    "past_tense",
    "prefill",
    "relearning",
    "run_attack",
    "safety_basin",
    "sampled",
    "suffix_search",
    "template",
    "templates",
    "visage",
    "weight_noise",
    "without_system",
]
