"""What a model's configuration says about its text part: vocabulary, special tokens, how much it reads at once.

Knows: transformers configurations, composite ones (a text model beside a vision tower) included.
Does not know: tokenizers, data.
"""

from typing import Any

import torch

from holdfast.core.errors import UserError

LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx")


def text_config(model: Any) -> Any:
    """The configuration of the part that reads and writes text; of most models, the configuration itself."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def vocabulary_size(model: Any) -> int:
    """Number of logits at each position."""
    return int(text_config(model).vocab_size)


def special_id(model: Any, name: str) -> Any:
    """A token id (or several) of the configuration, such as ``eos_token_id``; None where it names none."""
    for config in (text_config(model), model.config):
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    return None


def declared_length(model: Any) -> int | None:
    """The most tokens the configuration speaks of; rotary models can read more."""
    config = text_config(model)
    return next((int(getattr(config, name)) for name in LENGTHS if getattr(config, name, None) is not None), None)


def position_limit(model: Any) -> int | None:
    """The most tokens the model *can* read: the rows of its table of positions. None: it has no such table.

    A longer row is an index error inside the model (GPT-2, OPT, GPT-J and their like).
    """
    text = text_part(model)
    words = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    rows: list[int] = []
    for path, module in text.named_modules():
        name = path.removesuffix(".base_layer").rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and module is not words and (name == "wpe" or "pos" in name):
            rows.append(module.num_embeddings - int(getattr(module, "offset", 0)))
        table = dict(module.named_buffers(recurse=False)).get("embed_positions")
        if table is not None and table.ndim == 2:
            rows.append(len(table))
    return min(rows, default=None)


def text_part(model: Any) -> Any:
    """The modules that text passes through: the decoder of a composite model, else the model itself."""
    if text_config(model) is model.config or not hasattr(model, "get_decoder"):
        return model
    return model.get_decoder() or model


def check_length(model: Any, length: int) -> None:
    """Refuse a batch that the model has no positions for.

    Raises:
        UserError: ``length`` tokens are more than its table of positions has rows.
    """
    declared = declared_length(model)
    if declared is None or length <= declared:
        return
    limit = position_limit(model)
    if limit is not None and length > limit:
        raise UserError(
            f"a row of {length} tokens, and the model has {limit} positions; cut or drop what is longer "
            f"(--max-length {limit})"
        )
