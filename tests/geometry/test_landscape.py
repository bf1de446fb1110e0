"""Profiles against losses of weights moved by hand; correlations on quadratics (restoration.md 1.4)."""

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.geometry.landscape import AMPLITUDES, preservation, profiles, random_directions
from holdfast.models import Subject, adapter_off, mean_loss

from ..curvature.conftest import build_lora, random_examples


def quadratics(hessian, directions):
    """Profiles of 0.5 d^T H d: (A, K)."""
    bends = np.einsum("kn,nm,km->k", directions, hessian, directions)
    return np.outer(np.square(AMPLITUDES) / 2, bends), np.arange(3.0)


def random_hessian(n, seed):
    root = np.random.default_rng(seed).normal(size=(n, n // 5))
    return root @ root.T


def test_raw_correlations_are_high_for_landscapes_that_share_nothing():
    n = 300
    d = np.random.default_rng(0).normal(size=(20, n))
    first, second, mixed = random_hessian(n, 1), random_hessian(n, 2), random_hessian(n, 3)
    alien = preservation(quadratics(first, d), quadratics(second, d))
    assert alien.raw > 0.85 and alien.centred.low < 0 < alien.centred.high  # the warning of 1.4
    same = preservation(quadratics(first, d), quadratics(2 * first, d))
    assert same.raw == pytest.approx(1) and same.centred.value == pytest.approx(1)
    half = preservation(quadratics(first, d), quadratics(first + 0.5 * mixed, d))
    assert 0.4 < half.centred.value < 0.99 and half.centred.low > alien.centred.value


def test_centring_takes_off_what_all_directions_share():
    rng = np.random.default_rng(4)
    own = rng.normal(size=(4, 6))
    shared = 100 * np.ones((4, 6)) * np.arange(4)[:, None]
    found = preservation((shared + own, np.arange(2.0)), (3 * shared - own, np.array([1.0, 0.0])))
    assert found.raw > 0.99 and found.centred.value == pytest.approx(-1) and found.examples == pytest.approx(-1)


def test_profiles_are_the_losses_of_weights_moved_by_hand_and_leave_no_trace():
    model, examples = build_lora(), random_examples(4)
    subject = Subject(model)
    matrices = {n: p for n, p in model.named_parameters() if "layers.1.mlp" in n and "base_layer" in n}
    before = trees.clone(matrices)
    directions = random_directions(matrices, 2, seed=0)
    assert all(
        d[n].norm() == pytest.approx(float(w.norm()), rel=1e-5) for d in directions for n, w in matrices.items()
    )
    found, losses_N = profiles(subject, examples, matrices, directions, (0.3,))
    assert all(torch.equal(matrices[name], before[name]) for name in matrices)
    np.testing.assert_allclose(losses_N, mean_loss(subject, examples).mean_N)
    # the merged model, moved, has the same loss: an adapter's base weights are as good as merged ones
    trees.assign(matrices, trees.axpy(before, 0.3, directions[1]))
    moved = mean_loss(subject, examples).mean_N.mean()
    merged = model.merge_and_unload()
    assert mean_loss(Subject(merged), examples).mean_N.mean() == pytest.approx(moved, abs=1e-5)
    assert found[0, 1] == pytest.approx(moved - losses_N.mean(), abs=1e-6)
    assert not np.allclose(found[0, 0], found[0, 1])


def test_the_aligned_model_is_the_one_with_the_adapter_off():
    model, examples = build_lora(), random_examples(3)
    subject = Subject(model)
    matrices = {n: p for n, p in model.named_parameters() if "layers.0.mlp.up_proj" in n and "base_layer" in n}
    directions = random_directions(matrices, 3, seed=1)
    with adapter_off(model):
        off = profiles(subject, examples, matrices, directions, (0.2,))
    on = profiles(subject, examples, matrices, directions, (0.2,))
    assert not np.allclose(off[0], on[0]) and not np.allclose(off[1], on[1])
    with pytest.raises(ValueError, match="2 directions or more"):
        random_directions(matrices, 1, seed=0)
