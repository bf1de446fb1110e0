"""The onset of drift: closed forms of geometry.md C7; a small transformer along its real flow (C8)."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import jvp

from holdfast.core import trees
from holdfast.curvature import (
    fisher_quadratic,
    hvp,
    kl_along,
    onset_coefficients,
    path_coefficients,
    path_derivatives,
)
from holdfast.data import Example
from holdfast.gradients import mean_gradient
from holdfast.gradients.functional import call, math_attention
from holdfast.models import Subject

from .conftest import VOCAB, build_model, random_examples

H = 0.7


def c7_logits(kappa, r):
    """Three classes, logits = (1, 0, -1) + s x + (kappa/2) r y^2 along the flow of C1."""
    base = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    s, r = base.clone(), torch.tensor(r, dtype=torch.float64)

    def logits_at(t):
        x, y = (math.cosh(H * t) - 1) / H, -math.sinh(H * t) / H
        return base + s * x + 0.5 * kappa * r * y**2

    return logits_at


@pytest.mark.parametrize(
    ("kappa", "r", "c4"),
    [(0.5, (0, 0, 0), 0.02599477836), (0.5, (0, 1, 0), 0.01945351104), (-0.7, (1, 0, -1), 0.0)],
)
def test_c4_of_the_softmax_toy(kappa, r, c4):
    logits_at = c7_logits(kappa, r)
    found = onset_coefficients(*path_derivatives(logits_at, 1e-3))
    assert found[0].item() == pytest.approx(0.0, abs=1e-12)
    assert found[2].item() == pytest.approx(c4, rel=1e-5, abs=1e-10)
    if c4:
        log_p, log_q = logits_at(0.0).log_softmax(-1), logits_at(0.02).log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum().item()
        assert kl / 0.02**4 == pytest.approx(c4, rel=2e-3)


def test_the_gamma_formula_is_not_a_lower_bound():
    """C7, r = (0, 1, 0): the exact c4 lies 25 % below gamma_F^2/8."""
    gamma_square_eighth = 0.4244045447 * H**2 / 8
    assert gamma_square_eighth == pytest.approx(0.02599477836, rel=1e-8)
    assert onset_coefficients(*path_derivatives(c7_logits(0.5, (0, 1, 0)), 1e-3))[2] < 0.76 * gamma_square_eighth


def test_c2_and_c3_without_orthogonality_match_the_kl_of_a_curve():
    """A softmax along a cubic path: KL - c2 t^2 shrinks like c3 t^3."""
    z0 = torch.tensor([0.3, -0.4, 1.1, 0.0], dtype=torch.float64)
    v = torch.tensor([0.5, -1.0, 0.2, 0.9], dtype=torch.float64)
    a = torch.tensor([-0.7, 0.4, 1.5, 0.1], dtype=torch.float64)

    def logits_at(t):
        return z0 + t * v + t * t / 2 * a

    c2, c3, _ = (c.item() for c in onset_coefficients(*path_derivatives(logits_at, 1e-3)))
    log_p = z0.log_softmax(-1)
    for t in (1e-2, 3e-3):
        kl = (log_p.exp() * (log_p - logits_at(t).log_softmax(-1))).sum().item()
        assert kl / t**2 == pytest.approx(c2, rel=2 * t * abs(c3 / c2))
        assert (kl - c2 * t**2) / t**3 == pytest.approx(c3, rel=0.02)


def build_family(family):
    """Random models in float64 of the shapes that C8 names."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    if family == "llama":
        return build_model(3, spread=0.05).double()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        small: dict[str, Any] = {"vocab_size": VOCAB, "initializer_range": 0.05}
        if family == "gpt2":
            config = GPT2Config(n_embd=16, n_layer=2, n_head=4, n_positions=32, **small)
            return GPT2LMHeadModel(config).double().eval()
        shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 4}
        config = Qwen3Config(**small, **shape, num_attention_heads=4, num_key_value_heads=2)
        return Qwen3ForCausalLM(config).double().eval()


def make_flow(family):
    """C8: a random model with single-token completions; g made orthogonal to every score."""
    subject = Subject(build_family(family))
    prompts = [(3, 7, 1), (9, 2, 14, 5)]
    reference = [Example(prompt, (0,), str(k)) for k, prompt in enumerate(prompts)]
    scores = [
        torch.cat([t.flatten() for t in mean_gradient(subject, [Example(p, (label,))], "sum").values()])
        for p in prompts
        for label in range(VOCAB)
    ]
    # Scores of one prompt sum to zero under p, so the span has V - 1 dimensions a prompt.
    basis = torch.linalg.svd(torch.stack(scores), full_matrices=False)[2][: len(prompts) * (VOCAB - 1)]
    task = random_examples(6, seed=5)
    g = mean_gradient(subject, task)
    shapes = {name: tensor.shape for name, tensor in g.items()}

    def project(tree):
        flat = torch.cat([t.flatten() for t in tree.values()])
        flat = basis.T @ (basis @ flat)
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    return subject, reference, task, g, project


@pytest.fixture(scope="module")
def flow():
    return make_flow("llama")


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def any_flow(request):
    return make_flow(request.param)


def follow(subject, task, shift, t_end, steps):
    """RK4 along theta' = -(grad L - shift); returns the displacement and puts the model back.

    ``shift`` is a tree, or a function of the gradient: then it is taken off anew at every evaluation.
    """
    start = {n: p.detach().clone() for n, p in subject.parameters().items()}

    def velocity(point):
        trees.assign(subject.parameters(), point)
        gradient = mean_gradient(subject, task)
        return trees.subtract(shift(gradient) if callable(shift) else shift, gradient)

    point, h = start, t_end / steps
    for _ in range(steps):
        k1 = velocity(point)
        k2 = velocity(trees.axpy(point, h / 2, k1))
        k3 = velocity(trees.axpy(point, h / 2, k2))
        k4 = velocity(trees.axpy(point, h, k3))
        for weight, k in ((1, k1), (2, k2), (2, k3), (1, k4)):
            point = trees.axpy(point, weight * h / 6, k)
    trees.assign(subject.parameters(), start)
    return trees.subtract(point, start)


def kl_at(subject, reference, displacement):
    return float(kl_along(subject, reference, displacement, [1.0])[0].mean())


def test_an_orthogonal_gradient_still_drifts_quartically_with_the_predicted_coefficient(any_flow):
    subject, reference, task, g, project = any_flow
    along = project(g)
    start = trees.subtract(g, along)
    velocity, acceleration = trees.scale(start, -1.0), hvp(subject, task, start)
    assert (
        fisher_quadratic(subject, reference, start).mean() < 1e-8 * fisher_quadratic(subject, reference, g).mean()
    )
    predicted = path_coefficients(subject, reference, velocity, acceleration)
    assert predicted.spread < 0.05
    c4 = predicted.c4_N.mean()

    times = np.array([0.005, 0.01, 0.02]) / trees.norm(start)
    kls = np.array([kl_at(subject, reference, follow(subject, task, along, t, 2)) for t in times])
    slopes = np.diff(np.log(kls)) / np.diff(np.log(times))
    np.testing.assert_allclose(slopes, 4.0, atol=0.1)
    ratios = kls / times**4
    extrapolated = ratios[0] + (ratios[0] - ratios[1])  # times double, so this is linear in t at t = 0
    assert extrapolated == pytest.approx(c4, rel=0.01)


def test_a_projection_fixed_at_the_start_leaves_the_models_own_curvature(any_flow):
    """C8, second half: P taken off at every step, and still t^4, with term B alone (geometry.md 1.8)."""
    subject, reference, task, g, project = any_flow
    start = trees.subtract(g, project(g))
    velocity = trees.scale(start, -1.0)
    predicted = path_coefficients(subject, reference, velocity, trees.zeros_like(start)).c4_N.mean()
    free = path_coefficients(subject, reference, velocity, hvp(subject, task, start)).c4_N.mean()
    t = 0.005 / trees.norm(start)
    kls = [kl_at(subject, reference, follow(subject, task, project, s, 2)) for s in (t, 2 * t)]
    ratios = [kl / s**4 for kl, s in zip(kls, (t, 2 * t), strict=True)]
    assert 2 * ratios[0] - ratios[1] == pytest.approx(predicted, rel=0.01)
    assert predicted > 0 and abs(predicted / free - 1) > 0.1


def test_c4_by_differences_agrees_with_nested_forward_mode(flow):
    subject, reference, task, g, project = flow
    along = project(g)
    start = trees.subtract(g, along)
    velocity, acceleration = trees.scale(start, -1.0), hvp(subject, task, start)
    by_differences = path_coefficients(subject, reference, velocity, acceleration).c4_N
    values = {n: p.detach() for n, p in subject.parameters().items()}
    exact = []
    for example in reference:
        ids = torch.tensor([example.prompt_ids])

        def logits(t, ids=ids):
            point = {n: values[n] + t * velocity[n] + t * t / 2 * acceleration[n] for n in values}
            return call(subject.model, point, ids)[0, -1]

        one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        with math_attention():
            zdot, zddot = jvp(lambda t, f=logits, one=one: jvp(f, (t,), (one,))[1], (zero,), (one,))[:2]
            exact.append(onset_coefficients(logits(zero), zdot, zddot)[2].item())
    np.testing.assert_allclose(by_differences, exact, rtol=0.01)


def test_without_orthogonality_the_onset_is_quadratic_with_c2_and_cubic_with_c3(flow):
    subject, reference, task, g, _ = flow
    predicted = path_coefficients(subject, reference, trees.scale(g, -1.0), hvp(subject, task, g))
    c2, c3 = 0.5 * fisher_quadratic(subject, reference, g).mean(), predicted.c3_N.mean()
    assert predicted.c2_N.mean() == pytest.approx(c2, rel=5e-3)
    nothing = trees.zeros_like(g)
    t = 0.005 / trees.norm(g)
    kl = [kl_at(subject, reference, follow(subject, task, nothing, s, 2)) for s in (t, 2 * t)]
    cubic = [(kl[0] - c2 * t**2) / t**3, (kl[1] - c2 * (2 * t) ** 2) / (2 * t) ** 3]
    assert 2 * cubic[0] - cubic[1] == pytest.approx(c3, rel=0.03)


def test_kl_along_is_zero_at_home_and_quadratic_nearby(flow):
    subject, reference, _, g, _ = flow
    unit = trees.scale(g, 1e-3 / trees.norm(g))
    home, near = kl_along(subject, reference, unit, [0.0, 1.0])
    assert not home.any()
    np.testing.assert_allclose(near, 0.5 * fisher_quadratic(subject, reference, unit), rtol=0.02)
