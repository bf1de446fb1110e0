"""Loading, scopes, adapters, and the one way to run a model, against transformers itself."""

import json

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.data import batches, collate
from holdfast.models import (
    Subject,
    adapter_off,
    add_lora,
    batch_logits,
    generate,
    generate_text,
    kl_on_examples,
    load,
    load_adapter,
    load_skeleton,
    log_probabilities,
    lora_pairs,
    mean_loss,
    save_adapter,
)
from holdfast.models.adapters import checked_targets
from tests.conftest import build_llama


def test_mean_loss_equals_the_models_own_loss_row_by_row(tiny_subject, tiny_examples):
    summary = mean_loss(tiny_subject, tiny_examples, batch_size=4)
    for k, example in enumerate(tiny_examples):
        batch = collate([example], 0)
        expected = tiny_subject.model(input_ids=batch.input_ids_BT, labels=batch.labels_BT).loss
        assert summary.mean_N[k] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side, tiny_subject, tiny_examples):
    whole = collate(tiny_examples, 0, side=side)
    logits = batch_logits(tiny_subject.model, whole)
    for row, example in enumerate(tiny_examples):
        alone = batch_logits(tiny_subject.model, collate([example], 0))[0]
        kept = whole.attention_mask_BT[row].bool()
        assert torch.allclose(logits[row][kept], alone, atol=2e-5)


def test_kl_is_zero_against_itself_and_the_sum_over_the_vocabulary_otherwise(lora_subject, tiny_examples):
    model = lora_subject.model

    aligned = log_probabilities(model, lambda: adapter_off(model))
    kl, tokens = kl_on_examples(aligned, log_probabilities(model), tiny_examples, 0)
    same, _ = kl_on_examples(aligned, aligned, tiny_examples, 0)
    assert (same == 0).all()
    example = tiny_examples[3]
    batch = collate([example], 0)
    q = batch_logits(model, batch)[0].double().log_softmax(-1)
    with adapter_off(model):
        p = batch_logits(model, batch)[0].double().log_softmax(-1)
    places = [t for t, scored in enumerate(example.loss_mask[1:]) if scored]
    expected = sum(torch.nn.functional.kl_div(q[t], p[t], reduction="sum", log_target=True) for t in places)
    assert kl[3] == pytest.approx(float(expected), rel=1e-4)
    assert tokens[3] == example.completion_tokens


def test_greedy_generation_equals_transformers_and_does_not_depend_on_the_batch(tiny_subject):
    prompts = ["add two", "name a colour , an animal and", "sorry"]
    together = generate_text(tiny_subject, prompts, 8)
    alone = generate_text(tiny_subject, prompts, 8, batch_size=1)
    assert together == alone
    from holdfast.data import encode_prompt

    for prompt, text in zip(prompts, together, strict=True):
        ids = torch.tensor([encode_prompt(prompt, tiny_subject.tokenizer)])
        mask = torch.ones_like(ids)
        out = tiny_subject.model.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=mask)
        expected = tiny_subject.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert text == expected


def test_samples_follow_their_own_streams(tiny_subject):
    prompts = [[1, 5, 6], [1, 7], [1, 8, 9, 10]]
    together = generate(tiny_subject, prompts, 6, temperature=1.0, seed=1)
    assert together == generate(tiny_subject, prompts, 6, temperature=1.0, seed=1, batch_size=1)
    assert together != generate(tiny_subject, prompts, 6, temperature=1.0, seed=2)


def test_scopes_name_parameters_or_complain(lora_subject):
    model = lora_subject.model
    assert all("lora_" in name for name in Subject(model).parameters())
    assert len(Subject(model, scope="all").parameters()) > len(Subject(model).parameters())
    assert all(".layers.1." in name for name in Subject(model, scope="*.layers.1.*").parameters())
    with pytest.raises(UserError, match="names no parameter"):
        Subject(model, scope="*.nothing.*").parameters()


def test_a_fresh_adapter_changes_nothing_and_off_means_off(tiny_model, tiny_examples):
    batch = next(batches(tiny_examples, 4, 0))
    before = batch_logits(tiny_model, batch)
    model = add_lora(tiny_model, rank=2, alpha=4)
    assert torch.equal(before, batch_logits(model, batch))
    with torch.no_grad():
        for _, b_OR, _ in lora_pairs(model).values():
            b_OR.add_(0.1)
    assert not torch.allclose(before, batch_logits(model, batch))
    with adapter_off(model):
        assert torch.equal(before, batch_logits(model, batch))


def test_an_adapter_survives_disk_in_pefts_layout(lora_subject, tiny_tokenizer, tiny_examples, tmp_path):
    save_adapter(lora_subject.model, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    again = load_adapter(build_llama(len(tiny_tokenizer)), tmp_path / "adapter")
    batch = next(batches(tiny_examples, 4, 0))
    assert torch.equal(batch_logits(lora_subject.model, batch), batch_logits(again, batch))
    with pytest.raises(UserError, match="not empty"):
        save_adapter(lora_subject.model, tmp_path / "adapter")


def test_an_adapter_of_another_base_is_refused(lora_subject, tiny_tokenizer, tmp_path):
    save_adapter(lora_subject.model, tmp_path / "adapter")
    with pytest.raises(UserError, match="adapter of another base model"):
        load_adapter(build_llama(len(tiny_tokenizer), hidden=64), tmp_path / "adapter")
    with pytest.raises(UserError, match="adapter of another base model"):
        load_adapter(build_llama(len(tiny_tokenizer), layers=1), tmp_path / "adapter")
    for near in (tmp_path, tmp_path / "adapter" / "adapter"):
        with pytest.raises(UserError, match=r"no adapter_config\.json here; it is in .*adapter$"):
            load_adapter(build_llama(len(tiny_tokenizer)), near)


def test_a_saved_model_loads_with_the_hub_off(tiny_subject, tiny_tokenizer, tiny_examples, tmp_path):
    tiny_subject.model.save_pretrained(tmp_path / "m")
    tiny_tokenizer.save_pretrained(tmp_path / "m")
    subject = load(tmp_path / "m")
    assert mean_loss(subject, tiny_examples) == mean_loss(tiny_subject, tiny_examples)


def test_what_cannot_be_loaded_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(UserError, match=r"no config\.json"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"hub cannot be reached|no such repository"):
        load("nobody/nothing")


def test_a_gated_hub_model_says_how_to_get_in():
    from huggingface_hub.errors import GatedRepoError

    from holdfast.data.sources import hub_problem

    error = GatedRepoError.__new__(GatedRepoError)
    assert "accept its licence" in hub_problem(error)


def test_layers_that_are_named_are_layers_of_the_model(tmp_path):
    model = build_llama(32)
    model.save_pretrained(tmp_path)
    skeleton = load_skeleton(tmp_path)
    assert {p.device.type for p in skeleton.parameters()} == {"meta"}
    assert load_skeleton(tmp_path).__class__ is model.__class__
    assert checked_targets(skeleton, "q_proj") == ["q_proj"]
    for named in (["q_proj", "v_proj"], r".*layers\.0.*_proj"):
        assert checked_targets(skeleton, named) == named
    for wrong in ("query", ["q_proj", "query"], r".*layers\.9\..*", "(["):
        with pytest.raises(UserError, match=r"adapter\.targets '.*': (no layer of this model|not a pattern)"):
            checked_targets(skeleton, wrong)
    with pytest.raises(UserError, match=r"'query': no layer of this model is called so; it has .*q_proj"):
        add_lora(model, targets=["q_proj", "query"])
