"""A model small enough to write its Jacobian down: vocabulary 24, width 16, two layers."""

import random

import pytest
import torch

from holdfast.data import Example
from holdfast.models import Subject, add_lora, lora_pairs

VOCAB = 24


def build_model(seed=0, spread=0.2):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=32,
                initializer_range=spread,  # 0.2: large enough that attention and curvature are not nearly linear
            )
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def build_lora(seed=0):
    model = add_lora(build_model(seed), rank=2, alpha=4, seed=0)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for _, b_OR, _ in lora_pairs(model).values():
            b_OR.copy_(0.2 * torch.randn_like(b_OR))
    return model


def random_examples(n, seed=0, completion=5):
    rng = random.Random(seed)
    return [
        Example(
            tuple(rng.randrange(VOCAB) for _ in range(rng.randint(1, 6))),
            tuple(rng.randrange(VOCAB) for _ in range(rng.randint(1, completion))),
            f"row {k}",
        )
        for k in range(n)
    ]


@pytest.fixture(params=["some layers", "lora"])
def subject(request):
    if request.param == "lora":
        return Subject(build_lora())
    return Subject(build_model(), None, "*layers.1.self_attn.*,*mlp.down_proj*,*norm*,*embed*")


@pytest.fixture
def examples():
    inner = Example((5, 6, 7), (8, 9, 10, 11), "middle only", (False, True, True, False))
    return [*random_examples(4), inner, Example((9, 8), (), "nothing to learn")]
