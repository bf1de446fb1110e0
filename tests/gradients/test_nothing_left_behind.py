"""Checkpointed activations, and what scoring leaves behind on a model: nothing, also after an error.

Reference for numbers: each sample alone, unpadded, by `.backward()` (selection.md 4.1).
"""

import copy
import warnings

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from holdfast.gradients import GhostEngine
from tests.gradients.zoo import (
    ARCHITECTURES,
    case,
    hooked_state,
    loop_reference,
    named,
    padded,
    random_examples,
    relative_error,
)

TOLERANCE = 1e-5
ATTENTION = [name for name in ARCHITECTURES if name != "mamba"]


# Checkpointing.


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ATTENTION)
def test_checkpointing_changes_nothing(name, reentrant):
    model, norms, _ = case(name)
    model = copy.deepcopy(model).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    calls = []
    block = next(module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
    next(iter(block.children())).register_forward_hook(lambda *_: calls.append(1))
    engine = GhostEngine(model, named(model), strict=True)
    engine.plan(padded(random_examples()))
    calls.clear()
    result = engine.norms(padded(random_examples()))
    assert relative_error(result.norm_N, norms) < TOLERANCE
    assert len(calls) == 2  # once forward, once again on the way back: it really was checkpointed
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_with_only_the_last_block_in_scope(reentrant):
    model = case("llama")[0]
    model = copy.deepcopy(model).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()  # the library's own condition for frozen lower layers
    last = named(model, "layers.1.")
    norms, _ = loop_reference(model, last, random_examples())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # no layer may fall to the generic path
        result = GhostEngine(model, last, strict=True).norms(padded(random_examples()))
    assert relative_error(result.norm_N, norms) < TOLERANCE


# What is left behind.


class Broken(RuntimeError):
    pass


def forward_breaks(model):
    def raising(*_):
        raise Broken("forward")

    return model.get_submodule("model.layers.1.mlp").register_forward_hook(raising)


def backward_breaks(model):
    def raising(_module, _inputs, output):
        if output.requires_grad:
            output.register_hook(backward_raises)

    return model.get_submodule("model.layers.1.mlp").register_forward_hook(raising)


def backward_raises(_grad):
    raise Broken("backward")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("breaks", [None, forward_breaks, backward_breaks])
def test_grads_hooks_forwards_and_flags_are_as_before_also_after_an_error(breaks, checkpointing):
    model = copy.deepcopy(case("llama")[0]).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.model.layers[0].mlp.requires_grad_(False)
    model.model.layers[1].eval()
    parameters = {name: parameter for name, parameter in named(model).items() if parameter.requires_grad}
    for parameter in list(parameters.values())[::2]:
        parameter.grad = torch.randn_like(parameter)
    grads = {name: (parameter.grad, copy.deepcopy(parameter.grad)) for name, parameter in parameters.items()}
    values = copy.deepcopy(model.state_dict())
    engine = GhostEngine(model, parameters)
    batch = padded(random_examples())
    engine.plan(batch)
    state, seed = hooked_state(model), torch.get_rng_state()
    if breaks is None:
        engine.norms(batch)
    else:
        handle = breaks(model)
        with pytest.raises(Broken):
            engine.norms(batch)
        with pytest.raises(Broken):  # while planning too
            GhostEngine(model, parameters).norms(batch)
        handle.remove()
    assert hooked_state(model) == state
    assert torch.equal(torch.get_rng_state(), seed)
    assert torch.is_grad_enabled()
    for name, (grad, contents) in grads.items():
        assert parameters[name].grad is grad
        assert grad is None or torch.equal(grad, torch.as_tensor(contents))
    assert all(torch.equal(values[name], value) for name, value in model.state_dict().items())


def test_scoring_works_inside_no_grad_and_inside_an_accumulating_step():
    model = copy.deepcopy(case("qwen2")[0])
    norms = case("qwen2")[1]
    engine = GhostEngine(model, named(model))
    batch = padded(random_examples())
    with torch.no_grad():
        assert relative_error(engine.norms(batch).norm_N, norms) < TOLERANCE
    loss = model(input_ids=batch.input_ids_BT[:2], use_cache=False).logits.square().mean()
    twin = copy.deepcopy(model)
    assert relative_error(engine.norms(batch).norm_N, norms) < TOLERANCE  # a graph is waiting meanwhile
    loss.backward()
    twin(input_ids=batch.input_ids_BT[:2], use_cache=False).logits.square().mean().backward()
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=0)
