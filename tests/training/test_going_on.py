"""What a run does at its budget besides stopping, in our trainer and in stock ones; resumed runs are the same."""

import json

import pytest
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from holdfast.core.errors import UserError
from holdfast.defences import Anchor
from holdfast.evaluation import drift
from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, dataset_from_examples
from holdfast.training.monitor import LEAST_RATE
from tests.training.test_drift_monitor import PROMPTS, reference_of
from tests.training.test_last_word import Recorder, foreign, ours
from tests.training.weights import largest_difference, weights

STEPS, RATE = 12, 2e-3


def stock(subject, args, examples, callbacks):
    """The trainer of transformers; the same settings."""
    kept = ("output_dir", "max_steps", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type",
            "logging_steps", "save_steps", "save_strategy", "seed", "use_cpu", "report_to")  # fmt: skip
    plain = TrainingArguments(**{name: getattr(args, name) for name in kept}, disable_tqdm=True)
    data = dataset_from_examples(examples).remove_columns("id")
    collate = DataCollatorForSeq2Seq(subject.tokenizer)
    return Trainer(subject.model, plain, collate, data, processing_class=subject.tokenizer, callbacks=callbacks)


@pytest.fixture
def run(build, options, examples, tmp_path):
    """A run of twelve steps, measured at each second; its monitor, its trainer, its weights, what it logged."""

    def make(then=None, limit=None, trainer=ours, resume=None, name="out", least_rate=LEAST_RATE, **kwargs):
        subject, recorder = build(lora=True), Recorder()
        budget = DriftBudget(limit, then=then) if then else None
        monitor = DriftMonitor(reference_of(subject), every=2, budget=budget, least_rate=least_rate)
        args = options(
            output_dir=str(tmp_path / name), max_steps=STEPS, learning_rate=RATE, lr_scheduler_type="cosine",
            save_strategy="steps", save_steps=2, save_total_limit=20,
        )  # fmt: skip
        made = trainer(subject, args, examples, [recorder, monitor], **kwargs)
        made.train(resume_from_checkpoint=str(resume) if resume else None)
        assert monitor.reference is not None
        return monitor, made, weights(subject), recorder.seen, drift(subject, monitor.reference).kl_nats

    return make


@pytest.fixture
def free(run):
    """Drift at each second step of the run that nothing limits."""
    return [row["kl_nats"] for row in run(name="free")[0].trace]


@pytest.mark.parametrize("trainer", [ours, foreign, stock])
def test_the_forecast_and_the_distance_join_the_logs_of_any_trainer(run, trainer):
    monitor, made, _, seen, _ = run("warn", 1e9, trainer)
    logged = [record for record in seen if "drift/forecast_kl_nats" in record]
    assert [row["step"] for row in monitor.trace if "forecast_kl_nats" in row] == [6, 8, 10]
    rows = {row["step"]: row for row in monitor.trace}
    assert [record["drift/slope"] for record in logged] == [rows[step]["slope"] for step in (6, 8, 10)]
    assert logged[0]["drift/nats_left"] == 1e9 - rows[6]["kl_nats"]
    assert 0 < logged[0]["drift/budget_used"] < 1e-3
    assert any("drift/forecast_high" in record for record in made.state.log_history)
    end, forecast = rows[12]["kl_nats"], rows[10]
    assert forecast["forecast_low"] / 2 < end < 2 * forecast["forecast_high"]


@pytest.mark.parametrize("trainer", [ours, foreign, stock])
def test_a_forecast_outside_lowers_the_rate_once_a_measurement_and_not_below_the_floor(run, trainer):
    plain = run(name="plain", trainer=trainer)[0].trace
    limit = 0.7 * plain[-1]["kl_nats"]
    monitor, made, _, _, end = run("slow", limit, trainer, name="slow")
    slowed = [row for row in monitor.trace if row.get("then") == "slow"]
    assert slowed and slowed[0]["step"] <= 10 and end <= limit
    assert slowed[0]["exceeded"] is None or slowed[0]["back_to"] < slowed[0]["step"]
    factors = [row["rate_factor"] for row in slowed]
    assert factors == [0.5 ** (k + 1) for k in range(len(slowed))] and min(factors) >= 1 / 16
    rates = {r["step"]: r["learning_rate"] for r in made.state.log_history if "learning_rate" in r}
    usual = {r["step"]: r["learning_rate"] for r in run(name="usual", trainer=trainer)[1].state.log_history
             if "learning_rate" in r}  # fmt: skip
    assert rates[slowed[0]["step"]] == usual[slowed[0]["step"]]
    ratios = [rates[row["step"] + 1] / usual[row["step"] + 1] for row in slowed if row["step"] < STEPS]
    assert ratios == pytest.approx(factors[: len(ratios)], rel=1e-9)


def test_at_the_floor_a_run_that_breaks_its_budget_stops(run):
    monitor, made, _, _, end = run("slow", 1e-9, least_rate=0.5)  # which nothing keeps
    assert [row.get("rate_factor") for row in monitor.trace] == [None, 0.5, None]
    assert monitor.stopped.step == made.state.global_step == 4 and end == 0.0


def test_back_takes_back_and_goes_on(run, free):
    limit = (free[2] + free[3]) / 2
    monitor, made, _, _, end = run("back", limit)
    outside = [row for row in monitor.trace if row["exceeded"]]
    assert (outside[0]["step"], outside[0]["then"], outside[0]["back_to"]) == (6, "back", 4)
    assert made.state.global_step == STEPS and end <= limit
    assert (monitor.stopped is not None) == (outside[-1]["step"] == STEPS)


def test_a_warning_changes_nothing_else(run, free, caplog):
    monitor, _, warned, _, end = run("warn", free[3], name="warn")
    plain = run(name="plain")[2]
    assert largest_difference(warned, plain) == 0.0 and end == free[-1] > free[3]
    assert monitor.stopped is None and "drift is forecast to pass" in caplog.text
    assert monitor.trace[-1]["then"] == "warn"


def anchored():
    return [Anchor(PROMPTS, max_new_tokens=4, standby=True)]


def test_an_anchor_on_standby_takes_over_where_the_forecast_breaks(run, free):
    limit = 0.6 * free[-1]
    monitor, made, _, _, end = run("anchor", limit, defences=anchored())
    handed = [row["step"] for row in monitor.trace if row.get("then") == "anchor"]
    assert 6 <= handed[0] < STEPS and end <= limit < free[-1]
    at = {r["step"]: r for r in made.state.log_history if "loss" in r}
    assert all("anchor/kl_nats" not in at[step] for step in range(1, handed[0] + 1))
    assert "anchor/kl_nats" in at[handed[0] + 1]
    before = [row["kl_nats"] for row in monitor.trace if row["step"] <= handed[0]]
    assert before == free[: len(before)]  # until then it is the run without it
    assert [at[h + 1]["anchor/weight"] for h in handed if h < STEPS] == [2.0**k for k in range(len(handed))]


@pytest.mark.parametrize("then", ["slow", "back", "anchor"])
def test_a_resumed_run_is_the_whole_run(run, free, then, tmp_path):
    more = {"defences": anchored} if then == "anchor" else {"defences": list}
    limit = 0.6 * free[-1]
    whole, _, wanted, _, _ = run(then, limit, name="whole", defences=more["defences"]())
    acted = [row["step"] for row in whole.trace if row.get("then") not in (None, "stop")]
    assert acted and acted[0] < STEPS
    resume = tmp_path / "whole" / f"checkpoint-{acted[0]}"
    found, _, again, _, _ = run(then, limit, name="whole", resume=resume, defences=more["defences"]())
    assert largest_difference(again, wanted) == 0.0
    assert json.dumps(found.trace) == json.dumps(whole.trace)


def test_what_is_asked_for_must_be_there(run, build, options, examples):
    with pytest.raises(UserError, match="no defence to hand over to"):
        run("anchor", 1.0)
    monitor = DriftMonitor(reference_of(build()), budget=DriftBudget(1.0, then="slow"))
    trainer = GuardedTrainer(build(), options(), examples, callbacks=[monitor])
    with pytest.raises(UserError, match="no optimiser"):
        monitor.on_train_begin(
            trainer.args, trainer.state, trainer.control, trainer.model, trainer.processing_class
        )
