"""Selection.md 4.2 and 4.3: half precision, and the mistakes that the tests of exactness must be able to see.

A mistake is made either in what the engine is given, or in an independent ghost norm (``hooked_norms``, a few
lines that share no code with the engine) whose unspoilt form is exact.

Shapes: B rows, T time, V vocab, H width, I in-features, O out-features.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from holdfast.data import Batch, pack
from holdfast.gradients import GhostEngine
from holdfast.gradients.rules.linear import LinearRule
from tests.gradients.zoo import (
    HIDDEN,
    build,
    case,
    loop_reference,
    named,
    padded,
    random_examples,
    relative_error,
    with_lora,
)

TOLERANCE = 1e-5
ATTENTION = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "olmo2", "mistral"]
MIXTURES = ["mixtral", "qwen3_moe"]


def engine_error(model: Any, norms: np.ndarray, batch: Batch, parameters: Any = None) -> float:
    """How far the engine's norms, so spoilt, are from those of all parameters on the samples themselves."""
    result = GhostEngine(model, named(model) if parameters is None else parameters).norms(batch)
    return relative_error(result.norm_N, norms[list(batch.index)])


# An independent ghost norm for a Llama with an untied head: inputs by forward hooks, output gradients by autograd.


def sum_of_sample_means(logits_BTV: torch.Tensor, batch: Batch) -> torch.Tensor:
    return per_token(logits_BTV, batch).sum(1).div(labels_of(batch)).sum()


def mean_of_sample_means(logits_BTV: torch.Tensor, batch: Batch) -> torch.Tensor:
    return per_token(logits_BTV, batch).sum(1).div(labels_of(batch)).mean()


def per_token(logits_BTV: torch.Tensor, batch: Batch) -> torch.Tensor:
    shifted_BVT = logits_BTV[:, :-1].transpose(1, 2)
    return F.cross_entropy(shifted_BVT, batch.labels_BT[:, 1:], ignore_index=-100, reduction="none")


def labels_of(batch: Batch) -> torch.Tensor:
    return batch.completion_mask_BT[:, 1:].sum(1)


def hooked_norms(
    model: Any, batch: Batch, loss_of: Callable[..., torch.Tensor] = sum_of_sample_means, **given: Any
) -> np.ndarray:
    """Per-row norms from one backward; every per-sample gradient is formed in full."""
    calls: list[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]] = []

    def keep(module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        calls.append((module, args[0].detach(), output))

    layers = [module for module in model.modules() if dict(module.named_parameters(recurse=False))]
    handles = [module.register_forward_hook(keep) for module in layers]
    given = {"attention_mask": batch.attention_mask_BT, **given}
    output = model(input_ids=batch.input_ids_BT, labels=batch.labels_BT, use_cache=False, **given)
    for handle in handles:
        handle.remove()
    loss = output.loss if loss_of is of_the_model else loss_of(output.logits, batch)
    gradients = torch.autograd.grad(loss, [call[2] for call in calls])
    squares_B = torch.zeros(len(batch), dtype=torch.float64)
    for (module, x, _), g in zip(calls, gradients, strict=True):
        squares_B += weight_gradient(module, x, g).double().flatten(1).square().sum(1)
    return squares_B.sqrt().numpy()


def of_the_model(*_: Any) -> torch.Tensor:
    raise AssertionError("the library's own loss is taken instead")


def weight_gradient(module: torch.nn.Module, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    if isinstance(module, torch.nn.Linear):
        return torch.einsum("bto,bti->boi", g, x)
    if isinstance(module, torch.nn.Embedding):
        rows = torch.zeros(len(x), *module.weight.shape)
        return rows.scatter_add_(1, x[..., None].expand_as(g), g)
    epsilon: Any = module.variance_epsilon
    return (g * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)).sum(1)


def hooked_error(model: Any, *args: Any, **settings: Any) -> float:
    norms, _ = loop_reference(model, named(model), random_examples())
    return relative_error(hooked_norms(model, padded(random_examples()), *args, **settings), norms)


def test_the_independent_ghost_norm_is_exact_until_spoilt():
    model = build("llama")
    assert hooked_error(model) < TOLERANCE
    batch = padded(random_examples())
    ours = GhostEngine(model, named(model)).norms(batch).norm_N
    assert relative_error(ours, hooked_norms(model, batch)) < TOLERANCE


def test_batch_mean_instead_of_the_sum_is_seen():
    error = hooked_error(build("llama"), mean_of_sample_means)
    assert abs(error - 8 / 9) < 1e-4  # a factor of 1/9


def test_the_models_own_token_mean_is_seen():
    model, batch = build("llama"), padded(random_examples())
    norms, _ = loop_reference(model, named(model), random_examples())
    spoilt = hooked_norms(model, batch, of_the_model)
    tokens_B = labels_of(batch).double()
    assert relative_error(spoilt, norms) > 0.5
    assert relative_error(spoilt, norms * (tokens_B / tokens_B.sum()).numpy()) < TOLERANCE  # a factor of n_i / N


def test_the_embedding_left_out_is_seen():
    model, norms, _ = case("llama")
    batch = padded(random_examples())
    rest = {name: parameter for name, parameter in named(model).items() if "embed_tokens" not in name}
    assert engine_error(model, norms, batch) < TOLERANCE
    assert engine_error(model, norms, batch, rest) > 1e-3


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2"])
def test_the_tied_cross_term_left_out_is_seen(name):
    """A tied table's norm without its cross term is the norm of the same model with the table in two copies."""
    model, norms, _ = case(name, tied=True)
    untied = copy.deepcopy(model)
    head = untied.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    spoilt = GhostEngine(untied, named(untied)).norms(padded(random_examples())).norm_N
    assert relative_error(spoilt, norms) > 1e-3
    assert engine_error(model, norms, padded(random_examples())) < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "olmo2", "gemma3"])
def test_the_norm_layers_left_out_are_seen(name):
    """Only a tolerance of 1e-5 or tighter sees them."""
    model, norms, _ = case(name)
    norm_layers = [
        parameter
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for parameter in (f"{path}.{own}" for own, _ in module.named_parameters(recurse=False))
    ]
    assert norm_layers
    rest = {parameter: value for parameter, value in named(model).items() if parameter not in norm_layers}
    assert engine_error(model, norms, padded(random_examples()), rest) > 2 * TOLERANCE


@pytest.mark.parametrize("name", [*ATTENTION, *MIXTURES])
def test_a_packed_row_with_a_plain_causal_mask_is_seen(name):
    model, norms, _ = case(name)
    (batch,) = pack(random_examples(), 400, pad_id=0)
    assert engine_error(model, norms, batch) < TOLERANCE
    running = torch.arange(batch.input_ids_BT.shape[1])[None]  # no restart, so the library sees one long sample
    assert engine_error(model, norms, replace(batch, position_ids_BT=running)) > 1e-3


@pytest.mark.parametrize("name", [*ATTENTION, *MIXTURES])
def test_left_padding_with_neither_mask_nor_positions_is_seen(name):
    model, norms, _ = case(name)
    batch = padded(random_examples(), side="left", extra=7)
    assert engine_error(model, norms, batch) < TOLERANCE
    unmasked = replace(batch, attention_mask_BT=torch.ones_like(batch.attention_mask_BT))
    assert engine_error(model, norms, unmasked) > 1e-3


def test_left_padding_with_one_of_mask_and_positions_is_no_mistake():
    model = build("llama")
    norms, _ = loop_reference(model, named(model), random_examples())
    batch = padded(random_examples(), side="left", extra=7)
    positions_BT = (batch.attention_mask_BT.cumsum(1) - 1).clamp(min=0)
    ones_BT = torch.ones_like(batch.attention_mask_BT)
    assert relative_error(hooked_norms(model, batch), norms) < TOLERANCE
    by_position = hooked_norms(model, batch, position_ids=positions_BT, attention_mask=None)
    assert relative_error(by_position, norms) < TOLERANCE
    assert relative_error(hooked_norms(model, batch, attention_mask=ones_BT), norms) > 1e-2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_active_attention_dropout_is_seen_and_the_engine_keeps_it_off(attention):
    model = build("llama", attention_dropout=0.1, attn_implementation=attention)
    norms, _ = loop_reference(model, named(model), random_examples())
    assert hooked_error(model) < TOLERANCE
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert hooked_error(model) > 1e-3
    assert engine_error(model, norms, padded(random_examples())) < TOLERANCE
    model.gradient_checkpointing_enable()  # wants training mode, in which dropout would be on
    assert engine_error(model, norms, padded(random_examples())) < TOLERANCE
    assert model.training


# Half precision.


def bf16(model: Any) -> Any:
    return copy.deepcopy(model).to(torch.bfloat16)


@pytest.mark.parametrize("name", ATTENTION)
def test_bfloat16_models_follow_their_own_loop_and_that_of_float32(name):
    model, exact, _ = case(name)
    half = bf16(model)
    examples = random_examples()
    engine = GhostEngine(half, named(half), strict=True)
    norms = engine.norms(padded(examples)).norm_N
    own, _ = loop_reference(half, named(half), examples)
    assert relative_error(norms, own) < 5e-3
    assert relative_error(norms, exact) < 2e-2
    assert 1e-6 < relative_error(own, exact) < 2e-2  # the noise floor; that it is there shows bfloat16 was used


@pytest.mark.parametrize("name", ["gemma3", "olmo2", "llama", "gpt2"])
def test_a_float32_adapter_on_a_bfloat16_base_keeps_its_rules(name):
    """What PEFT makes of every bfloat16 checkpoint: the adapter is wide, the noise that of the base."""
    wrapped = with_lora(bf16(build(name)))
    parameters = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    norms = GhostEngine(wrapped, parameters, strict=True).norms(padded(random_examples())).norm_N
    own, _ = loop_reference(wrapped, parameters, random_examples())
    assert relative_error(norms, own) < 1e-2


@pytest.mark.parametrize("name", MIXTURES)
def test_bfloat16_mixtures_follow_their_own_loop(name):
    """No claim against float32: a rounded router may send a token to another expert."""
    half = bf16(build(name))
    engine = GhostEngine(half, named(half), strict=True)
    norms = engine.norms(padded(random_examples())).norm_N
    own, _ = loop_reference(half, named(half), random_examples())
    assert relative_error(norms, own) < 2e-2


def test_products_of_bfloat16_tensors_are_accumulated_in_float32():
    """Rounding every layer's square to bfloat16 costs up to 2^-9; here the sum itself is wide."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(HIDDEN, HIDDEN, bias=True, dtype=torch.bfloat16)
    for tokens in (8, 300):
        x, g = (torch.randn(4, tokens, HIDDEN, generator=generator).bfloat16() for _ in range(2))
        found = LinearRule().squares(layer, (x,), g, ("weight", "bias"))
        rows = torch.einsum("nso,nsi->noi", g.double(), x.double())
        assert relative_error(found["weight"], rows.square().sum((1, 2))) < TOLERANCE
        assert relative_error(found["bias"], g.double().sum(1).square().sum(1)) < TOLERANCE


@pytest.mark.parametrize("planned", ["inside", "outside"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_autocast_follows_float32(name, planned):
    model, exact, _ = case(name)
    engine = GhostEngine(model, named(model), strict=True)
    if planned == "outside":
        engine.plan(padded(random_examples()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        norms = engine.norms(padded(random_examples())).norm_N
    error = relative_error(norms, exact)
    assert 1e-6 < error < 2e-2


def test_bfloat16_keeps_the_order_of_samples():
    from scipy.stats import spearmanr

    model, examples = build("llama"), random_examples(32, seed=1) + random_examples(32, seed=2)
    half = bf16(model)
    coarse = GhostEngine(half, named(half)).norms(padded(examples)).norm_N
    exact = GhostEngine(model, named(model)).norms(padded(examples)).norm_N
    agreement: Any = spearmanr(coarse, exact)
    assert agreement.statistic >= 0.999
