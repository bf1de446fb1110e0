"""One pass that scores, selects and differentiates, against ordinary training on the kept samples.

Reference: a batched `.backward()` of the kept samples' loss on a copy of the model, taken from the logits.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from holdfast.data import pack
from holdfast.gradients import GhostEngine, one_pass
from tests.gradients.zoo import (
    ARCHITECTURES,
    adapter_names,
    build,
    case,
    loop_reference,
    padded,
    random_examples,
    relative_error,
    with_lora,
)

ATTENTION = [name for name in ARCHITECTURES if name != "mamba"]
KEPT = (7, 0, 3)


def everybody(loss_N, norm_N, tokens_N):
    return range(len(loss_N))


def some(loss_N, norm_N, tokens_N):
    return KEPT


def trained_on(model, parameters, examples, weighting):
    """Loss and gradients of an ordinary step, by name."""
    model = copy.deepcopy(model).eval()
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        parameter.requires_grad_(name in parameters)
        parameter.grad = None
    batch = padded(examples)
    output = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False)
    targets_BT = batch.labels_BT[:, 1:]
    nll_BT = F.cross_entropy(
        output.logits[:, :-1].transpose(1, 2), targets_BT, ignore_index=-100, reduction="none"
    )
    tokens_B = (targets_BT != -100).sum(1)
    loss = nll_BT.sum() / tokens_B.sum() if weighting == "tokens" else (nll_BT.sum(1) / tokens_B).mean()
    loss.backward()
    grads = {name: named[name].grad for name in parameters}
    return loss.item(), {n: torch.zeros_like(named[n]) if g is None else g for n, g in grads.items()}


def distance(found, expected):
    """Norm of the difference over the norm, all parameters together."""
    assert list(found) == list(expected)
    difference = sum(float((found[n].double() - expected[n].double()).square().sum()) for n in expected)
    return math.sqrt(difference / sum(float(g.double().square().sum()) for g in expected.values()))


def worst_parameter(found, expected):
    """The same for each parameter alone, against its own norm and a millionth of the whole."""
    total = math.sqrt(sum(float(g.double().square().sum()) for g in expected.values()))
    off = {n: float((found[n] - g).norm()) / (float(g.norm()) + 1e-3 * total) for n, g in expected.items()}
    return max(off.values())


@pytest.mark.parametrize("weighting", ["tokens", "samples"])
@pytest.mark.parametrize("name", ATTENTION)
def test_keeping_everybody_is_the_ordinary_gradient(name, weighting):
    model, norms, losses = case(name)
    parameters = dict(model.named_parameters())
    examples = random_examples()
    one = one_pass(GhostEngine(model, parameters, strict=True), padded(examples), everybody, weighting)
    loss, grads = trained_on(model, parameters, examples, weighting)
    assert one.kept == tuple(range(9))
    assert distance(one.gradients, grads) < 1e-6
    assert worst_parameter(one.gradients, grads) < 1e-5
    assert math.isclose(one.loss, loss, rel_tol=1e-6)
    assert relative_error(one.norms.norm_N, norms) < 1e-5
    assert relative_error(one.norms.loss_N, losses) < 1e-5
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("tied", "weighting"), [(False, "tokens"), (True, "samples")])
@pytest.mark.parametrize("name", ATTENTION)
def test_keeping_some_is_training_on_these(name, tied, weighting):
    model = build(name, tied=tied)
    parameters = dict(model.named_parameters())
    examples = random_examples()
    one = one_pass(GhostEngine(model, parameters), padded(examples), some, weighting)
    loss, grads = trained_on(model, parameters, [examples[k] for k in KEPT], weighting)
    assert one.kept == KEPT
    assert distance(one.gradients, grads) < 1e-5
    assert math.isclose(one.loss, loss, rel_tol=1e-5)
    _, others = trained_on(model, parameters, examples, weighting)
    assert distance(one.gradients, others) > 0.1  # the choice mattered


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_adapters(name, variant):
    model = with_lora(build(name), variant)
    named = dict(model.named_parameters())
    parameters = {key: named[key] for key in adapter_names(model)}
    examples = random_examples()
    one = one_pass(GhostEngine(model, parameters), padded(examples), some)
    _, grads = trained_on(model, parameters, [examples[k] for k in KEPT], "tokens")
    assert distance(one.gradients, grads) < 1e-5
    assert relative_error(one.norms.norm_N, loop_reference(model, parameters, examples)[0]) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "mixtral"])
def test_packed_rows(name):
    model = build(name)
    parameters = dict(model.named_parameters())
    examples = random_examples()
    (batch,) = pack(examples, 90, pad_id=0, rows=9)
    one = one_pass(GhostEngine(model, parameters), batch, some)
    _, grads = trained_on(model, parameters, [examples[batch.index[k]] for k in KEPT], "tokens")
    assert distance(one.gradients, grads) < 1e-5


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "qwen3_moe"])
def test_checkpointing(name, reentrant):
    model = build(name)
    parameters = dict(model.named_parameters())
    examples = random_examples()
    _, grads = trained_on(model, parameters, [examples[k] for k in KEPT], "tokens")
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    one = one_pass(GhostEngine(model, parameters), padded(examples), some)
    assert distance(one.gradients, grads) < 1e-5


def test_the_generic_path_joins_in():
    model = build("mamba")
    parameters = dict(model.named_parameters())
    examples = random_examples()
    with pytest.warns(UserWarning, match="generic"):
        one = one_pass(GhostEngine(model, parameters), padded(examples), some)
    _, grads = trained_on(model, parameters, [examples[k] for k in KEPT], "tokens")
    assert distance(one.gradients, grads) < 1e-5
    assert worst_parameter(one.gradients, grads) < 1e-5


def test_the_score_may_be_of_sums_while_the_update_is_not():
    model = build("llama")
    parameters = dict(model.named_parameters())
    examples = random_examples()
    seen = []

    def choose(loss_N, norm_N, tokens_N):
        seen.append(norm_N)
        return KEPT

    one = one_pass(GhostEngine(model, parameters), padded(examples), choose, reduction="sum")
    norms, _ = loop_reference(model, parameters, examples, "sum")
    assert relative_error(seen[0], norms) < 1e-5
    assert relative_error(one.norms.norm_N, norms) < 1e-5
    _, grads = trained_on(model, parameters, [examples[k] for k in KEPT], "tokens")
    assert distance(one.gradients, grads) < 1e-5


def test_float64_where_nothing_inside_is_float32():
    model = build("gpt2", dtype=torch.float64)
    parameters = dict(model.named_parameters())
    examples = random_examples()
    one = one_pass(GhostEngine(model, parameters), padded(examples), everybody)
    _, grads = trained_on(model, parameters, examples, "tokens")
    assert distance(one.gradients, grads) < 1e-12
