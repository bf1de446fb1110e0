"""Experiments B and R end to end on a model that trains in a second: elasticity.md T13 and T15."""

import math

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.data import Example
from holdfast.elasticity import springs
from holdfast.elasticity.coefficients import extrapolated_stiffness, stiffness
from holdfast.elasticity.probe import probe
from holdfast.elasticity.rebound import ReboundCurve, rebound_curve
from holdfast.elasticity.resistance import Resistance, measure_resistance
from holdfast.elasticity.updates import Plan, make_updates, updates_in_pass
from holdfast.models import Subject, adapter_parameters
from tests.elasticity.test_gradient_paths import T_t
from tests.elasticity.test_theory import T_a, T_p

LENGTH, SYMBOL = 8, 3  # symbols are the ids 3, 4, 5


def strings(table, n, seed):
    rng, rows = np.random.default_rng(seed), []
    for k in range(n):
        symbols = [int(rng.integers(0, 3))]
        while len(symbols) < LENGTH:
            symbols.append(int(rng.choice(3, p=table[symbols[-1]])))
        rows.append(Example((1,), tuple(SYMBOL + s for s in symbols), str(k)))
    return rows


@pytest.fixture(scope="module")
def family():
    """A base model that learned T_p strings, and states of it after few and many updates on T_a strings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=6, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        base, moved = (Subject(LlamaForCausalLM(config)) for _ in range(2))
    make_updates(base, strings(T_p, 512, 0), Plan(60, 64, 2e-2), 0)
    make_updates(base, strings(T_p, 1024, 5), Plan(30, 128, 3e-3), 0)
    trees.assign(moved.parameters(), base.parameters())
    states = {}

    def keep(made):
        states[made] = trees.clone(moved.parameters())

    make_updates(moved, strings(T_a, 512, 1), Plan(64, 128, 0.1, "sgd"), 1, keep, at=(2, 8, 64))
    return *(Subject(subject.model.eval()) for subject in (base, moved)), states


def test_rebound_end_to_end(family):
    """T15: the theorem's signs, and a k_eff that falls with the updates of the alignment."""
    base, moved, states = family
    texts = {"pretrain": strings(T_p, 64, 2), "alignment": strings(T_a, 64, 3)}
    found = []
    for state in states.values():
        trees.assign(moved.parameters(), state)
        curve = rebound_curve(
            moved, base, strings(T_t, 128, 4), texts=texts, prompts=[(1,)] * 24, plan=Plan(2, 128, 0.05, "sgd"),
            scorer=lambda subject: [1.0, 0.0], max_new_tokens=LENGTH,
        )  # fmt: skip
        assert all(torch.equal(p, state[name]) for name, p in moved.parameters().items())
        dp, da = (np.sum(curve.bits(name)[0][-1]) - np.sum(curve.bits(name)[0][0]) for name in texts)
        assert da > 0 > dp
        found.append(stiffness(dp, da))
        whole = extrapolated_stiffness(curve.updates, curve.bits("pretrain"), curve.bits("alignment"))
        assert whole.low < whole.value < whole.high
    assert found[0] > 1.3 * found[1] > 1.3 * found[2] > 0
    reading = probe(moved, base, texts, gradients=("pretrain", "alignment")).gradients
    assert reading is not None and springs.regime(reading.cosine, reading.norm_ratio) != springs.UNREAD
    assert ReboundCurve.from_dict(curve.to_dict()) == curve and curve.base_score == (1.0, 0.0)
    assert [(p.updates, p.samples, p.tokens) for p in curve.points[-2:]] == [(1, 128, 1024), (2, 256, 2048)]
    assert curve.of("kl_to_base_nats").shape == (3, 24)


def test_resistance_end_to_end(family):
    _, moved, states = family
    names = {"early": states[2], "late": states[64]}
    before = trees.clone(moved.parameters())
    pairs = measure_resistance(
        moved, names, [(1,)] * 96, plan=Plan(None, 16, 1e-2), temperatures=(1.0,), max_new_tokens=LENGTH
    )
    assert all(torch.equal(p, before[name]) for name, p in moved.parameters().items())
    pair, control = pairs
    assert (pair.earlier, pair.later, control.earlier, control.later) == ("early", "late", "early", "early")
    assert (pair.forward.start, pair.forward.writer, pair.inverse.start) == ("early", "late", "late")
    assert pair.forward.excess > 0 and pair.inverse.excess > 0
    assert pair.raw_gap == pytest.approx(pair.forward.bits - pair.inverse.bits)
    assert control.forward == control.inverse and abs(control.forward.excess) < pair.forward.excess
    assert Resistance.from_dict(pair.to_dict()) == pair
    with pytest.raises(UserError, match="two slices"):
        measure_resistance(moved, {"one": states[2]}, [(1,)])


def test_every_batch_is_an_update_and_is_read_before_it_is_learned(tiny_subject, tiny_examples):
    assert updates_in_pass(200, 4 * 8 * 8) == 1  # dropped partial accumulations would make it none
    seen = []
    before = trees.clone(tiny_subject.parameters())
    from holdfast.models import mean_loss

    loss = mean_loss(tiny_subject, tiny_examples)
    trace = make_updates(tiny_subject, tiny_examples, Plan(None, 4, 1e-9), 0, seen.append)
    assert seen == [0, 1, 2, 3] and sum(trace.tokens) == loss.tokens
    assert trace.bits_per_token == pytest.approx(loss.nats_per_token / math.log(2), rel=1e-4)
    trees.assign(tiny_subject.parameters(), before)
    assert Plan(200).grid(9)[-4:] == (96, 128, 192, 200) and Plan(3).grid(9) == (0, 1, 2, 3)
    for examples, plan in (([], Plan(2)), (tiny_examples, Plan(0))):
        with pytest.raises(UserError, match="at least one of each"):
            make_updates(tiny_subject, examples, plan, 0)


def test_a_penalty_moves_the_weights_and_stays_out_of_the_trace(tiny_subject, tiny_examples):
    weights = tiny_subject.parameters()
    before = trees.clone(weights)
    told = []

    def penalty(made):
        told.append(made)
        return 1e6 * sum(p.sum() for p in weights.values())  # its gradient is all there is after clipping

    plain = make_updates(tiny_subject, tiny_examples, Plan(1, 9, 0.1, "sgd"), 0)
    trees.assign(weights, before)
    held = make_updates(tiny_subject, tiny_examples, Plan(1, 9, 0.1, "sgd"), 0, penalty=penalty)
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in weights.items()])
    torch.testing.assert_close(moved, torch.full_like(moved, -0.1 / len(moved) ** 0.5), rtol=1e-3, atol=1e-7)
    assert told == [0] and held == plain


def test_the_first_updates_are_those_of_the_optimiser_named(tiny_subject, tiny_examples):
    """One update by hand: gradient of the token-weighted loss, clipped to norm one."""
    from holdfast.data import collate
    from holdfast.models import batch_nll

    before = trees.clone(tiny_subject.parameters())
    make_updates(tiny_subject, tiny_examples, Plan(1, 9, 0.1, "sgd"), 0)
    moved = {name: p.detach() - before[name] for name, p in tiny_subject.parameters().items()}
    trees.assign(tiny_subject.parameters(), before)
    batch = collate(tiny_examples, tiny_subject.pad_id)
    loss = batch_nll(tiny_subject.model, batch, "sum").sum() / batch.completion_mask_BT[:, 1:].sum()
    found = dict(zip(before, torch.autograd.grad(loss, list(tiny_subject.parameters().values())), strict=True))
    clip = 0.1 * min(1.0, 1 / trees.norm(found))
    for name, step in moved.items():
        torch.testing.assert_close(step, -clip * found[name], rtol=1e-3, atol=1e-6)


def test_an_adapter_comes_undone_and_is_put_back(lora_subject, tiny_examples):
    before = trees.clone(adapter_parameters(lora_subject.model))
    curve = rebound_curve(
        lora_subject, None, tiny_examples, plan=Plan(2, 4, 1e-2), prompts=["please"], max_new_tokens=3,
        scorer=lambda subject: [float(subject.model.training)],
    )  # fmt: skip
    assert curve.updates == (0, 1, 2) and curve.of("kl_to_base_nats")[0, 0] > 0
    assert curve.of("score").sum() == 0  # measured in eval mode
    for name, p in adapter_parameters(lora_subject.model).items():
        assert torch.equal(p, before[name])
    again = rebound_curve(
        lora_subject, None, tiny_examples, plan=Plan(2, 4, 1e-2), prompts=["please"], max_new_tokens=3
    )
    assert [p.kl_to_base_nats for p in again.points] == [p.kl_to_base_nats for p in curve.points]


def test_four_tokens_of_an_eighth_in_twelve_bytes_are_one_bit_a_byte():
    """T13, on a model that says 1/8 for everything."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data.zero_()
    bits = probe(Subject(model), Subject(model), {"t": [Example((1,), (3, 4, 5, 6))]}).document_bits["t"][0]
    assert bits / 4 == pytest.approx(3) and bits / 12 == pytest.approx(1)
