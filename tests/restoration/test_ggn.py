"""The curvature-aware method: its pieces against plain references, and what it promises on the toy."""

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.curvature import cg, ggn_operator
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, adapter_off, adapter_parameters, mean_loss
from holdfast.restoration import restore
from holdfast.restoration.ggn import PROJECTION, Curvature, Guard, task_form
from holdfast.restoration.material import gather
from holdfast.restoration.objective import Objective, swapped

from .conftest import build_drifted, judge
from .test_restore import SMALL


@pytest.fixture
def scene(drifted):
    """(subject in LoRA coordinates, material)."""
    subject, skill, task = drifted
    m = gather(
        subject, skill.estimate, task, "self", judge,
        prompts=(12, 12), task_examples=(24, 12), max_new_tokens=6, harmful=True, seed=0,
    )  # fmt: skip
    return Subject(subject.model, subject.tokenizer, "*.lora_*"), m


def direction(subject, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=rng) for name, p in subject.parameters().items()}


def test_objective_gradient_is_the_slope_of_its_value(scene):
    subject, material = scene
    objective = Objective(subject, material, contrast_weight=0.7, harmful_weight=0.3)
    adapter, v = adapter_parameters(subject.model), direction(subject)
    # off the start, where the contrast and the harmful terms sit exactly on their kinks
    here = trees.axpy(trees.clone(adapter), 0.02, direction(subject, 1))
    values = []
    for step in (1e-3, -1e-3):
        trees.assign(adapter, trees.axpy(here, step, v))
        values.append(objective.value())
    trees.assign(adapter, here)
    assert trees.dot(objective.gradient(), v) == pytest.approx((values[0] - values[1]) / 2e-3, rel=2e-2)


def test_the_aligned_model_has_no_gap_left(scene):
    subject, material = scene
    objective = Objective(subject, material, contrast_weight=1.0, harmful_weight=1.0)
    before = objective.value()
    with adapter_off(subject.model):
        refusals, _, harmful = objective.terms
        assert refusals.gaps(subject).max() < 1e-5 and harmful.gaps(subject).max() < 1e-5
    assert before < -1.0
    harmless_refusals = swapped(material.retain_fit, material.refusals_fit)
    np.testing.assert_array_less(objective.terms[1].target_N, mean_loss(subject, harmless_refusals).mean_N + 1e-6)


def test_forward_mode_form_is_the_quadratic_form_of_the_operator(scene):
    subject, material = scene
    v = direction(subject)
    by_product = trees.dot(v, ggn_operator(subject, material.task_fit)(v))
    assert task_form(subject, material.task_fit, v) == pytest.approx(by_product, rel=1e-4)


def test_stiff_directions_keep_the_task_loss_to_first_order(scene):
    subject, material = scene
    curvature = Curvature(subject, material.task_fit, material.retain_fit)
    g_T = mean_gradient(subject, material.task_fit)
    g = Objective(subject, material, 0.0, 0.0).gradient()
    trace = curvature.trace(0)
    lam = trace / trees.size(g)
    free = cg.solve(curvature, g, lam, 6).x
    curvature.protect([g_T], PROJECTION * trace)
    held = cg.solve(curvature, g, lam, 6).x
    slopes = [abs(trees.dot(g_T, s)) / (trees.norm(g_T) * trees.norm(s)) for s in (free, held)]
    assert slopes[1] < 0.05 * slopes[0]
    assert trees.dot(g, held) > 0.5 * trees.dot(g, free)


def test_trace_estimate_is_near_the_sum_of_the_diagonal(scene):
    subject, material = scene
    layer = Subject(subject.model, subject.tokenizer, "*.layers.1.self_attn.v_proj.lora_B*")
    curvature = Curvature(layer, material.task_fit[:3], ())
    diagonal = 0.0
    for name, p in layer.parameters().items():
        for k in range(p.numel()):
            unit = trees.zeros_like({n: q.detach() for n, q in layer.parameters().items()})
            unit[name].view(-1)[k] = 1.0
            diagonal += float(curvature.plain(unit)[name].view(-1)[k])
    estimates = [curvature.trace(seed) for seed in range(20)]
    assert np.mean(estimates) == pytest.approx(diagonal, rel=0.3)


def test_the_guard_measures_from_the_start_and_not_from_the_last_step(scene):
    subject, material = scene
    guard = Guard(subject, material.task_fit, material.retain_fit, Objective(subject, material, 0, 0), 0.05)
    adapter = adapter_parameters(subject.model)
    for _ in range(2):  # two small steps of damage add up
        trees.assign(adapter, trees.scale(trees.clone(adapter), 0.85))
    measured = guard.measure()
    with_guard = mean_loss(subject, material.task_fit).nats_per_example - guard.task_start
    assert measured[0] == pytest.approx(with_guard) and measured[0] > 0
    assert guard.allows(measured, measured[0] + 1e-6, wanted=-1e9) == (measured[1] <= 0.5)
    assert not guard.allows(measured, 0.5 * measured[0], wanted=-1e9)
    assert not guard.allows((float("nan"), 0.0, 0.0), 1.0, wanted=-1e9)
    assert not guard.allows((0.0, 0.0, -1.0), 1.0, wanted=-0.5)


def test_curvature_steps_bring_the_refusals_back_inside_the_limit(toy):
    subject, skill, task = build_drifted(toy)
    result = restore(subject, skill, task, method="ggn-cg", outer=4, **SMALL)
    assert result.status == "restored" and result.method == "ggn-cg"
    assert result.chosen.task_loss_bound <= 0.05 and result.chosen.over_refusal == 0
    assert result.settings["balanced"]
    taken = [note for note in result.notes if note["eta"] > 0]
    assert taken and all(note["measured_gain"] >= 0.1 * note["predicted_gain"] for note in taken)
    assert all(note["task_increase_fit"] <= 0.05 for note in taken)
    assert all(0 < note["certified_efficiency"] <= 1 for note in result.notes)
    losses = [c.refusal_loss for c in result.trace]
    assert losses == sorted(losses, reverse=True)


def test_no_budget_means_no_step(toy):
    subject, skill, task = build_drifted(toy)
    result = restore(subject, skill, task, method="ggn-cg", max_task_loss_increase=0.0, outer=1, **SMALL)
    assert all(note["task_increase_fit"] <= 0 for note in result.notes)
    assert result.chosen.task_loss_bound <= 0.0
