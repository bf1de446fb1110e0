"""LoRA adapters in PEFT's own layout: made, read, written, switched off.

Knows: PEFT. Does not know: training, restoration.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from holdfast.core.errors import UserError
from holdfast.core.files import new_folder
from holdfast.core.seeds import seeded

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def add_lora(
    model: Any,
    rank: int = 8,
    alpha: int = 16,
    targets: str | list[str] = "all-linear",
    seed: int = 0,
    dropout: float = 0.0,
) -> Any:
    """Wrap ``model`` with a fresh LoRA adapter (B = 0, so the function is unchanged).

    ``targets="all-linear"`` is every linear layer but the output head.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",  # type: ignore[arg-type]
    )
    with seeded(seed, "lora"):
        wrapped = get_peft_model(model, config)
    wrapped.eval()
    return wrapped


def save_adapter(model: Any, folder: str | Path) -> None:
    """Write the adapter into a new folder in PEFT's layout (``adapter_config.json``, safetensors).

    Raises:
        UserError: the folder exists and is not empty; the model has no adapter.
    """
    if not hasattr(model, "peft_config"):
        raise UserError("the model carries no adapter to save; train one, or wrap the model with add_lora")
    with new_folder(folder) as temporary:
        model.save_pretrained(str(temporary))


def load_adapter(base: Any, folder: str | Path, trainable: bool = True) -> Any:
    """Put a saved adapter on ``base``.

    Raises:
        UserError: no adapter in the folder, an adapter with weights in another format, or one whose layers or
            shapes are those of another base model.
    """
    from peft import PeftModel

    folder = Path(folder)
    if not (folder / CONFIG_FILE).exists():
        raise UserError(f"{folder}: no {CONFIG_FILE} here; give the folder of a PEFT adapter")
    if not (folder / WEIGHTS_FILE).exists():
        raise UserError(f"{folder}: no {WEIGHTS_FILE}; holdfast reads safetensors only, convert the adapter first")
    _check_same_base(base, folder)
    try:
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: does not fit this base model ({str(error).splitlines()[0]})") from error
    model.eval()
    return model


def _check_same_base(base: Any, folder: Path) -> None:
    """An adapter fits if every one of its matrices meets a layer of the right shape.

    Names of base models are no proof either way (folders move), so shapes decide; the recorded name is quoted
    to help the user.
    """
    from safetensors import safe_open

    recorded = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path")
    modules = dict(base.named_modules())
    with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 (not a dict)
            path, part = _layer_of(name)
            if path is None:
                continue
            module = modules.get(path)
            shape = weights.get_slice(name).get_shape()
            expected = None
            if module is not None and hasattr(module, "in_features"):
                expected = module.in_features if part == "A" else module.out_features
            actual = shape[1] if part == "A" else shape[0]
            if module is None or (expected is not None and expected != actual):
                found = "no such layer" if module is None else f"the layer has size {expected}"
                raise UserError(
                    f"{folder}: adapter of another base model (made for '{recorded}'; {path} wants size {actual}, "
                    f"{found} here); load it on its own base"
                )


def _layer_of(name: str) -> tuple[str | None, str]:
    stem = name.removeprefix("base_model.model.")
    for part in ("A", "B"):
        marker = f".lora_{part}."
        if marker in stem:
            return stem.split(marker)[0], part
    return None, ""


@contextlib.contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """Inside the block the model behaves as without its adapter; a model without one is itself."""
    if not hasattr(model, "disable_adapter"):
        yield model
        return
    with model.disable_adapter():
        yield model


def lora_pairs(model: Any) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter, float]]:
    """Per adapted layer: A (rank × in), B (out × rank) and the scale s of ``ΔW = s B A``."""
    pairs = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or not hasattr(module, "scaling"):
            continue
        for adapter in module.lora_A:
            key = name if adapter == "default" else f"{name}:{adapter}"
            pairs[key] = (
                module.lora_A[adapter].weight,
                module.lora_B[adapter].weight,
                float(module.scaling[adapter]),
            )
    return pairs


def adapter_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The LoRA matrices by parameter name, sorted."""
    named = {name: p for name, p in model.named_parameters() if ".lora_" in name}
    return {name: named[name] for name in sorted(named)}
