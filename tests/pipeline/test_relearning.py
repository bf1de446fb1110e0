"""A harmless fine-tune that repeats with its seed, costs what it says, and leaves nothing behind."""

import copy

import pytest
import torch

from holdfast.core.errors import UserError
from holdfast.evaluation import Verdict
from holdfast.evaluation.attacks import run_attack
from holdfast.models import Subject, adapter_parameters, model_hash
from holdfast.pipeline.relearning import LEARNING_RATE, benign_fine_tune, relearning_attack


def refused(prompt, response):
    return Verdict("refused", "always")


def weights(subject):
    return {name: p.detach().clone() for name, p in subject.model.named_parameters()}


def moved(subject, before):
    return {name for name, p in subject.model.named_parameters() if not torch.equal(p, before[name])}


def state(model):
    """All that a trainer touches besides the weights: settings, forward, hooks, modes, what is trainable."""
    modules = list(model.modules())
    return {
        "hash": model_hash(model),
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "forward": [vars(module).get("forward") for module in modules],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules],
        "checkpointing": [getattr(module, "gradient_checkpointing", None) for module in modules],
        "names": [sorted(vars(module)) for module in modules],
        "training": [module.training for module in modules],
        "wanted": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
    }


def attack_with(subject, attack):
    return run_attack(subject, attack, "refusal", ["add two", "name a colour"], refused, 3, seed=1)


@pytest.mark.parametrize("kind", ["plain", "adapter"])
def test_the_attack_trains_answers_and_is_undone(kind, tiny_subject, request, tiny_examples):
    subject = tiny_subject if kind == "plain" else request.getfixturevalue("lora_subject")
    attack = relearning_attack(tiny_examples, steps=3, learning_rate=0.05)
    plain = attack_with(subject, relearning_attack(tiny_examples, steps=1, learning_rate=1e-12))[1]
    before = state(subject.model)
    score, answers = attack_with(subject, attack)
    assert state(subject.model) == before
    assert [a.response for a in answers] != [a.response for a in plain]  # it was trained when it answered
    assert score.attack == "relearn-3@0.05" and score.budget.spent.gradient_steps == 3


def test_settings_that_a_trainer_aligns_and_switches_come_back(tiny_subject, tiny_examples, monkeypatch):
    import holdfast.training

    real = holdfast.training.cpu_safe_args
    monkeypatch.setattr(
        holdfast.training,
        "cpu_safe_args",
        lambda **options: real(**options, bf16=True, use_cpu=True, gradient_checkpointing=True),
    )
    model = tiny_subject.model
    model.config.eos_token_id = model.generation_config.eos_token_id = 2  # not the tokenizer's
    model.config.use_cache = True
    tiny_subject.model.train()
    before = state(model)
    attack_with(tiny_subject, relearning_attack(tiny_examples, steps=1))
    assert state(model) == before


def test_what_was_there_also_comes_back_when_training_breaks(tiny_subject, tiny_examples, monkeypatch):
    from holdfast.training import GuardedTrainer

    real = GuardedTrainer.train

    def breaks(self):
        real(self)
        raise RuntimeError("no memory left")

    before = state(tiny_subject.model)
    monkeypatch.setattr(GuardedTrainer, "train", breaks)
    with pytest.raises(RuntimeError, match="no memory left"):
        attack_with(tiny_subject, relearning_attack(tiny_examples, steps=1))
    assert state(tiny_subject.model) == before


def test_the_seed_decides_and_the_callers_random_state_does_not(tiny_model, tiny_tokenizer, tiny_examples):
    found = {}
    for name, seed, disturbance in (("first", 0, 1), ("again", 0, 2), ("other", 1, 1)):
        subject = Subject(copy.deepcopy(tiny_model), tiny_tokenizer)
        with torch.random.fork_rng():
            torch.manual_seed(disturbance)
            attack = relearning_attack(tiny_examples, steps=3, learning_rate=0.01, batch_size=2)
            (change,) = attack.weights
            with change.applied(subject, 0, seed):
                found[name] = model_hash(subject.model)
    assert found["first"] == found["again"] != found["other"]


def test_with_an_adapter_only_the_adapter_learns(lora_subject, tiny_examples):
    before = weights(lora_subject)
    benign_fine_tune(tiny_examples, steps=2, learning_rate=0.01)(lora_subject, 0)
    assert moved(lora_subject, before) == set(adapter_parameters(lora_subject.model))


def test_without_one_everything_does_and_a_pattern_keeps_to_its_layers(tiny_subject, tiny_examples):
    before = weights(tiny_subject)
    benign_fine_tune(tiny_examples, steps=2, learning_rate=0.01)(tiny_subject, 0)
    assert moved(tiny_subject, before) == set(before)
    part = Subject(tiny_subject.model, tiny_subject.tokenizer, "*.layers.1.*")
    before = weights(part)
    benign_fine_tune(tiny_examples, steps=2, learning_rate=0.01)(part, 0)
    assert moved(part, before) == {name for name in before if ".layers.1." in name}


def test_the_loss_on_what_it_learned_falls(tiny_subject, tiny_examples):
    from holdfast.models import mean_loss

    before = mean_loss(tiny_subject, tiny_examples).nats_per_token
    benign_fine_tune(tiny_examples, steps=20, learning_rate=0.01)(tiny_subject, 0)
    assert mean_loss(tiny_subject, tiny_examples).nats_per_token < before - 1


@pytest.fixture
def in_the_loss(monkeypatch):
    """Completion tokens of every update."""
    from holdfast.training import GuardedTrainer

    seen, real = [], GuardedTrainer.training_step

    def counting(self, model, inputs, *rest):
        seen.append(int((inputs["labels"][:, 1:] != -100).sum()))
        return real(self, model, inputs, *rest)

    monkeypatch.setattr(GuardedTrainer, "training_step", counting)
    return seen


@pytest.mark.parametrize(("rows", "steps", "batch_size"), [(8, 4, 4), (3, 2, 8), (9, 4, 8), (9, 9, 1)])
def test_the_tokens_it_says_it_learned_from_are_those_in_the_loss(
    rows, steps, batch_size, tiny_subject, tiny_examples, in_the_loss
):
    spent = benign_fine_tune(tiny_examples[:rows], steps, batch_size=batch_size)(tiny_subject, 0)
    assert (spent.gradient_steps, len(in_the_loss), spent.candidates) == (steps, steps, 0)
    assert spent.training_tokens == sum(in_the_loss)


def test_within_an_epoch_the_mean_is_told(tiny_subject, tiny_examples, in_the_loss):
    spent = benign_fine_tune(tiny_examples[:8], 3, batch_size=4)(tiny_subject, 0)
    total = sum(example.completion_tokens for example in tiny_examples[:8])
    assert spent.training_tokens == round(1.5 * total)
    assert total < sum(in_the_loss) < 2 * total


def test_the_name_says_steps_and_rate(tiny_examples):
    assert relearning_attack(tiny_examples, 5).name == f"relearn-5@{LEARNING_RATE:g}"
    attack = relearning_attack(tiny_examples, 20, 2e-3)
    assert (attack.name, attack.access) == ("relearn-20@0.002", "weights")


def test_no_folder_is_left_behind(tiny_subject, tiny_examples, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    benign_fine_tune(tiny_examples, steps=1)(tiny_subject, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "steps", "rate", "said"),
    [
        (0, 2, 1e-3, "0 examples and 2 steps"),
        (2, 0, 1e-3, "2 examples and 0 steps"),
        (2, 2, 0.0, "learning rate of 0"),
        (2, 2, -1.0, "learning rate of -1"),
        (2, 2, float("nan"), "learning rate of nan"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(rows, steps, rate, said, tiny_examples):
    with pytest.raises(UserError, match=said):
        relearning_attack(tiny_examples[:rows], steps, rate)
