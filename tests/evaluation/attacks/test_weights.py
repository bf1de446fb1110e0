"""Attacks on the weights: what moves, by how much, and that all of it comes back."""

import copy

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.evaluation.attacks import Spent, adapter_scaling, relearning, weight_noise
from holdfast.evaluation.attacks.weights import kept, moved
from holdfast.models import Subject, adapter_off, add_lora, lora_pairs, model_hash
from tests.conftest import build_llama
from tests.gradients import zoo

IDS = torch.tensor([[1, 30, 31, 32, 5, 6, 7, 8]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def change(attack):
    (only,) = attack.weights
    return only


def tensors(model) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0, -1.0])
def test_a_scaled_adapter_is_one_whose_b_matrices_were_multiplied(lora_subject, factor):
    by_hand = copy.deepcopy(lora_subject.model)
    with torch.no_grad():
        for _, b_OR, _ in lora_pairs(by_hand).values():
            b_OR.mul_(factor)
    before = logits(lora_subject.model)
    with change(adapter_scaling(factor)).applied(lora_subject, 0, 0) as (subject, spent):
        torch.testing.assert_close(logits(subject.model), logits(by_hand), rtol=1e-5, atol=1e-6)
        assert spent == Spent()
    assert torch.equal(logits(lora_subject.model), before)


def test_at_factor_0_the_adapter_is_off(lora_subject):
    with adapter_off(lora_subject.model):
        off = logits(lora_subject.model)
    assert not torch.allclose(off, logits(lora_subject.model), atol=1e-3)
    with change(adapter_scaling(0.0)).applied(lora_subject, 0, 0) as (subject, _):
        torch.testing.assert_close(logits(subject.model), off)


def test_the_scale_comes_back_also_after_an_error_and_idle_adapters_keep_theirs(lora_subject):
    lora_subject.model.add_adapter("idle", lora_subject.model.peft_config["default"])
    layers = [m for m in lora_subject.model.modules() if isinstance(getattr(m, "scaling", None), dict)]
    before = model_hash(lora_subject.model)
    with pytest.raises(RuntimeError), change(adapter_scaling(1 / 3)).applied(lora_subject, 0, 0):
        assert all(layer.scaling["default"] == pytest.approx(2 / 3) for layer in layers)
        assert all(layer.scaling["idle"] == 2 for layer in layers)
        raise RuntimeError
    assert model_hash(lora_subject.model) == before


def test_an_adapter_that_its_scale_does_not_reach_is_refused(lora_subject):
    def refused(subject, why):
        with pytest.raises(UserError, match=why), change(adapter_scaling(0)).applied(subject, 0, 0):
            pass

    refused(Subject(zoo.build("llama")), "needs one")
    lora_subject.model.merge_adapter()
    refused(lora_subject, "merged")
    lora_subject.model.unmerge_adapter()
    refused(Subject(zoo.with_lora(zoo.build("llama"), "dora")), "DoRA")
    refused(Subject(zoo.with_lora(zoo.build("llama"), modules_to_save=["lm_head"])), "modules_to_save")


def test_noise_moves_every_tensor_by_its_share_of_the_norm(tiny_model):
    before = tensors(tiny_model)
    with moved(tiny_model, 0.3, draw=0, seed=5):
        after = tensors(tiny_model)
    for old, new in zip(before, after, strict=True):
        share = (new.double() - old.double()).norm() / old.double().norm()
        assert float(share) == pytest.approx(0.3, rel=1e-5)


def test_one_name_is_one_direction_and_another_name_another(tiny_model):
    before = tensors(tiny_model)

    def step(size, draw=0, seed=5):
        with moved(tiny_model, size, draw, seed):
            return torch.cat([(new - old).flatten() for new, old in zip(tensors(tiny_model), before, strict=True)])

    first, wide = step(0.1), before[0].numel()  # the embedding, wide enough for chance to be small
    torch.testing.assert_close(step(0.3), 3 * first, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(step(-0.1), -first, rtol=1e-4, atol=1e-6)
    assert torch.equal(step(0.1), first)
    for other in (step(0.1, draw=1), step(0.1, seed=6)):
        assert abs(float(torch.cosine_similarity(first[:wide], other[:wide], dim=0))) < 0.05
    widths = [old.numel() for old in before]
    twins = [part for part, old in zip(first.split(widths), before, strict=True) if old.shape == before[1].shape]
    assert len(twins) > 2 and abs(float(torch.cosine_similarity(twins[0], twins[1], dim=0))) < 0.1


def test_tied_weights_move_once():
    model = build_llama(64, tie=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = model.lm_head.weight.detach().clone()
    with moved(model, 0.5, 0, 0):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert float((model.lm_head.weight.detach() - before).norm() / before.norm()) == pytest.approx(
            0.5, rel=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_is_undone_bit_for_bit_also_after_an_error(dtype):
    subject = Subject(zoo.build("llama", dtype=dtype))
    before = model_hash(subject.model)
    seen = set()
    for version in range(2):
        with (
            pytest.raises(RuntimeError),
            change(weight_noise(0.2, 2)).applied(subject, version, 3) as (noisy, spent),
        ):
            assert spent == Spent()
            seen.add(model_hash(noisy.model))
            raise RuntimeError
        assert model_hash(subject.model) == before
    assert len(seen | {before}) == 3


def test_whole_numbers_cannot_be_moved_a_little(tiny_model):
    tiny_model.quantised = torch.nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    before = model_hash(tiny_model)
    with pytest.raises(UserError, match=r"int8 cannot be moved a little"), moved(tiny_model, 0.1, 0, 0):
        pass
    assert model_hash(tiny_model) == before


def test_noise_without_size_or_draws_is_refused():
    for size, draws in ((0.0, 1), (-0.1, 1), (0.1, 0)):
        with pytest.raises(UserError, match="give a size above 0"):
            weight_noise(size, draws)
    assert change(weight_noise(0.1, 4)).versions == 4


def test_buffers_come_back_too(tiny_model):
    tiny_model.register_buffer("counter", torch.zeros(2))
    with kept(tiny_model):
        tiny_model.counter += 3
        tiny_model.lm_head.weight.data.zero_()
    assert tiny_model.counter.tolist() == [0, 0] and tiny_model.lm_head.weight.abs().sum() > 0


class FineTune:
    """One step of SGD on all weights, the adapter's base included; leaves everything in disorder."""

    def __init__(self, fails=False):
        self.fails, self.seeds, self.draws = fails, [], []

    def __call__(self, subject, seed):
        assert torch.is_grad_enabled()
        assert all(parameter.grad is None for parameter in subject.model.parameters())
        self.seeds.append(seed)
        self.draws.append(float(torch.rand(())))
        model = subject.model.train().requires_grad_(True)
        model(input_ids=IDS, labels=IDS).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        model.requires_grad_(False)
        if self.fails:
            raise RuntimeError
        return Spent(gradient_steps=1, training_tokens=IDS.numel())


def test_relearning_trains_and_is_undone(lora_subject):
    model, train = lora_subject.model, FineTune()
    before, flags = model_hash(model), [p.requires_grad for p in model.parameters()]
    assert len(set(flags)) == 2
    with torch.no_grad(), change(relearning(train)).applied(lora_subject, 0, 9) as (subject, spent):
        assert spent == Spent(1, 8, 0) and train.seeds == [9]
        assert model_hash(subject.model) != before
        assert [p.requires_grad for p in model.parameters()] == flags
    assert model_hash(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_modes_gradients_and_generators_are_as_before(lora_subject, training, fails):
    model = lora_subject.model.train(training)
    weight = next(p for p in model.parameters() if p.requires_grad)
    weight.grad = torch.ones_like(weight)
    before, state = model_hash(model), torch.get_rng_state()
    flags = [p.requires_grad for p in model.parameters()]
    try:
        with change(relearning(FineTune(fails))).applied(lora_subject, 0, 9):
            assert not fails
    except RuntimeError:
        assert fails
    assert model_hash(model) == before and torch.equal(torch.get_rng_state(), state)
    assert all(module.training == training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert sum(p.grad is not None for p in model.parameters()) == 1


def test_a_seed_names_what_relearning_draws(tiny_subject):
    train = FineTune()
    for seed in (1, 1, 2):
        torch.rand(3)
        with change(relearning(train)).applied(tiny_subject, 0, seed):
            pass
    assert train.draws[0] == train.draws[1] != train.draws[2]


def test_changes_stack_and_are_undone_in_turn(tiny_model, tiny_tokenizer):
    subject = Subject(add_lora(tiny_model, rank=2), tiny_tokenizer)
    before = model_hash(subject.model)
    both = weight_noise(0.2, 1) | relearning(FineTune()) | adapter_scaling(2.0)
    outer, middle, inner = both.weights
    with outer.applied(subject, 0, 0), middle.applied(subject, 0, 1), inner.applied(subject, 0, 2):
        assert model_hash(subject.model) != before
    assert model_hash(subject.model) == before
