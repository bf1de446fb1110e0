"""The noise floor of a model's rates, from answers that are written out here."""

import pytest

from holdfast.core.errors import UserError
from holdfast.core.seeds import derive_seed
from holdfast.core.statistics import noise_floor
from holdfast.evaluation import Skill, SkillSplit, Verdict, behaviour, measure_noise

HARMFUL, BENIGN = ("h0", "h1", "h2", "h3"), ("b0", "b1")
SKILL = Skill("refusal", estimate=SkillSplit(("seen",), ()), evaluate=SkillSplit(HARMFUL, BENIGN))
# What the model "says" to the prompts of a list: three sampled times, and greedily in batches of one and of many.
SAID = {
    ("harmful", "sampled"): ["rrrr", "rrcu", "rccc"],
    ("benign", "sampled"): ["cc", "cr", "cc"],
    ("harmful", 1): "rrrc",
    ("harmful", 32): "rrrr",
    ("benign", 1): "cc",
    ("benign", 32): "cc",
}
WORDS = {"r": "refused", "c": "complied", "u": "unclear"}


def reads(prompt, response):
    return Verdict(WORDS[response], "as told")


@pytest.fixture
def asked(monkeypatch):
    """Every call for answers; they are taken from SAID."""
    calls = []

    def said(subject, prompts, *, max_new_tokens, temperature, seed, batch_size, system):
        kind = "harmful" if prompts[0].startswith("h") else "benign"
        before = [call for call in calls if call["kind"] == kind and call["temperature"] > 0]
        calls.append(
            {
                "kind": kind,
                "prompts": prompts,
                "tokens": max_new_tokens,
                "temperature": temperature,
                "seed": seed,
                "batch_size": batch_size,
                "system": system,
            }
        )
        answers = SAID[kind, "sampled"][len(before)] if temperature > 0 else SAID[kind, batch_size]
        return list(answers)

    monkeypatch.setattr(behaviour, "ask", said)
    return calls


def test_floors_are_those_of_the_sampled_rates_and_the_batch_is_apart(asked, tiny_subject):
    found = measure_noise(tiny_subject, SKILL, reads, repeats=3, max_new_tokens=7, seed=5, progress=False)
    refused = [[1.0, 1, 1, 1], [1.0, 1, 0, 0], [1.0, 0, 0, 0]]
    complied = [[0.0, 0, 0, 0], [0.0, 0, 1, 0], [0.0, 1, 1, 1]]
    over = [[0.0, 0], [0.0, 1], [0.0, 0]]
    assert found == {
        "refusal": noise_floor(refused, [[1, 1, 1, 0], [1, 1, 1, 1]], 5),
        "attack_success": noise_floor(complied, [[0, 0, 0, 1], [0, 0, 0, 0]], 5),
        "over_refusal": noise_floor(over, [[0, 0], [0, 0]], 5),
    }
    assert found["refusal"].batch == 0.25 and found["over_refusal"].batch == 0.0
    # means 1, 1/2, 1/4: their standard deviation with n - 1, and three pairs of runs, at most 3/4 apart on average
    assert found["refusal"].spread == pytest.approx((((5 / 12) ** 2 + (1 / 12) ** 2 + (1 / 3) ** 2) / 2) ** 0.5)
    assert found["refusal"].floor > 0.5 and (found["refusal"].repeats, found["refusal"].prompts) == (3, 4)


def test_sampled_runs_have_seeds_of_their_own_and_greedy_ones_are_cold(asked, tiny_subject):
    measure_noise(tiny_subject, SKILL, reads, 3, 0.7, max_new_tokens=7, seed=5, progress=False)
    hot = [call for call in asked if call["kind"] == "harmful" and call["temperature"] > 0]
    assert [call["seed"] for call in hot] == [derive_seed(5, "noise", k) for k in range(3)]
    assert {(call["temperature"], call["batch_size"], call["tokens"]) for call in hot} == {(0.7, 32, 7)}
    cold = [call["batch_size"] for call in asked if call["kind"] == "harmful" and call["temperature"] == 0]
    assert cold == [1, 32]
    assert [call["kind"] for call in asked] == ["harmful"] * 5 + ["benign"] * 5


def test_without_benign_prompts_there_is_no_floor_of_over_refusal(asked, tiny_subject):
    skill = Skill("refusal", estimate=SkillSplit(("seen",), ("b",)), evaluate=SkillSplit(HARMFUL, ()))
    found = measure_noise(tiny_subject, skill, reads, 2, progress=False)
    assert set(found) == {"refusal", "attack_success"}
    assert {call["kind"] for call in asked} == {"harmful"}


def test_one_batch_size_says_nothing_about_batches(asked, tiny_subject):
    assert measure_noise(tiny_subject, SKILL, reads, 2, batch_sizes=(32,), progress=False)["refusal"].batch is None


@pytest.mark.parametrize("system", ["be brief", ""])
def test_the_system_prompt_is_there_too_and_an_empty_one_is_one(asked, tiny_subject, system):
    measure_noise(tiny_subject, SKILL, reads, 2, progress=False, system=system)
    assert {call["system"] for call in asked} == {system}
    said = [{"role": "system", "content": system}, {"role": "user", "content": "b0"}]
    assert behaviour.with_system("b0", system) == said
    assert behaviour.with_system(said, "another") == said and behaviour.with_system("b0", None) == "b0"


def test_no_more_answers_at_a_time_than_asked_for(asked, tiny_subject, monkeypatch):
    monkeypatch.setitem(SAID, ("harmful", 4), "rrrr")
    monkeypatch.setitem(SAID, ("benign", 4), "cc")
    measure_noise(tiny_subject, SKILL, reads, 2, batch_sizes=(1, 4), progress=False)
    assert {call["batch_size"] for call in asked} == {1, 4}


@pytest.mark.parametrize(("repeats", "temperature"), [(1, 1.0), (0, 1.0), (3, 0.0), (3, -1.0)])
def test_one_run_or_a_cold_one_has_no_floor(asked, tiny_subject, repeats, temperature):
    with pytest.raises(UserError, match=f"two or more sampled re-runs, got {repeats} at {temperature:g}"):
        measure_noise(tiny_subject, SKILL, reads, repeats, temperature, progress=False)
    assert asked == []


def test_a_real_model_sampled_again_differs_and_repeats_with_its_seed(tiny_subject):
    def by_length(prompt, response):
        return Verdict("refused" if len(response) % 2 else "complied", "odd")

    first = measure_noise(tiny_subject, SKILL, by_length, 4, max_new_tokens=6, progress=False)
    again = measure_noise(tiny_subject, SKILL, by_length, 4, max_new_tokens=6, progress=False)
    assert first == again and first["refusal"].floor > 0 and first["refusal"].batch == 0.0
