"""The exactness table of selection.md 4.1: every row, against each sample alone, unpadded, by `.backward()`.

The tolerances are the table's. Stock models cast to float64 are held to 1e-6, since they compute norms in float32
inside; with these replaced (``zoo.without_upcasts``) the table's 1e-12 applies.
"""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.data import pack
from holdfast.gradients import GhostEngine, batch_gradient_norms
from holdfast.gradients.rules.linear import LinearRule
from tests.gradients.zoo import (
    ARCHITECTURES,
    RECIPES,
    VOCAB,
    build,
    case,
    case_gradients,
    kinds_of,
    loop_reference,
    named,
    padded,
    random_examples,
    relative_error,
    without_upcasts,
)

TOLERANCE = 1e-5
DOUBLE = 1e-12
ATTENTION = [name for name in ARCHITECTURES if name != "mamba"]
MIXTURES = ("mixtral", "qwen3_moe")
WITH_BIASES = [name for name, recipe in RECIPES.items() if recipe[3] and name != "mamba"]


def scored(model: Any, parameters: Any = None, batch: Any = None) -> np.ndarray:
    """Norms by the engine; that every parameter has a rule is part of the claim."""
    engine = GhostEngine(model, named(model) if parameters is None else parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = engine.norms(padded(random_examples()) if batch is None else batch)
    assert all(route.rule != "generic" for route in engine.routes.values()), engine.routes
    return result.norm_N.numpy()


# Architectures.


@pytest.mark.parametrize("name", ATTENTION)
def test_a_ragged_batch_gives_the_norms_of_single_samples_and_every_layer_has_a_rule(name):
    model, norms, losses = case(name)
    examples = random_examples()
    tokens = np.array([example.completion_tokens for example in examples])
    engine = GhostEngine(model, named(model), strict=True)
    means, sums = engine.norms(padded(examples)), engine.norms(padded(examples), "sum")
    assert relative_error(means.norm_N, norms) < TOLERANCE
    assert relative_error(sums.norm_N, norms * tokens) < TOLERANCE
    for result in (means, sums):
        assert relative_error(result.loss_N, losses) < TOLERANCE
        assert result.tokens_N.tolist() == tokens.tolist()
    assert set(engine.routes) == set(named(model))
    assert all(route.rule != "generic" for route in engine.routes.values())


def test_a_state_space_model_takes_the_generic_path_says_so_once_and_is_exact():
    model, norms, losses = case("mamba")
    engine = GhostEngine(model, named(model))
    results = []
    with pytest.warns(UserWarning, match="MambaMixer") as caught:
        for example in random_examples():
            results.append(engine.norms(padded([example])))
    assert sum("generic" in str(warning.message) for warning in caught) == 1
    assert relative_error([result.norm_N[0] for result in results], norms) < TOLERANCE
    assert relative_error([result.loss_N[0] for result in results], losses) < TOLERANCE
    rules = {name: route.rule for name, route in engine.routes.items()}
    for part in ("A_log", "mixer.D", "conv1d", "dt_proj"):
        assert {rule for name, rule in rules.items() if part in name} == {"generic"}


@pytest.mark.parametrize("name", ATTENTION)
def test_leaving_out_any_kind_of_layer_is_seen_at_this_tolerance(name):
    """Otherwise the tests above would pass without that layer's rule."""
    model, norms, _ = case(name)
    gradients = case_gradients(name)
    for kind, members in kinds_of(model).items():
        squares = [
            sum(float(g.double().square().sum()) for n, g in row.items() if n not in members) for row in gradients
        ]
        assert relative_error(np.sqrt(squares), norms) > 2 * TOLERANCE, kind


@pytest.mark.parametrize("name", ATTENTION)
def test_tied_and_untied(name):
    """The recipe's own choice is in the tests above; this is the other one."""
    tied = not build(name).config.tie_word_embeddings
    model, norms, _ = case(name, tied=tied)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert relative_error(scored(model), norms) < TOLERANCE


@pytest.mark.parametrize("name", WITH_BIASES)
def test_biases_on_the_linear_layers(name):
    model, norms, _ = case(name, bias=True)
    assert any(parameter.endswith("proj.bias") or "dense.bias" in parameter for parameter in named(model))
    assert relative_error(scored(model), norms) < TOLERANCE


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", MIXTURES)
def test_every_way_to_run_experts(name, experts):
    model, norms, _ = case(name, experts_implementation=experts)
    assert model.config._experts_implementation == experts
    assert relative_error(scored(model), norms) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in ATTENTION if name != "gemma2"])
def test_eager_attention(name):
    model, norms, _ = case(name, attn_implementation="eager")
    assert relative_error(scored(model), norms) < TOLERANCE


def test_sums_of_losses_have_a_loop_of_their_own():
    model = case("qwen2")[0]
    norms, _ = loop_reference(model, named(model), random_examples(), "sum")
    result = GhostEngine(model, named(model)).norms(padded(random_examples()), "sum")
    assert relative_error(result.norm_N, norms) < TOLERANCE


# Precision.


@pytest.mark.parametrize("name", ATTENTION)
def test_stock_models_in_float64(name):
    # The default kernel for experts knows no float64.
    settings = {"experts_implementation": "eager"} if name in MIXTURES else {}
    model, norms, _ = case(name, dtype=torch.float64, **settings)
    assert relative_error(scored(model), norms) < 1e-6


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "qwen3", "gemma3", "phi3", "gpt2", "gpt_neox", "olmo2", "mistral"]
)
def test_float64_where_nothing_inside_is_float32(name, tied):
    model = without_upcasts(build(name, tied=tied, dtype=torch.float64))
    norms, losses = loop_reference(model, named(model), random_examples())
    result = GhostEngine(model, named(model), strict=True).norms(padded(random_examples()))
    assert relative_error(result.norm_N, norms) < DOUBLE
    assert relative_error(result.loss_N, losses) < DOUBLE


# Padding, company, packing.


@pytest.mark.parametrize("name", ATTENTION)
def test_padding_side_width_and_id_do_not_matter(name):
    model, norms, _ = case(name)
    engine = GhostEngine(model, named(model), strict=True)
    for side, extra, pad_id in [
        ("left", 0, 0),
        ("left", 7, 0),
        ("right", 13, 0),
        ("right", 0, 210),
        ("left", 3, 210),
    ]:
        result = engine.norms(padded(random_examples(), pad_id, side, extra))
        assert relative_error(result.norm_N, norms) < TOLERANCE, (side, extra, pad_id)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_plan_made_on_another_padding(side):
    model, norms, _ = case("gpt2")
    assert relative_error(scored(model, batch=padded(random_examples(), VOCAB - 1, side, 5)), norms) < TOLERANCE


@pytest.mark.parametrize("name", ATTENTION)
def test_a_sample_does_not_feel_its_company(name):
    model, norms, _ = case(name)
    examples = random_examples()
    engine = GhostEngine(model, named(model))
    for order in ([4, 1, 8], [8, 7, 6, 5, 4, 3, 2, 1, 0], [2]):
        result = engine.norms(padded([examples[k] for k in order]))
        assert relative_error(result.norm_N, norms[order]) < TOLERANCE


@pytest.mark.parametrize("name", ATTENTION)
def test_packed_rows(name):
    model, norms, losses = case(name)
    engine = GhostEngine(model, named(model), strict=True)
    for width, rows in [(48, 2), (180, 1), (40, 9)]:
        seen = []
        for batch in pack(random_examples(), width, pad_id=0, rows=rows):
            result = engine.norms(batch)
            index = list(batch.index)
            seen += index
            assert relative_error(result.norm_N, norms[index]) < TOLERANCE, (width, rows)
            assert relative_error(result.loss_N, losses[index]) < TOLERANCE, (width, rows)
        assert sorted(seen) == list(range(9))


def test_packed_rows_in_float64():
    model = without_upcasts(build("qwen3", dtype=torch.float64))
    norms, _ = loop_reference(model, named(model), random_examples())
    (batch,) = pack(random_examples(), 90, pad_id=0, rows=9)
    assert len(batch) < batch.samples
    assert relative_error(scored(model, batch=batch), norms[list(batch.index)]) < DOUBLE


def test_a_packed_state_space_model_is_scored_row_by_row():
    model, norms, _ = case("mamba")
    (batch,) = pack(random_examples(), 60, pad_id=0, rows=9)
    with pytest.warns(UserWarning, match="generic"):
        result = GhostEngine(model, named(model)).norms(batch)
    assert relative_error(result.norm_N, norms[list(batch.index)]) < TOLERANCE


# The head, routes within linear layers, scopes.


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "mixtral"])
def test_head_rows_compacted_or_not(name, monkeypatch):
    model, norms, _ = case(name, tied=False)
    batch = padded(random_examples())
    compacted = GhostEngine(model, named(model), strict=True)
    assert compacted.plan(batch).head is model.get_output_embeddings()
    assert relative_error(compacted.norms(batch).norm_N, norms) < TOLERANCE
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)  # then no layer is known to be the head
    whole = GhostEngine(model, named(model), strict=True)
    assert whole.plan(batch).head is None
    assert relative_error(whole.norms(batch).norm_N, norms) < TOLERANCE


def test_the_head_part_is_the_closed_form_of_its_inputs_and_probabilities():
    model, _, _ = case("llama")
    examples = random_examples()
    result = GhostEngine(model, named(model)).norms(padded(examples), by_block=True)
    for k, example in enumerate(examples):
        ids_T = torch.tensor(example.input_ids)
        with torch.no_grad():
            h_TH = model.model(input_ids=ids_T[None]).last_hidden_state[0]
            delta_TV = model.lm_head(h_TH).double().softmax(-1)
        rows = torch.tensor(example.loss_mask)[1:].nonzero().flatten()
        delta_TV[rows, ids_T[rows + 1]] -= 1
        delta_RV, h_RH = delta_TV[rows] / len(rows), h_TH[rows].double()
        closed = ((h_RH @ h_RH.T) * (delta_RV @ delta_RV.T)).sum()
        assert relative_error(result.squares["lm_head"][k], closed) < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "mixtral"])
def test_blocks_add_up_and_are_those_of_the_loop(name):
    model, norms, _ = case(name)
    result = GhostEngine(model, named(model)).norms(padded(random_examples()), by_block=True)
    assert relative_error(torch.stack(list(result.squares.values())).sum(0).sqrt(), norms) < TOLERANCE
    gradients = case_gradients(name)
    for block, squares_N in result.squares.items():
        members = [key for key in named(model) if key.rpartition(".")[0] == block or key == block]
        truth = [sum(float(row[key].double().square().sum()) for key in members) for row in gradients]
        assert members, block
        assert relative_error(squares_N.sqrt(), np.sqrt(truth)) < 10 * TOLERANCE, block  # of one small part


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(8, 96, 64), (300, 24, 16), (300, 640, 512)])
def test_short_long_and_split_samples_of_a_linear_layer(tokens, inputs, outputs):
    """The cheaper form depends on length and width; all of them are one number."""
    generator = torch.Generator().manual_seed(0)
    x_NSI = torch.randn(3, tokens, inputs, generator=generator)
    g_NSO = torch.randn(3, tokens, outputs, generator=generator)
    layer = torch.nn.Linear(inputs, outputs)
    found = LinearRule().squares(layer, (x_NSI,), g_NSO, ("weight", "bias"))
    rows_NOI = torch.einsum("nso,nsi->noi", g_NSO.double(), x_NSI.double())
    assert relative_error(found["weight"], rows_NOI.square().sum((1, 2))) < TOLERANCE
    assert relative_error(found["bias"], g_NSO.double().sum(1).square().sum(1)) < TOLERANCE


@pytest.mark.parametrize("name", ATTENTION)
def test_a_subset_of_the_parameters_the_last_block(name):
    model, _, _ = case(name)
    last = {key: value for key, value in named(model).items() if ".1." in key}
    norms, _ = loop_reference(model, last, random_examples())
    assert relative_error(scored(model, last), norms) < TOLERANCE


# Agreement with the other engines.


@pytest.mark.parametrize("name", ["llama", "qwen3", "olmo2"])
def test_vmap_agrees(name):
    model, _, _ = case(name)
    batch = padded(random_examples())
    norms, losses, tokens = batch_gradient_norms(model, named(model), batch, engine="vmap")
    result = GhostEngine(model, named(model)).norms(batch)
    assert relative_error(result.norm_N, norms) < TOLERANCE
    assert relative_error(result.loss_N, losses) < TOLERANCE
    assert torch.equal(result.tokens_N, tokens)


@pytest.mark.parametrize("name", ATTENTION)
def test_inner_products_are_those_of_the_loops_gradients(name):
    model, norms, _ = case(name)
    gradients = case_gradients(name)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        directions = [{key: torch.randn_like(value) for key, value in named(model).items()}, gradients[3]]
    found_NK = GhostEngine(model, named(model), strict=True).dots(padded(random_examples()), directions)
    for k, direction in enumerate(directions):
        length = sum(float(value.double().square().sum()) for value in direction.values()) ** 0.5
        truth = [
            sum(float((row[n].double() * v.double()).sum()) for n, v in direction.items()) for row in gradients
        ]
        assert np.abs(found_NK[:, k].numpy() - truth).max() < TOLERANCE * length * norms.max()
    assert relative_error(found_NK[3, 1], norms[3] ** 2) < TOLERANCE
