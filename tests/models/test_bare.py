"""Without its adapter a model is its base, or holdfast says that it is not."""

import logging

import peft
import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.evaluation import Reference, drift
from holdfast.models import (
    Subject,
    adapter_off,
    adapter_off_is_base,
    add_lora,
    load_adapter,
    model_hash,
    save_adapter,
)
from holdfast.models.bare import trained_beside
from tests.gradients.zoo import build

IDS = torch.tensor([[1, 30, 31, 32, 33, 34]])
TARGETS = ["q_proj", "v_proj"]
LORA = {"target_modules": TARGETS, "task_type": "CAUSAL_LM"}
CONFIGS = {
    "lora": lambda: peft.LoraConfig(**LORA),
    "bias=all": lambda: peft.LoraConfig(bias="all", **LORA),
    "bias=lora_only": lambda: peft.LoraConfig(bias="lora_only", **LORA),
    "norms and head saved": lambda: peft.LoraConfig(modules_to_save=["input_layernorm", "lm_head"], **LORA),
    "norms saved, bias=all": lambda: peft.LoraConfig(modules_to_save=["norm"], bias="all", **LORA),
    "tokens": lambda: peft.LoraConfig(trainable_token_indices=[30, 31], **LORA),
    "dora": lambda: peft.LoraConfig(use_dora=True, **LORA),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    ),
    "vera": lambda: peft.VeraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "boft with biases": lambda: peft.BOFTConfig(
        target_modules=TARGETS, boft_block_size=8, bias="boft_only", task_type="CAUSAL_LM"
    ),
    "pissa": lambda: peft.LoraConfig(init_lora_weights="pissa", **LORA),
    "olora": lambda: peft.LoraConfig(init_lora_weights="olora", **LORA),
    "norm tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM"),
}


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def trained(base, config, size=0.2):
    """A PEFT model from outside, with all that PEFT trains moved."""
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loaded_adapter_switched_off_is_the_base(name, tmp_path):
    base = build("llama", bias=True)
    before = logits(base)
    trained(build("llama", bias=True), CONFIGS[name]()).save_pretrained(tmp_path / "a")
    model = load_adapter(base, tmp_path / "a")
    on, flags, digest = logits(model), [p.requires_grad for p in model.parameters()], model_hash(model)
    assert float((on - before).abs().max()) > 1e-5
    assert adapter_off_is_base(model) is None
    with adapter_off(model):
        assert torch.equal(logits(model), before)
        assert model_hash(model) != digest
    assert torch.equal(logits(model), on)
    assert [p.requires_grad for p in model.parameters()] == flags and model_hash(model) == digest


@pytest.mark.parametrize("name", ["bias=all", "bias=lora_only", "norms saved, bias=all", "boft with biases"])
def test_biases_trained_elsewhere_are_not_called_the_base(name):
    """PEFT's switch alone reads a drift of zero here, where the truth is far from it."""
    model = trained(build("llama", bias=True), CONFIGS[name]())
    assert "nobody kept a copy" in adapter_off_is_base(model)
    with pytest.raises(UserError, match="not its base"), adapter_off(model):
        pass
    with pytest.raises(UserError, match="load the base with its adapter"):
        Reference.on(Subject(model), [], source="adapter_off")


@pytest.mark.parametrize("name", ["lora", "norms and head saved", "tokens", "ia3", "vera", "norm tuning"])
def test_what_pefts_switch_does_undo_passes_without_a_note(name):
    before = logits(build("llama", bias=True))
    model = trained(build("llama", bias=True), CONFIGS[name]())
    assert adapter_off_is_base(model) is None
    with adapter_off(model):
        assert torch.equal(logits(model), before)


def test_training_beside_the_adapter_is_measured_against_a_stored_reference(tiny_examples, caplog):
    """A fresh adapter that trains biases, and one whose base is trained too: right before, during and after."""
    base = Subject(build("llama", bias=True, vocab_size=400))
    stored = Reference.on(base, tiny_examples)
    wanted = drift(Subject(moved_biases(build("llama", bias=True, vocab_size=400))), stored).kl_nats
    subject = Subject(peft.get_peft_model(build("llama", bias=True, vocab_size=400), CONFIGS["bias=all"]()).eval())
    with caplog.at_level(logging.WARNING):
        reference = Reference.on(subject, tiny_examples, source="adapter_off")
    assert reference.source == "stored" and "trained beside the adapter" in caplog.text
    assert drift(subject, reference).kl_nats == pytest.approx(0.0, abs=1e-9)
    moved_biases(subject.model)
    assert drift(subject, reference).kl_nats == pytest.approx(wanted, rel=1e-4) and wanted > 1e-3
    whole = Subject(add_lora(build("llama", vocab_size=400)), scope="all")
    assert Reference.on(whole, tiny_examples, source="adapter_off").source == "stored"
    assert Reference.on(Subject(whole.model), tiny_examples, source="adapter_off").source == "adapter_off"


def moved_biases(model):
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def test_a_base_that_moved_after_loading_is_noticed():
    model = add_lora(build("llama"), rank=2)
    assert adapter_off_is_base(Subject(model)) is None
    weight = next(p for n, p in model.named_parameters() if n.endswith("q_proj.base_layer.weight"))
    weight.data += 0.1 * torch.randn_like(weight)
    assert "not those noted" in adapter_off_is_base(Subject(model))
    weight.requires_grad_(True)
    assert trained_beside(model) == [n for n, p in model.named_parameters() if p is weight]
    with pytest.raises(UserError, match="not its base"), adapter_off(model):
        pass


def test_biases_trained_on_after_loading_are_put_back(tmp_path):
    base = build("llama", bias=True)
    before = logits(base)
    peft.get_peft_model(build("llama", bias=True), CONFIGS["bias=all"]()).save_pretrained(tmp_path / "fresh")
    model = moved_biases(load_adapter(base, tmp_path / "fresh"))
    on = logits(model)
    with adapter_off(model):
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), on) and not torch.allclose(on, before, atol=1e-2)


def test_several_merged_and_transformers_own_adapters():
    before = logits(build("llama"))
    model = trained(build("llama"), CONFIGS["lora"]())
    model.add_adapter("second", peft.LoraConfig(**LORA))
    assert not any(".second." in name for name in Subject(model).parameters())
    model.set_adapter("second")
    assert all(".second." in name for name in Subject(model).parameters())
    with adapter_off(model):
        assert torch.equal(logits(model), before)
    model.set_adapter("default")
    model.merge_adapter()
    with adapter_off(model):
        assert torch.allclose(logits(model), before, atol=1e-5)
    half = trained(build("llama", dtype=torch.bfloat16), CONFIGS["lora"]())
    half.merge_adapter()
    assert "half-precision" in adapter_off_is_base(half)
    own = build("llama")
    own.add_adapter(CONFIGS["lora"]())
    for name, parameter in own.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    assert all("lora_" in name for name in Subject(own).parameters())
    on = logits(own)
    with adapter_off(own):
        assert torch.equal(logits(own), before)
    assert torch.equal(logits(own), on) and not torch.equal(on, before)


def test_dropout_left_on_does_not_reach_the_check():
    model = peft.get_peft_model(build("llama", attention_dropout=0.5), peft.LoraConfig(lora_dropout=0.5, **LORA))
    model.train()
    assert adapter_off_is_base(model) is None and model.training


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, task_type="CAUSAL_LM"),
        peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM"),
    ],
)
def test_adapters_that_are_not_in_the_layers_are_refused_in_one_line(config, tmp_path):
    model = peft.get_peft_model(build("llama"), config)
    with pytest.raises(UserError, match=r"adapter.*use an adapter in the layers") as error:
        Subject(model)
    assert "\n" not in str(error.value)
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match="use an adapter in the layers"):
        load_adapter(build("llama"), tmp_path / "a")


def test_a_saved_adapter_keeps_its_trained_biases(tmp_path):
    model = trained(build("llama", bias=True), CONFIGS["bias=all"]())
    save_adapter(model, tmp_path / "a")
    assert torch.equal(logits(load_adapter(build("llama", bias=True), tmp_path / "a")), logits(model))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_whose_start_rewrote_the_base_is_not_switched_off_in_silence(start, tmp_path):
    """Such a LoRA takes something out of the base's weights: without the adapter it is missing."""
    model = trained(build("llama", bias=True), CONFIGS[start]())
    assert "rewrote the base's weights" in adapter_off_is_base(model)
    with pytest.raises(UserError, match="not its base"), adapter_off(model):
        pass
    model.save_pretrained(tmp_path / "late")
    trained(build("llama", bias=True), CONFIGS["lora"]()).save_pretrained(tmp_path / "a")
    loaded = load_adapter(build("llama", bias=True), tmp_path / "a")
    loaded.load_adapter(str(tmp_path / "late"), "late")  # past us, after the base was noted
    with pytest.raises(UserError, match="'late'"), adapter_off(loaded):
        pass


@pytest.mark.parametrize("noted", [True, False])
def test_an_adapter_that_was_unloaded_into_the_weights_cannot_be_switched_off(noted):
    """PEFT leaves its name on the model; the drift of such a model from itself is 0."""
    model = add_lora(build("llama"), rank=2) if noted else trained(build("llama"), CONFIGS["lora"]())
    model.merge_and_unload()
    assert "in no layer any more" in adapter_off_is_base(model)
    with pytest.raises(UserError, match="in no layer any more"), adapter_off(model):
        pass


def test_a_base_that_cannot_be_had_again_is_noticed_as_the_adapter_is_put_on(monkeypatch, tmp_path):
    from holdfast.models import adapters

    trained(build("llama", bias=True), CONFIGS["pissa"]()).save_pretrained(tmp_path / "a")
    monkeypatch.setattr(adapters, "moves_base", lambda config: False)  # a method that nobody has heard of yet
    model = load_adapter(build("llama", bias=True), tmp_path / "a")
    assert "changed the base's own weights" in adapter_off_is_base(model)
    with pytest.raises(UserError, match="not its base"), adapter_off(model):
        pass
