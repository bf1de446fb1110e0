"""Drift against the definition, worked out one sequence at a time."""

import sys

import numpy as np
import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.evaluation import Reference, drift, sample_reference
from holdfast.models import Subject

PROMPTS = ["please add two", "name a colour", "i cannot help", "sorry"]


def moved(subject: Subject, size: float = 0.05) -> Subject:
    import copy

    model = copy.deepcopy(subject.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return Subject(model, subject.tokenizer)


def by_hand(aligned, current, example) -> float:
    """Sum over the completion of sum_v p (log p - log q), in float64, unpadded."""
    ids = torch.tensor([example.input_ids])
    with torch.no_grad():
        log_p, log_q = (m.model(input_ids=ids).logits[0].double().log_softmax(-1) for m in (aligned, current))
    start = len(example.prompt_ids)
    places = range(start - 1, len(example.input_ids) - 1)
    return float(sum((log_p[t].exp() * (log_p[t] - log_q[t])).sum() for t in places))


@pytest.mark.parametrize("source", ["stored", "model"])
@pytest.mark.parametrize("samples", [1, 3])
def test_drift_is_the_definition(tiny_subject, source, samples):
    reference = Reference.of(tiny_subject, PROMPTS, max_new_tokens=9, samples=samples, source=source)
    current = moved(tiny_subject)
    reading = drift(current, reference, batch_size=3)
    expected = np.array([by_hand(tiny_subject, current, e) for e in reference.examples])
    np.testing.assert_allclose(reading.per_prompt, expected.reshape(-1, samples).mean(1), rtol=1e-4)
    assert reading.kl_nats == pytest.approx(expected.mean(), rel=1e-4)
    tokens = sum(len(e.completion_ids) for e in reference.examples)
    assert reading.kl_nats_per_token == pytest.approx(expected.sum() / tokens, rel=1e-4)
    assert reading.tokens == tokens
    assert reading.interval.low < reading.kl_nats < reading.interval.high
    assert reading.interval.n == len(PROMPTS)


def test_a_model_that_did_not_move_has_no_drift_at_all(tiny_subject):
    assert drift(tiny_subject, Reference.of(tiny_subject, PROMPTS, 9)).kl_nats == 0.0


def test_the_batch_size_does_not_matter(tiny_subject):
    reference = Reference.of(tiny_subject, PROMPTS, max_new_tokens=9)
    current = moved(tiny_subject)
    readings = [drift(current, reference, batch_size=b).per_prompt for b in (1, 2, 32)]
    np.testing.assert_allclose(readings[0], readings[1], rtol=1e-4)
    np.testing.assert_allclose(readings[0], readings[2], rtol=1e-4)


def test_without_its_adapter_a_model_is_the_aligned_one(lora_subject):
    with lora_subject.model.disable_adapter():
        stored = Reference.of(lora_subject, PROMPTS, max_new_tokens=9)
    off = Reference.on(lora_subject, stored.examples, source="adapter_off")
    assert drift(lora_subject, off).kl_nats == pytest.approx(drift(lora_subject, stored).kl_nats, rel=1e-5)
    assert drift(lora_subject, off).kl_nats > 1e-3


def test_a_kept_reference_gives_the_numbers_of_one_that_is_computed_each_time(lora_subject, monkeypatch):
    model, passes = lora_subject.model, []
    examples = sample_reference(lora_subject, PROMPTS, 9, samples=2)
    computed = Reference.on(lora_subject, examples, samples=2, source="adapter_off")
    expected = drift(lora_subject, computed, batch_size=3)
    kept = computed.kept(lora_subject, batch_size=3)
    assert kept.source == "stored" and kept.kept(lora_subject) is kept
    model.register_forward_hook(lambda *_: passes.append(1))
    assert drift(lora_subject, kept, batch_size=3) == expected
    assert len(passes) == -(-len(examples) // 3)  # the current model's side alone
    monkeypatch.setattr(sys.modules["holdfast.evaluation.drift"], "STORE_LIMIT_BYTES", 10)
    assert computed.kept(lora_subject) is computed


def test_a_reference_is_sampled_from_the_models_own_distribution(tiny_subject):
    """First tokens of many samples against the exact probabilities (chi-square over the likely ones)."""
    prompt = [1, 5, 9]
    examples = sample_reference(tiny_subject, [prompt], max_new_tokens=1, samples=3000)
    with torch.no_grad():
        p = tiny_subject.model(input_ids=torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
    counts = torch.bincount(torch.tensor([e.completion_ids[0] for e in examples]), minlength=len(p))
    top = p.topk(10).indices
    z = (counts[top] - 3000 * p[top]) / (3000 * p[top] * (1 - p[top])).sqrt()
    assert float(z.abs().max()) < 4.5
    assert [e.id for e in examples[:2]] == ["0/0", "0/1"]


def test_sampling_repeats_with_its_seed_and_leaves_the_random_state_alone(tiny_subject):
    before = torch.random.get_rng_state()
    first = sample_reference(tiny_subject, PROMPTS, 8, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == sample_reference(tiny_subject, PROMPTS, 8, seed=1)
    assert first != sample_reference(tiny_subject, PROMPTS, 8, seed=2)


def test_what_does_not_fit_says_what_would(tiny_subject, monkeypatch):
    module = sys.modules["holdfast.evaluation.drift"]  # the package has a function of that name
    monkeypatch.setattr(module, "STORE_LIMIT_BYTES", 10)
    with pytest.raises(UserError, match="source='adapter_off'"):
        Reference.of(tiny_subject, PROMPTS, 4)
    with pytest.raises(UserError, match="needs a model with an adapter"):
        Reference.of(tiny_subject, PROMPTS, 4, source="adapter_off")
    with pytest.raises(UserError, match="at least one"):
        sample_reference(tiny_subject, [])
