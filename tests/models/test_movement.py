"""How far an adapter moves a layer, against the matrices themselves."""

import json

import pytest
import torch
from safetensors.torch import save_file

from holdfast.models.movement import layer_movement


@pytest.mark.parametrize("rslora", [False, True])
def test_the_norm_of_a_layer_is_that_of_all_its_matrices(tmp_path, rslora):
    torch.manual_seed(0)
    tensors, changes = {}, {0: [], 3: []}
    for layer, kinds in ((0, ("q_proj", "down_proj")), (3, ("q_proj",))):
        for kind in kinds:
            name, a, b = f"base_model.model.model.layers.{layer}.x.{kind}", torch.randn(4, 7), torch.randn(5, 4)
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            alpha = 6.0 if kind == "down_proj" else 8.0
            changes[layer].append((alpha / (2.0 if rslora else 4.0) * b.double() @ a.double()).flatten())
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.randn(4, 7)  # no layer, no partner
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"lora_alpha": 8, "r": 4, "use_rslora": rslora, "alpha_pattern": {"down_proj": 6}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    moved = layer_movement(tmp_path)
    assert moved == pytest.approx({layer: torch.cat(parts).norm().item() for layer, parts in changes.items()})
    assert list(moved) == [0, 3]
