"""Subspaces beside each other: skill against control, before against after, an adapter's merged weights."""

import numpy as np
import pytest
import scipy.linalg
import torch

from holdfast.core import trees
from holdfast.geometry import intruders, leading_directions, merged_overlap, merged_update, rotation
from holdfast.geometry.specific import RIDGE, coordinates, generalised, specific
from holdfast.gradients import mean_gradient
from holdfast.models import Subject, lora_pairs

from ..curvature.conftest import build_lora, build_model, random_examples


def test_the_generalised_eigenproblem_in_the_span_is_that_of_the_whole_space():
    rng = np.random.default_rng(0)
    skill, control = rng.standard_normal((6, 40)) * np.linspace(1, 2, 40), rng.standard_normal((5, 40))
    joint = np.concatenate([skill, control])
    rows, rho = coordinates(joint @ joint.T), 0.3
    np.testing.assert_allclose(rows @ rows.T, joint @ joint.T, atol=1e-10)
    found = generalised(rows[:6], rows[6:], rho)
    f_skill, f_control = skill.T @ skill / 6, control.T @ control / 5
    expected = scipy.linalg.eigh(f_skill, f_control + rho * np.eye(40), eigvals_only=True)[::-1]
    np.testing.assert_allclose(found[:6], expected[:6], rtol=1e-8)


def test_a_direction_of_the_skills_own_is_told_from_shared_ones():
    rng = np.random.default_rng(1)
    own, shared = rng.standard_normal((2, 300)) / 300**0.5

    def rows(n, mine):
        common = np.outer(rng.standard_normal(n), 6 * shared) + 0.05 * rng.standard_normal((n, 300))
        return common + (np.outer(rng.standard_normal(n), 6 * own) if mine else 0.0)

    joint = np.concatenate([rows(30, True), rows(30, False)])
    found = specific(joint @ joint.T, 30)
    assert found.ratios[0] > found.null_ratio and found.above_null >= 1
    values = np.linalg.eigvalsh(joint[30:].T @ joint[30:] / 30)
    assert found.ridge == pytest.approx(RIDGE * values[-1])
    assert found.control_trace.value == pytest.approx(values.sum())
    same = np.concatenate([rows(30, False), rows(30, False)])
    assert specific(same @ same.T, 30).above_null <= 1
    assert found.shared_trace["5"] > 0.5 > found.chance_trace["5"]
    with pytest.raises(ValueError, match="two of each"):
        specific(joint @ joint.T, 59)


def test_rotation_equals_the_principal_angles_of_explicit_scores():
    subject, examples = Subject(build_model()), random_examples(8)

    def explicit():
        rows = torch.stack(
            [torch.cat([t.flatten() for t in mean_gradient(subject, [e], "sum").values()]) for e in examples]
        )
        return torch.linalg.svd(rows.double(), full_matrices=False)[2][:3]

    before, directions = explicit(), leading_directions(subject, examples, 3)
    still = rotation(directions, subject, examples)
    np.testing.assert_allclose(still.cosines, 1.0, rtol=1e-3)
    assert still.chance == pytest.approx(3 / trees.size(directions[0]))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for p in subject.parameters().values():
            p += 0.1 * torch.randn_like(p)
    turned = rotation(directions, subject, examples)
    expected = torch.linalg.svdvals(explicit() @ before.T).numpy()
    np.testing.assert_allclose(turned.cosines, expected, atol=2e-3)
    assert turned.kept < 0.99


def test_a_merged_update_is_s_b_a_and_is_scored_over_the_weights_it_changes():
    lora, base = build_lora(), build_model()
    update = merged_update(Subject(lora))
    pairs = {name.removeprefix("base_model.model."): pair for name, pair in lora_pairs(lora).items()}
    assert set(update) == {f"{name}.weight" for name in pairs}
    for name, (a, b, s) in pairs.items():
        torch.testing.assert_close(update[f"{name}.weight"], (s * b @ a).detach(), atol=1e-5, rtol=1e-4)
    small = trees.scale(update, 1e-3)
    examples = random_examples(6)
    found = merged_overlap(Subject(base), small, examples)
    assert found.local and found.parameters == trees.size(update)
    assert found.by_k[-1].chance_energy == pytest.approx(found.by_k[-1].k / found.parameters)
    subject = Subject(base, None, ",".join(update))
    rows = np.stack(
        [torch.cat([t.flatten() for t in mean_gradient(subject, [e], "sum").values()]).numpy() for e in examples]
    )
    moved = torch.cat([small[n].flatten() for n in subject.parameters()]).double().numpy()
    _, _, vt = np.linalg.svd(rows, full_matrices=False)
    at = found.by_k[-1]
    assert at.os_energy == pytest.approx(((vt[: at.k] @ moved) ** 2).sum() / (moved @ moved), rel=1e-2)
    with pytest.raises(ValueError, match="changes no weight"):
        merged_update(Subject(build_model()))


def test_intruders_are_new_directions_and_not_larger_old_ones():
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(40, 20, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(30, 20, generator=generator))[0]
    weight = left[:, :12] @ torch.diag(torch.linspace(5, 1, 12)) @ right[:, :12].mT
    other = torch.linalg.qr(torch.cat([torch.linalg.svd(weight)[0][:, :30], torch.randn(40, 2)], 1))[0][:, 30:]
    grown = {"w": 9.0 * torch.outer(left[:, 3], right[:, 3])}
    assert intruders({"w": weight}, grown).count == 0
    planted = {"w": 9.0 * torch.outer(other[:, 0], right[:, 15])}
    found = intruders({"w": weight}, planted)
    assert (found.count, found.looked_at, found.by_matrix) == (1, 10, {"w": 1})
