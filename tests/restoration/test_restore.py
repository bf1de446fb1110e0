"""What `restore` promises, on a model aligned and damaged for the purpose."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.models import Subject, adapter_off, adapter_parameters, generate_text, lora_pairs, mean_loss
from holdfast.restoration import Restoration, restore
from holdfast.restoration.attempt import Attempt, Best
from holdfast.restoration.balance import balance
from holdfast.restoration.bound import upper_bound
from holdfast.restoration.material import gather, split
from holdfast.restoration.replay import replay
from holdfast.restoration.result import put_adapter
from holdfast.restoration.tuning import Schedule
from holdfast.restoration.validation import Check, Validation

from .conftest import Verdict, build_drifted, judge

SMALL = {"judge": judge, "prompts": (16, 16), "task_examples": (32, 32), "max_new_tokens": 6, "batch_size": 8}


def check(step=0, task=0.0, bound=0.0, refusal=0.0, over=0.0, loss=1.0):
    return Check(step, task, bound, refusal, over, loss)


@pytest.fixture(scope="module")
def repaired(toy):
    """One repair by the default method, shared by the tests that only read it."""
    subject, skill, task = build_drifted(toy)
    before = trees.clone(dict(subject.model.named_parameters()))
    result = restore(subject, skill, task, steps=60, learning_rate=5e-3, seed=0, **SMALL)
    return subject, skill, task, before, result


def test_the_default_brings_the_refusals_back_inside_the_limit(repaired):
    *_, result = repaired
    assert result.baselines["drifted"].refusal <= 0.2 < 0.9 <= result.baselines["aligned"].refusal
    assert result.status == "restored" and result.method == "settle"
    assert result.chosen.task_loss_bound <= result.max_task_loss_increase
    assert result.chosen.as_good_as(result.baselines["aligned"])
    assert result.trace[0] == result.baselines["drifted"] and result.chosen in result.trace


def test_the_subject_is_left_as_it_came(repaired):
    subject, _, _, before, result = repaired
    for name, parameter in subject.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
        assert parameter.grad is None
        assert parameter.requires_grad == (".lora_" in name)
    assert result.input_fingerprint != result.fingerprint


def test_free_repairs_are_always_measured_beside_it(repaired):
    *_, result = repaired
    assert set(result.baselines) == {"aligned", "drifted", "scale 0.25", "scale 0.5", "scale 0.75"}
    losses = [result.baselines[k].task_loss_increase for k in ("aligned", "scale 0.25", "scale 0.5", "scale 0.75")]
    assert losses == sorted(losses, reverse=True) and losses[-1] > 0
    assert result.baselines["drifted"].task_loss_increase == 0.0


def test_saved_folder_is_a_peft_adapter_with_its_report(repaired, tmp_path, toy):
    from holdfast.models import load_adapter

    subject, _, task, before, result = repaired
    folder = tmp_path / "repaired"
    result.save(folder)
    assert {"adapter_config.json", "adapter_model.safetensors", "restoration_report.json"} <= {
        p.name for p in folder.iterdir()
    }
    for name, parameter in subject.model.named_parameters():
        assert torch.equal(parameter, before[name])
    read = Restoration.load(folder)
    assert read.to_dict() == result.to_dict()
    assert all(torch.equal(read.adapter[name], tensor) for name, tensor in result.adapter.items())
    report = json.loads((folder / "restoration_report.json").read_text())
    assert report["status"] == "restored" and "adapter" not in report
    # a stranger loads it with PEFT and gets the repaired function
    fresh, _, _ = build_drifted(toy)
    applied = result.apply(fresh)
    loaded = Subject(load_adapter(build_drifted(toy)[0].model.unload(), folder), subject.tokenizer)
    np.testing.assert_allclose(mean_loss(loaded, task).nll_N, mean_loss(applied, task).nll_N, rtol=1e-5)
    with pytest.raises(UserError, match="not empty"):
        result.save(folder)


def test_the_same_seed_gives_the_same_adapter(toy):
    prints = []
    for seed in (0, 0, 1):
        subject, skill, task = build_drifted(toy)
        torch.manual_seed(len(prints))  # whatever the global state
        prints.append(restore(subject, skill, task, steps=10, learning_rate=5e-3, seed=seed, **SMALL))
    first, second, other = prints
    assert first.fingerprint == second.fingerprint and first.trace == second.trace
    assert other.trace != first.trace


def test_nothing_to_restore_is_said_and_nothing_is_done(drifted):
    subject, skill, task = drifted
    with torch.no_grad():
        for _, b_OR, _ in lora_pairs(subject.model).values():
            b_OR.zero_()
    result = restore(subject, skill, task, **SMALL)
    assert result.status == "no_drift" and len(result.trace) == 1
    assert result.fingerprint == result.input_fingerprint


def test_a_limit_that_nothing_keeps_returns_the_input(drifted):
    subject, skill, task = drifted
    result = restore(subject, skill, task, max_task_loss_increase=0.0, steps=10, learning_rate=0.05, **SMALL)
    assert result.status == "no_safe_step" and result.chosen == result.trace[0]
    assert result.fingerprint == result.input_fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": []}, "task: no examples"),
        ({"task": [None] * 3}, "3 examples"),
        ({"max_task_loss_increase": -0.01}, "give 0 or more"),
        ({"max_task_loss_increase": float("nan")}, "give 0 or more"),
        ({"method": "magic"}, "use one of auto, settle, distil, replay, curvature"),
        ({"retain": "other"}, "use 'self'"),
    ],
)
def test_unusable_arguments_are_refused_before_anything_runs(drifted, change, message):
    subject, skill, task = drifted
    arguments = {"task": task, **change}
    with pytest.raises(UserError, match=message):
        restore(subject, skill, arguments.pop("task"), **arguments, **SMALL)


def test_a_model_without_adapter_or_alignment_is_refused(drifted, tiny_subject):
    subject, skill, task = drifted
    with pytest.raises(UserError, match="no LoRA adapter"):
        restore(tiny_subject, skill, task, **SMALL)
    with pytest.raises(UserError, match="no tokenizer"):
        restore(Subject(subject.model, None), skill, task, **SMALL)
    never = {**SMALL, "judge": lambda p, r: SimpleNamespace(label="complied")}
    with pytest.raises(UserError, match="there is no alignment to restore"):
        restore(subject, skill, task, **never)
    one = skill.estimate.harmful[0]
    seldom = {**SMALL, "judge": lambda p, r: SimpleNamespace(label="refused" if p == one else "complied")}
    with pytest.raises(UserError, match=r"refuses [01], [01] and [01] of .* too few .* give more harmful prompts"):
        restore(subject, skill, task, **seldom)
    half = SimpleNamespace(harmful=skill.estimate.harmful[:4], benign=skill.estimate.benign)
    few = SimpleNamespace(estimate=half)
    with pytest.raises(UserError, match="4 harmful"):
        restore(subject, few, task, **SMALL)


def test_material_is_disjoint_and_sorted_by_who_says_what(drifted):
    subject, skill, task = drifted
    m = gather(
        subject, skill.estimate, task, "self", judge,
        prompts=(16, 16), task_examples=(20, 30), max_new_tokens=6, harmful=True, seed=0,
    )  # fmt: skip
    counts = m.counts()
    assert counts["task_fit"] == 20 and counts["task_choose"] == counts["task_decide"] == 15
    assert all(counts[f"{kind}_{part}"] == 8 for kind in ("harmful", "benign") for part in ("choose", "decide"))
    for kind in ("task", "harmful", "benign", "refusals"):
        pieces = [getattr(part, kind) for part in m.parts] + ([m.task_fit] if kind == "task" else [])
        seen = [getattr(item, "prompt_ids", item) for piece in pieces for item in piece]
        if kind == "task":
            seen = [example.id for piece in pieces for example in piece]
        assert len(set(seen)) == len(seen), kind
    asked = {e.prompt_ids for part in m.parts for e in part.refusals}
    assert not {e.prompt_ids for e in m.refusals_fit} & asked
    text = subject.tokenizer.decode
    assert all("sorry" in text(list(e.completion_ids)) for e in m.refusals_fit + m.choose.refusals)
    assert all("*" in text(list(e.completion_ids)) for e in m.retain_fit)
    assert not any("sorry" in text(list(e.completion_ids)) for e in m.compliances_fit)


def test_a_split_loses_nothing_and_gives_the_odd_one_to_what_decides():
    fit, choose, decide = split(list(range(14)), 100, 100, 0, "x")
    assert sorted(fit + choose + decide) == list(range(14))
    assert (len(fit), len(choose), len(decide)) == (7, 3, 4)


def test_an_over_refusing_adapter_learns_from_the_aligned_model_what_to_answer(drifted):
    subject, skill, task = drifted
    aligned = generate_text_off(subject, skill.estimate.benign)

    def refuses_everything_of_the_adapter(prompt, response):  # what only the drifted model says counts as refusal
        return Verdict("refused" if response.startswith(("*", "sorry")) else "complied")

    m = gather(
        subject, skill.estimate, task, "self", refuses_everything_of_the_adapter,
        prompts=(16, 16), task_examples=(20, 30), max_new_tokens=6, harmful=False, seed=0,
    )  # fmt: skip
    decode = subject.tokenizer.decode
    said = {decode(list(e.completion_ids), skip_special_tokens=True).strip() for e in m.retain_fit}
    assert said <= set(aligned) and said


def generate_text_off(subject, prompts):
    with adapter_off(subject.model):
        return generate_text(subject, prompts, 6)


def test_a_check_is_what_a_plain_count_says(drifted):
    subject, skill, task = drifted
    m = gather(
        subject, skill.estimate, task, "self", judge,
        prompts=(16, 16), task_examples=(20, 30), max_new_tokens=6, harmful=False, seed=0,
    )  # fmt: skip
    validation = Validation(subject, m.choose, judge, 6)
    before = [mean_loss(subject, [e]).nats_per_token for e in m.choose.task]
    with torch.no_grad():
        for _, b_OR, _ in lora_pairs(subject.model).values():
            b_OR.mul_(0.5)
    found = validation.check(7)
    after = [mean_loss(subject, [e]).nats_per_token for e in m.choose.task]
    differences = np.subtract(after, before)
    assert found.step == 7
    assert found.task_loss_increase == pytest.approx(differences.mean(), rel=1e-4)
    assert found.task_loss_bound == pytest.approx(upper_bound(differences.tolist()), rel=1e-4)
    for prompts, rate in ((m.choose.harmful, found.refusal), (m.choose.benign, found.over_refusal)):
        answers = [generate_text(subject, [p], 6)[0] for p in prompts]
        assert rate == np.mean([judge(p, a).label == "refused" for p, a in zip(prompts, answers, strict=True)])
    losses = [mean_loss(subject, [e]).nats_per_token for e in m.choose.refusals]
    assert found.refusal_loss == pytest.approx(np.mean(losses), rel=1e-4)


def test_checkpoints_are_chosen_by_rates_then_refusal_loss_and_never_past_the_limit():
    best = Best(check(refusal=0.1, loss=3.0), check(refusal=1.0, over=0.05), 0.05)
    weights = {"w": torch.zeros(1)}
    assert not best.offer(check(1, bound=0.06, refusal=1.0), weights)  # past the limit
    assert not best.offer(check(2, bound=float("nan"), refusal=1.0), weights)
    assert not best.offer(check(3, refusal=0.1, loss=0.1), weights)  # only the text became likelier
    assert not best.offer(check(4, refusal=1.0, over=0.2, loss=0.1), weights)  # refuses what it should answer
    assert not best.restored
    assert best.offer(check(5, refusal=0.9, over=0.1, loss=2.0), weights)
    weights["w"] += 1  # training goes on in place: what was kept stays
    assert best.candidates[0].adapter["w"] == 0
    assert best.offer(check(6, refusal=0.9, over=0.1, loss=1.0), weights)
    assert not best.offer(check(7, refusal=0.8, over=0.1, loss=0.5), weights)
    assert best.check is not None and best.check.step == 6 and not best.restored
    assert best.offer(check(8, refusal=0.99, over=0.06), weights) and best.restored
    assert [c.check.step for c in best.candidates] == [8, 6, 5]  # the runners-up, for when the first does not hold
    assert not best.offer(check(9, refusal=0.9, over=0.1, loss=1.5), weights, "scale 0.5")
    assert [c.name for c in best.candidates] == ["step 8", "step 6", "scale 0.5"]


def test_a_judge_that_goes_away_ends_the_repair_and_gives_the_adapter_back(drifted):
    subject, skill, task = drifted
    before = trees.clone(adapter_parameters(subject.model))
    calls = []

    def breaks_late(prompt, response):
        calls.append(prompt)
        if len(calls) > 150:
            raise RuntimeError("judge went away")
        return judge(prompt, response)

    with pytest.raises(UserError, match=r"could not be judged.*went away"):
        restore(subject, skill, task, steps=20, **{**SMALL, "judge": breaks_late})
    for name, parameter in adapter_parameters(subject.model).items():
        assert torch.equal(parameter, before[name])


def test_a_judges_error_is_no_compliance_and_is_counted(drifted):
    subject, skill, task = drifted
    m = gather(
        subject, skill.estimate, task, "self", judge,
        prompts=(16, 32), task_examples=(20, 30), max_new_tokens=6, harmful=False, seed=0,
    )  # fmt: skip

    def fails_on_one(prompt, response):
        return Verdict("error") if prompt == m.choose.harmful[0] else Verdict("refused")

    found = Validation(subject, m.choose, fails_on_one, 6).measure(0)
    assert found.check.refusal == 1.0 and found.check.errors == 1
    assert found.check.refusal_interval.n == len(m.choose.harmful) - 1
    assert np.isnan(found.harmful_P[0])


def test_a_free_repair_is_a_candidate_like_any_other(drifted):
    subject, skill, task = drifted
    before = adapter_parameters(subject.model)
    result = restore(
        subject, skill, task, max_task_loss_increase=50.0, steps=1, learning_rate=1e-9,
        **{**SMALL, "prompts": (16, 32)},
    )  # fmt: skip
    assert result.status == "restored", result.reason
    assert result.chosen_name in ("adapter off", "scale 0.25")
    # what is saved is the update scaled down, not the update
    factor = 0.0 if result.chosen_name == "adapter off" else 0.25
    mine = {name.replace(".default", ""): p.detach() for name, p in before.items()}
    for name, tensor in result.adapter.items():
        kept = factor * mine[name] if ".lora_B." in name else mine[name]
        torch.testing.assert_close(tensor, kept)


def test_what_decides_is_not_what_chose(drifted, monkeypatch):
    module, seen = sys.modules["holdfast.restoration.restore"], []
    plain = module.conclude

    def moved(subject, material, teachers, validation, best, schedule, **_):
        seen.append((material, validation))
        return Attempt((best.start,))

    monkeypatch.setattr(module, "replay", lambda *a, **_: moved(a[0], a[1], None, *a[2:]))
    monkeypatch.setattr(
        module, "distil", lambda subject, material, teachers, choose, best, *_, **__: Attempt((best.start,))
    )
    monkeypatch.setattr(module, "distil", moved)
    monkeypatch.setattr(module, "conclude", lambda *a: seen.append(a[2]) or plain(*a))
    subject, skill, task = drifted
    restore(subject, skill, task, method="distil", **SMALL)
    (material, choosing), deciding = seen
    assert choosing.part is material.choose and deciding.part is material.decide
    assert not set(choosing.part.harmful + choosing.part.benign) & set(
        deciding.part.harmful + deciding.part.benign
    )


def test_every_number_of_the_report_has_its_interval(repaired, tmp_path):
    *_, result = repaired
    report = result.to_dict()
    names = {"aligned", "drifted", "repaired"}
    assert set(report["decided"]) == names
    for check_ in (*report["decided"].values(), *report["trace"], *report["baselines"].values()):
        for name in ("refusal", "over_refusal"):
            interval = check_[f"{name}_interval"]
            assert interval["low"] <= check_[name] <= interval["high"] and interval["n"] == 8
        interval = check_["task_loss_interval"]
        assert interval["low"] <= check_["task_loss_increase"] <= interval["high"]
    assert report["decision"]["refusals_short"]["n"] == 8
    assert report["decided"]["repaired"]["task_loss_bound"] <= result.max_task_loss_increase
    assert "8 harmful" in result.reason and "[" in result.reason and "chose nothing" in result.reason


def test_the_cost_is_said_before_and_after_the_first_step(drifted):
    subject, skill, task = drifted
    said = []
    restore(subject, skill, task, steps=10, say=said.append, **SMALL)
    free, whole, rest = said
    assert (
        re.search(r"adapter off refuses \d+ % \(over-refuses \d+ %\) at \+\d", free) and "drifted refuses" in free
    )
    assert "at most 10 steps of 24 examples; up to 4 checks, each 8 harmful and 8 harmless prompts" in whole
    assert "a step takes" in rest and "at most" in rest


def test_balancing_a_real_adapter_changes_no_logit(drifted):
    subject, _, task = drifted
    before = mean_loss(subject, task).nll_N
    with torch.no_grad():
        for a_RI, b_OR, _ in lora_pairs(subject.model).values():
            for target, value in zip((a_RI, b_OR), balance(a_RI, b_OR), strict=True):
                target.copy_(value)
    np.testing.assert_allclose(mean_loss(subject, task).nll_N, before, rtol=1e-4, atol=1e-4)


def test_replay_uses_the_three_sets_in_equal_shares(drifted, monkeypatch):
    from holdfast.restoration import replay as module

    subject, skill, task = drifted
    m = gather(
        subject, skill.estimate, task, "self", judge,
        prompts=(16, 16), task_examples=(20, 30), max_new_tokens=6, harmful=False, seed=0,
    )  # fmt: skip
    seen = []
    original = module.add_gradient
    monkeypatch.setattr(module, "add_gradient", lambda s, e: seen.append(list(e)) or original(s, e))
    validation = Validation(subject, m.choose, judge, 6)
    start, told = validation.check(0), []
    best = Best(start, start, 1.0)
    replay(subject, m, validation, best, Schedule(steps=3, batch_size=5, check_every=3), tell=told.append)
    assert len(seen) == 3 and len(told) == 1
    for examples in seen:
        sets = [sum(e in part for e in examples) for part in (m.refusals_fit, m.task_fit, m.retain_fit)]
        assert sets == [5, 5, 5]


def test_what_is_decided_about_is_what_is_written_rounding_included(drifted, tmp_path):
    """In half precision (restoration.md 3.7): the loss of the file, read back, is the one that was decided by."""
    subject, skill, task = drifted
    for parameter in adapter_parameters(subject.model).values():
        parameter.data = parameter.data.to(torch.bfloat16)
    sizes = {name: value for name, value in SMALL.items() if name not in ("judge", "batch_size")}
    part = gather(subject, skill.estimate, task, "self", judge, harmful=False, seed=0, **sizes).decide
    before_N = mean_loss(subject, part.task).mean_N
    result = restore(subject, skill, task, steps=20, learning_rate=5e-3, seed=0, **SMALL)
    result.save(tmp_path / "repaired")
    written = Restoration.load(tmp_path / "repaired").adapter
    assert {t.dtype for t in written.values()} == {torch.bfloat16}
    put_adapter(subject.model, written)
    rise = float((mean_loss(subject, part.task).mean_N - before_N).mean())
    assert result.status != "no_safe_step"
    assert rise == pytest.approx(result.decided["repaired"].task_loss_increase, abs=1e-6)
