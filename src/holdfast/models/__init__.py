"""Floor 1: load a model, name its parameters, adapt it, run it, let it speak."""

from holdfast.models.adapter_scope import adapter_parameters
from holdfast.models.adapters import add_lora, load_adapter, lora_pairs, save_adapter
from holdfast.models.bare import adapter_off, adapter_off_is_base, trained_beside
from holdfast.models.forward import (
    LossSummary,
    batch_logits,
    batch_nll,
    kl_on_examples,
    log_probabilities,
    mean_loss,
    scored_logits,
    sequence_nll,
    token_kl,
    token_nll,
)
from holdfast.models.generate import generate, generate_text
from holdfast.models.generation_cache import GenerationCache
from holdfast.models.greedy_agreement import GreedyAgreement, greedy_agreement
from holdfast.models.identity import model_hash
from holdfast.models.likelihood import (
    Likelihoods,
    continuation_likelihoods,
    longest_input,
    prefix_id,
    rolling_windows,
    text_ids,
    text_pair,
)
from holdfast.models.limits import check_length, declared_length, position_limit, text_config, vocabulary_size
from holdfast.models.merged import base_parameters, merged_weights
from holdfast.models.subject import Subject, load, load_skeleton, load_tokenizer

__all__ = [
    "GenerationCache",
    "GreedyAgreement",
    "Likelihoods",
    "LossSummary",
    "Subject",
    "adapter_off",
    "adapter_off_is_base",
    "adapter_parameters",
    "add_lora",
    "base_parameters",
    "batch_logits",
    "batch_nll",
    "check_length",
    "continuation_likelihoods",
    "declared_length",
    "generate",
    "generate_text",
    "greedy_agreement",
    "kl_on_examples",
    "load",
    "load_adapter",
    "load_skeleton",
    "load_tokenizer",
    "log_probabilities",
    "longest_input",
    "lora_pairs",
    "mean_loss",
    "merged_weights",
    "model_hash",
    "position_limit",
    "prefix_id",
    "rolling_windows",
    "save_adapter",
    "scored_logits",
    "sequence_nll",
    "text_config",
    "text_ids",
    "text_pair",
    "token_kl",
    "token_nll",
    "trained_beside",
    "vocabulary_size",
]
