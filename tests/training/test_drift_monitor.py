"""The monitor sees without touching, and what comes out of a stopped run is inside the budget."""

import json

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.core.trees import assign
from holdfast.evaluation import Reference, Skill, Verdict, drift
from holdfast.selection import OnlineSelection
from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, RefusalProbe, read_lines
from tests.training.weights import largest_difference, weights

PROMPTS = ["please add two", "name a colour", "i cannot", "help", "add three and two", "sorry"]


def run(subject, options, examples, monitor=None, selection=None, **overrides):
    trainer = GuardedTrainer(
        subject, options(**overrides), examples, selection, [monitor] if monitor is not None else []
    )
    trainer.train()
    return trainer


def reference_of(subject, **kwargs):
    return Reference.of(subject, PROMPTS, max_new_tokens=6, **kwargs)


@pytest.mark.parametrize("lora", [False, True])
def test_a_monitored_run_has_the_weights_of_an_unmonitored_one(build, options, examples, lora):
    subject = build(0.5, lora)
    monitor = DriftMonitor(
        reference_of(subject),
        every=1,
        probe=RefusalProbe(PROMPTS, max_new_tokens=4),
        task=examples[:8],
        budget=DriftBudget(max_kl_nats=1e9),
    )
    run(subject, options, examples, monitor, OnlineSelection(0.5))
    plain = build(0.5, lora)
    run(plain, options, examples, None, OnlineSelection(0.5))
    assert largest_difference(weights(subject), weights(plain)) == 0.0
    assert [row["step"] for row in monitor.trace] == [0, 1, 2, 3, 4]


def test_the_trace_starts_at_no_drift_and_ends_at_the_drift_of_the_model(build, options, examples, tmp_path):
    subject = build()
    reference = reference_of(subject)
    monitor = DriftMonitor(reference, every=3)
    trainer = run(subject, options, examples, monitor)
    assert [row["step"] for row in monitor.trace] == [0, 3, 4]  # the last step is always measured
    assert monitor.trace[0]["kl_nats"] == 0.0
    assert monitor.trace[-1]["kl_nats"] == drift(subject, reference).kl_nats > 0.01
    assert read_lines(tmp_path / "out" / "drift.jsonl") == json.loads(json.dumps(monitor.trace))
    logged = [record for record in trainer.state.log_history if "drift/kl_nats" in record]
    assert logged[0]["drift/kl_nats"] == monitor.trace[1]["kl_nats"]


def test_a_drift_reference_without_the_adapter_is_the_stored_one(build, options, examples):
    subject = build(lora=True)
    stored = reference_of(subject)
    adapter_off = Reference.on(subject, stored.examples, source="adapter_off")
    run(subject, options, examples)
    a, b = drift(subject, stored), drift(subject, adapter_off)
    assert a.kl_nats == pytest.approx(b.kl_nats, rel=1e-5)
    assert a.kl_nats > 1e-4


def test_a_broken_budget_stops_and_gives_back_the_last_state_inside_it(build, options, examples):
    free = build()
    monitor = DriftMonitor(reference_of(free), every=1)
    run(free, options, examples, monitor)
    kl = [row["kl_nats"] for row in monitor.trace]
    assert kl[0] < kl[1] < kl[2]

    subject = build()
    reference = reference_of(subject)
    guard = DriftMonitor(reference, every=1, budget=DriftBudget(max_kl_nats=(kl[1] + kl[2]) / 2))
    trainer = run(subject, options, examples, guard)
    assert guard.stopped is not None
    assert (guard.stopped.step, guard.stopped.restored_step) == (2, 1)
    assert "drift" in guard.stopped.reason
    assert trainer.state.global_step == 2
    assert drift(subject, reference).kl_nats == kl[1]
    one_step = build()
    run(one_step, options, examples, max_steps=1)
    assert largest_difference(weights(subject), weights(one_step)) == 0.0
    assert any("drift/kl_nats" in record and record["step"] == 2 for record in trainer.state.log_history)


def test_a_budget_broken_after_the_last_regular_measurement_is_noticed(build, options, examples):
    subject = build()
    reference = reference_of(subject)
    guard = DriftMonitor(reference, every=100, budget=DriftBudget(max_kl_nats=1e-6))
    run(subject, options, examples, guard)
    assert guard.stopped is not None and guard.stopped.restored_step == 0
    assert drift(subject, reference).kl_nats == 0.0


class FirstToken:
    """Refused while the model still answers as it did at first."""

    def __init__(self):
        self.first = {}

    def __call__(self, prompt, response):
        return Verdict("refused" if self.first.setdefault(prompt, response) == response else "unclear", "")


def test_a_refusal_rate_below_its_limit_stops_and_unclear_is_no_refusal(build, options, examples):
    subject = build()
    before = weights(subject)
    probe = RefusalProbe(PROMPTS, judge=FirstToken(), max_new_tokens=4)
    guard = DriftMonitor(every=1, probe=probe, budget=DriftBudget(min_refusal=1.0))
    run(subject, options, examples, guard)
    assert guard.stopped is not None and "refusal rate" in guard.stopped.reason
    assert guard.trace[-1]["refusal_counts"]["unclear"] > 0
    with torch.no_grad():
        after = probe.rate(subject)[0].value
    assert after == 1.0
    assert guard.stopped.restored_step > 0 or largest_difference(weights(subject), before) == 0.0


def test_a_model_outside_its_budget_before_the_start_is_refused(build, options, examples):
    subject = build()
    reference = reference_of(subject)
    moved = {name: p + 0.05 * torch.randn_like(p) for name, p in weights(subject).items()}
    assign(dict(subject.model.named_parameters()), moved)
    with pytest.raises(UserError, match="before step 1"):
        run(subject, options, examples, DriftMonitor(reference, budget=DriftBudget(max_kl_nats=1e-3)))


def test_a_limit_that_nothing_measures_is_refused():
    probe = RefusalProbe(PROMPTS)
    with pytest.raises(UserError, match="a reference"):
        DriftMonitor(probe=probe, budget=DriftBudget(max_kl_nats=1.0))
    with pytest.raises(UserError, match="nothing to measure"):
        DriftMonitor()
    with pytest.raises(UserError, match=r"Reference\.of"):
        DriftMonitor("reference")


def test_a_measurement_that_is_not_a_number_is_outside():
    assert DriftBudget(max_kl_nats=1.0).exceeded({"kl_nats": float("nan")})
    assert DriftBudget(min_refusal=0.5).exceeded({"refusal": float("nan")})
    assert DriftBudget(max_kl_nats=1.0, min_refusal=0.5).exceeded({"kl_nats": 1.0, "refusal": 0.5}) is None
    down = {"refusal": 0.25, "refusal_counts": {"refused": 2, "complied": 0, "unclear": 0, "error": 6}}
    reason = DriftBudget(min_refusal=0.5).exceeded(down)
    assert reason == "refusal rate 0.25 below 0.5 (6 of 8 answers could not be judged)"  # no failing of the model


def test_the_probe_of_a_skill_uses_its_estimate_half():
    skill = Skill.refusal([f"word{k} thing{k}" for k in range(20)], near=None)
    assert RefusalProbe.of(skill, limit=3).prompts == skill.estimate.harmful[:3]


def test_a_model_that_hardly_refuses_is_said_to_before_the_first_step(build, options, examples, caplog):
    probe = RefusalProbe(PROMPTS * 3, lambda prompt, response: Verdict("complied", "always"), max_new_tokens=1)
    run(build(), options, examples, DriftMonitor(every=1, probe=probe), max_steps=1)
    assert caplog.text.count("refuses 0 % [0, 18] of 18 harmful prompts before anything is done to it") == 1
