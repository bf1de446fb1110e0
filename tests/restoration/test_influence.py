"""The curvature-aware method: its pieces against plain references, and what it promises on the toy."""

import sys

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.curvature import ggn_operator, solvers
from holdfast.data import collate
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, adapter_off, adapter_parameters, batch_logits, lora_pairs, mean_loss
from holdfast.restoration import influence as module
from holdfast.restoration import restore, step
from holdfast.restoration.attempt import Attempt
from holdfast.restoration.curved import Curvature
from holdfast.restoration.guard import KL_LIMIT, Guard, Health, Measure
from holdfast.restoration.influence import PROJECTION, _Outer, task_form
from holdfast.restoration.material import gather
from holdfast.restoration.objective import Objective, swapped

from .conftest import build_drifted, judge
from .test_restore import SMALL


@pytest.fixture(scope="module")
def gathered(toy):
    subject, skill, task = build_drifted(toy)
    material = gather(
        subject, skill.estimate, task, "self", judge,
        prompts=(12, 12), task_examples=(24, 12), max_new_tokens=6, harmful=True, seed=0,
    )  # fmt: skip
    return Subject(subject.model, subject.tokenizer, "*.lora_*"), material


@pytest.fixture
def scene(gathered, toy):
    """(subject in LoRA coordinates, material), the adapter as it came."""
    subject, material = gathered
    trees.assign(adapter_parameters(subject.model), toy[2])
    return subject, material


def guard_of(subject, material, task=slice(None), limit=0.05, contrast=0.0):
    objective = Objective(subject, material, contrast, 0)
    return Guard(subject, material.task_fit[task], material.retain_fit, objective, limit, max_new_tokens=6)


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
    for h in (1e-3, -1e-3):
        trees.assign(adapter, trees.axpy(here, h, v))
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
    free = solvers.solve("ggn-cg", curvature.problem(g, lam, "ggn-cg"), 6).x
    curvature.protect([g_T], PROJECTION * trace)
    held = solvers.solve("ggn-cg", curvature.problem(g, lam, "ggn-cg"), 6).x
    slopes = [abs(trees.dot(g_T, s)) / (trees.norm(g_T) * trees.norm(s)) for s in (free, held)]
    assert slopes[1] < 0.05 * slopes[0]
    assert trees.dot(g, held) > 0.5 * trees.dot(g, free)


def test_trace_estimate_is_near_the_sum_of_the_diagonal(scene):
    subject, material = scene
    layer = Subject(subject.model, subject.tokenizer, "*.layers.1.self_attn.k_proj.lora_B*")
    curvature = Curvature(layer, material.task_fit[:3], ())
    zeros = trees.zeros_like({name: p.detach() for name, p in layer.parameters().items()})
    (name, zero), columns = next(iter(zeros.items())), []
    for k in range(zero.numel()):
        unit = trees.clone(zeros)
        unit[name].view(-1)[k] = 1.0
        columns.append(curvature.plain(unit)[name].flatten())
    C = torch.stack(columns)
    estimates = [curvature.trace(seed) for seed in range(6)]
    assert np.mean(estimates) == pytest.approx(float(C.trace()), rel=0.4)
    signs = torch.stack([curvature._signs("diagonal", k)[name].flatten() for k in range(4)])
    found = curvature.problem(zeros, 1.0, "diagonal").diagonal[name].flatten()
    torch.testing.assert_close(found, (signs * (signs @ C)).mean(0).clamp_min(0), rtol=1e-3, atol=1e-5)


def test_the_guard_measures_from_the_start_and_not_from_the_last_step(scene):
    subject, material = scene
    guard = guard_of(subject, material)
    adapter = adapter_parameters(subject.model)
    start = trees.clone(adapter)
    for _ in range(2):  # two small steps of damage add up
        trees.assign(adapter, trees.scale(trees.clone(adapter), 0.85))
    measured, here = guard.measure(), trees.clone(adapter)
    expected = mean_loss(subject, material.task_fit).nats_per_example - guard.start[0]
    assert measured.task == pytest.approx(expected) and measured.task > 0
    kl = []  # from the model as it came, row by row
    for example in material.task_fit[:4]:
        batch, n, rows = collate([example], 0), len(example.completion_ids), []
        for tensors in (start, here):
            trees.assign(adapter, tensors)
            with torch.no_grad():
                rows.append(batch_logits(subject.model, batch)[0, -n - 1 : -1].log_softmax(-1))
        kl.append(float((rows[0].exp() * (rows[0] - rows[1])).sum(-1).mean()))
    guard.task = material.task_fit[:4]
    assert guard.measure().kl == pytest.approx(np.mean(kl), rel=1e-3) and measured.kl > 0


@pytest.mark.parametrize(
    ("spoilt", "share"),
    [
        ({"kl": 0.0}, 0.9),  # of the task's budget
        ({"task": 0.051}, 1.0),
        ({"kl": 1.01 * KL_LIMIT}, 1.0),
        ({"task": 0.0, "kl": 0.5 * KL_LIMIT}, 0.4),
        ({"retain": 0.51}, 1.0),
        ({"objective": -0.6}, 1.0),
        ({"task": float("nan")}, 1.0),
    ],
)
def test_every_safeguard_alone_refuses_a_candidate(scene, spoilt, share):
    guard = guard_of(*scene)
    fine = {"task": 0.049, "retain": 0.49, "objective": -0.4, "kl": 0.9 * KL_LIMIT}
    assert guard.allows(Measure(**fine), 1.0, wanted=-0.5)
    assert not guard.allows(Measure(**(fine | spoilt)), share, wanted=-0.5)


def test_a_candidate_that_babbles_or_falls_silent_is_refused(scene):
    subject, material = scene
    guard = guard_of(subject, material)
    before, healthy = guard.health_start, Measure(0.0, 0.0, 0.0)
    assert before.length > 1 and before.like(before)
    assert guard.allows(healthy, 1.0, wanted=-1.0)
    trees.assign(adapter_parameters(subject.model), direction(subject))  # noise: answers run to the limit
    assert not guard.allows(healthy, 1.0, wanted=-1.0)
    assert Health.of([(1, 2, 3, 4, 1, 2, 3, 4, 1), (5, 6)]) == Health(5.5, 2 / 6)
    assert not Health(5.5, 0.4).like(Health(5.5, 0.1)) and Health(5.5, 0.29).like(Health(5.5, 0.1))
    assert not Health(4.3, 0.0).like(Health(5.5, 0.0)) and not Health(6.7, 0.0).like(Health(5.5, 0.0))


def test_curvature_steps_bring_the_refusals_back_inside_the_limit(toy):
    subject, skill, task = build_drifted(toy)
    result = restore(subject, skill, task, method="curvature", outer=4, **SMALL)
    assert result.status == "restored" and result.method == "curvature"
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


@pytest.fixture
def outer(scene):
    """One outer iteration's solver on a tenth of a nat of budget; ``outer(**changes)`` for others."""
    subject, material = scene

    def build(limit=0.1, damping=1.0, solver="ggn-cg", **changes):
        curvature = Curvature(subject, material.task_fit[:8], material.retain_fit)
        guard = guard_of(subject, material, slice(8, None), limit, contrast=1.0)
        return _Outer(
            subject, adapter_parameters(subject.model), curvature, guard, solver, 4, damping, 0, **changes
        )

    return build


def test_no_budget_means_no_step(outer):
    assert outer(limit=0.0).step(1.0)["task_increase_fit"] <= 0


def test_what_each_solver_buys_on_a_drifted_adapter(scene):
    """The ordering of restoration.md 4.11: gain per root of the task's cost, by examples no curvature has seen."""
    subject, material = scene
    curvature = Curvature(subject, material.task_fit[:6], ())
    gradient, trace = Objective(subject, material, 0.0, 0.0).gradient(), curvature.trace(0)
    curvature.protect([mean_gradient(subject, material.task_fit[6:12])], PROJECTION * trace)
    worth = {}
    for name in ("ggn-cg", "hessian-cg", "lbfgs-traj", "woodbury", "identity"):
        found = solvers.solve(name, curvature.problem(gradient, trace / trees.size(gradient), name), 5)
        cost = task_form(subject, material.task_fit[6:], found.x)
        worth[name] = trees.dot(gradient, found.x) * (2 / cost) ** 0.5
        assert found.solver == name
    plain = worth["identity"]
    # few rows of labels say nothing where the model fits them, and a trajectory where it was not asked
    assert worth["ggn-cg"] > 1.3 * plain and worth["hessian-cg"] > 1.2 * plain
    assert plain > 1.3 * worth["lbfgs-traj"] and worth["woodbury"] == pytest.approx(plain, rel=0.1)


def test_the_first_step_is_half_of_the_closed_form_or_what_closes_the_gap(outer, monkeypatch):
    solver, solved, tried = outer(), [], []
    solve, backtrack = module.solvers.solve, step.backtrack
    monkeypatch.setattr(module.solvers, "solve", lambda *a: solved.append(solve(*a)) or solved[-1])
    monkeypatch.setattr(step, "backtrack", lambda eta, f: tried.append(eta) or backtrack(eta, f))
    subject, guard = solver.subject, solver.guard
    gradient, gap = guard.objective.gradient(), -guard.objective.value()
    task_gradient, product = mean_gradient(subject, solver.unseen), ggn_operator(subject, solver.unseen)
    here = trees.clone(solver.adapter)
    for budget in (0.002, 100.0):  # the budget binds, then the gap
        guard.limit = budget
        note = solver.step(1.0)
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
    solver = outer(damping=20.0)
    before, solver.products = trees.clone(solver.adapter), 1
    monkeypatch.setattr(step, "backtrack", lambda eta, accepted: (float(accepted(eta)) * eta, 0))
    monkeypatch.setattr(Guard, "allows", lambda *_: False)
    notes = [solver.step(1.0) for _ in range(3)]
    assert [note["eta"] for note in notes] == [0.0] * 3
    lambdas = [note["lambda"] / notes[0]["lambda"] for note in notes]
    assert lambdas == pytest.approx([1, 10, 50])  # 20, 200, 1000
    for name, parameter in solver.adapter.items():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize(("ratio", "most", "factor"), [(2.1, 2.0, 10.0), (1.9, 2.0, 1.0), (2.1, None, 1.0)])
def test_a_step_the_curvature_did_not_foresee_is_refused_untried(outer, monkeypatch, ratio, most, factor):
    solver, plain = outer(most_ratio=most), module.task_form
    seen = solver.curvature.task
    before = trees.clone(solver.adapter)
    monkeypatch.setattr(module, "task_form", lambda s, e, v: plain(s, seen, v) * (1 if e is seen else ratio))
    monkeypatch.setattr(Guard, "allows", lambda *_, **__: True)
    note = solver.step(1.0)
    assert note["sampling_ratio"] == pytest.approx(ratio) and solver.c == pytest.approx(factor)
    still = all(torch.equal(parameter, before[name]) for name, parameter in solver.adapter.items())
    assert still == (note["eta"] == 0) == (most is not None and ratio > most)


def test_every_gauge_is_balanced_before_the_first_step_and_that_is_measured(toy, monkeypatch):
    restoring, balancing = (sys.modules[f"holdfast.restoration.{name}"] for name in ("restore", "balance"))
    found = []

    def looks(subject, material, validation, best, **_):
        pairs = lora_pairs(subject.model).values()
        found.append(max(balancing.imbalance(a_RI, b_OR) for a_RI, b_OR, _ in pairs))
        return Attempt((best.start,))

    monkeypatch.setattr(restoring, "influence", looks)
    subject, skill, task = build_drifted(toy)
    with torch.no_grad():
        for a_RI, b_OR, _ in lora_pairs(subject.model).values():
            a_RI.mul_(5)
            b_OR.div_(5)
    result = restore(subject, skill, task, method="curvature", **SMALL)
    assert found.pop() < 1e-5 and result.settings["balanced"]
    monkeypatch.setattr(balancing, "balance", lambda a_RI, b_OR: (a_RI, b_OR))
    result = restore(subject, skill, task, method="curvature", **SMALL)
    assert found.pop() > 0.9 and not result.settings["balanced"]


def test_a_repair_that_balances_nothing_says_so(toy):
    subject, skill, task = build_drifted(toy)
    assert not restore(subject, skill, task, steps=1, **SMALL).settings["balanced"]
