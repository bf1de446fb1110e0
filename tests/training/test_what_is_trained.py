"""What is trained is what was marked: PEFT's biases, token rows and modules, and a user's frozen layers."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.sft_trainer import SFTTrainer

from holdfast.models import Subject
from holdfast.training import GuardedTrainer, dataset_from_examples
from tests.training.weights import largest_difference, weights

CONFIGS = {
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "token rows": {"trainable_token_indices": "of the first row"},
    "whole module": {"modules_to_save": ["lm_head"]},
}


@pytest.fixture
def biased(tiny_model):
    """A model that has biases, which its adapter may train."""
    from transformers import LlamaForCausalLM

    config = copy.deepcopy(tiny_model.config)
    config.attention_bias = config.mlp_bias = True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(("name", "scope"), [*((name, "auto") for name in CONFIGS), ("bias all", "adapter")])
def test_an_adapter_trains_what_peft_marks(biased, tiny_tokenizer, options, examples, name, scope):
    further = dict(CONFIGS[name])
    if "trainable_token_indices" in further:
        further["trainable_token_indices"] = sorted(set(examples[0].input_ids))
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **further)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = get_peft_model(biased, config)
    stock = copy.deepcopy(ours)
    before = weights(Subject(ours))
    marked = {name for name, p in ours.named_parameters() if p.requires_grad}
    SFTTrainer(
        model=stock,
        args=options(max_steps=2),
        train_dataset=dataset_from_examples(examples),
        processing_class=tiny_tokenizer,
    ).train()
    GuardedTrainer(Subject(ours, tiny_tokenizer, scope), options(max_steps=2), examples).train()
    after = weights(Subject(ours))
    assert largest_difference(after, weights(Subject(stock))) == 0.0
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved <= marked and any("lora_" not in name for name in moved)


def test_a_users_frozen_layers_stay_frozen(build, options, examples):
    subject = build()
    for name, parameter in subject.model.named_parameters():
        parameter.requires_grad_(".layers.1." in name)
    before = weights(subject)
    GuardedTrainer(subject, options(max_steps=1), examples).train()
    moved = {name for name, p in weights(subject).items() if not torch.equal(p, before[name])}
    assert moved and all(".layers.1." in name for name in moved)
