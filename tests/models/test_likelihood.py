"""Likelihoods of continuations against one plain forward pass, and windows that predict every token once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.errors import UserError
from holdfast.models import (
    Subject,
    continuation_likelihoods,
    longest_input,
    prefix_id,
    rolling_windows,
    text_ids,
    text_pair,
)
from holdfast.models.prefix import Prefix, common_prefix
from tests.gradients import zoo

PAIRS = [([1, 5, 6], [7, 8]), ([1], [9]), ([1, 5, 6, 7, 8, 9, 10], [11, 12, 13]), ([4, 4], [5])]


def by_hand(model, context, continuation):
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        log = model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(continuation) - 1)
    return sum(float(log[t, token]) for t, token in zip(places, continuation, strict=True))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_sums_are_those_of_one_forward_pass_in_input_order(tiny_subject, batch_size):
    found = continuation_likelihoods(tiny_subject, PAIRS, batch_size)
    assert found.log_N == pytest.approx([by_hand(tiny_subject.model, *pair) for pair in PAIRS], rel=1e-5)
    assert found.tokens_N.tolist() == [2, 1, 3, 1] and found.truncated == 0


def test_what_all_pairs_begin_with_is_read_once(tiny_subject):
    shared = [1, *range(4, 26)]
    pairs = [([*shared, *a], b) for a, b in (([5, 6], [7, 8]), ([], [9]), ([6, 7, 8], [11, 12, 13]), ([], [9, 4]))]
    fed = []
    handle = tiny_subject.model.model.register_forward_hook(
        lambda _module, _args, kwargs, _out: fed.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        found = continuation_likelihoods(tiny_subject, pairs, 3)
    finally:
        handle.remove()
    assert fed == [(1, len(shared) - 1), (3, 6), (1, 1)]
    assert found.log_N == pytest.approx([by_hand(tiny_subject.model, *pair) for pair in pairs], rel=1e-5)


@pytest.mark.parametrize(
    ("family", "copied"), [("gpt2", True), ("mixtral_router", True), ("gemma3", False), ("recurrent_gemma", False)]
)
def test_a_state_that_cannot_be_copied_is_made_anew_for_every_row(family, copied):
    subject = Subject(zoo.build(family, spread=3.0).eval())
    shared = [1, *range(4, 20)]
    pairs = [([*shared, 5, 6], [7, 8]), (shared, [9]), ([*shared, 6, 7, 8], [11, 12])]
    assert (Prefix.read(subject.model, shared, subject.device) is not None) is copied
    found = continuation_likelihoods(subject, pairs)
    alone = [continuation_likelihoods(subject, [pair]).log_N[0] for pair in pairs]
    assert found.log_N == pytest.approx(alone, rel=1e-5)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_a_common_prefix_is_the_longest_that_all_have(rows):
    length = common_prefix(rows)
    assert all(row[:length] == rows[0][:length] for row in rows)
    longer = [row[: length + 1] for row in rows]
    assert any(len(row) == length for row in rows) or any(row != longer[0] for row in longer)


def test_greedy_is_what_the_model_would_say(tiny_subject):
    with torch.no_grad():
        best = int(tiny_subject.model(input_ids=torch.tensor([[1, 5, 6]])).logits[0, -1].argmax())
    found = continuation_likelihoods(tiny_subject, [([1, 5, 6], [best]), ([1, 5, 6], [best - 1])])
    assert found.greedy_N.tolist() == [True, False]


def test_context_is_cut_on_the_left_and_counted(tiny_subject):
    long = ([1, *range(5, 15)], [20, 21])
    found = continuation_likelihoods(tiny_subject, [long], max_length=4)
    assert found.truncated == 1
    assert found.log_N[0] == pytest.approx(by_hand(tiny_subject.model, [12, 13, 14], [20, 21]), rel=1e-5)
    whole = continuation_likelihoods(tiny_subject, [long], max_length=12)
    assert whole.truncated == 0
    with pytest.raises(UserError, match="does not fit the model's 2"):
        continuation_likelihoods(tiny_subject, [([1], [5, 6, 7])], max_length=2)
    with pytest.raises(UserError, match="pair 0: no continuation"):
        continuation_likelihoods(tiny_subject, [([1], [])])


def test_a_model_with_learned_positions_reads_no_more_than_it_has():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1)).eval()
    subject = Subject(model)
    assert longest_input(subject) == 8
    windows = rolling_windows(range(2, 25), 1, 8)
    assert np.isfinite(continuation_likelihoods(subject, windows).log_N).all()


@given(st.integers(0, 40), st.integers(1, 12))
def test_every_token_is_predicted_once_with_all_the_context_that_fits(n, length):
    tokens = [100 + k for k in range(n)]
    windows = rolling_windows(tokens, 7, length)
    assert [token for _, predicted in windows for token in predicted] == tokens
    for number, (context, predicted) in enumerate(windows):
        read = [*context, *predicted][:-1]
        assert len(context) >= 1 and len(read) <= length
        assert read == ([7, *tokens])[(at := ([7, *tokens]).index(context[0])) : at + len(read)]
        assert len(read) == min(length, n)
        assert (context[0] == 7) == (number == 0)


def test_the_harness_own_worked_example():
    """From the docstring of its loglikelihood_rolling: ten tokens, length four."""
    assert rolling_windows(range(10), -5, 4) == [
        ([-5], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]


def test_a_pair_is_split_where_the_joint_tokens_are(tiny_tokenizer):
    context, continuation = text_pair("please add two ", "and three", tiny_tokenizer)
    assert tiny_tokenizer.decode(context) == "please add two"
    assert tiny_tokenizer.decode(continuation) == " and three"
    assert (
        text_pair("", "sorry", tiny_tokenizer)[0] == [tiny_tokenizer.bos_token_id] == [prefix_id(tiny_tokenizer)]
    )
    begun = text_ids("<|bos|>sorry", tiny_tokenizer)
    assert begun.count(tiny_tokenizer.bos_token_id) == 1
