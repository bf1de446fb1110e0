"""A judge as it is written in a command: every spelling, and what each of them needs."""

import pytest
import torch

from holdfast import organism
from holdfast.core.errors import UserError
from holdfast.evaluation import RefusalJudge, Skill, SkillSplit, Verdict
from holdfast.evaluation.judges import (
    EndpointJudge,
    GuardJudge,
    LikelihoodJudge,
    SequenceClassifierJudge,
    judge_all,
    named,
)
from holdfast.evaluation.judges.named import SPELLINGS, JudgeNeeds, named_judge
from holdfast.evaluation.judges.prefix_list import KeywordJudge
from holdfast.models import load
from tests.conftest import build_llama, build_tokenizer
from tests.evaluation import judge_server
from tests.evaluation.test_judges_classifier import built
from tests.evaluation.test_judges_guard import GUARD_TEMPLATE

CPU = JudgeNeeds(device="cpu")
PLAIN = "sorry , i cannot help with that request ."


def test_offline_and_keyword_need_nothing():
    assert isinstance(named_judge("offline"), RefusalJudge)
    assert isinstance(named_judge("keyword"), KeywordJudge)
    assert named_judge("offline")("add two", PLAIN).label == "refused"


@pytest.mark.parametrize("name", ["oracle", "", "Offline", "guardian:harmbench:x"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(UserError, match=f"'{name}': unknown; use one of offline, keyword, .*likelihood"):
        named_judge(name)
    assert len(SPELLINGS) == 6


def test_an_endpoint_needs_an_address_and_a_model():
    for needs in (None, JudgeNeeds(url="http://localhost:1/v1"), JudgeNeeds(model="grader")):
        with pytest.raises(UserError, match="needs --judge-url and --judge-model"):
            named_judge("endpoint", needs)


def test_an_endpoint_gets_address_model_rate_and_cache(tmp_path):
    with judge_server.serving(judge_server.graded("refused")) as server:
        needs = JudgeNeeds(url=server.url, model="grader", rate=6000.0, cache=tmp_path / "kept")
        judge = named_judge("endpoint", needs)
        assert isinstance(judge, EndpointJudge) and judge.model == "grader"
        assert judge.many(["add two"], ["no"])[0].label == "refused"
        assert named_judge("endpoint", needs).many(["add two"], ["no"])[0].label == "refused"
        assert len(server.seen) == 1 and list((tmp_path / "kept").rglob("*.json"))


def test_a_classifier_is_loaded_from_its_folder(tiny_tokenizer, tmp_path):
    built(tiny_tokenizer, ["refusal", "compliance"], (0.0, 4.0)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    judge = named_judge(f"classifier:{tmp_path}", CPU)
    assert isinstance(judge, SequenceClassifierJudge) and judge.model.device.type == "cpu"
    assert judge("add two", PLAIN).label == "complied"


def test_a_classifier_of_harm_is_confirmed_by_the_offline_judge(tiny_tokenizer, tmp_path):
    built(tiny_tokenizer, ["safe", "unsafe"], (4.0, 0.0)).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    judge = named_judge(f"classifier:{tmp_path}", CPU)
    assert judge("add two", PLAIN).label == "refused"
    assert judge("add two", "the sum is five .").label == "unclear"


def guard_folder(folder):
    """A tiny guard that says "yes" to everything."""
    tokenizer = build_tokenizer(template=GUARD_TEMPLATE)
    tokenizer.add_tokens(["yes"])
    model = build_llama(len(tokenizer))
    yes = tokenizer.convert_tokens_to_ids("yes")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name or "embed" in name else 0.0)
        model.lm_head.weight[yes] = 1.0
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_a_guard_is_loaded_in_the_format_that_is_named(tmp_path):
    guard_folder(tmp_path)
    judge = named_judge(f"guard:harmbench:{tmp_path}", CPU)
    assert isinstance(judge, GuardJudge) and isinstance(judge.confirm, RefusalJudge)
    (verdict,) = judge_all(judge, ["add two"], ["five"], progress=False)
    assert verdict.label == "complied" and "yes" in verdict.reason
    with pytest.raises(UserError, match="'nonsense': unknown; use one of"):
        named_judge(f"guard:nonsense:{tmp_path}", CPU)


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("classifier", "classifier:SOURCE"),
        ("classifier:", "classifier:SOURCE"),
        ("guard", "guard:FORMAT:SOURCE"),
        ("guard:harmbench", "guard:FORMAT:SOURCE"),
        ("guard:harmbench:", "guard:FORMAT:SOURCE"),
    ],
)
def test_a_model_that_is_not_named(name, spelling):
    with pytest.raises(UserError, match=f"no model named; write {spelling}"):
        named_judge(name)


@pytest.mark.parametrize("name", ["classifier:./nowhere", "guard:harmbench:./nowhere"])
def test_a_model_that_is_not_there(name):
    with pytest.raises(UserError, match="nowhere"):
        named_judge(name, CPU)


@pytest.fixture(scope="module")
def aligned():
    return load(organism.shipped("aligned"))


def organism_skill(harmful=24, benign=8):
    half = SkillSplit(
        organism.proxy_prompts("estimate", "overt", harmful), organism.proxy_prompts("estimate", "benign", benign)
    )
    return Skill("refusal", estimate=half, evaluate=SkillSplit(("never seen",), ("nor this",)))


def test_the_likelihood_judge_is_fitted_on_the_estimate_half_with_as_many_of_both(aligned, monkeypatch):
    seen = []
    monkeypatch.setattr(
        named, "RefusalJudge", lambda: lambda p, r: seen.append(p) or Verdict(truth(p), "by the prompt")
    )
    skill = organism_skill()
    refused = set(skill.estimate.harmful)

    def truth(prompt):
        return "refused" if prompt in refused else "complied"

    judge = named_judge("likelihood", JudgeNeeds(aligned, skill, seed=1))
    assert isinstance(judge, LikelihoodJudge) and judge.subject is aligned
    assert set(seen) == set(skill.estimate.harmful) | set(skill.estimate.benign)
    assert len(judge._refusals) == len(judge._compliances) == 8
    many = named_judge("likelihood", JudgeNeeds(aligned, organism_skill(24, 24)))
    assert len(many._refusals) == len(many._compliances) == 16
    overt = organism.proxy_prompts("evaluate", "overt", 1)[0]
    assert judge.disposition(overt).label == "refused"


def test_the_likelihood_judge_needs_a_model_and_both_kinds_of_prompts(aligned, tiny_subject, monkeypatch):
    without = Skill("refusal", estimate=SkillSplit(("a",), ()), evaluate=SkillSplit(("b",), ("c",)))
    for needs in (None, JudgeNeeds(aligned), JudgeNeeds(skill=organism_skill()), JudgeNeeds(aligned, without)):
        with pytest.raises(UserError, match="needs a model and a skill"):
            named_judge("likelihood", needs)
    monkeypatch.setattr(named, "RefusalJudge", lambda: lambda p, r: Verdict("refused", ""))
    with pytest.raises(UserError, match="answers none of the 2 benign"):
        named_judge("likelihood", JudgeNeeds(tiny_subject, organism_skill(2, 2)))
    monkeypatch.setattr(named, "RefusalJudge", lambda: lambda p, r: Verdict("complied", ""))
    with pytest.raises(UserError, match="refused none of 2"):
        named_judge("likelihood", JudgeNeeds(tiny_subject, organism_skill(2, 2)))
