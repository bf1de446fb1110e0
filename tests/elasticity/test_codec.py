"""Arithmetic coding and the codec: lossless, as long as the model's probabilities say, never silently wrong."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.elasticity import codec
from holdfast.elasticity.arithmetic import LARGEST_TOTAL, Decoder, Encoder
from holdfast.models import Subject, prefix_id
from tests.conftest import build_llama


@pytest.mark.parametrize(
    "counts", [[1, 1], [1, 2**32 - 1], [5, 1, 90, 4], [LARGEST_TOTAL - 1, 1], [1, LARGEST_TOTAL // 2, 3]]
)
def test_any_sequence_comes_back_at_its_ideal_length(counts):
    cumulated = [0, *np.cumsum(counts).tolist()]
    total = cumulated[-1]
    symbols = np.random.default_rng(0).integers(0, len(counts), 400).tolist()
    encoder = Encoder()
    for s in symbols:
        encoder.encode(cumulated[s], counts[s], total)
    message = encoder.finish()
    decoder, found = Decoder(message), []
    for _ in symbols:
        place = decoder.target(total)
        s = next(k for k in range(len(counts)) if cumulated[k] <= place < cumulated[k + 1])
        decoder.consume(cumulated[s], counts[s], total)
        found.append(s)
    assert found == symbols
    ideal = sum(math.log2(total / counts[s]) for s in symbols)
    assert ideal - 1e-6 <= 8 * len(message) <= ideal + 2 + 7 + 1e-6


@pytest.mark.parametrize(("tokens", "window", "lanes"), [(1, 8, 4), (23, 6, 3), (14, 14, 2), (9, 3, 1)])
def test_tokens_come_back_whatever_the_windows(tiny_subject, tokens, window, lanes):
    ids = np.random.default_rng(tokens).integers(0, tiny_subject.vocabulary, tokens).tolist()
    coded = codec.encode_ids(tiny_subject, ids, window, lanes)
    assert codec.Coded.from_bytes(coded.to_bytes()) == coded
    assert codec.decode_ids(tiny_subject, coded) == ids
    predicted = codec.predicted_bits(tiny_subject, ids, window, batch_size=7)
    assert predicted - 0.01 <= coded.bits <= predicted + 9.01


def test_predicted_bits_are_those_of_each_window_after_the_first_token(tiny_subject):
    ids, bits = list(range(20, 43)), 0.0
    begin = prefix_id(tiny_subject.tokenizer)
    for start in range(0, 23, 10):
        window = ids[start : start + 10]
        with torch.no_grad():
            logits = tiny_subject.model(input_ids=torch.tensor([[begin, *window]])).logits[0]
        log_p = logits.double().log_softmax(-1)
        bits -= sum(float(log_p[t, token]) for t, token in enumerate(window)) / math.log(2)
    assert codec.predicted_bits(tiny_subject, ids, 10) == pytest.approx(bits, rel=1e-6)


def test_text_comes_back_and_costs_what_is_predicted(tiny_subject):
    text = "please add two and three; näme a colour\n\t“sure” , the sum is five . 😀" * 12
    coded = codec.encode_text(tiny_subject, text, 32, 64)
    assert codec.decode_text(tiny_subject, coded) == text
    predicted = codec.predicted_bits(tiny_subject, codec.lossless_ids(tiny_subject, text), 32)
    assert abs(coded.bits / predicted - 1) < 1e-3


def test_a_text_that_its_tokenizer_changes_is_refused():
    from holdfast.models import load
    from holdfast.organism import shipped

    organism = load(shipped("base"))
    with pytest.raises(UserError, match="does not give it back"):
        codec.encode_text(organism, "two  spaces")
    assert (
        codec.decode_text(organism, codec.encode_text(organism, "to mend is slow work."))
        == "to mend is slow work."
    )


def test_the_wrong_model_or_a_damaged_text_is_said_not_read(tiny_subject, tiny_tokenizer):
    coded = codec.encode_ids(tiny_subject, list(range(30)), 8, 2)
    other = Subject(build_llama(len(tiny_tokenizer), seed=1), tiny_tokenizer)
    with pytest.raises(UserError, match="is not what was coded"):
        codec.decode_ids(other, coded)
    damaged = dataclasses.replace(coded, payload=bytes([coded.payload[0] ^ 255]) + coded.payload[1:])
    with pytest.raises(UserError, match="is not what was coded"):
        codec.decode_ids(tiny_subject, damaged)
    for data in (b"", b"something else entirely"):
        with pytest.raises(UserError, match="not what this codec writes"):
            codec.Coded.from_bytes(data)
    for ids, window in (([], 8), ([1], 0)):
        with pytest.raises(UserError):
            codec.encode_ids(tiny_subject, ids, window)


def test_every_token_can_be_coded_and_rounding_costs_next_to_nothing():
    logits_LV = np.random.default_rng(0).normal(0, 8, (5, 50_000))
    logits_LV[0, 7] = -1e4  # a probability of zero in any float
    counts_LV = np.diff(codec.cumulated_counts(logits_LV), axis=1)
    assert (counts_LV >= 1).all() and (counts_LV.sum(1) <= 2**32).all()
    p_LV = np.exp(logits_LV - logits_LV.max(1, keepdims=True))
    p_LV /= p_LV.sum(1, keepdims=True)
    seen = p_LV > 0
    lost = (p_LV[seen] * np.log2((p_LV / (counts_LV / counts_LV.sum(1, keepdims=True)))[seen])).sum() / 5
    assert 0 <= lost < 1e-4


def test_a_model_without_a_cache_is_read_again_from_the_start(tiny_subject):
    class Forgetful(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.config = inner, inner.config

        def forward(self, input_ids, past_key_values=None, **options):
            assert past_key_values is None
            return self.inner(input_ids=input_ids, use_cache=False, return_dict=True)

    ids = list(range(20))
    subject = Subject(Forgetful(tiny_subject.model), tiny_subject.tokenizer)
    coded = codec.encode_ids(subject, ids, 8, 2)
    assert codec.decode_ids(subject, coded) == ids
    assert abs(coded.bits - codec.encode_ids(tiny_subject, ids, 8, 2).bits) <= 8
