"""The doctor finds what is wrong with a model built to be wrong, names its true cause, and is silent otherwise."""

import copy
import math

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.gradients.doctor import Diagnosis, built_in_examples, diagnose, samples
from holdfast.gradients.doctor.compare import compared, kinds_of
from holdfast.gradients.doctor.samples import few, few_for
from holdfast.gradients.doctor.ways import ALONE, WAYS, Patient, gradient
from holdfast.models import Subject
from tests.gradients.zoo import PAD, adapter_names, build, hooked_state, random_examples, with_lora

OWN, RIGHT, LEFT, PACKED = (way.name for way in WAYS)
ENGINE = ("holdfast, padded", "holdfast, packed")


def examined(model, scope="all", **options):
    return diagnose(Subject(model, None, scope), progress=False, **options)


def verdicts(diagnosis):
    """Ways that disagree, with what mends them."""
    return {
        finding.way: (finding.cause, finding.setting, finding.tried)
        for finding in diagnosis.findings
        if not finding.agrees
    }


# Nothing wrong.


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2", "gpt_neox", "mixtral"])
def test_a_sound_model_agrees_in_every_way(name):
    found = examined(build(name))
    assert verdicts(found) == {}
    assert found.agrees
    assert [finding.way for finding in found.findings] == [OWN, RIGHT, LEFT, PACKED, *ENGINE]
    assert all(finding.norm_error < found.norm_tolerance == 1e-5 for finding in found.findings)
    assert all(line.rule != "generic" and not line.reason for line in found.routes)


def test_every_kind_of_layer_has_a_row_and_every_parameter_a_route():
    model = build("mixtral")
    found = examined(model)
    kinds = {"embedding", "attention", "experts", "router", "norms", "head", "all"}
    assert {row.kind for row in found.comparisons} == kinds
    assert sum(line.numbers for line in found.routes) == sum(p.numel() for p in model.parameters())
    cosines = [row.cosine for row in found.comparisons if row.way not in ENGINE]
    assert all(1 - cosine < 1e-8 for cosine in cosines)
    assert all(math.isnan(row.cosine) for row in found.comparisons if row.way in ENGINE)


def test_an_adapter_is_examined_where_it_sits():
    model = with_lora(build("llama"))
    found = examined(model, "adapter")
    assert found.agrees
    assert {row.kind for row in found.comparisons} == {"adapter: attention", "adapter: mlp", "all"}
    assert sum(line.numbers for line in found.routes) == sum(
        parameter.numel() for name, parameter in model.named_parameters() if name in adapter_names(model)
    )


def test_half_precision_has_its_own_tolerance():
    found = examined(build("llama", dtype=torch.bfloat16))
    assert (found.dtype, found.norm_tolerance) == ("bfloat16", 2e-2)
    assert found.agrees


# Something wrong, and what it is.


def test_gpt2_left_padded_needs_positions():
    found = examined(build("gpt2"))
    ((way, (cause, setting, tried)),) = verdicts(found).items()
    assert way == LEFT and tried
    assert cause == "positions count the padding"
    assert "position_ids" in setting and "padding_side='right'" in setting
    row = next(row for row in found.comparisons if (row.way, row.kind) == (LEFT, "all"))
    assert row.norm_error > 1e-3 and row.cosine < 0.999


def test_mamba_packed_leaks_its_state():
    found = examined(build("mamba"))
    assert set(verdicts(found)) == {PACKED}  # padded on either side it agrees, and so does the engine
    cause, setting, _ = verdicts(found)[PACKED]
    assert "cross" in cause and "packing=False" in setting
    generic = [line for line in found.routes if line.rule == "generic"]
    assert "MambaMixer" in {line.layer for line in generic}
    assert all(line.reason for line in generic)


@pytest.fixture
def plain_causal():
    """An attention implementation without a mask function: a packed row gets one causal triangle."""
    AttentionInterface.register("plain_causal", sdpa_attention_forward)
    yield "plain_causal"
    AttentionInterface._global_mapping.pop("plain_causal")


def test_a_packed_row_under_a_plain_causal_mask_is_mended_by_sdpa(plain_causal):
    model = build("llama")
    model.set_attn_implementation(plain_causal)
    found = examined(model)
    assert found.attention == plain_causal
    cause, setting, tried = verdicts(found)[PACKED]
    assert setting == "attn_implementation='sdpa'" and tried
    assert "does not keep samples apart" in cause
    assert RIGHT not in verdicts(found)
    assert not set(ENGINE) & set(verdicts(found))  # the engine sees it and takes the samples apart
    assert model.config._attn_implementation == plain_causal


class BatchStatistics(torch.nn.Module):
    """Centres every feature over all tokens of the batch."""

    def forward(self, x):
        return x - 0.5 * x.mean((0, 1))


class Capacity(torch.nn.Module):
    """Every token past the twentieth of a batch is lost, like tokens that overflow an expert."""

    def forward(self, x):
        flat = x.flatten(0, 1)
        kept = (torch.arange(len(flat)) < 20).to(x.dtype)[:, None]
        return (flat * kept).view_as(x)


@pytest.mark.parametrize("layer", [BatchStatistics(), Capacity()])
def test_a_layer_across_rows_is_named(layer):
    model = build("llama")
    block = model.model.layers[0]
    block.mlp = torch.nn.Sequential(block.mlp, layer)
    found = verdicts(examined(model))
    assert {RIGHT, LEFT} <= set(found)
    for way in (RIGHT, LEFT):
        cause, setting, _ = found[way]
        assert cause.startswith("the model mixes rows")
        assert setting == "score and train one sample at a time (batch_size=1)"
    assert OWN not in found


def test_a_model_that_the_engines_trial_did_not_see_through_is_sent_to_the_loop():
    model = build("llama")
    block = model.model.layers[0]
    block.mlp = torch.nn.Sequential(block.mlp, Capacity())  # a trial of eighteen tokens overflows nothing
    cause, setting, tried = verdicts(examined(model))[ENGINE[0]]
    assert "trial did not show it" in cause and "engine='loop'" in setting and tried


class MeanOverTime(torch.nn.Module):
    """Not causal: every token sees the mean over the row, padding included."""

    def forward(self, x):
        return x + x.mean(1, keepdim=True)


def test_padding_that_reaches_tokens_is_not_taken_for_rows_that_mix():
    model = build("llama")
    block = model.model.layers[0]
    block.mlp = torch.nn.Sequential(block.mlp, MeanOverTime())
    cause, setting, _ = verdicts(examined(model))[RIGHT]
    assert cause.startswith("padding reaches the tokens")
    assert "batch_size=1" in setting


def test_dropout_that_is_on_is_named_and_stays_on():
    model = build("gpt2", tied=False, resid_pdrop=0.2, embd_pdrop=0.0, attn_pdrop=0.0).train()
    found = examined(model)
    off = verdicts(found)
    assert {OWN, RIGHT, PACKED} <= set(off)
    for way in (OWN, RIGHT, PACKED):
        cause, setting, tried = off[way]
        assert "training mode" in cause and setting.startswith("model.eval()") and tried
    assert not set(ENGINE) & set(off)  # the engine has no dropout
    assert model.training


def test_training_mode_without_dropout_is_no_disagreement():
    assert examined(build("llama").train()).agrees


def test_the_balancing_loss_of_experts_is_named():
    model = build("mixtral", output_router_logits=True, router_aux_loss_coef=0.1)
    found = verdicts(examined(model))
    assert set(found) == {OWN}
    cause, setting, tried = found[OWN]
    assert "balancing its experts" in cause and "output_router_logits=False" in setting and tried
    assert model.config.output_router_logits is True


def test_a_loss_of_its_own_is_named():
    model = build("llama")
    real = model.loss_function
    model.loss_function = lambda *args, **kwargs: real(*args, **kwargs) * 1.1
    found = verdicts(examined(model))
    assert set(found) == {OWN}
    assert found[OWN][1:] == ("take the loss from the logits", False)


def test_rounding_is_told_from_a_mistake():
    """The same model agrees in float32; a wrong one in bfloat16 is still found wrong for its own reason."""
    found = examined(build("qwen3_moe", dtype=torch.bfloat16))
    for cause, setting, tried in verdicts(found).values():
        assert "bfloat16 rounds too coarsely" in cause and "--dtype float32" in setting and tried
    cause, _, tried = verdicts(examined(build("gpt2", dtype=torch.bfloat16)))[LEFT]
    assert cause == "positions count the padding" and tried


def test_a_model_that_cannot_be_packed_at_all():
    class NoPositions(type(build("llama"))):
        def forward(self, input_ids=None, attention_mask=None, labels=None, use_cache=None):
            return super().forward(
                input_ids=input_ids, attention_mask=attention_mask, labels=labels, use_cache=use_cache
            )

    model = build("llama")
    model.__class__ = NoPositions
    found = verdicts(examined(model))
    assert set(found) == {PACKED}
    assert "cannot be run this way (TypeError" in found[PACKED][0]


# The user's mistakes.


def test_quantised_parameters_are_refused_with_the_way_out():
    model = build("llama")
    model.register_parameter("table", torch.nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False))
    with pytest.raises(UserError, match=r"parameter table is quantised \(torch.int8\).*use --adapter FOLDER"):
        examined(model)
    wrapped = with_lora(model)
    with pytest.raises(UserError, match="use --scope adapter"):
        examined(wrapped)
    assert examined(wrapped, "adapter").agrees


def test_rows_that_are_all_equally_long_show_nothing():
    rows = [Example((5, 6, 7), (8, 9), f"row {k}") for k in range(4)]
    with pytest.raises(UserError, match="4 rows with 1 different lengths"):
        examined(build("llama"), examples=rows)


def test_a_model_that_cannot_be_run_is_the_users_to_mend():
    model = build("llama")
    model.model.layers[0].self_attn.q_proj = torch.nn.Linear(7, 32)
    with pytest.raises(UserError, match="LlamaForCausalLM cannot be run on one sample"):
        examined(model)
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(UserError, match="not finite in float32"):
        examined(model)


# Samples.


def test_without_a_tokenizer_tokens_are_random_by_seed_and_never_special(tiny_subject):
    bare = Subject(tiny_subject.model)
    one, same, other = (built_in_examples(bare, seed) for seed in (0, 0, 1))
    assert one == same != other
    assert not {PAD, 1, 4} & {token for example in one for token in example.input_ids}
    sentences = built_in_examples(tiny_subject)
    assert len({len(example.input_ids) for example in sentences}) == 3
    assert "Blue." in tiny_subject.tokenizer.decode(sentences[0].completion_ids)


def test_a_large_model_on_a_cpu_is_examined_on_shorter_rows(tiny_subject, monkeypatch):
    rows = [Example((2,) * 8, (3,) * length) for length in (20, 40, 90, 300)]
    assert _lengths(few_for(tiny_subject, rows)) == [28, 98, 256]
    monkeypatch.setattr(samples, "LARGE", 1)
    assert _lengths(few_for(tiny_subject, rows)) == [28, 48, 64]
    long_prompts = [Example((2,) * 70, (3,) * length) for length in (5, 9, 30)]
    assert _lengths(few_for(tiny_subject, long_prompts)) == [75, 79, 100]  # nothing to learn within 64 tokens


def _lengths(found):
    return [len(example.input_ids) for example in found]


def test_a_few_rows_of_different_length_are_drawn_and_cut():
    examples = random_examples()
    chosen = few(examples, 3, longest=20)
    lengths = [len(example.input_ids) for example in chosen]
    assert lengths == sorted(set(lengths)) and len(lengths) == 3 and lengths[-1] == 20
    assert all(example.completion_tokens for example in chosen)


# The numbers.


def test_cosine_and_norm_error_by_hand():
    alone = [{"a": 9.0, "b": 16.0}, {"a": 25.0, "b": 0.0}]
    found = [{"a": 9.0, "b": 4.0}, {"a": 36.0, "b": 0.0}]
    dots = [{"a": 0.0, "b": 8.0}, {"a": 30.0, "b": 0.0}]
    a, b, whole = compared("way", alone, found, dots, (1e-5, 1e-8))
    assert (a.cosine, a.norm_error, a.agrees) == (0.0, pytest.approx(0.2), False)
    assert (b.cosine, b.norm_error, b.agrees) == (1.0, pytest.approx(0.5), False)
    assert whole.cosine == pytest.approx(8 / (5 * math.sqrt(13)))
    assert compared("way", alone, alone, alone, (1e-5, 1e-8))[2].agrees
    nan = compared("way", alone, [{"a": math.nan, "b": 4.0}, found[1]], dots, (1e-5, 1e-8))[0]
    assert math.isnan(nan.cosine) and nan.norm_error == math.inf and not nan.agrees


def test_kinds_are_named_by_layer():
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.3.mlp.gate.weight"]
    names += ["base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight", "lm_head.weight"]
    assert list(kinds_of(names).values()) == ["embedding", "mlp", "router", "adapter: attention", "head"]


def test_the_reference_is_the_gradient_of_a_sample_alone():
    model, examples = build("llama"), random_examples(3)
    found = gradient(Patient(model, dict(model.named_parameters()), examples, PAD), ALONE, 1)
    twin = copy.deepcopy(model)
    example = examples[1]
    labels = torch.tensor([[-100] * len(example.prompt_ids) + list(example.completion_ids)])
    twin(input_ids=torch.tensor([example.input_ids]), labels=labels).loss.backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_the_model_is_left_as_it_was():
    model = build("gpt2").train()
    model.transformer.wte.weight.requires_grad_(False)
    before, attention, state = hooked_state(model), model.config._attn_implementation, torch.get_rng_state()
    examined(model)
    assert hooked_state(model) == before
    assert model.config._attn_implementation == attention
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_diagnosis_survives_a_file(tmp_path):
    found = examined(build("mamba"))
    found.save(tmp_path / "doctor.json")
    back = Diagnosis.load(tmp_path / "doctor.json")
    assert back.findings[3] == found.findings[3]
    assert back.routes == found.routes and back.agrees is False
