"""Adapters in PEFT's own layout: made, read, written.

Knows: PEFT, which layers take LoRA.
Does not know: training, restoration, how an adapter is switched off (bare.py).
"""

import re
from pathlib import Path
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.files import new_folder
from holdfast.core.seeds import seeded
from holdfast.models.adapter_files import (
    check_fits,
    fit_vocabulary,
    read_config,
    say_other_base,
    shapes,
)
from holdfast.models.adapter_scope import check_method, has_adapter
from holdfast.models.bare import compared_logits, keep_base, moves_base
from holdfast.models.limits import text_part

ALL_LINEAR = "all-linear"


def add_lora(
    model: Any,
    rank: int = 8,
    alpha: int = 16,
    targets: str | list[str] = ALL_LINEAR,
    seed: int = 0,
    dropout: float = 0.0,
) -> Any:
    """Wrap ``model`` with a fresh LoRA adapter (B = 0, so the function is unchanged).

    ``targets="all-linear"`` is every linear layer but the output head; of a composite model those that text passes
    through; of a state-space model without the projections its fused kernels read past.

    Raises:
        UserError: no layer of that name, or one that takes no LoRA.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_all_linear(model) if targets == ALL_LINEAR else checked_targets(model, targets),
        task_type="CAUSAL_LM",  # type: ignore[arg-type]
    )
    logits_V = None if has_adapter(model) else compared_logits(model)
    try:
        with seeded(seed, "lora"):
            wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"LoRA on '{targets}': {_line(error)}; name the layers with targets=[...]") from error
    wrapped.eval()
    if logits_V is not None:
        keep_base(wrapped, logits_V, {})
    return wrapped


def checked_targets(model: Any, targets: str | list[str]) -> str | list[str]:
    """Layers by the ends of their names, or by a pattern for whole names; PEFT passes over a name that none has.

    Raises:
        UserError: a name or a pattern without a layer, or nothing named.
    """
    if not targets:
        raise UserError(f"adapter.targets {targets!r}: no layer is named, so nothing would be trained; name some")
    names = [name for name, _ in model.named_modules() if name]

    def ends(target: str) -> bool:
        return any(name == target or name.endswith(f".{target}") for name in names)

    if isinstance(targets, str):
        if ends(targets):
            return [targets]
        try:
            if any(re.fullmatch(targets, name) for name in names):
                return targets
        except re.error as error:
            raise UserError(f"adapter.targets '{targets}': not a pattern ({error}); name the layers") from None
    missing = [targets] if isinstance(targets, str) else [target for target in targets if not ends(target)]
    if missing:
        linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise UserError(f"adapter.targets '{missing[0]}': no layer of this model is called so; it has {known}")
    return targets


def _all_linear(model: Any) -> str | list[str]:
    """PEFT finds "all-linear" itself, but for models where it raises or wraps what text never reaches."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
    from transformers.pytorch_utils import Conv1D

    text, head = (
        text_part(model),
        model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None,
    )
    plain, chosen, refused = LoraConfig(), [], False
    inside = {id(module) for module in text.modules()}
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Linear, Conv1D)) or module is head or id(module) not in inside:
            continue
        try:
            _check_lora_target_modules_mamba(plain, model, name.rpartition(".")[2])
            chosen.append(name)
        except ValueError:
            refused = True
    return chosen if (refused or text is not model) and chosen else ALL_LINEAR


def save_adapter(model: Any, folder: str | Path) -> None:
    """Write the adapter into a new folder in PEFT's layout (``adapter_config.json``, safetensors).

    Raises:
        UserError: the folder exists and is not empty; the model has no adapter.
    """
    if not hasattr(model, "peft_config"):
        raise UserError("the model carries no adapter to save; train one, or wrap the model with add_lora")
    with new_folder(folder) as temporary:
        model.save_pretrained(str(temporary))


def load_adapter(
    base: Any, folder: str | Path, trainable: bool = True, revision: str | None = None, tokens: int = 0
) -> Any:
    """Put a saved adapter on ``base``, and note what the base was (:func:`holdfast.models.adapter_off`).

    A base with another number of embedding rows than the adapter was trained with is resized. An adapter that
    names another base is logged: names are no proof, shapes are.

    Args:
        revision: of the base, compared with the one the adapter names.
        tokens: of the adapter's own tokenizer; 0 without one.

    Raises:
        UserError: no adapter in the folder, an adapter with weights in another format, one whose layers or shapes
            are those of another base model, or a prompt-learning method.
    """
    from peft import PeftModel

    folder = Path(folder)
    config, found = read_config(folder), shapes(folder)
    check_method(str(config.get("peft_type")))
    fit_vocabulary(base, config, found, tokens)
    check_fits(base, folder, config, found)
    say_other_base(folder, config, base, revision)
    logits_V = compared_logits(base)
    before = {name: value.detach().clone() for name, value in base.named_parameters() if name in found}
    if moves_base(config):
        before |= {name: value.detach().cpu().clone() for name, value in base.named_parameters()}
    try:
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: does not fit this base model ({_line(error)})") from error
    model.eval()
    keep_base(model, logits_V, before)
    return model


def lora_pairs(model: Any) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter, float]]:
    """Per adapted layer: A (rank × in), B (out × rank) and the scale s of ``ΔW = s B A``."""
    pairs = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or not hasattr(module, "scaling"):
            continue
        for adapter, matrix in module.lora_A.items():
            if not hasattr(matrix, "weight"):  # AdaLoRA's are parameters, with singular values between them
                continue
            key = name if adapter == "default" else f"{name}:{adapter}"
            pairs[key] = (
                matrix.weight,
                module.lora_B[adapter].weight,
                float(module.scaling[adapter]),
            )
    return pairs


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
