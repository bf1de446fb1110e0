"""The curvature-aware method: its pieces against plain references, and what it promises on the toy."""

import sys

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.curvature import cg, ggn_operator
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, adapter_off, adapter_parameters, lora_pairs, mean_loss
from holdfast.restoration import restore
from holdfast.restoration.attempt import Attempt
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
    assert all(note["gauge_residual"] < 1e-3 for note in result.notes)  # autograd's own; see test_balance
    assert taken and all(note["measured_gain"] >= 0.1 * note["predicted_gain"] for note in taken)
    assert all(note["task_increase_fit"] <= 0.05 for note in taken)
    assert all(0 < note["certified_efficiency"] <= 1 for note in result.notes)
    losses = np.array([c.refusal_loss for c in result.trace])
    # A step raises refusals on fit prompts and lowers them on harmless ones: near the end the first, on other
    # prompts, may give back a hair of what it gained.
    assert losses[-1] < 0.05 * losses[0] and (np.diff(losses) < 1e-3 * losses[0]).all()


def test_no_budget_means_no_step(toy):
    subject, skill, task = build_drifted(toy)
    result = restore(subject, skill, task, method="ggn-cg", max_task_loss_increase=0.0, outer=1, **SMALL)
    assert all(note["task_increase_fit"] <= 0 for note in result.notes)
    assert result.chosen.task_loss_bound <= 0.0


@pytest.fixture
def outer(scene):
    """One outer iteration's solver on a tenth of a nat of budget; ``outer(**changes)`` for others."""
    from holdfast.restoration.ggn import _Outer

    subject, material = scene

    def build(limit=0.1, damping=1.0):
        curvature = Curvature(subject, material.task_fit[:8], material.retain_fit)
        guard = Guard(
            subject, material.task_fit[8:], material.retain_fit, Objective(subject, material, 1, 0), limit
        )
        return _Outer(subject, adapter_parameters(subject.model), curvature, guard, 4, damping, 0)

    return build


def test_the_first_step_is_half_of_the_closed_form_or_what_closes_the_gap(outer, monkeypatch):
    from holdfast.restoration import ggn

    solver, solved, tried = outer(), [], []
    solve, backtrack = cg.solve, ggn.step.backtrack
    monkeypatch.setattr(ggn.cg, "solve", lambda *a: solved.append(solve(*a)) or solved[-1])
    monkeypatch.setattr(ggn.step, "backtrack", lambda eta, f: tried.append(eta) or backtrack(eta, f))
    subject, guard = solver.subject, solver.guard
    gradient, gap = guard.objective.gradient(), -guard.objective.value()
    task_gradient, product = mean_gradient(subject, solver.unseen), ggn_operator(subject, solver.unseen)
    here = trees.clone(solver.adapter)
    for budget in (0.002, 100.0):  # the budget binds, then the gap
        note = solver.step(budget)
        trees.assign(solver.adapter, here)
        solver.measured = guard.measure()
        s = solved[-1].x
        slope, form = max(trees.dot(task_gradient, s), 0.0), trees.dot(s, product(s))
        root = np.roots([0.5 * form, slope, -budget]).max()
        closes = gap / trees.dot(gradient, s)
        assert tried.pop() == pytest.approx(min(0.5 * root, closes), rel=1e-3)
        assert note["first_eta"] == pytest.approx(min(0.5 * root, closes), rel=1e-3)
        assert note["predicted_task_increase"] == pytest.approx(
            slope * note["eta"] + form * note["eta"] ** 2 / 2, rel=1e-3
        )
        assert (0.5 * root < closes) == (budget < 1)


def test_damping_grows_tenfold_after_a_refused_step_and_up_to_a_limit(outer, monkeypatch):
    from holdfast.restoration import ggn

    solver = outer(damping=20.0)
    before = trees.clone(solver.adapter)
    monkeypatch.setattr(ggn.step, "backtrack", lambda eta, accepted: (float(accepted(eta)) * eta, 0))
    monkeypatch.setattr(Guard, "allows", lambda *_: False)
    notes = [solver.step(0.1) for _ in range(3)]
    assert [note["eta"] for note in notes] == [0.0] * 3
    lambdas = [note["lambda"] / notes[0]["lambda"] for note in notes]
    assert lambdas == pytest.approx([1, 10, 50])  # 20, 200, 1000
    for name, parameter in solver.adapter.items():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize(("ratio", "factor"), [(3.0, 10.0), (1.5, 1.0)])
def test_damping_grows_where_the_curvature_does_not_hold_on_unseen_examples(outer, monkeypatch, ratio, factor):
    from holdfast.restoration import ggn

    solver, plain = outer(), ggn.task_form
    seen = solver.curvature.task
    monkeypatch.setattr(ggn, "task_form", lambda s, e, v: plain(s, seen, v) * (1 if e is seen else ratio))
    monkeypatch.setattr(Guard, "allows", lambda *_: True)
    note = solver.step(0.1)
    assert note["eta"] > 0 and note["sampling_ratio"] == pytest.approx(ratio)
    assert solver.c == pytest.approx(factor)


def test_the_retained_answers_have_a_budget_of_their_own(scene):
    subject, material = scene
    guard = Guard(subject, material.task_fit, material.retain_fit, Objective(subject, material, 0, 0), 0.05)
    assert guard.allows((0.0, 0.49, 0.0), 0.05, wanted=-1.0)
    assert not guard.allows((0.0, 0.51, 0.0), 0.05, wanted=-1.0)
    start = mean_loss(subject, material.retain_fit).nats_per_example
    adapter = adapter_parameters(subject.model)
    trees.assign(adapter, trees.scale(trees.clone(adapter), 0.5))
    assert guard.measure()[1] == pytest.approx(mean_loss(subject, material.retain_fit).nats_per_example - start)


def test_every_gauge_is_balanced_before_the_first_step_and_that_is_measured(toy, monkeypatch):
    module, balancing = (sys.modules[f"holdfast.restoration.{name}"] for name in ("restore", "balance"))
    found = []

    def looks(subject, material, validation, best, **_):
        pairs = lora_pairs(subject.model).values()
        found.append(max(balancing.imbalance(a_RI, b_OR) for a_RI, b_OR, _ in pairs))
        return Attempt((best.start,))

    monkeypatch.setattr(module, "ggn_cg", looks)
    subject, skill, task = build_drifted(toy)
    with torch.no_grad():
        for a_RI, b_OR, _ in lora_pairs(subject.model).values():
            a_RI.mul_(5)
            b_OR.div_(5)
    result = restore(subject, skill, task, method="ggn-cg", **SMALL)
    assert found.pop() < 1e-5 and result.settings["balanced"]
    monkeypatch.setattr(balancing, "balance", lambda a_RI, b_OR: (a_RI, b_OR))
    result = restore(subject, skill, task, method="ggn-cg", **SMALL)
    assert found.pop() > 0.9 and not result.settings["balanced"]


def test_a_repair_that_balances_nothing_says_so(toy):
    subject, skill, task = build_drifted(toy)
    assert not restore(subject, skill, task, steps=1, **SMALL).settings["balanced"]
