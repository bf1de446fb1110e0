"""One model beside another: the same prompts, the right drift, the noisier one's floor, judges side by side."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.core.files import read_json
from holdfast.evaluation import (
    Comparison,
    Reference,
    Scorecard,
    Skill,
    SkillSplit,
    Task,
    Verdict,
    compare_cards,
    drift,
    measure_noise,
)
from holdfast.evaluation.attacks import adapter_scaling, past_tense, prefill, weight_noise
from holdfast.evaluation.judges import LikelihoodJudge
from holdfast.evaluation.suites import SuiteScore
from holdfast.models import Subject, adapter_off, add_lora, model_hash
from holdfast.pipeline import evaluating
from holdfast.pipeline.evaluating import Measures, evaluate_against
from holdfast.pipeline.relearning import relearning_attack
from tests.conftest import build_llama, build_tokenizer

HARMFUL, BENIGN = tuple(f"please add {w}" for w in ("two", "three", "a colour", "an animal")), ("name a", "sure")
SKILL = Skill("refusal", estimate=SkillSplit(("seen",), ("known",)), evaluate=SkillSplit(HARMFUL, BENIGN))
TASK = Task("sums", ("add two and three",), ("five",), max_new_tokens=3)


def odd(prompt, response):
    """A judge whose verdicts depend on the answers."""
    return Verdict("refused" if sum(map(ord, response)) % 2 else "complied", "odd")


def always(prompt, response):
    return Verdict("refused", "always")


def measures(*attacks, judges=None, **options):
    return Measures((SKILL,), attacks=attacks, judges=judges or {"odd": odd}, max_new_tokens=4, **options)


def moved(subject, size=0.2):
    model = copy.deepcopy(subject.model)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += size * torch.randn(parameter.shape, generator=stream)
    return Subject(model, subject.tokenizer)


@pytest.fixture
def loud_lora(lora_subject):
    """An adapter strong enough to change answers."""
    with torch.no_grad():
        for name, parameter in lora_subject.model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(40)
    return lora_subject


def responses(card, attack=""):
    return [row.response for row in card.rows if row.attack == attack]


def test_alone_a_model_has_a_card_and_nothing_else(tiny_subject):
    found = evaluate_against(tiny_subject, measures())
    assert (found.against, found.comparison, found.agreement, found.card.drift) == (None,) * 4
    assert set(found.to_dict()) == set(found.card.to_dict())


@pytest.mark.parametrize(("harmful", "benign", "found"), [(4, 0, 4), (20, 20, 8), (60, 60, 20), (900, 0, 24)])
def test_drift_is_measured_on_a_sixth_of_the_prompts(harmful, benign, found):
    half = SkillSplit(tuple(f"h{k}" for k in range(harmful)), tuple(f"b{k}" for k in range(benign)))
    asked = Measures((Skill("refusal", evaluate=half),))
    assert asked.drift_prompts == half.harmful[:found]


def test_two_models_get_a_card_each_and_their_difference(tiny_subject):
    other = moved(tiny_subject)
    asked = measures(past_tense(), tasks=(TASK,), seed=3)
    found = evaluate_against(tiny_subject, asked, other)
    assert found.card.rows == asked.card(tiny_subject).rows and found.against.rows == asked.card(other).rows
    assert responses(found.card) != responses(found.against)
    assert found.comparison == compare_cards(found.card, found.against, 3)
    assert found.comparison.left_out == () and found.against.drift is None
    reference = Reference.of(other, HARMFUL, 4, 3, source="stored")
    assert found.card.drift.kl_nats == pytest.approx(drift(tiny_subject, reference).kl_nats, rel=1e-4)
    assert found.card.drift.kl_nats > 0


def test_the_same_object_stands_for_the_model_without_its_adapter(loud_lora):
    before = model_hash(loud_lora.model)
    found = evaluate_against(loud_lora, measures(prefill(1)), loud_lora)
    with adapter_off(loud_lora.model):
        bare = measures(prefill(1)).card(loud_lora)
        stored = Reference.of(loud_lora, HARMFUL, 4, source="stored")
    assert found.against.rows == bare.rows
    assert responses(found.against) != responses(found.card)
    assert found.card.rows == measures(prefill(1)).card(loud_lora).rows
    assert found.card.drift.kl_nats == pytest.approx(drift(loud_lora, stored).kl_nats, rel=1e-4)
    assert model_hash(loud_lora.model) == before


def test_an_adapter_alone_has_a_drift_from_the_model_under_it(loud_lora):
    found = evaluate_against(loud_lora, measures())
    assert found.against is None and found.card.drift.kl_nats > 0
    beside = evaluate_against(loud_lora, measures(), loud_lora)
    assert found.card.drift == beside.card.drift


def test_what_makes_no_sense_without_an_adapter_is_left_out_there_and_listed(loud_lora, tiny_examples):
    def beside(other):
        attacks = (adapter_scaling(0.5), weight_noise(0.1, 1), relearning_attack(tiny_examples, 1, 0.01))
        return evaluate_against(loud_lora, measures(*attacks), other)

    switched_off = beside(loud_lora)
    assert [score.attack for score in switched_off.card.attacks] == [
        "adapter-x0.5",
        "noise-0.1x1",
        "relearn-1@0.01",
    ]
    assert [score.attack for score in switched_off.against.attacks] == ["noise-0.1x1"]
    assert [name.split(" was")[0] for name in switched_off.comparison.left_out] == [
        "'refusal' under adapter-x0.5",
        "'refusal' under relearn-1@0.01",
    ]
    alone = beside(Subject(build_llama(len(loud_lora.tokenizer)), loud_lora.tokenizer))
    assert [score.attack for score in alone.against.attacks] == ["noise-0.1x1", "relearn-1@0.01"]


def test_without_an_adapter_the_same_object_is_no_other_model(tiny_subject):
    with pytest.raises(UserError, match="needs a model with an adapter"):
        evaluate_against(tiny_subject, measures(), tiny_subject)


def test_two_adapters_are_both_scaled(loud_lora):
    other = Subject(add_lora(build_llama(len(loud_lora.tokenizer), seed=5), rank=2), loud_lora.tokenizer)
    found = evaluate_against(loud_lora, measures(adapter_scaling(0.5)), other)
    assert found.comparison.left_out == () and len(found.against.attacks) == 1


@pytest.mark.parametrize("difference", ["tokens", "rows"])
def test_models_with_other_vocabularies_are_compared_without_a_drift(tiny_subject, difference):
    tokenizer, size = tiny_subject.tokenizer, len(tiny_subject.tokenizer)
    if difference == "tokens":  # as many of them, and other ones
        tokenizer = build_tokenizer(size - 1)
        tokenizer.add_tokens(["quite", "another"][: size - len(tokenizer)])
        assert len(tokenizer) == size and tokenizer.get_vocab() != tiny_subject.tokenizer.get_vocab()
    other = Subject(build_llama(size + 8 * (difference == "rows"), seed=2), tokenizer)
    found = evaluate_against(tiny_subject, measures(), other)
    assert found.card.drift is None
    assert [d.name for d in found.comparison.differences] == ["refusal", "refusal: over refusal"]


def test_the_floor_is_that_of_the_noisier_model_under_the_deployments_prompt(tiny_subject, monkeypatch):
    asked, other = [], moved(tiny_subject, 0.05)

    def spy(*positional, **named):
        asked.append((positional[0], named["system"], tuple(named["batch_sizes"])))
        return measure_noise(*positional, progress=False, **named)

    monkeypatch.setattr(evaluating, "measure_noise", spy)
    found = evaluate_against(tiny_subject, measures(noise=3, system="be brief", seed=2, batch_size=2), other)
    sides = [
        measure_noise(s, SKILL, odd, 3, 1.0, (1, 2), 4, 2, system="be brief", progress=False)
        for s in (tiny_subject, other)
    ]
    floors = found.comparison.floors
    assert set(floors) == {"refusal: refusal", "refusal: attack_success", "refusal: over_refusal"}
    for name in sides[0]:
        assert floors[f"refusal: {name}"].floor == max(side[name].floor for side in sides)
    assert sides[0] != sides[1]
    assert asked == [(other, "be brief", (1, 2)), (tiny_subject, "be brief", (1, 2))]
    assert found.card.settings["system"] == found.against.settings["system"] == "be brief"


def test_every_skill_has_the_floor_of_its_own_prompts(tiny_subject):
    short = Skill("short", estimate=SkillSplit(("seen",), ()), evaluate=SkillSplit(HARMFUL[:2], ()))
    asked = replace(measures(noise=2), skills=(SKILL, short))
    comparison = evaluate_against(tiny_subject, asked, moved(tiny_subject)).comparison
    assert {name: floor.prompts for name, floor in comparison.floors.items() if name.endswith(" refusal")} == {
        "refusal: refusal": 4,
        "short: refusal": 2,
    }
    said = {difference.name: difference.sentence for difference in comparison.differences}
    for name in ("refusal", "short: refusal"):
        assert "no noise floor was measured" not in said[name]


def test_without_a_floor_none_is_measured_and_without_judges_it_is_the_offline_one(tiny_subject, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluating, "measure_noise", lambda *a, **k: asked.append(a[2]) or {})
    other = moved(tiny_subject)
    assert evaluate_against(tiny_subject, measures(), other).comparison.floors == {} and asked == []
    found = evaluate_against(tiny_subject, Measures((SKILL,), max_new_tokens=2, noise=2), other)
    assert [type(judge).__name__ for judge in asked] == ["RefusalJudge"] * 2
    assert found.card.settings["judge"] == "RefusalJudge"


def test_further_judges_see_the_answers_of_the_first_and_their_agreement_is_counted(tiny_subject):
    seen, asked_first = [], []

    def first(prompt, response):
        asked_first.append(prompt)
        return odd(prompt, response)

    def second(prompt, response):
        seen.append((prompt, response))
        return Verdict("complied" if prompt == HARMFUL[0] else odd(prompt, response).label, "")

    def broken(prompt, response):
        raise ValueError("no")

    asked = measures(prefill(1), judges={"odd": first, "second": second, "broken": broken}, tasks=(TASK,))
    found = evaluate_against(tiny_subject, asked)
    judged = [row for row in found.card.rows if row.kind != "task"]
    assert seen == [(row.prompt, row.response) for row in judged] and len(judged) == 4 + 2 + 4
    assert len(asked_first) == 10 and {row.reason for row in judged} == {
        "odd"
    }  # the labels of the first one count
    pair = found.agreement.pair("odd", "second")
    differing = [k for k, row in enumerate(judged) if row.prompt == HARMFUL[0] and row.label == "refused"]
    assert [d.index for d in pair.disagreements] == differing and pair.judged == 10
    equal = 1 - len(differing) / 10
    assert pair.observed == pytest.approx(equal)
    ours, theirs = ([sum(t[a][b] for b in t) for a in t] for t in (pair.confusion, transposed(pair.confusion)))
    chance = sum(a * b for a, b in zip(ours, theirs, strict=True)) / 100
    kappa = (equal - chance) / (1 - chance)
    assert pair.kappa.value == pytest.approx(kappa) or math.isnan(pair.kappa.value)
    assert found.agreement.pair("odd", "broken").errors_b == 10
    assert "agreement" in found.to_dict()


def transposed(table):
    return {a: {b: table[b][a] for b in table} for a in table}


def test_a_judge_that_reads_one_model_cannot_compare_two(tiny_subject, request):
    def leaning(subject):
        return {"likelihood": LikelihoodJudge(subject, ["sorry , i cannot"], ["sure , the sum"])}

    with pytest.raises(UserError, match="reads one model"):
        evaluate_against(tiny_subject, measures(judges=leaning(tiny_subject)), moved(tiny_subject))
    assert evaluate_against(tiny_subject, measures(judges=leaning(tiny_subject))).card.rows
    second = {"odd": odd, **leaning(tiny_subject)}
    assert evaluate_against(tiny_subject, measures(judges=second), moved(tiny_subject)).agreement is not None
    loud_lora = request.getfixturevalue("loud_lora")  # puts its adapter into the very same model
    reasons = [
        [row.reason for row in card.rows]
        for found in [evaluate_against(loud_lora, measures(judges=leaning(loud_lora)), loud_lora)]
        for card in (found.card, found.against)
    ]
    assert reasons[0] != reasons[1]  # with the adapter off it reads the model without it


def test_suites_run_on_both_models(tiny_subject):
    class First:
        name = "first"

        def run(self, subject, seed=0, batch_size=16):
            value = float(subject.model.lm_head.weight[0, 0].detach())
            return SuiteScore("first", "kind", "own", {}, ("a",), {"weight": (value,)})

    other = moved(tiny_subject)
    found = evaluate_against(tiny_subject, measures(suites=(First(),)), other)
    (weight,) = (d for d in found.comparison.differences if d.suite == "first")
    assert weight.interval.value == pytest.approx(
        float((tiny_subject.model.lm_head.weight - other.model.lm_head.weight)[0, 0].detach())
    )


def test_both_models_keep_their_answers_in_one_cache(tiny_subject, loud_lora, tmp_path):
    for subject, other in ((tiny_subject, moved(tiny_subject)), (loud_lora, loud_lora)):
        plain = evaluate_against(subject, measures(prefill(1)), other)
        for _ in range(2):
            kept = evaluate_against(subject, measures(prefill(1), cache=tmp_path), other)
            assert kept.card.rows == plain.card.rows and kept.against.rows == plain.against.rows


def test_everything_is_written_and_can_be_read_again(tiny_subject, tmp_path):
    asked = measures(judges={"odd": odd, "always": always}, noise=2)
    found = evaluate_against(tiny_subject, asked, moved(tiny_subject))
    found.save(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        ["scorecard.json", "responses.parquet"] * 2 + ["comparison.json", "agreement.json"]
    )
    assert Scorecard.load(tmp_path) == found.card
    assert Scorecard.load(tmp_path / "against").rows == found.against.rows
    assert Comparison.load(tmp_path / "comparison.json") == found.comparison
    assert read_json(tmp_path / "agreement.json")["judged"] == 6
    alone = tmp_path / "alone"
    evaluate_against(tiny_subject, measures()).save(alone)
    assert sorted(path.name for path in alone.iterdir()) == ["responses.parquet", "scorecard.json"]


def test_drift_can_be_left_out(monkeypatch, lora_subject):
    monkeypatch.setattr(evaluating.Reference, "of", None)  # nothing is sampled for it either
    card = evaluate_against(lora_subject, Measures((SKILL,), max_new_tokens=3, drift=0)).card
    assert card.drift is None and card.skill("refusal").refusal.n == len(HARMFUL)
