"""The head on scored positions only: the numbers of the whole forward, for every family, whole or in slices.

The reference is plain: all logits of the model, picked afterwards.
"""

import pytest
import torch

from holdfast.data import Example, collate
from holdfast.models import (
    Subject,
    batch_logits,
    batch_nll,
    continuation_likelihoods,
    kl_on_examples,
    log_probabilities,
    mean_loss,
    scored_logits,
    sequence_nll,
)
from holdfast.models import head as head_module
from tests.gradients import zoo

EXAMPLES = [
    Example((1, 30, 31), (32, 33, 5, 6, 7, 4), "a"),
    Example((1, 50), (9, 8, 7), "b"),
    Example((1, 12, 13, 14), (20, 21, 4), "c", (True, False, True)),
    Example((1, 2, 3), (), "nothing to learn"),
]


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("limit", [1 << 26, 1], ids=["whole", "slices"])
@pytest.mark.parametrize("family", (*zoo.ARCHITECTURES, *zoo.FURTHER))
def test_logits_at_scored_positions_are_those_of_the_whole_forward(family, limit, monkeypatch):
    monkeypatch.setattr(head_module, "SLICE_BYTES", limit)
    model = zoo.build(family, spread=3.0)
    for side in ("left", "right"):
        batch = collate(EXAMPLES, 0, side=side)
        with torch.no_grad():
            found = scored_logits(model, batch)
            expected = batch_logits(model, batch)[:, :-1][batch.completion_mask_BT[:, 1:] > 0]
            assert len(found) == len(expected) == 11
            assert close(found[:], expected)
            assert close(torch.cat([found[0:4], found[4:5], found[5:11]]), expected)


def test_the_head_never_reads_a_prompt(monkeypatch, tiny_subject):
    model, seen = tiny_subject.model, []
    model.get_output_embeddings().register_forward_hook(
        lambda _m, args, _o: seen.append(args[0].shape[:-1].numel())
    )
    mean_loss(tiny_subject, EXAMPLES)
    kl_on_examples(log_probabilities(model), log_probabilities(model), EXAMPLES, 0)
    continuation_likelihoods(tiny_subject, [((1, 5, 6, 7, 8), (9,)), ((1, 5), (6, 7))])
    assert seen == [11, 11, 11, 3]
    seen.clear()
    monkeypatch.setattr(head_module, "SLICE_BYTES", 4 * tiny_subject.vocabulary * 4)
    mean_loss(tiny_subject, EXAMPLES)
    assert max(seen) == 4 and sum(seen) == 1 + 1 + 11  # one in the forward, one to compare, then all in slices


def test_losses_and_kl_do_not_depend_on_the_slices(monkeypatch):
    family = zoo.ARCHITECTURES[0]
    model, other = zoo.build(family, spread=2.0), zoo.build(family, seed=3, spread=2.0)

    def numbers():
        kl, tokens = kl_on_examples(log_probabilities(model), log_probabilities(other), EXAMPLES, 0, batch_size=3)
        return kl.tolist(), tokens.tolist(), mean_loss(Subject(model), EXAMPLES).nll_N

    whole = numbers()
    assert whole[1] == [6, 3, 2, 0] and min(whole[0][:3]) > 0 and whole[0][3] == 0
    monkeypatch.setattr(head_module, "SLICE_BYTES", 1)
    for found, expected in zip(numbers(), whole, strict=True):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)  # log-probabilities of size 5, float32
    batch = collate(EXAMPLES, 0)
    p, q = (batch_logits(m, batch).double().log_softmax(-1)[:, :-1] for m in (model, other))
    kl_BS = (p.exp() * (p - q)).sum(-1) * batch.completion_mask_BT[:, 1:]
    assert whole[0] == pytest.approx(kl_BS.sum(1).tolist(), rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_and_its_gradient_are_those_of_all_logits(reduction, tiny_model):
    batch = collate(EXAMPLES, 0)
    gradients = []
    for loss_B in (
        batch_nll(tiny_model, batch, reduction),
        sequence_nll(batch_logits(tiny_model, batch), batch, reduction),
    ):
        tiny_model.zero_grad()
        (loss_B * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
        gradients.append([loss_B.detach(), *(p.grad.clone() for p in tiny_model.parameters())])
    for found, expected in zip(*gradients, strict=True):
        assert close(found, expected)


def test_a_model_that_caps_its_logits_is_not_cut_short(monkeypatch, tiny_model):
    """The head alone would give other logits: then the model's own forward makes all of them."""
    inner = tiny_model.forward

    def capped(*args, **kwargs):
        output = inner(*args, **kwargs)
        output.logits = 0.1 * torch.tanh(output.logits / 0.1)
        return output

    monkeypatch.setattr(tiny_model, "forward", capped)
    monkeypatch.setattr(head_module, "SLICE_BYTES", 1)
    batch = collate(EXAMPLES, 0)
    with torch.no_grad():
        expected = batch_logits(tiny_model, batch)[:, :-1][batch.completion_mask_BT[:, 1:] > 0]
        assert expected.abs().max() <= 0.1
        assert close(scored_logits(tiny_model, batch)[:], expected)


@pytest.mark.parametrize("how", ["no head", "head not called", "shape needed"])
def test_a_head_that_cannot_be_cut_gives_the_same_numbers(how, monkeypatch, tiny_model):
    inner = tiny_model.forward

    def needs_shape(*args, **kwargs):
        output = inner(*args, **kwargs)
        output.logits = output.logits.view(*kwargs["input_ids"].shape, -1)
        return output

    batch = collate(EXAMPLES, 0)
    if how == "no head":
        monkeypatch.setattr(tiny_model, "get_output_embeddings", lambda: None)
    elif how == "head not called":
        monkeypatch.setattr(tiny_model, "get_output_embeddings", lambda: torch.nn.Linear(2, 2))
    else:
        monkeypatch.setattr(tiny_model, "forward", needs_shape)
    with torch.no_grad():
        expected = batch_logits(tiny_model, batch)[:, :-1][batch.completion_mask_BT[:, 1:] > 0]
        assert close(scored_logits(tiny_model, batch)[:], expected)
    assert not any(module._forward_pre_hooks for module in tiny_model.modules())
