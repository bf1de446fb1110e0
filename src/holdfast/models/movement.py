"""How far an adapter moves each layer: a number a layer, from the adapter's files alone.

Knows: PEFT's LoRA tensors. Does not know: the model below, or what a movement does to an answer.
"""

import math
import re
from pathlib import Path

import torch

from holdfast.core.files import read_tensors
from holdfast.models.adapter_files import WEIGHTS_FILE, read_config

_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
_A, _B = ".lora_A.", ".lora_B."


def layer_movement(folder: str | Path) -> dict[int, float]:
    """Frobenius norm of the weight change of each layer, all of its matrices together.

    ``|s B A|² = s² tr((Bᵀ B)(A Aᵀ))`` with s the adapter's scale (derived): no matrix of the model's size is made.

    Args:
        folder: of a PEFT adapter.

    Returns:
        Layer number to norm, in order; empty where there is no LoRA matrix in a numbered layer.

    Raises:
        UserError: no adapter in the folder.
    """
    folder = Path(folder)
    config, tensors = read_config(folder), read_tensors(folder / WEIGHTS_FILE)
    squares: dict[int, float] = {}
    for name, a_RI in tensors.items():
        found, partner = _LAYER.search(name), name.replace(_A, _B)
        if found is None or _A not in name or partner not in tensors:
            continue
        a, b = a_RI.to(torch.float64), tensors[partner].to(torch.float64)
        scale = _scale(config, name, a.shape[0])
        square = scale**2 * float(((b.T @ b) * (a @ a.T)).sum())
        squares[int(found[1])] = squares.get(int(found[1]), 0.0) + square
    return {layer: math.sqrt(max(0.0, square)) for layer, square in sorted(squares.items())}


def _scale(config: dict, name: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    alpha = next((v for k, v in patterns.items() if f".{k}." in f".{name}"), config.get("lora_alpha", rank))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
