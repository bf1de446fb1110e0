"""What changes weights after the last measurement is measured again, in our trainer and in any other."""

import copy

import pytest
import torch
from peft import LoraConfig
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl.trainer.sft_trainer import SFTTrainer

from holdfast.core.errors import UserError
from holdfast.evaluation import Reference, drift
from holdfast.models import Subject
from holdfast.training import DriftBudget, DriftMonitor, GuardedTrainer, dataset_from_examples, read_lines
from tests.training.test_drift_monitor import PROMPTS, reference_of

LIMIT = 0.05


def ours(subject, args, examples, callbacks, **kwargs):
    return GuardedTrainer(subject, args, examples, callbacks=callbacks, **kwargs)


def foreign(subject, args, examples, callbacks, **kwargs):
    if "eval_dataset" in kwargs:
        kwargs["eval_dataset"] = dataset_from_examples(kwargs["eval_dataset"])
    return SFTTrainer(
        model=subject.model,
        args=args,
        train_dataset=dataset_from_examples(examples),
        processing_class=subject.tokenizer,
        callbacks=callbacks,
        **kwargs,
    )


class Shift(TrainerCallback):
    """Moves weights at an event, as averaging or merging would."""

    def __init__(self, event, frozen=False):
        self.frozen = frozen
        setattr(self, event, self.act)

    def act(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad != self.frozen:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("make", [ours, foreign])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("before", [True, False])
def test_weights_that_a_callback_moves_on_its_way_out_are_taken_back(build, options, examples, make, lora, before):
    subject = build(lora=lora)
    reference = reference_of(subject)
    monitor = DriftMonitor(reference, every=2, budget=DriftBudget(max_kl_nats=LIMIT))
    callbacks = [Shift("on_train_end"), monitor] if before else [monitor, Shift("on_train_end")]
    make(subject, options(learning_rate=1e-6), examples, callbacks).train()
    assert drift(subject, reference).kl_nats <= LIMIT
    assert monitor.stopped is not None and monitor.stopped.restored_step == 4
    assert [row["step"] for row in monitor.trace] == [0, 2, 4, 4]
    assert monitor.trace[-1]["kl_nats"] > LIMIT


@pytest.mark.parametrize("make", [ours, foreign])
def test_the_best_checkpoint_cannot_undo_a_budget(build, options, examples, make):
    """Without the last word the best checkpoint, which lies outside, would come out."""
    subject = build()
    reference = reference_of(subject)

    class Best(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs):
            metrics["eval_loss"] = 0.0 if state.global_step == 2 else 1.0  # called best, whatever it is

    free = build()
    probe = DriftMonitor(reference_of(free), every=1)
    ours(free, options(), examples, [probe]).train()
    kl = [row["kl_nats"] for row in probe.trace]
    limit = (kl[1] + kl[2]) / 2
    guard = DriftMonitor(reference, every=4, budget=DriftBudget(max_kl_nats=limit))
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    settings |= {"load_best_model_at_end": True, "per_device_eval_batch_size": 8}
    make(subject, options(**settings), examples, [guard, Best()], eval_dataset=examples[:4]).train()
    # every checkpoint was measured before it was written, so the second step already stopped the run
    assert guard.stopped is not None and (guard.stopped.step, guard.stopped.restored_step) == (2, 1)
    assert drift(subject, reference).kl_nats == kl[1] <= limit


@pytest.mark.parametrize("make", [ours, foreign])
def test_a_stop_is_final_even_if_the_best_checkpoint_is_loaded_after_it(build, options, examples, make):
    subject = build()
    reference = reference_of(subject)
    moved = {name: p + 0.3 * torch.ones_like(p) for name, p in subject.model.named_parameters()}

    class LoadsAnother(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **kwargs):
            model.load_state_dict({**model.state_dict(), **moved})

    guard = DriftMonitor(reference, every=1, budget=DriftBudget(max_kl_nats=1e-5))
    make(subject, options(), examples, [guard, LoadsAnother()]).train()
    assert guard.stopped is not None and guard.stopped.restored_step == 0
    assert drift(subject, reference).kl_nats == 0.0


@pytest.mark.parametrize("make", [ours, foreign])
def test_what_cannot_be_put_back_is_an_error_and_no_model(build, options, examples, make):
    subject = build(lora=True)
    monitor = DriftMonitor(reference_of(subject), every=2, budget=DriftBudget(max_kl_nats=LIMIT))
    trainer = make(subject, options(learning_rate=1e-6), examples, [monitor, Shift("on_train_end", frozen=True)])
    with pytest.raises(UserError, match="something else in the model was changed"):
        trainer.train()


def test_merging_at_the_end_is_measured(build, options, examples):
    """A merged adapter is the same function: it is measured again and stays."""
    subject = build(lora=True)
    reference = reference_of(subject)

    class Merge(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **kwargs):
            model.merge_adapter()

    monitor = DriftMonitor(reference, every=2, budget=DriftBudget(max_kl_nats=100.0))
    ours(subject, options(), examples, [monitor, Merge()]).train()
    assert monitor.stopped is None
    assert monitor.trace[-1]["kl_nats"] == pytest.approx(monitor.trace[-2]["kl_nats"], rel=1e-3)
    assert [row["step"] for row in monitor.trace] == [0, 2, 4, 4]


def test_a_checkpoint_outside_the_budget_is_not_resumed(build, options, examples, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2}
    ours(build(), options(**settings), examples, []).train()
    subject = build()
    guard = DriftMonitor(reference_of(subject), every=1, budget=DriftBudget(max_kl_nats=1e-6))
    with pytest.raises(UserError, match="before step 3"):
        ours(subject, options(**settings), examples, [guard]).train(
            resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2")
        )


class Recorder(TrainerCallback):
    """Stands where reporting services stand."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(dict(logs))


@pytest.mark.parametrize("peft", ["whole", "peft_config"])
def test_in_a_stock_trainer_it_logs_traces_and_leaves_the_weights_alone(build, options, examples, tmp_path, peft):
    runs, extra = {}, {}
    if peft == "peft_config":
        extra = {"peft_config": LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")}
    for watched in (True, False):
        subject, recorder = build(0.2), Recorder()
        monitor = DriftMonitor(reference_of(subject), every=3, task=examples[:4])
        torch.manual_seed(0)
        args = options(output_dir=str(tmp_path / str(watched)))
        trainer = foreign(subject, args, examples, [recorder, monitor] if watched else [], **copy.deepcopy(extra))
        trainer.train()
        runs[watched] = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        if watched:
            assert [row["step"] for row in monitor.trace] == [0, 3, 4]
            assert monitor.trace[0]["kl_nats"] == 0.0
            found = drift(Subject(trainer.model, subject.tokenizer), monitor.reference).kl_nats
            assert found == monitor.trace[-1]["kl_nats"] > 0
            assert read_lines(tmp_path / "True" / "drift.jsonl")[-1]["step"] == 4
            for records in (recorder.seen, trainer.state.log_history):
                numbers = [r["drift/kl_nats"] for r in records if "drift/kl_nats" in r]
                assert numbers == [row["kl_nats"] for row in monitor.trace[1:]]
            assert "drift/task_loss_nats_per_token" in recorder.seen[2]
            assert recorder.seen[2]["loss"] > 0
    assert all(torch.equal(runs[True][name], runs[False][name]) for name in runs[True])


def test_in_the_trainer_of_transformers(build, examples, tmp_path):
    from transformers import DataCollatorForSeq2Seq

    subject = build()
    reference = reference_of(subject)
    monitor = DriftMonitor(reference, every=2, budget=DriftBudget(max_kl_nats=1e-5))
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        report_to="none",
        use_cpu=True,
        learning_rate=1e-2,
        disable_tqdm=True,
    )
    data = dataset_from_examples(examples).remove_columns("id")
    collate = DataCollatorForSeq2Seq(subject.tokenizer)
    Trainer(subject.model, args, collate, data, processing_class=subject.tokenizer, callbacks=[monitor]).train()
    assert monitor.stopped is not None and drift(subject, reference).kl_nats == 0.0
    assert (tmp_path / "drift.jsonl").exists()


def test_a_reference_that_moves_along_is_refused(build, options, examples):
    subject = build()
    own = Reference.of(subject, PROMPTS, max_new_tokens=4, source="model")
    with pytest.raises(UserError, match="the very model that is trained"):
        foreign(subject, options(), examples, [DriftMonitor(own)]).train()
    adapter = build(lora=True)
    off = Reference.of(adapter, PROMPTS, max_new_tokens=4, source="adapter_off")
    with pytest.raises(UserError, match="'adapter_off' needs a model that trains an adapter"):
        foreign(build(), options(), examples, [DriftMonitor(off)]).train()
    second = Reference.of(build(), PROMPTS, max_new_tokens=4, source="model")
    foreign(subject, options(max_steps=1), examples, [DriftMonitor(second)]).train()


def test_neighbours_keep_their_events_when_the_monitor_takes_its_place(build, options, examples):
    seen = []

    class Neighbour(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append("begin")

        def on_train_end(self, args, state, control, **kwargs):
            seen.append("end")

    class Another(Neighbour):
        pass

    subject = build()
    monitor = DriftMonitor(reference_of(subject), every=2)
    trainer = foreign(subject, options(max_steps=1), examples, [Neighbour(), monitor, Another()])
    for _ in range(2):  # a second call does not pile up helpers
        trainer.train()
    assert seen == ["begin", "begin", "end", "end"] * 2
    assert trainer.callback_handler.callbacks[-1] is monitor
    names = [type(callback).__name__ for callback in trainer.callback_handler.callbacks]
    assert names.count("LogAhead") == 1
