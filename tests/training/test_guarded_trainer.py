"""GuardedTrainer against stock SFTTrainer and against a loop written by hand."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from trl.trainer.sft_trainer import SFTTrainer

from holdfast.core.errors import UserError
from holdfast.pipeline.recipe import AdapterSection, ArmSection, TrainingSection
from holdfast.pipeline.training_run import check_settings
from holdfast.selection import OnlineSelection, select
from holdfast.training import GuardedTrainer, dataset_from_examples, read_lines
from holdfast.training.data import labels
from holdfast.training.guards import unsuited
from tests.training.weights import largest_difference, weights


def stock(subject, examples, args, losses=None):
    trainer = SFTTrainer(
        model=subject.model,
        args=args,
        train_dataset=dataset_from_examples(examples),
        processing_class=subject.tokenizer,
    )
    trainer.train()
    if losses is not None:
        losses += [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return weights(subject)


def guarded(subject, data, args, selection, callbacks=()):
    trainer = GuardedTrainer(subject, args, data, selection, callbacks)
    trainer.train()
    return trainer


@pytest.mark.parametrize("lora", [False, True])
def test_keeping_everything_is_stock_sft_bit_for_bit(build, options, examples, lora):
    reference = stock(build(0.2, lora), examples, options())
    subject = build(0.2, lora)
    trainer = guarded(subject, examples, options(), OnlineSelection(1.0, loss_filter="none"))
    assert largest_difference(weights(subject), reference) == 0.0
    assert all(row["kept"] == row["pool"] == 8 for row in trainer.selection_trace)
    assert largest_difference(weights(build(0.2, lora)), reference) > 1e-3  # it did train


def test_without_a_defence_losses_and_weights_are_those_of_stock_sft(build, options, examples):
    subject, losses = build(0.2), []
    trainer = guarded(subject, examples, options(logging_steps=1), None)
    reference = stock(build(0.2), examples, options(logging_steps=1), losses)
    assert largest_difference(weights(subject), reference) == 0.0
    assert [row["loss"] for row in trainer.state.log_history if "loss" in row] == losses != []


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_guarded_steps_are_adamw_on_the_kept_samples(build, options, examples, accumulation, one_pass):
    settings = {
        "max_steps": 2,
        "learning_rate": 1e-3,
        "gradient_accumulation_steps": accumulation,
        "weight_decay": 0.1,
        "optim": "adamw_torch",
    }
    subject = build()
    trainer = guarded(subject, examples, options(**settings), OnlineSelection(0.5, one_pass=one_pass))
    assert [row["pool"] for row in trainer.selection_trace] == [8 * accumulation] * 2

    by_hand = build()
    model, by_id = by_hand.model, {example.id: example for example in examples}
    assert trainer.optimizer is not None
    groups = trainer.create_optimizer().param_groups  # which parameters decay is TRL's choice; take it over
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {id(p): name for name, p in subject.model.named_parameters()}
    decayed_names = {names[k] for k in decayed}
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in parameters.items() if n in decayed_names], "weight_decay": 0.1},
            {"params": [p for n, p in parameters.items() if n not in decayed_names], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    for row in trainer.selection_trace:
        optimizer.zero_grad()
        kept = [by_id[name] for name in row["kept_ids"]]
        total, tokens = torch.zeros(()), 0
        for example in kept:  # one sample at a time, no padding
            ids = torch.tensor([example.input_ids])
            logits = model(input_ids=ids).logits[0]
            for t, scored in enumerate(example.loss_mask):
                if scored:
                    total = total + F.cross_entropy(logits[t - 1], ids[0, t])
                    tokens += 1
        (total / tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert row["kept_tokens"] == tokens
    # Adam divides the smallest gradients by their own size, so the last bits of another order of summation show.
    assert largest_difference(weights(subject), weights(by_hand)) < (1e-5 if one_pass else 2e-6)
    # a step on everything would have ended elsewhere
    plain = build()
    guarded(plain, examples, options(**settings), None)
    assert largest_difference(weights(plain), weights(by_hand)) > 1e-4


def test_the_decision_is_the_offline_rule_on_gradient_norms(build, options, examples):
    from holdfast.gradients import gradient_norms

    subject = build()
    scores = gradient_norms(subject, examples, progress=False)
    place = {example.id: k for k, example in enumerate(examples)}
    trainer = GuardedTrainer(
        subject, options(per_device_train_batch_size=48, max_steps=1), examples, OnlineSelection(0.25)
    )
    trainer.train()
    row = trainer.selection_trace[0]
    offline = select(scores, keep=0.25)
    assert {place[name] for name in row["kept_ids"]} == set(offline.indices)
    assert row["thresholds"]["median"] == pytest.approx(offline.thresholds["median"], rel=1e-5)


@dataclass(frozen=True)
class RejectAll(OnlineSelection):
    """Rejects the pools of the given steps."""

    steps: tuple[int, ...] = ()

    def decide(self, loss, norm, tokens, step):
        chosen = super().decide(loss, norm, tokens, step)
        return replace(chosen, indices=()) if step in self.steps else chosen


def test_an_update_with_everything_rejected_moves_nothing(build, options, examples):
    history, subject = [], build()

    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            history.append(weights(subject))

    args = options(weight_decay=0.1, gradient_accumulation_steps=2)
    guarded(subject, examples, args, RejectAll(0.5, steps=(2,)), [Watch()])
    assert len(history) == 4
    assert largest_difference(history[0], history[1]) == 0.0
    assert largest_difference(history[1], history[2]) > 1e-4


def test_fewer_kept_samples_than_micro_batches_still_make_one_update(build, options, examples):
    args = options(per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=2)
    trainer = guarded(build(), examples, args, OnlineSelection(0.25))
    assert [row["kept"] for row in trainer.selection_trace] == [2, 2]
    assert trainer.state.global_step == 2
    assert all(torch.isfinite(torch.tensor(r["loss"])) for r in trainer.state.log_history if "loss" in r)


def test_the_same_seed_keeps_the_same_samples_and_ends_in_the_same_weights(build, options, examples):
    runs = []
    for _ in range(2):
        subject = build(0.2)
        trainer = guarded(subject, examples, options(), OnlineSelection(0.5))
        runs.append((trainer.selection_trace, weights(subject)))
    assert runs[0][0] == runs[1][0]
    assert largest_difference(runs[0][1], runs[1][1]) == 0.0


def test_the_trace_is_in_the_output_folder_and_the_log(build, options, examples, tmp_path, capsys):
    trainer = guarded(build(), examples, options(), OnlineSelection(0.5))
    rows = read_lines(tmp_path / "out" / "selection.jsonl")
    assert rows == trainer.selection_trace
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert sum(rows[0]["counts"].values()) == 8
    logged = [record for record in trainer.state.log_history if "loss" in record]
    assert len(logged) == 4
    assert logged[0]["selection/kept_share"] == rows[0]["kept_share"]
    assert capsys.readouterr().out == ""


def test_rules_without_a_score_do_not_score(build, options, examples, monkeypatch):
    import holdfast.training.trainer as module

    def forbidden(*args, **kwargs):
        raise AssertionError("scored")

    monkeypatch.setattr(module, "one_pass", forbidden)
    monkeypatch.setattr(module, "pool_norms", forbidden)
    trainer = guarded(build(), examples, options(), OnlineSelection(0.5, "random", loss_filter="none"))
    assert [row["kept"] for row in trainer.selection_trace] == [4] * 4
    filtered = guarded(build(), examples, options(), OnlineSelection(1.0, "none"))
    assert all(row["loss_nats"] and not row["grad_norm"] for row in filtered.selection_trace)


def test_rows_that_trl_tokenises_itself_can_be_selected_too(build, options, rows):
    data = Dataset.from_list(rows)
    trainer = guarded(build(), data, options(), OnlineSelection(0.5))
    kept = [name for row in trainer.selection_trace for name in row["kept_ids"]]
    assert len(kept) == 16
    assert set(kept) <= {row["id"] for row in rows}


def test_a_users_own_collator_and_evaluation_still_work(build, options, examples):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    trainer = GuardedTrainer(
        build(),
        options(eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=4),
        examples,
        OnlineSelection(0.5),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=0, pad_to_multiple_of=8),
        eval_dataset=examples[:6],
    )
    trainer.train()
    assert sum("eval_loss" in record for record in trainer.state.log_history) == 2


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("rule", ["moderate", "inverse_length"])
def test_rows_are_chosen_among_joined_ones_as_among_padded_ones(build, options, examples, rule, accumulation):
    found = {}
    for padding_free in (False, True):
        trainer = guarded(
            build(),
            examples,
            options(padding_free=padding_free, max_length=None, gradient_accumulation_steps=accumulation),
            OnlineSelection(0.5, rule),
        )
        found[padding_free] = ([row["kept_ids"] for row in trainer.selection_trace], weights(trainer.model))
    (ids, padded), (same_ids, joined) = found[False], found[True]
    assert ids == same_ids and all(len(kept) < 8 * accumulation for kept in ids)
    for name, parameter in padded.items():
        torch.testing.assert_close(joined[name], parameter, rtol=1e-4, atol=2e-5)


def test_sequences_of_packed_rows_are_chosen_one_by_one(build, options, examples):
    columns = {"input_ids": [list(e.input_ids) for e in examples], "labels": [labels(e) for e in examples]}
    arguments = options(packing=True, max_length=256, per_device_train_batch_size=2, max_steps=2)
    trainer = guarded(build(), Dataset.from_dict(columns), arguments, OnlineSelection(0.5, "random", "none"))
    for row in trainer.selection_trace:
        assert row["pool"] > 4 and row["kept"] in (row["pool"] // 2, (row["pool"] + 1) // 2)
    with pytest.raises(UserError, match="'wrapped' cuts rows apart"):
        GuardedTrainer(build(), options(packing=True, packing_strategy="wrapped"), examples, OnlineSelection())


@pytest.mark.parametrize("other", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}])
def test_rows_are_not_chosen_by_a_loss_that_is_not_trained(build, options, examples, other):
    for selection in (OnlineSelection(), OnlineSelection(rule="random", loss_filter="sigma")):
        with pytest.raises(UserError, match=f"plain loss, and {next(iter(other))}"):
            GuardedTrainer(build(), options(**other), examples, selection)
    assert unsuited(OnlineSelection(rule="random", loss_filter="none").needs, options(**other)) is None
    section = TrainingSection(trl=other, steps=1)
    arm = ArmSection(name="guarded", rule="moderate", keep=0.5)
    with pytest.raises(UserError, match="arm 'guarded': online selection scores"):
        check_settings(section, AdapterSection(), "some/model", [arm])
    check_settings(section, AdapterSection(), "some/model", [ArmSection(name="plain")])


def test_a_subjects_scope_is_what_is_trained(build, options, examples):
    before, subject = weights(build()), replace(build(), scope="*.layers.1.*")
    guarded(subject, examples, options(), OnlineSelection(0.5))
    moved = {n for n, p in weights(subject).items() if not torch.equal(p, before[n])}
    assert moved and all(".layers.1." in name for name in moved)


@pytest.mark.parametrize("lora", [False, True])
def test_one_pass_trains_like_two(build, options, examples, lora):
    runs = {}
    for one_pass in (True, False):
        subject = build(0.0, lora)
        args = options(max_steps=3, learning_rate=1e-3, gradient_accumulation_steps=2, max_grad_norm=0.5)
        trainer = guarded(subject, examples, args, OnlineSelection(0.5, one_pass=one_pass))
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        runs[one_pass] = (weights(subject), losses, [row["kept_ids"] for row in trainer.selection_trace])
    assert runs[True][2] == runs[False][2]
    assert runs[True][1] == pytest.approx(runs[False][1], rel=1e-4)
    assert largest_difference(runs[True][0], runs[False][0]) < 2e-5
    assert largest_difference(runs[True][0], weights(build(0.0, lora))) > 1e-3


def test_dropout_takes_two_passes_and_says_why(build, options, examples, caplog, monkeypatch):
    from holdfast.training import trainer as module

    def forbidden(*_args, **_kwargs):
        raise AssertionError("one pass with dropout")

    monkeypatch.setattr(module, "one_pass", forbidden)
    with caplog.at_level("INFO", logger="holdfast.training.trainer"):
        guarded(build(0.2), examples, options(max_steps=2), OnlineSelection(0.5))
    told = [record.message for record in caplog.records if "two passes" in record.message]
    assert len(told) == 1
    assert "attention_dropout 0.2" in told[0]
