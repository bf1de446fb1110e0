"""The audit against explicit matrices on a model small enough to write its scores down."""

import copy
import importlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, jvp

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.curvature import fisher_quadratic, ggn_operator, hvp, kl_along
from holdfast.data import Example
from holdfast.geometry import Audit, audit, concluded, forecast_after_short_run, look_ahead, overlap
from holdfast.geometry.describe import describe
from holdfast.geometry.measure import PlannedRun, mean_first_update, third_term
from holdfast.geometry.start import OFF, both_factors_active
from holdfast.geometry.updates import first_update
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, add_lora, generate, mean_loss

from ..curvature.conftest import build_model, random_examples

OPTIONS = {"learning_rate": 1e-2, "steps": 20, "progress": False, "max_new_tokens": 4}


def sampled(subject, n=12, seed=0):
    prompts = [example.prompt_ids for example in random_examples(n, seed)]
    answers = generate(subject, prompts, 4, temperature=1.0, seed=seed)
    return [Example(tuple(p), tuple(a), str(k)) for k, (p, a) in enumerate(zip(prompts, answers, strict=True))]


@pytest.fixture(scope="module")
def task():
    return random_examples(20, seed=9)


@pytest.fixture(scope="module")
def full(task):
    subject = Subject(build_model())
    return subject, audit(subject, None, task, reference_examples=sampled(subject), **OPTIONS)


def plain(found):
    """JSON text: missing numbers (NaN) compare equal."""
    return json.dumps(found.to_dict(), sort_keys=True)


def flat(tree):
    return torch.cat([tensor.flatten() for tensor in tree.values()]).double().numpy()


def scores(subject, examples):
    return np.stack([-flat(mean_gradient(subject, [example], "sum")) for example in examples])


def test_every_condition_equals_its_definition(full, task):
    subject, found = full
    rows = scores(subject, found.reference_examples)
    n = len(rows)
    _, s, vt = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(
        found.spectrum.eigenvalues, (s**2 / n)[: len(found.spectrum.eigenvalues)], rtol=1e-4
    )
    assert found.spectrum.trace.value == pytest.approx((s**2).sum() / n, rel=1e-5)

    g = mean_gradient(subject, task, "tokens")
    Hg = hvp(subject, task, g, "tokens")
    for at in found.conditions.by_d:
        v, lam = vt[: at.d], s[: at.d] ** 2 / n
        for tree, euclidean, fisher in ((g, at.epsilon_E, at.epsilon_F), (Hg, at.gamma_E, at.gamma_F)):
            along = v @ flat(tree)
            assert euclidean == pytest.approx(float((along**2).sum()) ** 0.5, rel=1e-3)
            assert fisher == pytest.approx(float((lam * along**2).sum()) ** 0.5, rel=1e-3)
        assert at.lambda_d == pytest.approx(lam[-1], rel=1e-4)
        assert at.tail == pytest.approx((s[at.d :] ** 2).sum() / n, rel=1e-3, abs=1e-6)

    reference = found.reference_examples
    assert found.conditions.epsilon_F.value**2 == pytest.approx(fisher_quadratic(subject, reference, g).mean())
    assert found.conditions.gamma_F.value**2 == pytest.approx(fisher_quadratic(subject, reference, Hg).mean())
    assert found.conditions.g_norm == pytest.approx(trees.norm(g))
    assert found.conditions.Hg_norm == pytest.approx(trees.norm(Hg))


def test_the_onset_is_consistent_with_the_lengths(full):
    _, found = full
    assert found.onset.c2.value == pytest.approx(found.conditions.epsilon_F.value**2 / 2, rel=0.02)
    assert found.onset.gamma_F_squared_over_8 == pytest.approx(found.conditions.gamma_F.value**2 / 8)
    assert found.onset.crossover_t == pytest.approx(
        2 * found.conditions.epsilon_F.value / found.conditions.gamma_F.value
    )
    assert [time.tau_nats for time in found.onset.times] == [0.01, 0.1, 1.0]
    assert found.onset.times[0].t < found.onset.times[2].t
    assert found.onset.times[0].sgd_steps == pytest.approx(found.onset.times[0].t / 1e-2)


def test_c2_predicts_the_drift_of_one_small_sgd_step(full, task):
    subject, found = full
    g = mean_gradient(subject, task, "tokens")
    t = 1e-3 / trees.norm(g)
    drift = kl_along(subject, found.reference_examples, g, [-t])[0].mean()
    assert drift == pytest.approx(found.onset.c2.value * t**2, rel=0.05)


def test_the_screen_is_ranking_only_and_its_first_update_is_the_optimisers(full, task):
    subject, found = full
    names = [predictor.name for predictor in found.forecast.predictors]
    assert names[0] == "task_loss"
    assert {predictor.use for predictor in found.forecast.predictors} == {"ranking only"}
    assert found.forecast["task_loss"].value == pytest.approx(mean_loss(subject, task).nats_per_token, rel=1e-5)
    assert found.forecast["c2_sgd"].value == found.onset.c2.value
    assert found.forecast.batches == 4

    # the same mean first update, by a real optimiser on a real copy
    order = np.random.default_rng([0, 1]).permutation(len(task))
    mean = trees.zeros_like({n: p.detach() for n, p in subject.parameters().items()})
    for start in range(0, 20, 5):
        part = [task[k] for k in order[start : start + 5]]
        gradient = mean_gradient(subject, part, "tokens")
        copy = {n: p.detach().clone().requires_grad_() for n, p in subject.parameters().items()}
        for name, leaf in copy.items():
            leaf.grad = gradient[name]
        torch.optim.AdamW(copy.values(), lr=1e-2, weight_decay=0.0).step()
        step = {n: (leaf - subject.parameters()[n]).detach() for n, leaf in copy.items()}
        mean = trees.axpy(mean, 0.25, step)
    form = 0.5 * fisher_quadratic(subject, found.reference_examples, mean).mean() * 20**2
    assert found.forecast["kl_quadratic_first_update"].value == pytest.approx(form, rel=1e-4)
    assert found.conditions.first_update_norm == pytest.approx(trees.norm(mean) / 1e-2, rel=1e-5)


def test_adams_first_update_pulls_harder_per_unit_of_learning_rate_than_sgds(task):
    subject = Subject(build_model())
    reference = sampled(subject)
    sgd = audit(subject, None, task, "sgd", reference_examples=reference, **OPTIONS).conditions
    assert sgd.optimizer == "sgd"
    assert sgd.first_update_norm == pytest.approx(sgd.g_norm, rel=0.3)  # the mean of batch gradients
    adam = audit(subject, None, task, "adamw_torch", reference_examples=reference, **OPTIONS).conditions
    assert adam.epsilon_first_update.value > 2 * sgd.epsilon_first_update.value


def test_a_fresh_lora_is_audited_just_off_the_start_where_both_factors_are_active(task):
    subject = Subject(add_lora(build_model(), rank=2, alpha=4, seed=0))
    reference, start = sampled(subject), trees.clone(subject.parameters())
    found = audit(subject, None, task, reference_examples=reference, **OPTIONS)
    assert found.settings["at"] == OFF
    assert all(torch.equal(start[n], p) for n, p in subject.parameters().items())
    update = mean_first_update(subject, task, PlannedRun("adamw", 1e-2, 20, {}, 16, 0), 16).tree
    with both_factors_active(subject, update):
        rows = scores(subject, reference)
    _, s, _ = np.linalg.svd(rows, full_matrices=False)
    kept = len(found.spectrum.eigenvalues)
    np.testing.assert_allclose(found.spectrum.eigenvalues, (s**2 / len(rows))[:kept], rtol=1e-3)
    names = [n for n, p in subject.parameters().items() for _ in range(p.numel())]
    active = np.abs(rows).sum(0) > 0
    parts = {n.split(".lora_")[1][0] for n, on in zip(names, active, strict=True) if on}
    assert parts == {"A", "B"}
    # what the optimiser really does first is told at the start itself: there B alone moves
    form = fisher_quadratic(subject, reference, update).mean()
    assert found.conditions.epsilon_first_update.value == pytest.approx(form**0.5 / 1e-2, rel=1e-4)
    with pytest.raises(UserError, match="merged"):
        overlap(found, subject, trees.axpy(start, 1.0, update))


def test_saved_and_loaded_audits_are_equal_and_plain_json(full, tmp_path):
    _, found = full
    found.save(tmp_path / "audit")
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["settings"]["seed"] == 0
    back = Audit.load(tmp_path / "audit")
    assert plain(back) == plain(found)
    assert back.reference_examples == found.reference_examples
    np.testing.assert_array_equal(back.gram, found.gram)
    np.testing.assert_array_equal(back.dots["Hg"], found.dots["Hg"])
    with pytest.raises(UserError, match="not empty"):
        found.save(tmp_path / "audit")


def test_the_model_is_left_exactly_as_it_was(task):
    subject = Subject(build_model())
    subject.model.train()
    values = {n: p.detach().clone() for n, p in subject.model.named_parameters()}
    reference = sampled(Subject(build_model()))
    state = torch.get_rng_state()
    first = audit(subject, None, task, reference_examples=reference, **OPTIONS)
    assert subject.model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(values[n], p) and p.grad is None for n, p in subject.model.named_parameters())
    again = audit(subject, None, task, reference_examples=reference, **OPTIONS)
    assert plain(again) == plain(first)


def test_too_few_task_examples_leave_the_split_estimates_out():
    subject = Subject(build_model())
    found = audit(subject, None, random_examples(2), reference_examples=sampled(subject), **OPTIONS)
    assert np.isnan(found.conditions.epsilon_F_squared_split)
    assert found.conditions.epsilon_F.value > 0


def test_split_estimates_are_not_biased_upwards(full):
    """Noise in g adds its variance to a naive square; disjoint halves do not (geometry.md 3.5)."""
    _, found = full
    assert found.conditions.epsilon_F_squared_split < found.conditions.epsilon_F.value**2


def test_a_bfloat16_model_is_audited_as_the_float32_model_of_its_weights(task):
    """What a GPU loads by default; its own second derivatives would be rounded at every product."""
    half = Subject(build_model().bfloat16())
    wide = Subject(copy.deepcopy(half.model).float())
    before = [tensor.clone() for tensor in half.model.state_dict().values()]
    answers = sampled(wide, 4)
    found, expected = (audit(s, None, task[:4], reference_examples=answers, **OPTIONS) for s in (half, wide))
    assert json.dumps(found.to_dict()) == json.dumps(expected.to_dict())
    assert all(map(torch.equal, half.model.state_dict().values(), before))


def test_a_skills_evaluate_half_is_never_sampled(tiny_subject, tiny_examples, monkeypatch):
    from holdfast.evaluation import Skill, SkillSplit

    room = importlib.import_module("holdfast.geometry.answers")
    seen = []
    original = room.sample_reference

    def spy(subject, prompts, *rest, **keywords):
        seen.extend(prompts)
        return original(subject, prompts, *rest, **keywords)

    monkeypatch.setattr(room, "sample_reference", spy)
    skill = Skill("s", estimate=SkillSplit(("add two", "help me", "a fruit")), evaluate=SkillSplit(("secret",)))
    found = audit(tiny_subject, skill, list(tiny_examples[:4]), max_prompts=2, **OPTIONS)
    assert seen == ["add two", "help me"]
    assert found.reference is not None
    assert found.reference.examples == found.reference_examples


def test_missing_inputs_are_named():
    subject = Subject(build_model())
    with pytest.raises(UserError, match="task examples"):
        audit(subject, None, [], reference_examples=sampled(subject))
    with pytest.raises(UserError, match="skill"):
        audit(subject, None, random_examples(3))
    with pytest.raises(UserError, match="at least two prompts"):
        audit(subject, None, random_examples(3), reference_examples=[Example((1,), (2,))])
    with pytest.raises(UserError, match="optimizer 'lion'"):
        audit(subject, None, random_examples(3), "lion", reference_examples=sampled(subject))


def test_descriptions_carry_intervals_and_the_label(full):
    lines = {line.name: line for line in describe(full[1])}
    assert "ranking only" in lines["task_loss"].meaning
    assert "[" in lines["epsilon_F"].value
    assert "rough" in lines["directions above noise"].meaning


def test_overlap_of_a_planted_update_and_of_a_random_one(full):
    subject, found = full
    start = {n: p.detach() for n, p in subject.parameters().items()}
    planted = mean_gradient(subject, [found.reference_examples[0]], "sum")
    planted = trees.scale(planted, 1e-2 / trees.norm(planted))
    inside = overlap(found, subject, trees.axpy(start, 1.0, planted))
    assert inside.by_k[-1].k == 10
    assert inside.local
    assert inside.kl_quadratic.value == pytest.approx(inside.kl_exact.value, rel=0.1)
    assert inside.update_norm == pytest.approx(1e-2, rel=1e-3)

    generator = torch.Generator().manual_seed(0)
    noise = {n: torch.randn(p.shape, generator=generator) for n, p in start.items()}
    noise = trees.scale(noise, 1e-2 / trees.norm(noise))
    outside = overlap(found, subject, trees.axpy(start, 1.0, noise))
    for a, b in zip(inside.by_k, outside.by_k, strict=True):
        assert b.os_energy < 4 * b.chance_energy + 1e-3
        assert a.os_weighted > b.os_weighted
    assert inside.by_k[-1].os_energy > 0.5
    with pytest.raises(ValueError, match="same point"):
        overlap(found, subject, start)


def test_overlap_energy_equals_explicit_projection(full):
    subject, found = full
    start = {n: p.detach() for n, p in subject.parameters().items()}
    generator = torch.Generator().manual_seed(1)
    update = {n: 1e-3 * torch.randn(p.shape, generator=generator) for n, p in start.items()}
    scored = overlap(found, subject, trees.axpy(start, 1.0, update))
    _, _, vt = np.linalg.svd(scores(subject, found.reference_examples), full_matrices=False)
    moved = flat(update)
    for at in scored.by_k:
        assert at.os_energy == pytest.approx(((vt[: at.k] @ moved) ** 2).sum() / (moved @ moved), rel=1e-2)


def test_a_short_run_is_read_at_half_the_remaining_factor_times_the_current_loss(task):
    subject = Subject(build_model())
    reference = sampled(subject)
    start = {n: p.detach().clone() for n, p in subject.parameters().items()}
    step = first_update(start, mean_gradient(subject, task, "tokens"), "adamw", 1e-3)
    after = trees.axpy(start, 1.0, step)
    found = forecast_after_short_run(subject, after, reference, task, steps_done=1, total_steps=16)
    assert set(found.kl_at) == {"1", "2", "5", "8", "10"}
    assert found.multiple == 8
    values = [found.kl_at[m].value for m in ("1", "2", "5", "8", "10")]
    assert values == sorted(values)
    assert found.score == pytest.approx(found.kl_at["8"].value * found.task_loss)
    assert found.score_from == "line"
    assert found.task_loss_start == pytest.approx(mean_loss(subject, task).nats_per_token, rel=1e-5)
    trees.assign(subject.parameters(), after)
    assert found.task_loss == pytest.approx(mean_loss(subject, task).nats_per_token, rel=1e-5)
    assert found.use == "ranking only"
    assert (found.steps_done, found.total_steps) == (1, 16)
    form = found.kl_quadratic.value
    inside = [float(m) for m, kl in found.kl_at.items() if 0.5 <= form * float(m) ** 2 / kl.value <= 2]
    assert 1 <= found.valid_multiple <= max(inside)
    c2, c3, c4 = found.line_fit
    assert sum(c * 2.0**k for k, c in ((2, c2), (3, c3), (4, c4))) == pytest.approx(
        found.kl_at["2"].value, rel=0.2
    )
    assert 1 < found.line_slope < 3
    assert found.valid_norm == pytest.approx(found.valid_multiple * trees.norm(step), rel=1e-4)


def test_a_long_line_is_still_read_at_its_end():
    """Going back to the short run's own KL put two scales into one ranking (studies/geometry)."""
    subject = Subject(build_model())
    start = {n: p.detach().clone() for n, p in subject.parameters().items()}
    generator = torch.Generator().manual_seed(0)
    after = {n: p + 0.3 * torch.randn(p.shape, generator=generator) for n, p in start.items()}
    found = forecast_after_short_run(subject, after, sampled(subject), random_examples(4), 1, 200)
    assert found.score_from == "line" and found.multiple == 100.0
    assert found.score == pytest.approx(found.kl_at["100"].value * found.task_loss)
    with pytest.raises(ValueError, match="short run of 0 steps"):
        forecast_after_short_run(subject, after, sampled(subject), random_examples(4), 0, 10)


def test_split_estimates_come_from_disjoint_parts_of_the_task(full, task):
    """epsilon^2 from two halves, gamma^2 from four quarters: no example stands on both sides of a product."""
    from holdfast.curvature import fisher_bilinear

    subject, found = full
    order = np.random.default_rng(found.seed).permutation(len(task))
    parts = [[task[k] for k in order[start::4]] for start in range(4)]
    assert len({id(example) for part in parts for example in part}) == len(task)
    g = [mean_gradient(subject, part, "tokens") for part in parts]

    def squared(first, second):
        return float(fisher_bilinear(subject, found.reference_examples, first, second).mean())

    halves = [trees.scale(trees.axpy(g[a], 1.0, g[b]), 0.5) for a, b in ((0, 2), (1, 3))]
    gamma = squared(hvp(subject, parts[0], g[1], "tokens"), hvp(subject, parts[2], g[3], "tokens"))
    assert found.conditions.epsilon_F_squared_split == pytest.approx(squared(*halves), rel=1e-4)
    assert found.conditions.gamma_F_squared_split == pytest.approx(gamma, rel=1e-4)
    same = squared(hvp(subject, parts[0], g[0], "tokens"), hvp(subject, parts[2], g[2], "tokens"))
    assert abs(gamma - same) > 0.05 * abs(gamma)  # it would show


def test_relative_sizes_and_the_first_updates_length_equal_their_definitions(full, task):
    subject, found = full
    at, conditions = found.conditions.chosen, found.conditions
    top = found.spectrum.eigenvalues[0] ** 0.5
    assert found.onset.lambda_gamma_E_squared_over_8 == pytest.approx(at.lambda_d * at.gamma_E**2 / 8)
    assert conditions.relative == pytest.approx(
        {
            "lambda_d_over_trace": at.lambda_d / found.spectrum.trace.value,
            "epsilon_E_over_g_norm": at.epsilon_E / conditions.g_norm,
            "gamma_F_over_sharpest": conditions.gamma_F.value / (top * conditions.Hg_norm),
            "epsilon_F_over_sharpest": conditions.epsilon_F.value / (top * conditions.g_norm),
        }
    )
    update = mean_first_update(subject, task, PlannedRun("adamw", 1e-2, 20, {}, 16, 0), 16).tree
    form = fisher_quadratic(subject, found.reference_examples, trees.scale(update, 1 / 1e-2)).mean()
    assert conditions.epsilon_first_update.value**2 == pytest.approx(form, rel=1e-4)
    other = mean_first_update(subject, task, PlannedRun("adamw", 1e-2, 20, {}, 16, 1), 16).tree
    assert not torch.equal(torch.from_numpy(flat(update)), torch.from_numpy(flat(other)))  # the seed draws batches


def test_every_line_of_the_description_shows_its_own_number(full):
    found = full[1]
    lines = {line.name: line.value for line in describe(found)}
    conditions, onset = found.conditions, found.onset
    for name, interval in (
        ("epsilon_F", conditions.epsilon_F),
        ("gamma_F", conditions.gamma_F),
        ("first adamw update", conditions.epsilon_first_update),
        ("Fisher trace", found.spectrum.trace),
        ("c2", onset.c2),
        ("c4", onset.c4),
    ):
        assert lines[name] == f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]", name
    assert lines["gamma_F²/8"] == f"{onset.gamma_F_squared_over_8:.3g}"
    assert lines["crossover"] == f"t = {onset.crossover_t:.3g} ({onset.crossover_t / 1e-2:.3g} SGD steps)"
    assert lines["largest single answer"] == f"{found.spectrum.largest_share:.0%} of the trace"


def test_an_update_that_left_the_local_region_is_called_so(full):
    subject, found = full
    start = {n: p.detach() for n, p in subject.parameters().items()}
    generator = torch.Generator().manual_seed(2)
    far = {n: 3.0 * torch.randn(p.shape, generator=generator) for n, p in start.items()}
    assert not overlap(found, subject, trees.axpy(start, 1.0, far)).local


def test_the_third_term_is_the_change_of_h_g_along_g(task):
    """H^2 g + T[g, g] by nested forward mode on a loss written here."""
    subject = Subject(build_model().double())
    found = third_term(subject, task[:3], 16)
    values = {n: p.detach() for n, p in subject.parameters().items()}
    total = sum(e.completion_tokens for e in task[:3])

    def loss(point):
        nll = torch.zeros((), dtype=torch.float64)
        for e in task[:3]:
            ids = torch.tensor([e.input_ids])
            z = functional_call(subject.model, point, (), {"input_ids": ids, "use_cache": False}).logits[0, :-1]
            nll_S = torch.nn.functional.cross_entropy(z, ids[0, 1:], reduction="none")
            nll = nll + nll_S[len(e.prompt_ids) - 1 :].sum()
        return nll / total

    def product(point):
        return jvp(grad(loss), (point,), (grad(loss)(point),))[1]

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        exact = jvp(product, (values,), (grad(loss)(values),))[1]
    assert trees.norm(trees.subtract(found, exact)) < 0.05 * trees.norm(exact)
    assert all(torch.equal(values[n], p) for n, p in subject.parameters().items())


def test_beyond_the_validity_time_the_coefficients_claim_nothing(full, task):
    subject, found = full
    onset, gamma = found.onset, found.conditions.gamma_F.value
    assert 0 < onset.validity_t < np.inf
    # at that time the path's cubic term is a fifth of its quadratic one
    third_F = 0.6 * gamma / onset.validity_t
    t = onset.validity_t
    assert third_F * t**3 / 6 == pytest.approx(0.2 * gamma * t**2 / 2)
    assert onset.noise_nats > 0  # 20 rows in batches of five: the gradient's noise is seen
    rows, g = scores(subject, found.reference_examples), flat(mean_gradient(subject, task, "tokens"))
    _, s, vt = np.linalg.svd(rows, full_matrices=False)
    d = found.conditions.chosen.d
    fisher = vt[:d].T @ np.diag(s[:d] ** 2 / len(rows)) @ vt[:d]
    moved = flat(hvp(subject, task, mean_gradient(subject, task, "tokens"), "tokens"))
    assert onset.top_d.c3 == pytest.approx(-(g @ fisher @ moved) / 2, rel=1e-2)
    expected = 0.5 * (gamma * 1e-4 * 20 * 19 / 2) ** 2 + onset.noise_nats * 1e-4 * 20
    assert onset.sgd_drift_nats == pytest.approx(expected)


def test_shares_of_rows_and_blocks_add_up_and_equal_their_definitions(full, task):
    subject, found = full
    update = mean_first_update(subject, task, PlannedRun("adamw", 1e-2, 20, {}, 16, 0), 16).tree
    shares = found.attribution
    assert sum(shares.row_shares) == pytest.approx(1.0) and sum(shares.block_shares.values()) == pytest.approx(1.0)
    exact = ggn_operator(subject, found.reference_examples, "sum")(update)
    block = {n: float((update[n] * exact[n]).sum()) for n in update}
    top = max(shares.block_shares, key=shares.block_shares.get)
    expected = sum(v for n, v in block.items() if n.startswith(top)) / sum(block.values())
    assert shares.block_shares[top] == pytest.approx(expected, rel=1e-4)
    dots = np.array([-trees.dot(mean_gradient(subject, [e], "sum"), exact) for e in task])
    np.testing.assert_allclose(shares.row_shares, dots / dots.sum(), rtol=1e-3, atol=1e-5)
    named = {e.id: ("a" if k < 5 else "b") for k, e in enumerate(task)}
    by_source = {one.source: one for one in shares.by_source(named)}
    assert by_source["a"].rows == 5 and by_source["a"].drift_share == pytest.approx(sum(shares.row_shares[:5]))
    tokens = sum(e.completion_tokens for e in task)
    assert by_source["b"].token_share == pytest.approx(1 - sum(e.completion_tokens for e in task[:5]) / tokens)


def test_target_labels_make_an_empirical_fisher_and_are_said(tiny_subject, tiny_examples):
    from holdfast.evaluation import Skill, SkillSplit

    half = SkillSplit(("add two", "help me", "a fruit"), ("one", "two", "three"))
    skill = Skill("s", estimate=half, evaluate=half)
    settings = OPTIONS | {"target": "no", "controls": 2}
    found = audit(tiny_subject, skill, list(tiny_examples[:4]), **settings)
    assert found.settings["labels"] == "target" and "labels=target" in found.settings["fisher"]
    assert len({e.completion_ids for e in found.reference_examples}) == 1
    rows = scores(tiny_subject, found.reference_examples)
    np.testing.assert_allclose(found.gram, rows @ rows.T, rtol=1e-3, atol=1e-4 * found.gram.max())
    assert (found.compared.n, found.compared.m) == (3, 2)
    assert {"directions of its own", "validity"} <= {line.name for line in describe(found)}
    with pytest.raises(UserError, match="target and reference_examples"):
        audit(tiny_subject, None, list(tiny_examples[:4]), reference_examples=sampled(tiny_subject, 2), **settings)


def test_the_forecast_alone_is_that_of_the_whole_audit(full, task):
    subject, found = full
    alone = look_ahead(
        subject,
        None,
        task,
        reference_examples=found.reference_examples,
        learning_rate=1e-2,
        steps=20,
        progress=False,
    )
    for name in ("kl_quadratic_x_loss", "kl_quadratic_first_update", "task_loss"):
        assert alone.forecast[name].to_dict() == pytest.approx(found.forecast[name].to_dict(), nan_ok=True)
    assert alone.attribution is not None and found.attribution is not None
    assert alone.attribution.to_dict() == found.attribution.to_dict()
    assert found.forecast["kl_quadratic_x_loss"].value == pytest.approx(
        found.forecast["kl_quadratic_first_update"].value * found.forecast["task_loss"].value
    )
    said, read = concluded(alone, None, {e.id: str(k % 3) for k, e in enumerate(task)}, max_kl_nats=1.0)
    assert said.verdict in ("safe", "budget", "lose", "unknown") and len(said.drivers) == 2
    assert read.chances[0].budget == "drift 1 nats"
    assert concluded(found, None)[1].kl_nats == read.kl_nats
    with pytest.raises(ValueError, match="number of steps"):
        concluded(replace(alone, settings=alone.settings | {"steps": 0}))


def test_without_shares_the_forecast_is_the_same_and_no_pass_is_wider_than_a_step(full, task, monkeypatch):
    """The loss is the one of plain forward passes; with nothing that is little, passes keep to a step's tokens."""
    subject, found = full
    monkeypatch.setattr("holdfast.gradients.memory.SMALL_BYTES", 0)
    monkeypatch.setattr("holdfast.geometry.sizes.WITHIN", 1.0)
    monkeypatch.setattr("holdfast.geometry.ahead.mean_loss", lambda *_: mean_loss(subject, task, 1))
    widest: list[int] = []
    handle = subject.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: widest.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    options: dict[str, Any] = {"learning_rate": 1e-2, "steps": 20, "progress": False, "update_batch_size": 2}
    options["reference_examples"] = found.reference_examples
    try:
        with_shares, without = (look_ahead(subject, None, task, **options, shares=yes) for yes in (True, False))
    finally:
        handle.remove()
    assert without.attribution is None and with_shares.attribution is not None
    for name in ("kl_quadratic_x_loss", "task_loss"):
        values = [one.forecast[name].value for one in (with_shares, without)]
        assert values[0] == pytest.approx(values[1], rel=1e-6)
    longest = max(len(example.input_ids) for example in [*task, *found.reference_examples])
    assert max(widest) <= 2 * longest
