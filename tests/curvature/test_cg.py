"""CG and its certificate: the numbers of restoration.md 4.5, and dense linear algebra beside it."""

import numpy as np
import pytest
import torch

from holdfast.curvature import cg


def tree(values):
    values = torch.tensor(values, dtype=torch.float64)
    return {"a": values[:1], "b": values[1:]}


def flat(x):
    return torch.cat([x["a"], x["b"]]).numpy()


def operator(matrix):
    matrix = torch.tensor(matrix, dtype=torch.float64)

    def matvec(v):
        product = matrix @ torch.cat([v["a"], v["b"]])
        return {"a": product[:1], "b": product[1:]}

    return matvec


M_MINUS_DAMPING = [[4.0, 1.0], [1.0, 3.0]]  # with damping 1 this is M = [[5, 1], [1, 4]] of 4.5


def test_one_iteration_has_the_numbers_of_the_specification():
    result = cg.solve(operator(M_MINUS_DAMPING), tree([1.0, 2.0]), damping=1.0, max_products=1)
    np.testing.assert_allclose(flat(result.x), [0.2, 0.4], atol=1e-10)
    assert result.lower == pytest.approx(1.0, abs=1e-10)
    assert result.upper == pytest.approx(1.1904761905, abs=1e-10)
    assert result.certified_efficiency == pytest.approx(0.9165151390, abs=1e-10)
    assert result.residual == pytest.approx((0.4**2 + 0.2**2) ** 0.5 / 5**0.5, abs=1e-10)
    assert result.products == 1
    assert result.stopped == "max_products"
    q = 1.0526315789
    assert (result.lower / q) ** 0.5 == pytest.approx(0.9746794345, abs=1e-10)
    # q - b^T s = r^T M^-1 r = 1/19: the certified gap is real and the simple bound 1.2 is looser than ours
    assert q - result.lower == pytest.approx(1 / 19, abs=1e-10)
    assert result.lower < q < result.upper < 1.2


def test_two_iterations_give_q_exactly():
    result = cg.solve(operator(M_MINUS_DAMPING), tree([1.0, 2.0]), damping=1.0, target_efficiency=2.0)
    assert result.lower == pytest.approx(1.0526315789, abs=1e-10)
    assert result.stopped == "exact"
    assert result.products == 2
    assert result.certified_efficiency == 1.0


@pytest.mark.parametrize(
    ("damping", "step", "q"),
    [(0.0, [1 / 11, 7 / 11], 15 / 11), (1.0, [2 / 19, 9 / 19], 20 / 19)],
)
def test_the_exact_step_of_a_stationary_task(damping, step, q):
    """restoration.md 4.1: H = [[4, 1], [1, 3]], g = (1, 2)."""
    result = cg.solve(operator(M_MINUS_DAMPING), tree([1.0, 2.0]), damping, target_efficiency=2.0)
    np.testing.assert_allclose(flat(result.x), step, atol=1e-10)
    assert result.lower == pytest.approx(q, abs=1e-10)
    s = flat(result.x)
    if damping == 1.0:
        assert s @ np.array(M_MINUS_DAMPING) @ s == pytest.approx(295 / 361, abs=1e-10)


def test_bounds_enclose_q_at_every_step_and_tighten():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((60, 60)))
    matrix = basis @ np.diag(10.0 ** rng.uniform(-4, 1, 60)) @ basis.T
    b = rng.standard_normal(60)
    for damping in (1e-3, 1e-2, 1e-1):
        q = b @ np.linalg.solve(matrix + damping * np.eye(60), b)
        result = cg.solve(operator(matrix), tree(b), damping, target_efficiency=0.99)
        lower, upper = np.array(result.trace).T
        assert np.all(lower <= q * (1 + 1e-9))
        assert np.all(upper >= q * (1 - 1e-9))
        assert np.all(np.diff(lower) > 0)
        assert np.all(np.diff(upper) <= 0)
        assert result.stopped == "certified"
        assert result.certified_efficiency <= (result.lower / q) ** 0.5 + 1e-12


def test_an_unfinished_step_knows_its_true_cost():
    """s^T M s = g^T s - s^T r (restoration.md 3.4)."""
    result = cg.solve(operator(M_MINUS_DAMPING), tree([1.0, 2.0]), damping=1.0, max_products=1)
    s = flat(result.x)
    m = np.array([[5.0, 1.0], [1.0, 4.0]])
    assert s @ m @ s == pytest.approx(1.0, abs=1e-12)


def test_negative_curvature_stops_with_the_last_good_iterate():
    indefinite = np.diag([2.0, -1.0, 1.0])
    result = cg.solve(operator(indefinite), tree([1.0, 1.0, 1.0]), damping=0.1)
    assert result.stopped == "not_positive"
    assert np.all(np.isfinite(flat(result.x)))


def test_a_zero_right_hand_side_is_solved_by_zero():
    result = cg.solve(operator(M_MINUS_DAMPING), tree([0.0, 0.0]), damping=1.0)
    assert result.stopped == "exact"
    assert result.products == 0
    assert not flat(result.x).any()


def test_a_nan_in_the_right_hand_side_fails_loudly():
    with pytest.raises(ValueError, match="NaN"):
        cg.solve(operator(M_MINUS_DAMPING), tree([float("nan"), 1.0]))


def test_without_damping_nothing_is_certified_before_the_end():
    result = cg.solve(operator(M_MINUS_DAMPING), tree([1.0, 2.0]), damping=0.0, max_products=1)
    assert result.upper == float("inf")
    assert result.certified_efficiency == 0.0
