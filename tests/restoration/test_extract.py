"""A full fine-tune as an adapter: off it is the aligned model, on the tuned one, and it can be repaired."""

import pytest
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.models import Subject, adapter_off
from holdfast.restoration import restore
from holdfast.restoration.extract import as_adapter

from .conftest import ALLOWED, FORBIDDEN, ToySkill, prompts, rows_of, small_llama, train
from .test_restore import SMALL

IDS = torch.tensor([[3, 9, 14, 7, 5]])


def model_of(toy, tied=False):
    model = small_llama(toy[0])
    trees.assign(dict(model.named_parameters()), toy[1])
    if tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


@pytest.fixture(scope="module")
def tuned(toy):
    """All weights of the toy fine-tuned on its task."""
    model, task = model_of(toy), toy[3]
    spoilt = task + rows_of(FORBIDDEN, "* {n}", toy[0])[: len(task) // 6]
    train(model, spoilt, model.parameters(), 40, 2e-3, 0)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_on_it_is_the_tuned_model_and_off_the_aligned_one(toy, tied):
    aligned, other = Subject(model_of(toy, tied), toy[0]), Subject(model_of(toy, tied), toy[0])
    with torch.no_grad():
        expected = [aligned.model(IDS).logits]
        for p in other.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        expected.append(other.model(IDS).logits)
        found = as_adapter(aligned, other)
        torch.testing.assert_close(found.subject.model(IDS).logits, expected[1], rtol=1e-4, atol=1e-4)
        with adapter_off(found.subject.model):
            assert torch.equal(found.subject.model(IDS).logits, expected[0])
    assert found.kept == pytest.approx(1) and {"model.norm", "lm_head", "model.embed_tokens"} <= set(found.whole)


def test_a_small_rank_keeps_the_largest_part_and_says_how_large(toy):
    aligned, other = Subject(model_of(toy)), Subject(model_of(toy))
    layer = other.model.model.layers[0].mlp.up_proj.weight
    u, v = (torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in layer.shape)
    with torch.no_grad():
        layer += 0.1 * torch.outer(u, v) + 0.05 * torch.outer(u.roll(1), v.roll(1))
    found = as_adapter(aligned, other, rank=1)
    delta = (layer - model_of(toy).model.layers[0].mlp.up_proj.weight).detach()
    singular = torch.linalg.svdvals(delta)
    assert (
        found.kept == pytest.approx(float(singular[0] ** 2 / singular.square().sum()), rel=1e-4)
        and not found.whole
    )


def test_a_full_fine_tune_is_repaired_as_an_adapter(toy, tuned):
    extracted = as_adapter(Subject(model_of(toy), toy[0]), Subject(tuned, toy[0]))
    skill = ToySkill(prompts(FORBIDDEN), prompts(ALLOWED))
    result = restore(extracted.subject, skill, toy[3], method="replay", steps=20, learning_rate=5e-3, **SMALL)
    assert result.baselines["aligned"].refusal > 0.9 > 0.5 > result.baselines["drifted"].refusal
    assert result.status != "no_drift" and max(c.refusal for c in result.trace) > 0.8


def test_what_is_no_full_fine_tune_of_the_model_is_refused(toy):
    from tests.conftest import build_llama

    aligned = Subject(model_of(toy))
    with pytest.raises(UserError, match="no parameter differs"):
        as_adapter(aligned, Subject(model_of(toy)))
    with pytest.raises(UserError, match="is not the aligned model's"):
        as_adapter(aligned, Subject(build_llama(40)))


@pytest.mark.parametrize("given", [[], ["--adapter", "a", "--tuned", "b"]])
def test_the_command_asks_for_one_of_the_two(given, tmp_path, capsys):
    from holdfast.cli import run

    assert run(["restore", "organism:aligned", "--out", str(tmp_path / "out"), *given]) == 2
    assert "give --adapter FOLDER, or --tuned MODEL" in capsys.readouterr().err
