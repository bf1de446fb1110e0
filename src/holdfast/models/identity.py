"""What a model computes, as one hash: weights, buffers, configuration, and which adapters are at work.

Knows: bytes of tensors, PEFT's switches. Does not know: what the hash is kept for.
"""

import hashlib
import json
from typing import Any

import torch

from holdfast.core.files import hash_json

_NOT_OF_THE_MODEL = ("transformers_version", "dtype", "torch_dtype")


def model_hash(model: Any) -> str:
    """Hex digest over all weights and buffers by name, the configuration and the state of the adapters.

    Two adapters with the same matrices and another ``alpha`` differ, and so does a model whose adapter is off.
    Reads every byte once: seconds for a model of several billion parameters.
    """
    digest = hashlib.sha256()
    tensors: dict[str, torch.Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_json_string"):
        values = json.loads(config.to_json_string(use_diff=False))
        # Keys with an underscore say where the files were, not what the model computes.
        kept = {k: v for k, v in values.items() if not k.startswith("_") and k not in _NOT_OF_THE_MODEL}
        digest.update(hash_json(kept).encode())
    digest.update(hash_json(_adapter_state(model)).encode())
    return digest.hexdigest()


def _adapter_state(model: Any) -> list[Any]:
    """Per adapted layer: off or on, merged, active, scaled by what. None of it is in the tensors."""
    found: list[Any] = []
    for name, module in model.named_modules():
        off = getattr(module, "disable_adapters", None)
        if not isinstance(off, bool):  # not one of PEFT's layers (transformers' models have a method of that name)
            continue
        scaling = getattr(module, "scaling", None)  # of LoRA and its relatives
        scaling = scaling if isinstance(scaling, dict) else {}
        found.append(
            [
                name,
                off,
                list(getattr(module, "merged_adapters", [])),
                list(module.active_adapters),
                {str(adapter): float(value) for adapter, value in scaling.items()},
            ]
        )
    return found
