"""The exactness table of selection.md 4.1 for adapters: fresh and trained, every variant, padding, checkpointing.

Reference: each sample alone, unpadded, by `.backward()`.
"""

import warnings

import pytest
import torch

from holdfast.data import pack
from holdfast.gradients import GhostEngine
from tests.gradients.zoo import (
    ARCHITECTURES,
    adapter_names,
    build,
    loop_reference,
    move_adapter,
    padded,
    random_examples,
    relative_error,
    with_lora,
    without_upcasts,
)

TOLERANCE = 1e-5
ATTENTION = [name for name in ARCHITECTURES if name != "mamba"]


def linears(name):
    """All linear layers; in a mixture only those of the attention, since PEFT rewrites experts in place."""
    return ["q_proj", "k_proj", "v_proj", "o_proj"] if name in ("mixtral", "qwen3_moe") else "all-linear"


def adapter(model):
    named = dict(model.named_parameters())
    return {name: named[name] for name in adapter_names(model)}


def scored(model, parameters, batch=None):
    """Norms by the engine; no layer may fall to the generic path."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine = GhostEngine(model, parameters, strict=True)
        return engine.norms(padded(random_examples()) if batch is None else batch).norm_N.numpy()


@pytest.mark.parametrize(
    ("name", "variant", "trained"),
    [
        *((name, variant, True) for name in ATTENTION for variant in ("lora", "dora")),
        # Another scale, and a gradient of A that is zero: of a kind of layer (Linear, Conv1D), not of a family.
        *((name, *kind) for name in ("llama", "gpt2", "mixtral") for kind in (("lora", False), ("rslora", True))),
    ],
)
def test_adapters_on_every_architecture(name, variant, trained):
    model = with_lora(build(name), variant, trained, targets=linears(name))
    parameters = adapter(model)
    assert any("lora_magnitude_vector" in key for key in parameters) == (variant == "dora")
    norms, _ = loop_reference(model, parameters, random_examples())
    assert relative_error(scored(model, parameters), norms) < TOLERANCE


def test_a_fresh_adapter_has_exactly_no_gradient_in_a():
    model = with_lora(build("llama"), trained=False)
    a_only = {name: parameter for name, parameter in adapter(model).items() if "lora_A" in name}
    norms = GhostEngine(model, a_only).norms(padded(random_examples())).norm_N
    assert torch.equal(norms, torch.zeros_like(norms))
    b_only = {name: parameter for name, parameter in adapter(model).items() if "lora_B" in name}
    assert (scored(model, b_only) == scored(model, adapter(model))).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_adapters_and_padding(variant, side):
    model = with_lora(build("qwen2"), variant)
    norms, _ = loop_reference(model, adapter(model), random_examples())
    batch = padded(random_examples(), 3, side, extra=7)
    assert relative_error(scored(model, adapter(model), batch), norms) < TOLERANCE


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_adapters_in_packed_rows(variant):
    model = with_lora(build("qwen3"), variant)
    norms, _ = loop_reference(model, adapter(model), random_examples())
    (batch,) = pack(random_examples(), 90, pad_id=0, rows=9)
    assert relative_error(scored(model, adapter(model), batch), norms[list(batch.index)]) < TOLERANCE


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_adapters_and_checkpointing(name, variant, reentrant):
    model = with_lora(build(name), variant, targets=linears(name))
    norms, _ = loop_reference(model, adapter(model), random_examples())
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()  # frozen embeddings give a reentrant checkpoint nothing to differentiate
    assert relative_error(scored(model, adapter(model)), norms) < TOLERANCE


@pytest.mark.parametrize("tied", [False, True])
def test_the_model_under_an_adapter_together_with_it(tied):
    model = with_lora(build("llama", tied=tied))
    everything = dict(model.named_parameters())
    norms, _ = loop_reference(model, everything, random_examples())
    assert relative_error(scored(model, everything), norms) < TOLERANCE
    assert [name for name, p in model.named_parameters() if p.requires_grad] == adapter_names(model)


def trainable(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"modules_to_save": ["input_layernorm"]},
        {"targets": ["q_proj", "lm_head"]},
        {"layers_to_transform": [1], "targets": ["q_proj"]},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"bias": "all"},
        {"lora_bias": True},
        {"init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_settings_of_the_adapter(settings):
    model = with_lora(build("llama", bias=True), **settings)
    norms, _ = loop_reference(model, trainable(model), random_examples())
    assert relative_error(scored(model, trainable(model)), norms) < TOLERANCE


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_adapters_merged_into_experts_and_routers_stay_exact_on_the_generic_path(name):
    """PEFT adds B A to these weights before each call, so the factors' layers never see a token."""
    model = with_lora(build(name), targets="all-linear")
    norms, _ = loop_reference(model, adapter(model), random_examples())
    engine = GhostEngine(model, adapter(model))
    with pytest.warns(UserWarning, match="generic"):
        result = engine.norms(padded(random_examples()))
    assert relative_error(result.norm_N, norms) < TOLERANCE
    generic = [parameter for parameter, route in engine.routes.items() if route.rule == "generic"]
    assert generic
    assert all(".mlp." in parameter for parameter in generic)


FRESH = [
    ("llama", "lora", "all-linear"),
    ("llama", "dora", "all-linear"),
    ("llama", "lora", ["q_proj", "lm_head"]),
    ("llama", "lora", ["q_proj", "embed_tokens"]),
    ("llama", "dora", ["q_proj", "embed_tokens"]),
    ("gpt2", "dora", "all-linear"),
    ("mixtral", "lora", "all-linear"),
    ("qwen3_moe", "lora", "all-linear"),
]


@pytest.mark.parametrize(("name", "variant", "targets"), FRESH, ids=str)
def test_a_plan_made_on_a_fresh_adapter_holds_after_training(name, variant, targets):
    """While B = 0 the gradient of A is zero, which any rule gets right: it proves nothing."""
    model = with_lora(build(name, tied=False), variant, trained=False, targets=targets)
    engine = GhostEngine(model, adapter(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        engine.norms(padded(random_examples()))
        with torch.random.fork_rng():
            torch.manual_seed(5)
            move_adapter(model)
        norms, _ = loop_reference(model, adapter(model), random_examples())
        assert relative_error(engine.norms(padded(random_examples())).norm_N, norms) < TOLERANCE


def test_an_adapted_embedding_is_used_outside_its_layer_and_stays_exact_on_the_generic_path():
    model = with_lora(build("llama"), targets=["embed_tokens", "q_proj"])
    assert any("lora_embedding_A" in name for name in trainable(model))
    norms, _ = loop_reference(model, trainable(model), random_examples())
    engine = GhostEngine(model, trainable(model))
    with pytest.warns(UserWarning, match="lora_embedding"):
        result = engine.norms(padded(random_examples()))
    assert relative_error(result.norm_N, norms) < TOLERANCE
    assert {"linear", "generic"} == {route.rule for route in engine.routes.values()}


def test_dropout_in_the_adapter_is_off_while_scoring():
    model = with_lora(build("llama"), lora_dropout=0.3)
    norms, _ = loop_reference(model, adapter(model), random_examples())
    assert relative_error(scored(model.train(), adapter(model)), norms) < TOLERANCE
    assert model.training


def test_two_adapters_one_active():
    model = with_lora(build("llama"))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        model.add_adapter("other", model.peft_config["default"])
        model.set_adapter("other")
        for name, parameter in model.named_parameters():
            if "lora_B.other" in name:
                parameter.copy_(0.05 * torch.randn_like(parameter))
    parameters = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert any(".default." in name for name in parameters)
    norms, _ = loop_reference(model, parameters, random_examples())
    assert relative_error(scored(model, parameters), norms) < TOLERANCE


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_adapters_in_float64(variant):
    model = with_lora(without_upcasts(build("llama")), variant).double()
    norms, _ = loop_reference(model, adapter(model), random_examples())
    assert relative_error(scored(model, adapter(model)), norms) < 1e-12
