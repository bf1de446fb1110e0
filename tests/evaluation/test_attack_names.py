"""An attack as it is written in a command: every spelling, and every mistake in one line."""

import json

import pytest

from holdfast.core.errors import UserError
from holdfast.evaluation.attacks import (
    Attack,
    Place,
    Sampling,
    SuffixSearch,
    adapter_scaling,
    many_shot,
    past_tense,
    prefill,
    sampled,
    suffix_search,
    weight_noise,
    without_system,
)
from holdfast.evaluation.attacks.named import SPELLINGS, named_attacks

SHOTS = [("name a fruit", "apple"), ("name a colour", "red"), ("name an animal", "cat")]
PROMPT = "how do i add two and three?"


def relearn(steps, rate):
    return Attack(f"relearn-{steps}@{rate}", "weights")


def one(name, **options):
    (attack,) = named_attacks([name], **{"shots": SHOTS, "relearn": relearn, **options})
    return attack


def talk(attack, subject, system=None):
    return attack.conversation(Place(PROMPT, 0, subject, seed=0), system)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("direct", Attack("direct")),
        ("past-tense", past_tense()),
        ("no-system", without_system()),
        ("prefill:3", prefill(3)),
        ("many-shot:2", many_shot(SHOTS, 2)),
        ("worst-of:4", sampled(4, 1.0)),
        ("worst-of:4@0.7", sampled(4, 0.7)),
        ("worst-of:1@0", sampled(1, 0.0)),
        ("scale:1.5", adapter_scaling(1.5)),
        ("scale:-1", adapter_scaling(-1.0)),
        ("noise:0.1", weight_noise(0.1, 3)),
        ("noise:1e-2x5", weight_noise(0.01, 5)),
        ("suffix:4x7", suffix_search(SuffixSearch(tokens=4, steps=7))),
        ("suffix:4", suffix_search(SuffixSearch(tokens=4))),
        ("suffix", suffix_search()),
        ("relearn:7", relearn(7, None)),
        ("relearn:7@2e-3", relearn(7, 0.002)),
        (" past-tense ", past_tense()),
    ],
)
def test_every_spelling_is_the_attack_it_says(name, made, tiny_subject):
    found = one(name)
    assert (found.name, found.access, found.sampling) == (made.name, made.access, made.sampling)
    assert found.weights == made.weights and len(found.transforms) == len(made.transforms)
    if "suffix" in name:
        assert found.transforms == made.transforms
    else:
        assert talk(found, tiny_subject, "be brief") == talk(made, tiny_subject, "be brief")


def test_every_spelling_in_the_list_is_understood():
    numbers = {"K": "3", "N": "2", "T": "0.5", "F": "2", "S": "0.1"}
    for spelling in SPELLINGS:
        word, mark, detail = spelling.partition(":")
        filled = word + mark + "".join(numbers.get(letter, letter) for letter in detail)
        assert named_attacks([filled], SHOTS, relearn=relearn)
    assert len(SPELLINGS) == 11


def test_a_join_acts_from_left_to_right(tiny_subject):
    found = one("past-tense+prefill:2+worst-of:3@0.5")
    by_hand = past_tense() | prefill(2) | sampled(3, 0.5)
    assert found.name == by_hand.name == "past-tense+prefill-2+worst-of-3@0.5"
    assert (found.access, found.sampling) == ("decoding", Sampling(0.5, 3))
    said = talk(found, tiny_subject)
    assert said == talk(by_hand, tiny_subject)
    assert said.request == "how did people add two and three in the past?" and len(said.prefill_ids) == 2
    assert one("prefill:2 + past-tense").name == "prefill-2+past-tense"


def test_the_first_of_a_join_sees_the_plain_request(tiny_subject, tmp_path):
    (tmp_path / "own.jsonl").write_text('{"name": "box", "template": "begin {prompt} end"}\n', encoding="utf-8")
    (inside,) = named_attacks(["past-tense+template"], template_file=tmp_path / "own.jsonl")
    (outside,) = named_attacks(["template+past-tense"], template_file=tmp_path / "own.jsonl")
    assert talk(inside, tiny_subject).request == "begin how did people add two and three in the past? end"
    assert talk(outside, tiny_subject).request == f"begin {PROMPT} end"  # "begin ..." is no question to rewrite


def test_templates_are_one_attack_each_in_every_join():
    own = named_attacks(["template"])
    assert len(own) >= 2 and all(attack.name.startswith("template-") for attack in own)
    joined = named_attacks(["direct", "template+prefill:2", "past-tense+template"])
    names = [attack.name for attack in own]
    assert [attack.name for attack in joined] == [
        "direct",
        *(f"{name}+prefill-2" for name in names),
        *(f"past-tense+{name}" for name in names),
    ]
    squared = named_attacks(["template+template"])
    assert [attack.name for attack in squared] == [f"{a}+{b}" for a in names for b in names]


def test_templates_from_a_file(tmp_path, tiny_subject):
    rows = [{"name": "one", "template": "a {prompt}"}, {"template": "b {prompt}"}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = named_attacks(["template"], template_file=tmp_path / "own.jsonl")
    assert [attack.name for attack in found] == ["template-one", "template-1"]
    assert [talk(attack, tiny_subject).request for attack in found] == [f"a {PROMPT}", f"b {PROMPT}"]
    with pytest.raises(UserError, match="no such file"):
        named_attacks(["template"], template_file=tmp_path / "none.jsonl")
    named_attacks(["direct"], template_file=tmp_path / "none.jsonl")  # not read unless asked for


def test_the_opening_is_what_is_prefilled_and_searched_for(tiny_subject):
    ids = tiny_subject.tokenizer("sure , the sum", add_special_tokens=False)["input_ids"]
    found = one("prefill:2", opening="sure , the sum")
    assert talk(found, tiny_subject).prefill_ids == tuple(ids[:2])
    (search,) = one("suffix:2x1", opening="sure , the sum").transforms
    assert search == SuffixSearch("sure , the sum", 2, 1)


NO_NUMBERS = """
prefill prefill: prefill:2.5 prefill:two many-shot: many-shot:a worst-of: worst-of:2@ worst-of:2@hot worst-of:2@nan
worst-of:2@inf worst-of:2.5 scale scale: scale:nan scale:inf noise noise: noise:nan noise:0.1x noise:0.1x1.5
noise:x3 suffix:ax3 suffix:3x relearn relearn: relearn:2@ relearn:2@nan relearn:1.5
"""


@pytest.mark.parametrize("name", NO_NUMBERS.split())
def test_what_is_no_number_is_told_with_the_right_spelling(name):
    word = name.partition(":")[0]
    with pytest.raises(UserError, match=f"attack '{name}': not a number where one belongs; write {word}:"):
        one(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("prefill:0", "prefill of 0 tokens"),
        ("prefill:-2", "prefill of -2 tokens"),
        ("many-shot:0", "0 shots needs between 1 and 3"),
        ("many-shot:4", "4 shots needs between 1 and 3"),
        ("worst-of:0", "sampling 0 answers"),
        ("worst-of:2@-1", "temperature -1"),
        ("worst-of:2@0", "2 greedy answers would all be the same"),
        ("noise:0", "weight noise of size 0"),
        ("noise:-0.1", "weight noise of size -0.1"),
        ("noise:0.1x0", "0 draws"),
        ("suffix:0x3", "tokens is 0"),
        ("suffix:3x0", "steps is 0"),
        ("worst-of:2@0.5+worst-of:3@0.5", "both say how to sample"),
    ],
)
def test_numbers_that_make_no_sense(name, said):
    with pytest.raises(UserError, match=said):
        one(name)


@pytest.mark.parametrize(
    "name", ["", "+", "jailbreak", "past-tense+", "past-tense+nonsense", "Direct", "past tense"]
)
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(UserError, match=r"unknown; use one of direct, template, .*suffix:KxN, joined by \+"):
        one(name)


@pytest.mark.parametrize("word", ["direct", "template", "past-tense", "no-system"])
def test_a_number_where_none_belongs_is_not_passed_over(word):
    with pytest.raises(UserError, match=f"attack '{word}:3': nothing belongs after '{word}'"):
        one(f"{word}:3")


def test_what_needs_rows_says_so_without_them():
    with pytest.raises(UserError, match="'relearn' needs harmless rows"):
        named_attacks(["relearn:2"])
    with pytest.raises(UserError, match="'many-shot' needs harmless questions and answers"):
        named_attacks(["many-shot:2"])


def test_one_attack_under_two_spellings_is_refused():
    with pytest.raises(UserError, match="two attacks are called 'worst-of-2@1'"):
        named_attacks(["worst-of:2", "direct", "worst-of:2@1.0"])
    assert named_attacks([]) == ()
