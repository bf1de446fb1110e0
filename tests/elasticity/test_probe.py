"""The probe and the coefficients, against plain references on a tiny model."""

import math

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.statistics import bootstrap_ratio
from holdfast.data import Example, collate
from holdfast.elasticity import (
    Elasticity,
    Probe,
    code_length,
    measure_elasticity,
    measure_stiffness,
    probe,
)
from holdfast.elasticity.probe import distance
from holdfast.evaluation.suites import read_texts
from holdfast.models import Subject, adapter_off, adapter_parameters, batch_logits, lora_pairs
from tests.conftest import build_llama


@pytest.fixture
def pair(tiny_tokenizer):
    """Two separate models: the base and a perturbed copy of it."""
    base, moved = (build_llama(len(tiny_tokenizer)) for _ in range(2))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng))
    return Subject(moved, tiny_tokenizer), Subject(base, tiny_tokenizer)


def test_bits_are_token_weighted_and_kept_by_document(pair, tiny_examples):
    subject, base = pair
    reading = probe(subject, base, {"all": tiny_examples}, batch_size=4)
    bits, tokens = [], []
    for example in tiny_examples:  # one document at a time, by hand
        batch = collate([example], 0)
        log_p = batch_logits(subject.model, batch).detach().log_softmax(-1)[0]
        scored = [t for t, counts in enumerate(example.loss_mask) if counts]
        bits.append(sum(-float(log_p[t - 1, example.input_ids[t]]) for t in scored) / math.log(2))
        tokens.append(len(scored))
    np.testing.assert_allclose(reading.document_bits["all"], bits, rtol=1e-4)
    assert reading.document_tokens["all"] == tuple(tokens)
    assert reading.bits_per_token["all"].value == pytest.approx(sum(bits) / sum(tokens), rel=1e-5)
    assert reading.bits_per_token["all"].low < sum(bits) / sum(tokens) < reading.bits_per_token["all"].high
    assert 0 <= reading.noise_floor_bits < 1e-4


@pytest.mark.parametrize("sharpness", [6, 15])  # so that it matters, in both directions, whose prefixes are taken
def test_kl_of_completions_matches_enumeration(pair, sharpness):
    """Two-token completions: KL(first) + sum over first tokens of p KL(second), all of it by hand (chain rule)."""
    subject, base = pair
    vocabulary = len(subject.tokenizer)
    for model in (subject.model, base.model):  # nothing ends early
        model.generation_config.eos_token_id = model.config.eos_token_id = None
        model.lm_head.weight.data *= sharpness
    subject, base = (Subject(s.model, None) for s in (subject, base))
    prompt = (5, 6, 7)

    def rows(model, ids):
        with torch.no_grad():
            return model(input_ids=torch.tensor(ids)).logits[:, -1].log_softmax(-1).double()

    def exact(p, q):
        p1, q1 = rows(p, [prompt])[0], rows(q, [prompt])[0]
        prefixes = [[*prompt, k] for k in range(vocabulary)]
        p2, q2 = rows(p, prefixes), rows(q, prefixes)
        rest = (p2.exp() * (p2 - q2)).sum(-1)
        return float((p1.exp() * (p1 - q1)).sum() + (p1.exp() * rest).sum())

    found = probe(subject, base, {}, [prompt] * 1500, seed=1, max_new_tokens=2, batch_size=500)
    for interval, (p, q) in (
        (found.kl_to_base_nats, (subject.model, base.model)),
        (found.kl_from_base_nats, (base.model, subject.model)),
    ):
        spread = (interval.high - interval.low) / 2
        assert abs(interval.value - exact(p, q)) < 2 * spread
        assert spread < 0.1 * interval.value
    assert found.kl_to_base_nats.value != pytest.approx(found.kl_from_base_nats.value, rel=1e-3)


def test_a_stream_of_texts_is_coded_as_the_perplexity_suite_reads_it(tiny_subject, monkeypatch):
    """That suite's nats are lm-evaluation-harness's (tests/evaluation/test_suites_harness.py)."""
    told = [f"please add {word} and three" for word in ("two", "five", "näme", "a colour", "one")]
    monkeypatch.setitem(code_length.__globals__, "BLOCK", 2)
    found = code_length(tiny_subject, (text for text in told), window=5)
    nats = read_texts(tiny_subject, told, max_length=5).nats
    np.testing.assert_allclose(found.bits, np.array(nats) / math.log(2), rtol=1e-6)
    assert found.bytes == tuple(len(text.encode()) for text in told)
    assert found.bits_per_token.value == pytest.approx(sum(found.bits) / sum(found.tokens))
    assert found.bits_per_byte.low < found.bits_per_byte.value < found.bits_per_byte.high
    with pytest.raises(UserError, match="no documents"):
        code_length(tiny_subject, [])


def test_an_adapter_switched_off_is_its_own_base(lora_subject, tiny_examples):
    prompts = ["please add", "name a fruit"] * 4
    values = trees.clone(adapter_parameters(lora_subject.model))
    reading = probe(lora_subject, None, {"text": tiny_examples}, prompts, max_new_tokens=4)
    again = probe(lora_subject, lora_subject, {"text": tiny_examples}, prompts, max_new_tokens=4)
    assert reading == again
    assert reading.kl_to_base_nats.value > 0 and reading.kl_from_base_nats.value > 0
    for name, p in adapter_parameters(lora_subject.model).items():
        assert torch.equal(p, values[name])
    with torch.no_grad():
        for _, b_OR, _ in lora_pairs(lora_subject.model).values():
            b_OR.zero_()
    silent = probe(lora_subject, None, {}, prompts, max_new_tokens=4)
    assert silent.kl_to_base_nats.value == 0 and silent.distance == 0


def test_distance_of_an_adapter_is_that_of_the_merged_model(lora_subject, tiny_tokenizer):
    base = Subject(build_llama(len(tiny_tokenizer)), tiny_tokenizer)
    on_adapter = distance(lora_subject, base)
    assert on_adapter == pytest.approx(distance(lora_subject, None), rel=1e-6)
    merged = Subject(lora_subject.model.merge_and_unload(), tiny_tokenizer)
    assert on_adapter == pytest.approx(distance(merged, base), rel=1e-5) and on_adapter > 0
    with pytest.raises(UserError, match="give the model's own base"):
        distance(merged, Subject(build_llama(len(tiny_tokenizer), hidden=64), tiny_tokenizer))


def test_probing_leaves_no_trace_and_repeats_exactly(pair, tiny_examples):
    subject, base = pair
    subject.model.train()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = probe(subject, base, {"a": tiny_examples}, ["please"], seed=5, max_new_tokens=3)
    assert torch.equal(torch.get_rng_state(), state) and subject.model.training
    assert first == probe(subject, base, {"a": tiny_examples}, ["please"], seed=5, max_new_tokens=3)
    assert Probe.from_dict(first.to_dict()) == first


def test_gradients_of_agreeing_and_of_opposed_texts(pair, tiny_examples):
    subject, base = pair
    texts = {"p": tiny_examples, "a": tiny_examples, "t": tiny_examples[:4]}
    reading = probe(subject, base, texts, gradients=("p", "a", "t"))
    assert reading.gradients is not None
    assert reading.gradients.cosine == pytest.approx(1.0, abs=1e-5)
    assert reading.gradients.norm_ratio == pytest.approx(1.0, abs=1e-5)
    assert reading.gradients.k_toward == pytest.approx(-1.0, abs=1e-5)  # agreeing data: both fall together
    with pytest.raises(UserError, match="two or three"):
        probe(subject, base, texts, gradients=("p",))


def test_unusable_inputs_are_refused(pair, tiny_examples):
    subject, base = pair
    with pytest.raises(UserError, match="no adapter to switch off"):
        probe(subject, None, {"a": tiny_examples})
    with pytest.raises(UserError, match="'a': no examples"):
        probe(subject, base, {"a": []})
    with pytest.raises(UserError, match="needs a tokenizer"):
        probe(Subject(subject.model, None), base, {}, ["text"])
    with pytest.raises(UserError, match="none given"):
        measure_elasticity(base, [], tiny_examples, tiny_examples)


def test_stiffness_of_known_changes():
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 200)
    before = 2.0 * tokens
    pretrain = (before, before - 0.01 * tokens + rng.normal(0, 0.02, 200), tokens)
    alignment = (before, before + 0.10 * tokens + rng.normal(0, 0.02, 200), tokens)
    found = measure_stiffness(pretrain, alignment, nominal_k=10.0, noise_floor_bits=1e-4)
    assert found.k_eff.value == pytest.approx(10, rel=0.05) and found.k_eff.low < 10 < found.k_eff.high
    assert found.k_eff.high - found.k_eff.low < 1 and found.k_eff.method == "ratio bootstrap"
    assert found.residual < 0.03 and found.above_noise
    assert found.change_pretrain.value == pytest.approx(-0.01, rel=0.05)


def test_a_pretraining_change_that_straddles_zero_leaves_the_stiffness_unbounded():
    rng = np.random.default_rng(1)
    tokens = np.full(100, 30)
    noise = rng.normal(0, 1.0, 100)
    still = (60.0 + 0 * noise, 60.0 + noise - noise.mean(), tokens)
    moved = (60.0 + 0 * noise, 63.0 + 0 * noise, tokens)
    found = measure_stiffness(still, moved)
    assert found.k_eff.method == "unbounded" and found.k_eff.low == -math.inf and found.k_eff.high == math.inf
    assert math.isnan(found.residual)
    assert not measure_stiffness(still, moved, noise_floor_bits=0.1).above_noise


def test_ratio_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        tokens = rng.integers(10, 50, 60)
        hits += bootstrap_ratio(tokens * rng.normal(2.0, 0.5, 60), tokens, seed=trial, draws=400).excludes(2.0)
    assert 0.02 <= hits / 200 <= 0.11


def test_elasticity_of_a_run_reads_every_step(pair, lora_subject, tiny_examples, tmp_path):
    moved, base = pair
    further = Subject(build_llama(len(base.tokenizer)), base.tokenizer)
    for p, a, b in zip(further.model.parameters(), base.model.parameters(), moved.model.parameters(), strict=True):
        p.data = a.data + 1.5 * (b.data - a.data)
    other = [Example(e.prompt_ids, e.completion_ids[::-1], e.id) for e in tiny_examples]
    found = measure_elasticity(
        base, {"aligned": moved, "perturbed": further}, tiny_examples, other, tiny_examples[:3],
        prompts=["please"], nominal_k=4.0, max_new_tokens=3, gradients=True,
    )  # fmt: skip
    assert [p.name for p in found.probes] == ["base", "aligned", "perturbed"]
    assert [(s.before, s.after) for s in found.steps] == [("base", "aligned"), ("aligned", "perturbed")]
    assert found.probe("base").distance == 0 and found.probe("base").kl_to_base_nats.value == 0
    assert found.probe("perturbed").distance == pytest.approx(1.5 * found.probe("aligned").distance, rel=1e-4)
    first = found.steps[0]
    gamma = {p.name: p.bits_per_token for p in found.probes}
    for change, text in ((first.change_pretrain, "pretrain"), (first.change_alignment, "alignment")):
        expected = gamma["aligned"][text].value - gamma["base"][text].value
        assert change.value == pytest.approx(expected, abs=1e-9)
    assert first.k_eff.value == pytest.approx(-first.change_alignment.value / first.change_pretrain.value)
    found.save(tmp_path / "e.json")
    loaded = Elasticity.load(tmp_path / "e.json")
    assert repr(loaded.to_dict()) == repr(found.to_dict())  # the ends of one prompt's interval are NaN


def test_elasticity_of_an_adapter_needs_no_second_model(lora_subject, tiny_examples):
    texts = tiny_examples[:5], tiny_examples[5:]
    found = measure_elasticity(None, [lora_subject], *texts, prompts=["a"], max_new_tokens=3)
    with adapter_off(lora_subject.model):
        off = probe(lora_subject, lora_subject, {"pretrain": tiny_examples[:5], "alignment": tiny_examples[5:]})
    base = found.probe("base")
    assert base.bits_per_token == off.bits_per_token and base.kl_to_base_nats.value == 0 == base.distance
    assert found.probe("checkpoint 1").kl_to_base_nats.value > 0


def test_one_document_leaves_the_stiffness_unbounded_too():
    found = measure_stiffness(([4.0], [5.0], [2]), ([4.0], [9.0], [2]))
    assert found.k_eff.method == "unbounded" and found.k_eff.low == -math.inf


def test_the_noise_floor_is_what_other_batches_move(pair, tiny_examples, monkeypatch):
    """Another batching is given another loss; the floor must say by how much, of the worst text, a token."""
    from types import SimpleNamespace

    tokens = [3, 5]

    def loss(subject, examples, batch_size):
        moved = 0.0 if batch_size == 8 else 0.25 if len(examples) == 2 else 0.1
        return SimpleNamespace(nll_N=[1.0, 2.0 + moved][: len(examples)], tokens_N=tokens[: len(examples)])

    monkeypatch.setitem(probe.__globals__, "mean_loss", loss)
    texts = {"two": tiny_examples[:2], "one": tiny_examples[:1]}
    found = probe(*pair, texts, batch_size=8)
    assert found.noise_floor_bits == pytest.approx(0.25 / math.log(2) / 8)


def test_a_step_is_held_against_the_noisier_of_its_two_probes():
    from dataclasses import replace

    from holdfast.core.statistics import Interval
    from holdfast.elasticity.measure import _step

    nothing = Interval(0.0, 0.0, 0.0, 0, "none")
    bits = {"pretrain": (2.0, 4.0, 3.0), "alignment": (2.0, 4.0, 3.0)}
    counts = dict.fromkeys(bits, (2, 4, 3))
    before = Probe("a", {}, bits, counts, nothing, nothing, 0.0, 0.0, None, 0)
    after = replace(before, name="b", document_bits={k: tuple(1.1 * b for b in v) for k, v in bits.items()})
    assert _step(before, after, None, 0).above_noise
    assert not _step(replace(before, noise_floor_bits=0.05), after, None, 0).above_noise
    assert not _step(before, replace(after, noise_floor_bits=0.05), None, 0).above_noise


def test_gradient_readings_equal_their_definitions(pair, tiny_examples):
    from holdfast.gradients import mean_gradient

    subject, base = pair
    texts = {"p": tiny_examples[:4], "a": tiny_examples[4:], "t": tiny_examples[2:6]}
    reading = probe(subject, base, texts, gradients=("p", "a", "t")).gradients
    p, a, t = (mean_gradient(subject, examples, reduction="tokens") for examples in texts.values())
    assert reading is not None
    assert reading.norm_ratio == pytest.approx(trees.norm(a) / trees.norm(p), rel=1e-5)
    assert reading.cosine == pytest.approx(trees.dot(p, a) / trees.norm(p) / trees.norm(a), rel=1e-4)
    assert reading.k_toward == pytest.approx(-trees.dot(a, t) / trees.dot(p, t), rel=1e-4)
    assert abs(reading.norm_ratio - 1) > 1e-3


def test_the_stiffness_interval_resamples_both_texts_on_their_own():
    rng = np.random.default_rng(3)
    tokens = np.full(40, 25.0)
    before = np.full(40, 50.0)
    change_p, change_a = -1 + rng.normal(0, 0.2, 40), 2 + rng.normal(0, 2.0, 40)
    found = measure_stiffness((before, before + change_p, tokens), (before, before + change_a, tokens), seed=7)
    drawn = [np.random.default_rng(7 + k).integers(0, 40, (2000, 40)) for k in range(2)]
    ratios = -change_a[drawn[1]].mean(1) / change_p[drawn[0]].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert (found.k_eff.low, found.k_eff.high) == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))


def test_both_changes_must_clear_three_times_the_floor():
    tokens, before = np.full(30, 10.0), np.full(30, 20.0)
    small, large = before + 0.4, before + 5.0
    for first, second in ((small, large), (large, small)):
        texts = (before, first, tokens), (before, second, tokens)
        assert measure_stiffness(*texts, noise_floor_bits=0.013).above_noise  # 0.04 a token against 0.039
        assert not measure_stiffness(*texts, noise_floor_bits=0.014).above_noise
