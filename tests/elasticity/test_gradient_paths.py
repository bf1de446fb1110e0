"""The law where models are trained: elasticity.md T5 (bigram), T11 (a network), T14 (sequential)."""

import math

import numpy as np
import pytest
import torch

from holdfast.elasticity.coefficients import stiffness
from holdfast.elasticity.springs import BASE, OPPOSED, SATURATED, regime
from tests.elasticity import closed_forms as theory
from tests.elasticity.test_theory import P_a, P_p, P_t, T_a, T_p

T_t = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]])
JOINT = [theory.stationary(table)[:, None] * table for table in (T_p, T_a, T_t)]


def bigram_rates(k, l):
    counts = k * JOINT[0] + JOINT[1] + l * JOINT[2]
    table = counts / counts.sum(1, keepdims=True)
    return np.array([-(joint * np.log2(table)).sum() for joint in JOINT])


def test_bigram_rates_and_the_law():
    np.testing.assert_allclose(bigram_rates(10, 0), [1.36233804, 1.43751897, 1.19291220], rtol=1e-8)
    for k, tolerance in ((10, 1e-4), (1000, 0.5)):  # at 1000 the difference cancels
        d = (bigram_rates(k, 1e-5) - bigram_rates(k, 0)) / 1e-5
        assert stiffness(d[0], d[1]) == pytest.approx(k, rel=tolerance)


def minimised(loss, weights, steps=12):
    """LBFGS in float64 to a stationary point."""
    optimizer = torch.optim.LBFGS(
        weights, max_iter=60, tolerance_grad=1e-13, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)


@pytest.mark.parametrize(("k", "ratio"), [(10, 10.007), (100, 100.06)])
def test_the_law_needs_no_expressive_model(k, ratio):
    joint = [torch.tensor(j) for j in JOINT]
    place = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)

    def rates(l):
        a, b = (torch.zeros(1, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))

        def each():
            log_p = (a + place * b).log_softmax(-1)
            return [-(j * log_p).sum() / math.log(2) for j in joint]

        minimised(lambda: sum(n * r for n, r in zip((k, 1.0, l), each(), strict=True)) / k, [a, b])
        return [float(r.detach()) for r in each()]

    before, after = rates(0.0), rates(1e-3)
    assert stiffness(after[0] - before[0], after[1] - before[1]) == pytest.approx(ratio, rel=2e-4)


@pytest.mark.parametrize("k", [5, 50])
def test_gradients_of_a_network_at_its_joint_optimum(k):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)).double()
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    targets = [torch.tensor(p) for p in (P_p, P_a, P_t)]

    def loss(i):
        return -(targets[i] * net(x)[0].log_softmax(-1)).sum() / math.log(2)

    def gradient(i):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss(i), list(net.parameters()))])

    minimised(lambda: (k * loss(0) + loss(1)) / k, list(net.parameters()))
    g_p, g_a, g_t = (gradient(i) for i in range(3))
    assert float((k * g_p + g_a).norm()) / k < 1e-8
    cosine, ratio = float(g_p @ g_a / g_p.norm() / g_a.norm()), float(g_a.norm() / g_p.norm())
    assert cosine == pytest.approx(-1, abs=1e-6) and ratio == pytest.approx(k, rel=1e-4)
    assert float(-(g_a @ g_t) / (g_p @ g_t)) == pytest.approx(k, rel=1e-4)
    assert regime(cosine, ratio) == OPPOSED
    minimised(lambda: loss(0), list(net.parameters()))
    assert regime(0.3, float(gradient(1).norm() / gradient(0).norm())) == BASE  # g_p vanishes: no cosine to read


def test_sequential_alignment_of_a_bigram_model():
    """T14: k_eff falls from eleven to nothing while the alignment is fitted; signs stay the theorem's."""
    starts = [theory.stationary(table) for table in (T_p, T_a, T_t)]

    def softmax(w):
        return np.exp(w) / np.exp(w).sum(1, keepdims=True)

    def rate(w, i):
        return -(JOINT[i] * np.log2(softmax(w))).sum()

    def gradient(w, i):
        return (starts[i][:, None] * softmax(w) - JOINT[i]) / math.log(2)

    w, steps, said = np.log(T_p), 0, []
    for n, cosine, k_grad, k_eff, gamma_p, gamma_a in (
        (1, -0.9731, 10.9566, 11.7404, 1.3613, 1.4501),
        (5, -0.9436, 1.8320, 1.8753, 1.3874, 1.3414),
        (20, -0.9181, 0.3298, 0.3373, 1.5458, 1.2042),
        (100, -0.9782, 0.0141, 0.0166, 2.0239, 1.1384),
        (1000, -0.1669, 0.0000, 0.0022, 2.0943, 1.1379),
    ):
        while steps < n:
            w, steps = w - 0.5 * gradient(w, 1), steps + 1
        g_p, g_a, g_t = (gradient(w, i) for i in range(3))
        moved = w - 0.05 * g_t
        dp, da = rate(moved, 0) - rate(w, 0), rate(moved, 1) - rate(w, 1)
        found = (g_p * g_a).sum() / np.linalg.norm(g_p) / np.linalg.norm(g_a)
        assert da > 0 > dp
        np.testing.assert_allclose(
            [found, -(g_a * g_t).sum() / (g_p * g_t).sum(), stiffness(dp, da), rate(w, 0), rate(w, 1)],
            [cosine, k_grad, k_eff, gamma_p, gamma_a],
            atol=5.1e-5,
        )
        said.append(regime(float(found), float(np.linalg.norm(g_a) / np.linalg.norm(g_p))))
    assert said == [OPPOSED] * 3 + [SATURATED] * 2
