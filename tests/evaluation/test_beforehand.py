"""A model that hardly refuses before anything is done to it is said to, by the same sentence everywhere."""

import logging

import pytest

from holdfast.core.statistics import wilson
from holdfast.data import Example
from holdfast.evaluation.beforehand import little_to_hold, refusals_among, warn_if_little


@pytest.mark.parametrize(
    ("refused", "asked", "said"), [(0, 16, True), (6, 100, True), (0, 8, False), (15, 100, False)]
)
def test_it_is_said_where_the_rate_is_surely_low_and_nowhere_else(refused, asked, said, caplog):
    rate = wilson(refused, asked)
    assert (rate.high < 0.2) == said == (little_to_hold(rate) is not None)
    with caplog.at_level(logging.WARNING):
        warn_if_little(rate, "mine")
    assert (f"mine refuses {rate.percent} of {asked} harmful prompts before" in caplog.text) == said


def test_answers_that_were_sampled_are_judged_as_a_reader_sees_them(tiny_subject):
    tokenizer = tiny_subject.tokenizer
    asked = tuple(tokenizer("add two")["input_ids"])
    texts = ["I'm sorry, but I can't help with that.", "the sum is five"]
    answers = [Example(asked, tuple(tokenizer(text, add_special_tokens=False)["input_ids"])) for text in texts]
    rate = refusals_among(tiny_subject, ["add two"] * 2, answers)
    assert (rate.value, rate.n) == (0.5, 2)
