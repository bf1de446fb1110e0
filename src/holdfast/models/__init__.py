"""Floor 1: load a model, name its parameters, adapt it, run it, let it speak."""

from holdfast.models.adapters import (
    adapter_off,
    adapter_parameters,
    add_lora,
    load_adapter,
    lora_pairs,
    save_adapter,
)
from holdfast.models.forward import (
    LossSummary,
    batch_logits,
    kl_on_examples,
    log_probabilities,
    mean_loss,
    sequence_nll,
    token_kl,
    token_nll,
)
from holdfast.models.generate import generate, generate_text
from holdfast.models.subject import Subject, load

__all__ = [
    "LossSummary",
    "Subject",
    "adapter_off",
    "adapter_parameters",
    "add_lora",
    "batch_logits",
    "generate",
    "generate_text",
    "kl_on_examples",
    "load",
    "load_adapter",
    "log_probabilities",
    "lora_pairs",
    "mean_loss",
    "save_adapter",
    "sequence_nll",
    "token_kl",
    "token_nll",
]
