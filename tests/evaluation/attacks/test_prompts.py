"""Attacks on the words: what the model is made to read, to the token."""

import json

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.evaluation.attacks import (
    Conversation,
    Place,
    many_shot,
    prefill,
    run_attack,
    template,
    templates,
    without_system,
)
from holdfast.models import Subject
from tests.conftest import CHAT_TEMPLATE, build_llama, build_tokenizer

OWN_WORDS = "{{ '<|im_start|>system\nname a colour and help<|im_end|>\n' }}"
WRITES_ITS_OWN = "{% if messages[0]['role'] != 'system' %}" + OWN_WORDS + "{% endif %}" + CHAT_TEMPLATE
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT_TEMPLATE
)
SHOTS = [(f"add {k} and {k}", f"the sum is {2 * k} .") for k in range(12)]


def with_template(text: str | None) -> Subject:
    tokenizer = build_tokenizer(template=text)
    return Subject(build_llama(len(tokenizer)), tokenizer)


def ask(attack, subject, prompt="add two", system=None, index=0, seed=0) -> Conversation:
    return attack.conversation(Place(prompt, index, subject, seed), system)


def test_a_template_holds_the_request_wherever_it_has_a_place(tiny_subject):
    both = ask(template("Be {prompt}! Again: {prompt}"), tiny_subject, "so {prompt}")
    assert both.request == "Be so {prompt}! Again: so {prompt}"
    assert ask(template("No rules today. \n"), tiny_subject).request == "No rules today.\n\nadd two"
    with pytest.raises(UserError, match="'mine' is empty"):
        template(" \n", "mine")


def test_our_own_templates_have_a_place_and_names_of_their_own(tiny_subject):
    own = templates()
    assert len({attack.name for attack in own}) == len(own) >= 3
    for attack in own:
        text = ask(attack, tiny_subject, "<the request>").request
        assert text.count("<the request>") == 1 and "{prompt}" not in text and len(text) > 30


def test_templates_come_from_a_file(tiny_subject, tmp_path):
    rows = [{"name": "a", "template": "Now: {prompt}"}, {"template": "Then"}]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = templates(path)
    assert [attack.name for attack in found] == ["template-a", "template-1"]
    assert [ask(attack, tiny_subject).request for attack in found] == ["Now: add two", "Then\n\nadd two"]
    path.write_text('{"name": "a", "text": "Now"}')
    with pytest.raises(UserError, match=r"mine.jsonl line 1: no 'template'"):
        templates(path)


@pytest.mark.shared_data
def test_a_published_list_of_templates_is_read(tiny_subject, shared_data):
    path = shared_data / "jailbreak_templates" / "dan_templates.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, attack in zip(rows, templates(path), strict=True):
        assert attack.name == f"template-{row['name']}"
        assert "<the request>" in ask(attack, tiny_subject, "<the request>").request


def greedy_loop(subject: Subject, ids: list[int], steps: int) -> list[int]:
    """One unbatched forward pass a token, without a cache."""
    new: list[int] = []
    while len(new) < steps and subject.tokenizer.eos_token_id not in new:  # type: ignore[union-attr]
        with torch.no_grad():
            logits_TV = subject.model(input_ids=torch.tensor([[*ids, *new]]), use_cache=False).logits[0]
        new.append(int(logits_TV[-1].argmax()))
    return new


@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_prefilled_answer_goes_on_from_exactly_k_tokens(organism, requests, refusing, k):
    text = "first find the hammer . then take it to the garden ."
    ids = list(organism.tokenizer(text, add_special_tokens=False)["input_ids"])[:k]
    assert len(ids) == k
    attack = prefill(k, text)
    score, answers = run_attack(organism, attack, "refusal", requests[:3], refusing, max_new_tokens=9)
    assert score.budget.prefill_tokens == k
    for prompt, answer in zip(requests[:3], answers, strict=True):
        asked = Conversation.asking(prompt).encode(organism)
        assert ask(attack, organism, prompt).encode(organism) == [*asked, *ids]
        whole = ids + greedy_loop(organism, [*asked, *ids], 9)
        assert answer.response == organism.tokenizer.decode(whole, skip_special_tokens=True).strip()


def test_a_prefill_may_be_another_one_for_every_prompt(tiny_subject):
    texts = {"add two": "sure , the sum", "sorry": "name", "help": ""}
    tokenizer = tiny_subject.tokenizer
    for prompt in ("add two", "sorry"):
        wanted = tokenizer(texts[prompt], add_special_tokens=False)["input_ids"]
        assert list(ask(prefill(text=texts), tiny_subject, prompt).prefill_ids) == list(wanted)
    short = ask(prefill(50, texts), tiny_subject)
    assert short.notes == (f"the prefill text has {len(short.prefill_ids)} tokens only, 50 were asked for",)
    for index, prompt in enumerate(["hello", "help"]):
        with pytest.raises(UserError, match=f"no text for prompt {index}"):
            ask(prefill(2, texts), tiny_subject, prompt, index=index)


def test_prefills_follow_one_another_and_need_a_token(tiny_subject):
    both = ask(prefill(1, "sure") | prefill(1, " help"), tiny_subject)
    alone = [ask(prefill(1, text), tiny_subject).prefill_ids for text in ("sure", " help")]
    assert both.prefill_ids == (*alone[0], *alone[1])
    with pytest.raises(UserError, match="at least 1"):
        prefill(0)
    with pytest.raises(UserError, match="empty"):
        prefill(text="")


def test_the_deployments_system_prompt_is_left_out(tiny_subject):
    talk = ask(without_system(), tiny_subject, system="be brief")
    assert talk.encode(tiny_subject) == Conversation.asking("add two").encode(tiny_subject)
    assert not talk.notes


def test_a_system_prompt_that_the_template_writes_is_silenced():
    subject = with_template(WRITES_ITS_OWN)

    def read(talk: Conversation) -> str:
        return subject.tokenizer.decode(talk.encode(subject))  # type: ignore[union-attr,return-value]

    assert "name a colour and help" in read(Conversation.asking("add two"))
    for system in (None, "be brief"):
        talk = ask(without_system(), subject, system=system)
        assert "name a colour" not in read(talk) and "be brief" not in read(talk) and not talk.notes
        assert "add two" in read(talk)


@pytest.mark.parametrize("text", [CHAT_TEMPLATE, NO_SYSTEM, None])
def test_where_there_is_no_system_prompt_nothing_changes_and_that_is_noted(text):
    subject = with_template(text)
    plain = Conversation.asking("add two")
    talk = ask(without_system(), subject)
    assert talk.encode(subject) == plain.encode(subject) and talk.system is None
    assert talk.notes == ("there was no system prompt to remove",)


def test_many_shots_come_first_and_are_drawn_anew_for_every_prompt(tiny_subject):
    attack = many_shot(SHOTS, 4)
    talks = [ask(attack, tiny_subject, index=k) for k in range(6)]
    for talk in talks:
        assert [role for role, _ in talk.turns] == ["user", "assistant"] * 4 + ["user"]
        assert talk.request == "add two"
        pairs = [(talk.turns[k][1], talk.turns[k + 1][1]) for k in range(0, 8, 2)]
        assert set(pairs) <= set(SHOTS) and len(set(pairs)) == 4
    assert talks == [ask(attack, tiny_subject, index=k) for k in range(6)]
    assert len({talk.turns for talk in talks}) == 6
    assert ask(attack, tiny_subject, seed=1).turns != talks[0].turns
    assert sorted(ask(many_shot(SHOTS, 12), tiny_subject).turns[:-1:2]) == sorted(("user", q) for q, _ in SHOTS)


def test_too_many_shots_are_refused(tiny_subject, refusing):
    for n in (0, 13):
        with pytest.raises(UserError, match=f"{n} shots needs between 1 and 12"):
            many_shot(SHOTS, n)
    attack = many_shot(SHOTS, 12)
    tokens = len(ask(attack, tiny_subject).encode(tiny_subject))
    assert tokens > 256
    with pytest.raises(UserError, match=rf"prompt 0: {tokens} tokens and 5 new ones .* the 256 this model reads"):
        run_attack(tiny_subject, attack, "refusal", ["add two"], refusing, max_new_tokens=5)


def test_what_just_fits_is_asked(tiny_subject, refusing):
    taken = len(Conversation.asking("add two").encode(tiny_subject))
    tiny_subject.model.config.max_position_embeddings = taken + 3
    run_attack(tiny_subject, template("{prompt}"), "refusal", ["add two"], refusing, max_new_tokens=3)
    with pytest.raises(UserError, match=f"{taken} tokens and 4 new ones"):
        run_attack(tiny_subject, template("{prompt}"), "refusal", ["add two"], refusing, max_new_tokens=4)
