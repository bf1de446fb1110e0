"""Layers used in ways that a rule by type does not expect: twice, by hand, in place, or of an unknown kind.

The claim of every test is the same: the number is that of the loop, or there is an error; what is slow says so.

Shapes: B rows, T time, H width, V vocab.
"""

import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.gradients import GhostEngine
from tests.gradients.zoo import build, loop_reference, padded, perturb, random_examples, relative_error

TOLERANCE = 1e-5


def named(model: Any, part: str = "") -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if part in name}


def check(model: Any, parameters: Any) -> GhostEngine:
    """Norms equal the loop's, on whatever route."""
    norms, losses = loop_reference(model, parameters, random_examples())
    engine = GhostEngine(model, parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = engine.norms(padded(random_examples()))
    assert relative_error(result.norm_N, norms) < TOLERANCE
    assert relative_error(result.loss_N, losses) < TOLERANCE
    return engine


class BatchStatistics(torch.nn.Module):
    """Centres every feature over the whole batch: a row's loss depends on the other rows."""

    def forward(self, x_BTH: torch.Tensor) -> torch.Tensor:
        return x_BTH - x_BTH.mean((0, 1))


class MeanOverTime(torch.nn.Module):
    """Adds the mean over all positions, padding included: a row's loss depends on how far it is padded."""

    def forward(self, x_BTH: torch.Tensor) -> torch.Tensor:
        return x_BTH + x_BTH.mean(1, keepdim=True)


@pytest.mark.parametrize("layer", [BatchStatistics, MeanOverTime])
def test_rows_that_feel_each_other_are_run_alone(layer):
    model = build("llama")
    block = model.model.layers[0]
    block.mlp = torch.nn.Sequential(block.mlp, layer())
    engine = check(model, named(model))
    assert {route.rule for route in engine.routes.values()} == {"generic"}


class Looping(torch.nn.Module):
    """A causal LM in which a layer can be used twice, rows can be read by hand, and a parameter stand on its own.

    Args:
        repeat: how often the shared layer is applied.
        threshold: rows longer than this go through the shared layer once more (0: never).
        reads_table: the head is a product with the embedding's weight, not a layer.
        scale: a parameter of a layer without a rule.
        in_place: the activation overwrites the shared layer's output.
    """

    def __init__(
        self,
        repeat: int = 1,
        threshold: int = 0,
        reads_table: bool = False,
        scale: bool = False,
        in_place: bool = False,
    ) -> None:
        super().__init__()
        self.config = SimpleNamespace(pad_token_id=0)
        self.embed = torch.nn.Embedding(211, 16)
        self.shared = torch.nn.Linear(16, 16)
        self.scale = Scale(16) if scale else torch.nn.Identity()
        self.norm = torch.nn.LayerNorm(16)
        self.head = None if reads_table else torch.nn.Linear(16, 211, bias=False)
        self.repeat, self.threshold = repeat, threshold
        self.activation = torch.tanh_ if in_place else torch.tanh

    def get_output_embeddings(self) -> Any:
        return self.head

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        h_BTH = self.embed(input_ids).cumsum(1) / 3  # causal
        longer = self.threshold and input_ids.shape[1] > self.threshold
        for _ in range(self.repeat + bool(longer)):
            h_BTH = h_BTH + self.activation(self.shared(h_BTH))
        h_BTH = self.norm(self.scale(h_BTH))
        logits_BTV = h_BTH @ self.embed.weight.T if self.head is None else self.head(h_BTH)
        return SimpleNamespace(logits=logits_BTV)


class Scale(torch.nn.Module):
    """A layer of a kind nobody has heard of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.factor * x)


def looping(**settings: Any) -> Looping:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Looping(**settings)
        perturb(model)
    return model.eval()


class Squared(torch.nn.Linear):
    """Looks linear, and is not in its weight."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(input, self.weight.square(), self.bias)


@pytest.mark.parametrize("first", ["clean", "poisoned"])
def test_a_layer_that_only_looks_linear(first):
    """A first batch that gives no finite number can prove no rule; the plan is still used for the next one."""
    model = looping()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        model.shared = Squared(16, 16)
        model.embed.weight[210] = float("nan")
    poisoned = [Example((210, 210), (210,) * 20, "poisoned"), Example((210,), (210,) * 9, "too")]
    engine = GhostEngine(model, named(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if first == "poisoned":
            assert torch.isnan(engine.norms(padded(poisoned)).norm_N).all()
        examples = [example for example in random_examples() if 210 not in example.input_ids]
        assert len(examples) > 4
        result = engine.norms(padded(examples))
    norms, _ = loop_reference(model, named(model), examples)
    assert relative_error(result.norm_N, norms) < TOLERANCE
    assert engine.routes["shared.weight"].rule == "generic"


@pytest.mark.parametrize("repeat", [1, 2, 3])
def test_a_layer_used_several_times_in_one_forward(repeat):
    model = looping(repeat=repeat)
    engine = check(model, named(model))
    assert {route.rule for route in engine.routes.values()} == {"linear", "embedding", "norm"}


def test_an_activation_that_overwrites_what_the_layer_returned():
    model = looping(in_place=True)
    engine = check(model, named(model))
    assert engine.routes["head.weight"].rule == "linear"
    check(model, named(model, "shared"))
    check(model, named(model, "norm"))


def test_a_layer_used_more_often_on_long_rows_than_when_it_was_planned():
    """Such a model's samples differ by company, so rows of one length are taken; the plan saw short ones."""
    model = looping(threshold=20)
    examples = [Example(tuple(range(5, 25)), tuple(range(30 + k, 36 + k)), str(k)) for k in range(3)]
    norms, _ = loop_reference(model, named(model), examples)
    engine = GhostEngine(model, named(model))
    try:
        found = engine.norms(padded(examples)).norm_N
    except (RuntimeError, UserError):
        return  # loud is well
    assert relative_error(found, norms) < TOLERANCE


@pytest.mark.parametrize("strict", [False, True])
def test_a_layer_of_an_unknown_kind_is_named_once_or_refused_with_three_ways_out(strict):
    model = looping(scale=True)
    engine = GhostEngine(model, named(model), strict=strict)
    if strict:
        with pytest.raises(UserError, match="scale") as raised:
            engine.norms(padded(random_examples()))
        for way in ("rule", "scope", "generic"):
            assert re.search(way, str(raised.value))
        return
    norms, _ = loop_reference(model, named(model), random_examples())
    with pytest.warns(UserWarning) as caught:
        results = [engine.norms(padded(random_examples())) for _ in range(3)]
    assert relative_error(results[-1].norm_N, norms) < TOLERANCE
    about = [str(warning.message) for warning in caught if "generic" in str(warning.message)]
    assert len(about) == 1
    assert "scale" in about[0]
    assert "Scale" in about[0]
    assert {name for name, route in engine.routes.items() if route.rule == "generic"} == {"scale.factor"}


@pytest.mark.parametrize("scope", ["", "embed"])
def test_a_table_that_is_also_read_outside_its_layer(scope):
    model = looping(reads_table=True)
    parameters = named(model, scope)
    norms, _ = loop_reference(model, parameters, random_examples())
    engine = GhostEngine(model, parameters)
    with pytest.warns(UserWarning, match=r"embed\.weight"):
        result = engine.norms(padded(random_examples()))
    assert relative_error(result.norm_N, norms) < TOLERANCE
    assert engine.routes["embed.weight"].rule == "generic"
    with pytest.raises(UserError, match="embed"):
        GhostEngine(model, parameters, strict=True).norms(padded(random_examples()))


def test_two_layers_that_share_a_weight_and_are_not_embedding_and_head():
    model = build("llama")
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    norms, _ = loop_reference(model, named(model), random_examples())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = GhostEngine(model, named(model))
        result = engine.norms(padded(random_examples()))
    assert relative_error(result.norm_N, norms) < TOLERANCE
    slow = [name for name, route in engine.routes.items() if route.rule == "generic"]
    assert bool(slow) == bool(caught)


def test_a_table_shared_by_embedding_head_and_a_third_layer():
    model = build("qwen2")
    table = model.get_input_embeddings().weight

    class Reader(torch.nn.Linear):
        pass

    reader = Reader(table.shape[1], table.shape[0], bias=False)
    reader.weight = table
    block = model.model.layers[0].mlp
    block.reader = reader
    plain = block.forward
    block.forward = lambda x: plain(x) + 0.1 * block.reader(x).softmax(-1)[..., : x.shape[-1]]
    parameters = named(model)
    engine = GhostEngine(model, parameters)
    gradients = []
    batch = padded(random_examples())
    for example in random_examples():  # a deep copy would call the old layer: here the model itself is the loop
        ids_T = torch.tensor(example.input_ids)
        rows = torch.tensor(example.loss_mask)[1:]
        logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits_TV[rows], ids_T[1:][rows])
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients.append(sum(float(g.double().square().sum()) for g in grads if g is not None) ** 0.5)
    with pytest.warns(UserWarning, match="embed_tokens"):
        result = engine.norms(batch)
    assert relative_error(result.norm_N, gradients) < TOLERANCE
