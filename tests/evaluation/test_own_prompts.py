"""A model's own requests: continued from where the template lets a user begin, cut where the turn ends."""

import pytest

from holdfast.core.errors import UserError
from holdfast.evaluation import own_prompts as module
from holdfast.evaluation.own_prompts import own_prompts
from holdfast.models import Subject


def test_they_begin_where_the_users_words_do_and_end_with_the_turn(tiny_subject, monkeypatch):
    tokenizer, asked = tiny_subject.tokenizer, []
    written = ["add two<|im_end|>\nand three", " name a colour ", "", "add two"]

    def generate(_subject, prompts, max_new_tokens, temperature, seed):
        asked.append((prompts, max_new_tokens, temperature, seed))
        texts = written if len(asked) == 1 else ["a fruit"]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    monkeypatch.setattr(module, "generate", generate)
    assert own_prompts(tiny_subject, 4, 9, seed=3) == ("add two", "name a colour", "a fruit")
    opening = tokenizer("<|bos|><|im_start|>user\n", add_special_tokens=False)["input_ids"]
    assert asked[0][:3] == ([opening] * 4, 9, 1.0)
    assert [len(prompts) for prompts, *_ in asked] == [4, 2, 1, 1]  # as many as are missing, a few times
    assert len({seed for *_, seed in asked}) == 4


def test_a_model_that_cannot_be_asked_is_told_so(tiny_subject, monkeypatch):
    monkeypatch.setattr(module, "generate", lambda _subject, prompts, *_, **__: [[]] * len(prompts))
    with pytest.raises(UserError, match="writes no requests of its own; give prompts"):
        own_prompts(tiny_subject, 2)
    monkeypatch.setattr(tiny_subject.tokenizer, "chat_template", None)
    with pytest.raises(UserError, match="no chat template"):
        own_prompts(Subject(tiny_subject.model, tiny_subject.tokenizer), 2)
