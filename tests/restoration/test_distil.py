"""Distillation both ways against losses written out, and where it starts."""

from dataclasses import replace

import pytest
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.data import collate
from holdfast.models import adapter_off, adapter_parameters, batch_logits
from holdfast.restoration import restore
from holdfast.restoration.attempt import Best
from holdfast.restoration.baselines import Baseline
from holdfast.restoration.distil import TaskWeight, Teachers, add_gradient, distil
from holdfast.restoration.material import gather
from holdfast.restoration.start import safe_scale, scale_adapter
from holdfast.restoration.tuning import Schedule, endless
from holdfast.restoration.validation import Check, Measured, Validation

from .conftest import judge
from .test_restore import SMALL, check

SIZES = {"prompts": (16, 16), "task_examples": (20, 30), "max_new_tokens": 6, "harmful": False, "seed": 0}


@pytest.fixture
def taught(drifted):
    """(subject, material, teachers), the adapter trainable and still the drifted one."""
    subject, skill, task = drifted
    material = gather(subject, skill.estimate, task, "self", judge, **SIZES)
    return subject, material, Teachers.of(subject, material)


def log_p(model, example):
    """At the positions that predict the completion, one row at a time."""
    batch, first = collate([example], 0), len(example.prompt_ids)
    return batch_logits(model, batch)[0, first - 1 : -1].log_softmax(-1)


def kl(example, teacher_SV, model):
    return (teacher_SV.exp() * (teacher_SV - log_p(model, example))).sum(-1).mean()


def test_the_gradient_is_that_of_the_mean_kl_a_token_written_out(taught):
    subject, _, teachers = taught
    rows, parameters = [3, 0, 5], list(subject.parameters().values())
    examples = [teachers.skill.examples[k] for k in rows]
    with torch.no_grad(), adapter_off(subject.model):
        aligned = [log_p(subject.model, example) for example in examples]
    loss = sum(kl(e, p, subject.model) for e, p in zip(examples, aligned, strict=True)) / len(rows)
    expected = torch.autograd.grad(2.5 * loss, parameters)
    add_gradient(subject, teachers.skill, rows, 2.5)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_drifted_teacher_pulls_nowhere_at_the_drifted_adapter(taught):
    subject, _, teachers = taught
    add_gradient(subject, teachers.task, [0, 1, 2])
    assert max(float(p.grad.abs().max()) for p in subject.parameters().values()) < 1e-6
    add_gradient(subject, teachers.skill, [0, 1, 2])
    assert max(float(p.grad.abs().max()) for p in subject.parameters().values()) > 1e-3


def test_with_one_teacher_it_is_a_plain_distillation_loop(taught):
    subject, material, teachers = taught
    only = replace(teachers, skill=teachers.task, retain=None)
    validation = Validation(subject, material.choose, judge, 6)
    start, adapter = validation.check(0), adapter_parameters(subject.model)
    scale_adapter(subject, 0.5)
    here = trees.clone(adapter)
    schedule = Schedule(steps=3, learning_rate=1e-2, batch_size=4, check_every=3)
    distil(subject, material, only, validation, Best(start, start, 1.0), schedule, progress=False)
    found = trees.clone(adapter)

    trees.assign(adapter, here)
    optimiser = torch.optim.Adam(adapter.values(), lr=1e-2)
    streams = [endless(len(material.task_fit), 4, 0, k) for k in (0, 1)]
    for _ in range(3):
        rows = [k for stream in streams for k in next(stream)]
        loss = sum(kl(material.task_fit[k], teachers.task.log_p[k], subject.model) for k in rows) / 4
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for name, tensor in adapter.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=1e-3, atol=1e-5)


def test_a_scaled_adapter_is_the_one_peft_scales(taught):
    subject, material, _ = taught
    batch = collate(material.task_fit[:4], 0)
    layers = [module for module in subject.model.modules() if isinstance(getattr(module, "scaling", None), dict)]
    for layer in layers:
        layer.scaling["default"] *= 0.25
    with torch.no_grad():
        expected = batch_logits(subject.model, batch)
        for layer in layers:
            layer.scaling["default"] *= 4
        scale_adapter(subject, 0.25)
        torch.testing.assert_close(batch_logits(subject.model, batch), expected, rtol=1e-4, atol=1e-5)
        scale_adapter(subject, 0.0)
        found = batch_logits(subject.model, batch)
        with adapter_off(subject.model):
            torch.testing.assert_close(found, batch_logits(subject.model, batch), rtol=1e-4, atol=1e-5)


def free(aligned, **scales):
    """Baselines whose choosing part refuses so much."""

    def baseline(refusal, over=0.0):
        measured = Measured(check(refusal=refusal, over=over), None, None, None)
        return Baseline(measured, measured, {"w": torch.zeros(1)})

    named = {"aligned": baseline(aligned), "drifted": baseline(scales.pop("drifted"))}
    return named | {f"scale {name[1:].replace('_', '.')}": baseline(*value) for name, value in scales.items()}


def test_the_start_is_the_largest_scale_that_refuses_as_the_aligned_model_does():
    far = 100.0
    assert safe_scale(free(0.95, drifted=0.1, s0_25=(0.97, 0.3), s0_5=(0.94,), s0_75=(0.2,)), 1.0, far) == 0.5
    quarter = free(0.95, drifted=0.1, s0_25=(0.94, 0.3), s0_5=(0.9,), s0_75=(0.2,))
    assert safe_scale(quarter, 1.0, far) == 0.25
    assert safe_scale(quarter, 1.0, 5.9) == 0.5  # 0.75 of the way is too far for an eighth of 5.9
    assert safe_scale(quarter, 1.0, 3.9) == 1.0
    assert safe_scale(free(0.95, drifted=0.1, s0_25=(0.5,), s0_5=(0.4,), s0_75=(0.2,)), 1.0, far) == 0.25
    assert safe_scale(free(0.95, drifted=0.95, s0_25=(0.95,), s0_5=(0.95,), s0_75=(0.95,)), 1.0, far) == 1.0
    assert safe_scale(free(0.95, drifted=0.1), 1.0, far) == 1.0  # an adapter that cannot be scaled


def test_the_task_weighs_more_only_while_its_bound_is_above_the_limit_and_not_falling():
    weight, seen = TaskWeight(0.05), []
    for bound in (1.0, 0.4, 0.35, 0.3, 0.2, 0.04, 0.03, 0.02):
        weight.read(Check(0, 0.0, bound, 1.0, 0.0, 0.0))
        seen.append(weight.value)
    assert seen == [1, 1, 2, 4, 4, 2, 1, 1]


def test_without_task_rows_the_drifted_models_own_samples_are_held_to(drifted):
    subject, skill, _ = drifted
    material = gather(subject, skill.estimate, None, "self", judge, **SIZES)
    parts = [material.task_fit, *(part.task for part in material.parts)]
    assert [len(part) >= 6 for part in parts] == [True] * 3
    asked = [{example.prompt_ids for example in part} for part in parts]
    assert not (asked[0] & asked[1] or asked[0] & asked[2] or asked[1] & asked[2])
    said = [subject.tokenizer.decode(list(e.completion_ids)) for part in parts for e in part]
    assert not any("sorry" in text for text in said)
    result = restore(subject, skill, None, steps=1, learning_rate=1e-9, **SMALL)
    assert result.settings["task"] == "self" and result.decided["aligned"].task_loss_increase > 0


def test_an_unusable_start_is_refused(drifted):
    subject, skill, task = drifted
    for start in ("half", 1.5):
        with pytest.raises(UserError, match="'auto' or a scale from 0 to 1"):
            restore(subject, skill, task, start=start, **SMALL)
