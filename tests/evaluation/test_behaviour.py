"""Ask, judge, rate: one way for every room, held against generation itself and against counting by hand."""

import pytest

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.core.statistics import wilson
from holdfast.data import encode_prompt
from holdfast.evaluation import Verdict, ask, ask_and_judge, sample_answers, sample_reference
from holdfast.models import Subject, generate

PROMPTS = ["please add two and three", "name a colour", "help", "add"]


def test_asking_is_generation_read_without_its_end_token(tiny_subject):
    tokenizer = tiny_subject.tokenizer
    ids = [encode_prompt(prompt, tokenizer) for prompt in PROMPTS]
    new = generate(tiny_subject, ids, 6, 1.0, 3)
    wanted = [tokenizer.decode(one, skip_special_tokens=True).strip() for one in new]
    assert ask(tiny_subject, PROMPTS, max_new_tokens=6, temperature=1.0, seed=3, batch_size=2) == wanted


def test_a_system_prompt_goes_before_whatever_brings_none(tiny_subject):
    own = [{"role": "system", "content": "add"}, {"role": "user", "content": "help"}]
    asked = ask(tiny_subject, ["help", own], max_new_tokens=5, system="be brief")
    there = ask(tiny_subject, [[{"role": "system", "content": "be brief"}, own[1]], own], max_new_tokens=5)
    assert asked == there


def test_every_label_is_counted_and_an_error_is_a_pass_nowhere(tiny_subject):
    labels = iter(["refused", "complied", "error", "unclear"])
    found = ask_and_judge(tiny_subject, PROMPTS, lambda p, r: Verdict(next(labels), "told"), max_new_tokens=2)
    assert found.labels == ("refused", "complied", "error", "unclear") and found.prompts == tuple(PROMPTS)
    assert found.counts == {"refused": 1, "complied": 1, "unclear": 1, "error": 1}
    assert found.rate("refused") == found.rate("complied") == wilson(1, 4)
    assert found.part(2).rate("refused") == wilson(0, 2) and found.part(2).counts["error"] == 1


def test_sampled_answers_are_examples_with_streams_of_their_own(tiny_subject):
    ids = [encode_prompt(prompt, tiny_subject.tokenizer) for prompt in PROMPTS]
    found = sample_answers(tiny_subject, PROMPTS, 5, seed=9, samples=2)
    assert [e.id for e in found] == [f"{k}/{s}" for k in range(4) for s in range(2)]
    repeated = [one for one in ids for _ in range(2)]
    assert [list(e.prompt_ids) for e in found] == repeated
    assert [list(e.completion_ids) for e in found] == generate(tiny_subject, repeated, 5, 1.0, 9)
    assert [e.id for e in sample_answers(tiny_subject, ids, 5, seed=9, name="base")] == [
        f"base/{k}" for k in range(4)
    ]
    reference = sample_reference(tiny_subject, PROMPTS, 5, seed=2, samples=2)
    assert reference == sample_answers(tiny_subject, ids, 5, seed=derive_seed(2, "reference"), samples=2)


def test_a_prompt_without_room_for_its_answer_is_named_before_anything_is_generated(tiny_subject, monkeypatch):
    monkeypatch.setattr("holdfast.evaluation.behaviour.generate", None)
    with pytest.raises(UserError, match=r"prompt 1: \d+ tokens, more than the 256 this model reads"):
        ask(tiny_subject, ["short", "add " * 250], max_new_tokens=16)
    tables = Subject(with_a_table_of_positions(32, len(tiny_subject.tokenizer)), tiny_subject.tokenizer)
    with pytest.raises(
        UserError, match=r"prompt 0: 20 tokens and 16 new ones, more than the 32.*--max-new-tokens"
    ):
        sample_answers(tables, [list(range(20))], 16, seed=0)
    with pytest.raises(TypeError):  # a rotary model may go on: it is asked
        sample_answers(tiny_subject, [list(range(250))], 16, seed=0)


def with_a_table_of_positions(rows, vocabulary):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": vocabulary}
    return GPT2LMHeadModel(GPT2Config(n_positions=rows, bos_token_id=1, eos_token_id=4, **sizes)).eval()


def test_text_needs_a_tokenizer_and_ids_need_none(tiny_subject):
    bare = Subject(tiny_subject.model)
    with pytest.raises(UserError, match="a text prompt needs a tokenizer"):
        ask(bare, ["help"], max_new_tokens=2)
    assert len(sample_answers(bare, [[5, 6]], 2, seed=0)[0].completion_ids) in (1, 2)
