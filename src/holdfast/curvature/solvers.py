"""One interface to every way to ``(C + damping I)^-1 b``, which names what it ran and what it cost.

    solve("ggn-cg", problem)        CG on exact products, with a certified efficiency
    solve("hessian-cg", problem)    the same with the exact Hessian, damped until no direction is negative
    solve("lbfgs-aux", problem)     L-BFGS on ``x^T M x / 2 - b^T x``: a linear solve
    solve("lbfgs-traj", problem)    two-loop recursion on pairs met while the task loss fell: curvature only there
    solve("lbfgs-direct", problem)  L-BFGS on the penalised loss itself: no influence formula
    solve("woodbury", problem)      the sample Gram: exact for the Fisher of the given rows
    solve("diagonal", problem)      the diagonal of C
    solve("identity", problem)      no curvature: the ablation

A problem holds what a solver may need; the one that finds its part missing says so. The *stiff* rows
are part of every one's matrix, so that all keep the same protected directions.

Source: restoration.md 1.8, 3.4. EK-FAC is left out: for LoRA it drops the coupling of A and B (3.4).

Knows: which solver needs what. Does not know: models, losses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from holdfast.core import trees
from holdfast.core.errors import UserError
from holdfast.core.trees import Tree
from holdfast.curvature import cg, lbfgs, woodbury

Product = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
CHEAP = 100  # products with a matrix that costs nothing
MOST_RAISES = 8  # tenfold, of the damping of an indefinite matrix


@dataclass(frozen=True)
class Problem:
    """What is to be solved, and what solvers may use; all trees are over the same parameters.

    Attributes:
        b: the right-hand side: the gradient of what is to be raised.
        damping: > 0, in units of C.
        products: ``v -> C v`` with the Gauss-Newton matrix, without damping and without the stiff rows.
        hessian: ``v -> H v``, which may be indefinite.
        rows: trees whose outer products add up to C (each scaled by the root of its weight).
        diagonal: of C.
        pairs: (step, change of the task gradient), oldest first.
        penalised: value and gradient of (task loss - eps harmful loss) at an offset from here.
        stiff: rows added to whichever matrix.
    """

    b: Tree
    damping: float
    products: Product | None = None
    hessian: Product | None = None
    rows: Sequence[Tree] | None = None
    diagonal: Tree | None = None
    pairs: Sequence[lbfgs.Pair] | None = None
    penalised: Callable[[Tree], tuple[float, Tree]] | None = None
    stiff: Sequence[Tree] = field(default=())

    def stiffened(self, product: Product) -> Product:
        """``product`` with the stiff rows."""

        def whole(v: Mapping[str, torch.Tensor]) -> Tree:
            out = dict(product(v))
            for row in self.stiff:
                out = trees.axpy(out, trees.dot(row, v), row)
            return out

        return whole


@dataclass(frozen=True)
class Solution:
    """A direction, and what made it.

    Attributes:
        x: the direction.
        solver: name of what ran.
        products: with C or H; evaluations of the penalised loss.
        damping: the one used, which "hessian-cg" may have raised.
        certified_efficiency: share of the best gain a step along x surely reaches; None where nothing certifies.
    """

    x: Tree
    solver: str
    products: int
    damping: float
    certified_efficiency: float | None = None


def solve(solver: str, problem: Problem, most: int = 100) -> Solution:
    """Run the named solver with at most ``most`` products.

    Raises:
        UserError: an unknown name, a part of the problem that this solver needs and that is missing, a Hessian
            that stays indefinite.
    """
    if solver not in SOLVERS:
        raise UserError(f"solver '{solver}': unknown; use one of {', '.join(SOLVERS)}")
    run, needs = SOLVERS[solver]
    if needs is not None and getattr(problem, needs) is None:
        raise UserError(f"solver '{solver}': the problem has no {needs}; give them or use 'ggn-cg'")
    return run(problem, most)


def _by_cg(name: str, problem: Problem, product: Product, most: int, cost: bool = True) -> Solution:
    found = cg.solve(problem.stiffened(product), problem.b, problem.damping, most, 0.95 if cost else 2.0)
    return Solution(
        found.x, name, found.products if cost else 0, problem.damping, found.certified_efficiency if cost else None
    )


def _ggn_cg(problem: Problem, most: int) -> Solution:
    assert problem.products is not None
    return _by_cg("ggn-cg", problem, problem.products, most)


def _hessian_cg(problem: Problem, most: int) -> Solution:
    assert problem.hessian is not None
    damping, spent = problem.damping, 0
    for _ in range(MOST_RAISES):
        found = cg.solve(problem.stiffened(problem.hessian), problem.b, damping, most)
        spent += found.products
        if found.stopped != "not_positive":
            return Solution(found.x, "hessian-cg", spent, damping)  # M >= damping I is not given: no certificate
        damping *= 10
    raise UserError(f"solver 'hessian-cg': still indefinite at damping {damping / 10:g}; use 'ggn-cg'")


def _lbfgs_aux(problem: Problem, most: int) -> Solution:
    assert problem.products is not None
    product, spent = problem.stiffened(problem.products), 0

    def value_and_gradient(x: Tree) -> tuple[float, Tree]:
        nonlocal spent
        spent += 1
        m_x = trees.axpy(product(x), problem.damping, x)
        return 0.5 * trees.dot(x, m_x) - trees.dot(problem.b, x), trees.axpy(m_x, -1.0, problem.b)

    x = lbfgs.minimise(value_and_gradient, trees.zeros_like(problem.b), most)
    return Solution(x, "lbfgs-aux", spent, problem.damping)


def _lbfgs_traj(problem: Problem, most: int) -> Solution:
    assert problem.pairs is not None
    damped = [(s, trees.axpy(y, problem.damping, s)) for s, y in problem.pairs]
    rows = [*problem.stiff]
    pairs = lbfgs.sound(damped[-most:])
    # the stiff rows as pairs of their own, newest: their secant equations then hold
    pairs += [(row, trees.scale(row, trees.dot(row, row) + problem.damping)) for row in rows]
    return Solution(lbfgs.two_loop(pairs, problem.b), "lbfgs-traj", 0, problem.damping)


def _lbfgs_direct(problem: Problem, most: int) -> Solution:
    assert problem.penalised is not None
    spent = 0

    def counted(x: Tree) -> tuple[float, Tree]:
        nonlocal spent
        spent += 1
        assert problem.penalised is not None
        return problem.penalised(x)

    x = lbfgs.minimise(counted, trees.zeros_like(problem.b), most)
    return Solution(x, "lbfgs-direct", spent, problem.damping)


def _woodbury(problem: Problem, most: int) -> Solution:
    assert problem.rows is not None
    x = woodbury.solve([*problem.rows, *problem.stiff], problem.b, problem.damping)
    return Solution(x, "woodbury", 0, problem.damping, None)


def _diagonal(problem: Problem, most: int) -> Solution:
    diagonal = problem.diagonal
    assert diagonal is not None
    return _by_cg("diagonal", problem, lambda v: {k: diagonal[k] * v[k] for k in v}, CHEAP, cost=False)


def _identity(problem: Problem, most: int) -> Solution:
    x = woodbury.solve(problem.stiff, problem.b, problem.damping)
    return Solution(x, "identity", 0, problem.damping)


SOLVERS: dict[str, tuple[Callable[[Problem, int], Solution], str | None]] = {
    "ggn-cg": (_ggn_cg, "products"),
    "hessian-cg": (_hessian_cg, "hessian"),
    "lbfgs-aux": (_lbfgs_aux, "products"),
    "lbfgs-traj": (_lbfgs_traj, "pairs"),
    "lbfgs-direct": (_lbfgs_direct, "penalised"),
    "woodbury": (_woodbury, "rows"),
    "diagonal": (_diagonal, "diagonal"),
    "identity": (_identity, None),
}
"""Name: (the function, what of a problem it needs)."""
