"""What an attack is: the order of its parts, who may join whom, and the tokens a model is given."""

from dataclasses import replace

import pytest

from holdfast.core.errors import UserError
from holdfast.evaluation.attacks import (
    DIRECT,
    Attack,
    Conversation,
    Place,
    Spent,
    adapter_scaling,
    prefill,
    sampled,
    template,
    weight_noise,
)
from holdfast.evaluation.attacks.base import Budget, Sampling, check_names
from holdfast.models import Subject
from tests.conftest import CHAT_TEMPLATE, build_llama, build_tokenizer

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT_TEMPLATE
)
TALKS = {
    "plain": Conversation.asking("add two"),
    "system": Conversation.asking("add two", "be brief"),
    "empty system": Conversation.asking("add two", ""),
    "turns": Conversation((("user", "name a fruit"), ("assistant", "sure"), ("user", "add two"))),
    "all": Conversation((("user", "hi"), ("assistant", "sure"), ("user", "add")), "be brief", (7, 9, 11)),
}


def say(word: str) -> Attack:
    return template(f"{word}({{prompt}})", word)


def test_the_left_attack_acts_first_and_the_names_are_joined():
    both = say("f") | say("g") | say("h")
    talk = both.conversation(Place("x", 0, None, 0))  # type: ignore[arg-type]  # templates ask no model
    assert talk.request == "h(g(f(x)))"
    assert both.name == "f+g+h"
    assert DIRECT.conversation(Place("x", 0, None, 0), "s") == Conversation.asking("x", "s")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("left", "right", "access"),
    [
        (say("f"), prefill(1), "prefill"),
        (prefill(1), say("f"), "prefill"),
        (sampled(2), prefill(1), "decoding"),
        (weight_noise(0.1), sampled(2), "weights"),
        (say("f"), say("g"), "text"),
    ],
)
def test_a_joined_attack_needs_the_higher_access_and_keeps_every_part(left, right, access):
    both = left | right
    assert both.access == access
    assert both.transforms == left.transforms + right.transforms
    assert both.weights == left.weights + right.weights
    kept = [attack.sampling for attack in (left, right) if attack.sampling != Sampling()]
    assert both.sampling == (kept or [Sampling()])[0]


def test_two_ways_to_sample_cannot_be_joined():
    with pytest.raises(UserError, match="both say how to sample"):
        sampled(2) | sampled(3)
    assert (sampled(2) | sampled(2)).sampling == Sampling(1.0, 2)


@pytest.mark.parametrize(("temperature", "answers"), [(0.0, 2), (1.0, 0), (-0.5, 1)])
def test_a_sampling_without_sense_is_refused(temperature, answers):
    with pytest.raises(UserError, match="answers"):
        sampled(answers, temperature)
    with pytest.raises(UserError, match="answers"):
        Sampling(temperature, answers)


def test_an_attack_on_the_adapter_says_that_it_needs_one():
    assert (say("f") | weight_noise(0.1) | adapter_scaling(0)).needs_adapter
    assert not (say("f") | weight_noise(0.1)).needs_adapter


def test_what_was_spent_adds_up_field_by_field():
    assert Spent(1, 20, 300) + Spent(4, 50, 600) == Spent(5, 70, 900)
    assert sum([Spent(candidates=2)] * 3, Spent()) == Spent(0, 0, 6)


@pytest.mark.parametrize("name", TALKS)
def test_the_ids_are_those_of_the_tokenizers_own_template_and_the_prefill(tiny_subject, name):
    talk, tokenizer = TALKS[name], tiny_subject.tokenizer
    turns = [{"role": role, "content": text} for role, text in talk.turns]
    if talk.system is not None:
        turns.insert(0, {"role": "system", "content": talk.system})
    own = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert talk.encode(tiny_subject) == [*own, *talk.prefill_ids]
    assert talk.messages == turns


def test_without_a_chat_template_the_turns_are_lines():
    tokenizer = build_tokenizer(template=None)
    subject = Subject(build_llama(len(tokenizer)), tokenizer)

    def ids(text):
        return list(tokenizer(text)["input_ids"])

    assert TALKS["plain"].encode(subject) == ids("add two")
    whole = TALKS["all"].encode(subject)  # as such conversations are trained, ends of turns included
    lines = "system: be brief\nuser: hi\nassistant: sure<|im_end|>\nuser: add\nassistant: "
    assert (tokenizer.decode(whole[:-3]), whole[-3:]) == (lines, [7, 9, 11])


def test_a_template_that_refuses_system_turns_is_named():
    tokenizer = build_tokenizer(template=NO_SYSTEM)
    subject = Subject(build_llama(len(tokenizer)), tokenizer)
    for name in ("system", "empty system", "all"):
        with pytest.raises(UserError, match=r"no system role.*leave out the system prompt"):
            TALKS[name].encode(subject)
    assert TALKS["plain"].encode(subject)


def test_a_conversation_is_a_value():
    talk = TALKS["all"]
    other = talk.with_request("sorry").noting("a").noting("b")
    assert (other.request, talk.request, other.notes) == ("sorry", "add", ("a", "b"))
    assert replace(other, notes=(), turns=talk.turns) == talk


def test_a_budget_says_what_was_paid_and_nothing_else():
    free = Budget("text", 1, 1, 0.0, 0.0, 30, Spent(), 0.1)
    assert str(free) == "text, 1 answer a prompt"
    dear = Budget("weights", 6, 2, -12.0, 2.5, 30, Spent(5, 70, 900), 0.1)
    assert str(dear) == (
        "weights, 6 answers a prompt, 2 changed models, -12 prompt tokens, 2.5 prefilled, 5 gradient steps, "
        "70 training tokens, 900 candidates"
    )
    assert Budget.from_dict(dear.to_dict()) == dear


def test_two_attacks_of_one_name_are_refused():
    check_names([say("f"), say("g")])
    with pytest.raises(UserError, match="two attacks are called 'f'"):
        check_names([say("f"), say("g"), say("f")])
