"""The scope of an adapter is what PEFT marks trainable, and norms over it are those of autograd."""

import peft
import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.gradients import gradient_norms
from holdfast.models import Subject, load_adapter, model_hash
from holdfast.training import GuardedTrainer, cpu_safe_args
from tests.gradients import zoo

EXAMPLES = [
    Example((1, 30, 31, 32), (5, 6, 7)),
    Example((1, 50), (9, 8, 7, 6, 5, 4)),
    Example((1, 12, 13), (5, 20)),
]
CAUSAL = {"task_type": "CAUSAL_LM"}
LORA = {**CAUSAL, "target_modules": ["q_proj", "v_proj"], "r": 4}
METHODS = {
    "lora": lambda: peft.LoraConfig(**LORA),
    "lora, all biases": lambda: peft.LoraConfig(**LORA, bias="all"),
    "lora, its biases": lambda: peft.LoraConfig(**LORA, bias="lora_only"),
    "lora with bias": lambda: peft.LoraConfig(**LORA, lora_bias=True),
    "head and norms saved": lambda: peft.LoraConfig(**LORA, modules_to_save=["lm_head", "norm"]),
    "norms saved, all biases": lambda: peft.LoraConfig(**LORA, modules_to_save=["input_layernorm"], bias="all"),
    "trained tokens": lambda: peft.LoraConfig(**LORA, trainable_token_indices=[5, 6, 7]),
    "only tokens": lambda: peft.TrainableTokensConfig(
        **CAUSAL, token_indices=[5, 6], target_modules=["embed_tokens"]
    ),
    "embeddings": lambda: peft.LoraConfig(**{**LORA, "target_modules": ["q_proj", "embed_tokens"]}),
    "parameters": lambda: peft.LoraConfig(**LORA, target_parameters=["k_proj.weight"]),
    "dora": lambda: peft.LoraConfig(**LORA, use_dora=True),
    "ia3": lambda: peft.IA3Config(
        **CAUSAL, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "vera": lambda: peft.VeraConfig(**CAUSAL, target_modules=["q_proj"], r=8),
    "vblora": lambda: peft.VBLoRAConfig(**CAUSAL, target_modules=["q_proj"], vector_length=4, num_vectors=16),
    "loha": lambda: peft.LoHaConfig(**LORA),
    "lokr": lambda: peft.LoKrConfig(**LORA),
    "adalora": lambda: peft.AdaLoraConfig(**CAUSAL, target_modules=["q_proj"], total_step=10),
    "oft": lambda: peft.OFTConfig(**CAUSAL, target_modules=["q_proj"], r=0, oft_block_size=8),
    "fourier": lambda: peft.FourierFTConfig(**CAUSAL, target_modules=["q_proj"], n_frequency=10),
    "norm tuning": lambda: peft.LNTuningConfig(**CAUSAL, target_modules=["input_layernorm", "norm"]),
}


def wrapped(name):
    """With every trained parameter moved off its start; what PEFT itself marked, by name."""
    model = peft.get_peft_model(zoo.build("llama", bias=True), METHODS[name]()).eval()
    marked = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model, marked


@pytest.mark.parametrize("name", METHODS)
def test_the_scope_is_what_peft_trains_and_its_norms_are_exact(name):
    model, marked = wrapped(name)
    model.requires_grad_(False)  # as an adapter loaded for inference is
    subject = Subject(model)
    assert set(subject.parameters()) == marked
    assert not any(parameter.requires_grad for parameter in model.parameters())
    wanted, _ = zoo.loop_reference(model, marked, EXAMPLES)
    assert zoo.relative_error(gradient_norms(subject, EXAMPLES).grad_norm, wanted) < 1e-5


@pytest.mark.parametrize("name", ["lora, all biases", "trained tokens", "ia3", "head and norms saved"])
def test_a_reloaded_adapter_has_the_same_scope_and_all_of_it_is_trained(name, tmp_path):
    model, marked = wrapped(name)
    model.save_pretrained(tmp_path / "a")
    again = load_adapter(zoo.build("llama", bias=True), tmp_path / "a", trainable=False)
    subject = Subject(again)
    assert set(subject.parameters()) == marked
    before = {key: parameter.detach().clone() for key, parameter in again.named_parameters()}
    args = cpu_safe_args(
        output_dir=str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=3, learning_rate=1e-2
    )
    from tests.conftest import build_tokenizer

    GuardedTrainer(Subject(again, build_tokenizer()), args, EXAMPLES).train()
    moved = {key for key, parameter in again.named_parameters() if not torch.equal(parameter, before[key])}
    assert moved == {key for key in marked if "k_proj.bias" not in key} | (
        moved & marked
    )  # a key's bias does nothing


def test_an_adapter_that_is_off_has_another_hash_whatever_its_method():
    for name in ("ia3", "vera", "head and norms saved", "only tokens"):
        model, _ = wrapped(name)
        on = model_hash(model)
        with model.disable_adapter():
            assert model_hash(model) != on
        assert model_hash(model) == on


def test_a_scope_of_an_adapter_without_one_is_said():
    with pytest.raises(UserError, match="names no parameter"):
        Subject(zoo.build("llama"), scope="adapter").parameters()
