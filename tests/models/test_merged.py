"""Weights with an adapter merged in, against PEFT's own merging of a copy, over kinds of adapters and layers."""

import copy

import peft
import pytest
import torch

from holdfast.models import base_parameters, merged_weights
from tests.gradients import zoo

LINEAR = ["q_proj", "v_proj", "down_proj"]
METHODS = {
    "lora": ("llama", peft.LoraConfig(r=2, target_modules=LINEAR)),
    "lora on Conv1D": ("gpt2", peft.LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "dora": ("llama", peft.LoraConfig(r=2, target_modules=LINEAR, use_dora=True)),
    "saved modules": ("llama", peft.LoraConfig(r=2, target_modules=LINEAR, modules_to_save=["lm_head"])),
    "tokens": ("llama", peft.LoraConfig(r=2, target_modules=LINEAR, trainable_token_indices=[5, 7])),
    "adalora": ("llama", peft.AdaLoraConfig(target_modules=LINEAR, total_step=10)),
    "ia3": ("llama", peft.IA3Config(target_modules=LINEAR, feedforward_modules=["down_proj"])),
    "vera": ("llama", peft.VeraConfig(target_modules=["q_proj"], r=4)),
    "loha": ("llama", peft.LoHaConfig(r=2, target_modules=LINEAR)),
    "oft": ("llama", peft.OFTConfig(target_modules=LINEAR, oft_block_size=4, r=0)),
}


@pytest.mark.parametrize("method", METHODS)
def test_merged_as_peft_merges_and_left_as_it_was(method):
    family, config = METHODS[method]
    base = zoo.build(family)
    plain = {name: parameter.detach().clone() for name, parameter in base.named_parameters()}
    model = peft.get_peft_model(base, config)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = dict(copy.deepcopy(model).merge_and_unload().named_parameters())

    found = base_parameters(model)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    merged = {**found, **merged_weights(model)}
    assert merged.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(merged[name], plain[name]) for name in plain)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
