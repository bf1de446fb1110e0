"""Solvers against dense linear algebra and the numbers of restoration.md 1.8, 4.1, 4.4 and 4.6."""

import numpy as np
import pytest
import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.curvature import cg, lbfgs, solvers, woodbury
from holdfast.curvature.solvers import Problem, solve

H3 = np.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]])
CONJUGATE = [(1 / 4, 0, 0), (1 / 44, -1 / 11, 0), (1 / 198, -2 / 99, 1 / 18)]


def tree(values):
    values = torch.tensor(np.asarray(values), dtype=torch.float64)
    return {"a": values[:1], "b": values[1:]}


def flat(x):
    return torch.cat([x["a"], x["b"]]).numpy()


def times(matrix):
    return lambda v: tree(matrix @ flat(v))


def pairs_of(steps, matrix=H3):
    return [(tree(s), tree(matrix @ np.array(s))) for s in steps]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (CONJUGATE, (2 / 9, 1 / 9, 13 / 9)),
        (CONJUGATE[1:], (0.6215277778, 1 / 9, 13 / 9)),
        (CONJUGATE[2:], (0.7070707071, 0.8383838384, 13 / 9)),
        (np.eye(3)[:1], (5 / 34, 7 / 17, 12 / 17)),
        (np.eye(3), (11 / 48, 9 / 80, 231 / 160)),
    ],
)
def test_the_two_loop_recursion_has_the_numbers_of_the_specification(steps, expected):
    found = lbfgs.two_loop(pairs_of(steps), tree([1.0, 2, 3]))
    np.testing.assert_allclose(flat(found), expected, atol=1e-10)


def test_the_secant_equation_holds_for_the_last_pair_only():
    pairs = pairs_of(np.eye(3))
    missed = [trees.norm(trees.subtract(lbfgs.two_loop(pairs, y), s)) for s, y in pairs]
    assert missed[-1] < 1e-12 and missed[0] == pytest.approx(0.0473, abs=1e-4)


def test_without_scaling_it_is_scipys_operator():
    from scipy.optimize import LbfgsInvHessProduct

    rng = np.random.default_rng(0)
    steps = rng.normal(size=(2, 3))
    pairs, g = pairs_of(steps), rng.normal(size=3)
    expected = LbfgsInvHessProduct(steps, np.array([flat(y) for _, y in pairs])) @ g
    np.testing.assert_allclose(flat(lbfgs.two_loop(pairs, tree(g), gamma=1.0)), expected, atol=1e-10)
    single = lbfgs.two_loop(pairs_of(np.eye(3)[:1]), tree([1.0, 2, 3]), gamma=1.0)
    np.testing.assert_allclose(flat(single), (-3 / 16, 7 / 4, 3), atol=1e-10)


def test_flat_pairs_are_dropped_and_bent_ones_damped_as_powell_does():
    good, flat_one, bent = ([1.0, 0, 0], [2.0, 0, 0]), ([0.0, 1, 0], [0.0, 0, 1]), ([0.0, 1, 0], [0.0, -1, 0])
    assert lbfgs.sound([(tree(flat_one[0]), tree(flat_one[1]))]) == []
    kept = lbfgs.sound([(tree(s), tree(y)) for s, y in (good, bent)])
    # D = 2 I: s^T D s = 2, s^T y = -1, w = 0.8 * 2 / 3, y <- w y + (1 - w) D s, and s^T y = 0.2 s^T D s
    np.testing.assert_allclose(flat(kept[1][1]), [0, -8 / 15 + 2 * 7 / 15, 0], atol=1e-12)
    assert trees.dot(*kept[1]) == pytest.approx(0.2 * 2)


def test_woodbury_has_the_numbers_of_the_specification_and_a_dense_inverse():
    half = 0.5**0.5  # the mean of two outer products
    found = woodbury.solve([tree([half, 0.0]), tree([half, half])], tree([1.0, 2.0]), 1.0)
    np.testing.assert_allclose(flat(found), [2 / 11, 14 / 11], atol=1e-10)
    rng = np.random.default_rng(1)
    rows, g = rng.normal(size=(4, 7)), rng.normal(size=7)
    found = woodbury.solve([tree(row) for row in rows], tree(g), 0.3)
    np.testing.assert_allclose(flat(found), np.linalg.solve(rows.T @ rows + 0.3 * np.eye(7), g), atol=1e-10)
    with pytest.raises(ValueError, match="give one above 0"):
        woodbury.solve([], tree(g), 0.0)


def spread(n=60, damping=1e-3):
    """restoration.md 1.8, smaller: eigenvalues from 10 to 1e-4 in a random basis, and a random right-hand side."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    values = np.logspace(1, -4, n)
    C = (basis * values) @ basis.T
    g = rng.normal(size=n)
    rows = [tree(row) for row in (basis * values**0.5).T]
    steps = -basis[:, 25:35].T * 0.1  # a task trajectory goes where it is told, not where g points
    return (
        Problem(
            tree(g), damping, times(C), times(C), rows, tree(np.diag(C)), [(tree(s), tree(C @ s)) for s in steps]
        ),
        C + damping * np.eye(n),
        g,
    )


def efficiency(x, M, g):
    """Gain at equal damped cost, relative to the exact solve."""
    return g @ x / np.sqrt(x @ M @ x) / np.sqrt(g @ np.linalg.solve(M, g))


def test_what_each_solver_buys_on_a_closed_form_problem():
    problem, M, g = spread()
    found = {name: solve(name, problem, most=20) for name in solvers.SOLVERS if name != "lbfgs-direct"}
    assert all(solution.solver == name for name, solution in found.items())
    worth = {name: efficiency(flat(solution.x), M, g) for name, solution in found.items()}
    assert worth["woodbury"] == pytest.approx(1, abs=1e-6)
    assert worth["hessian-cg"] == pytest.approx(worth["ggn-cg"])
    assert worth["woodbury"] > worth["ggn-cg"] > 2 * max(worth["diagonal"], worth["lbfgs-traj"], worth["identity"])
    # a line search costs products: never better than CG, and far better than no curvature
    assert worth["ggn-cg"] + 1e-9 >= worth["lbfgs-aux"] > 2 * worth["identity"]
    assert found["ggn-cg"].certified_efficiency <= worth["ggn-cg"]
    assert found["identity"].products == found["woodbury"].products == 0 < found["lbfgs-aux"].products <= 20


def test_pairs_of_the_solve_itself_are_worth_more_than_those_of_a_trajectory():
    problem, M, g = spread()
    pairs, damped = [], lambda v: trees.axpy(problem.products(v), problem.damping, v)
    for k in range(1, 11):
        x = [cg.solve(problem.products, problem.b, problem.damping, j, 2.0).x for j in (k - 1, k)]
        s = trees.subtract(x[1], x[0])
        pairs.append((s, damped(s)))
    own = efficiency(flat(lbfgs.two_loop(pairs, problem.b)), M, g)
    assert own > 2 * efficiency(flat(solve("lbfgs-traj", problem).x), M, g)
    assert own >= efficiency(flat(cg.solve(problem.products, problem.b, problem.damping, 10, 2.0).x), M, g)


@pytest.mark.parametrize("eps", [0.1, 0.5])
def test_the_penalised_loss_itself_is_minimised_and_is_no_influence_step(eps):
    H, K, g = np.array([[4.0, 1], [1, 3]]), np.diag([2.0, 1]), np.array([1.0, 2])  # restoration.md 4.4

    def penalised(x):
        d = flat(x)
        return float(d @ H @ d / 2 - eps * (g @ d + d @ K @ d / 2)), tree(H @ d - eps * (g + K @ d))

    found = solve("lbfgs-direct", Problem(tree(g), 1e-9, times(H), penalised=penalised))
    expected = {0.1: (0.0089820359, 0.0658682635), 0.5: (0.0384615385, 0.3846153846)}[eps]
    np.testing.assert_allclose(flat(found.x), expected, atol=1e-8)
    influence = eps * flat(solve("ggn-cg", Problem(tree(g), 1e-9, times(H))).x)
    np.testing.assert_allclose(influence, eps * np.array([1, 7]) / 11, atol=1e-6)


def test_an_indefinite_hessian_is_damped_until_it_is_none():
    H, g = np.diag([1.0, -0.5]), np.array([1.0, 1.0])
    found = solve("hessian-cg", Problem(tree(g), 0.1, hessian=times(H)))
    assert found.damping == pytest.approx(1.0) and found.certified_efficiency is None
    np.testing.assert_allclose(flat(found.x), [1 / 2, 1 / 0.5], atol=1e-9)


@pytest.mark.parametrize("name", [n for n in solvers.SOLVERS if n != "lbfgs-direct"])
def test_every_solver_keeps_the_stiff_directions(name):
    problem, _, _ = spread(20, damping=0.1)
    row = tree(np.r_[1.0, np.ones(4), np.zeros(15)])
    held = Problem(**(vars(problem) | {"stiff": [trees.scale(row, 1e3)]}))
    free, kept = (abs(trees.dot(row, solve(name, p, 60).x)) for p in (problem, held))
    assert kept < 1e-3 * free


def test_what_is_missing_is_named():
    problem = Problem(tree([1.0, 2.0]), 1.0)
    for name, (_, needs) in solvers.SOLVERS.items():
        if needs:
            with pytest.raises(UserError, match=f"solver '{name}': the problem has no {needs}"):
                solve(name, problem)
    with pytest.raises(UserError, match=r"unknown; use one of ggn-cg, .*identity"):
        solve("newton", problem)


def test_the_order_of_the_parameters_changes_nothing():
    problem, _, _ = spread(20, damping=0.1)

    def turned(x):
        return dict(reversed(x.items()))

    other = Problem(turned(problem.b), 0.1, problem.products, rows=[turned(row) for row in problem.rows])
    for name in ("ggn-cg", "woodbury", "lbfgs-aux"):
        np.testing.assert_allclose(*(flat(solve(name, p, 8).x) for p in (problem, other)), rtol=1e-9)
