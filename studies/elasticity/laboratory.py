"""What needs no language model: the law on token trees, and how often the curve fit sees a phase that is none.

Knows: simulations and their seeds. Does not know: members of the family.
"""

from typing import Any

import numpy as np

from holdfast.elasticity import curves, tree
from holdfast.elasticity.updates import GRID

REPEATS, CONFIRM = 400, 30
DESIGNS = {
    "11 even points": tuple(np.linspace(0, 128, 11).tolist()),
    "21 even points": tuple(np.linspace(0, 128, 21).tolist()),
    "the log grid": tuple(float(u) for u in GRID),
}
NOISES = (0.02, 0.04)


def law() -> dict[str, Any]:
    """Largest relative error of the law at joint optima: Pareto leaves of two exponents, sizes up to 1000."""
    found = []
    for alpha in (1.2, 2.5):
        for seed in range(5):
            one, two, three = (tree.pareto_tree(2000, alpha, 3 * seed + k) for k in range(3))
            found += [tree.law_error(one, two, three, k) for k in (1, 10, 100, 1000)]
    return {"largest": max(found), "cases": len(found), "leaves": 2000}


def mixtures() -> list[dict[str, Any]]:
    """Two opposed sets under the code of their union: the large one keeps its rate, the small one pays.

    Bits a string, ideal and by Huffman's code (T9); the normalised rate is the large set's, ideal.
    """
    large, small = (
        tree.TokenTree(dict(zip(("00", "01", "10", "11"), weights, strict=True)))
        for weights in ((1 / 2, 1 / 4, 1 / 8, 1 / 8), (1 / 8, 1 / 8, 1 / 4, 1 / 2))
    )
    rows = []
    for size in (1, 3, 10, 100, 1000):
        both = tree.mixture([large, small], [size, 1])
        rates = {
            name: (tree.ideal_rate_bits(data, both), tree.huffman_rate_bits(data, both))
            for name, data in (("large", large), ("small", small))
        }
        normalised = tree.normalised_rate_bits(rates["large"][0], both)
        rows.append({"size": size, "normalised": normalised, **rates})
    return rows


def phases(seed: int = 0) -> list[dict[str, Any]]:
    """One exponential with noise, many times: labelled two-phase, and claimed to change phase at the base level.

    The base level is put where the curve ends, which is where a false claim is easiest.
    """
    rng, rows = np.random.default_rng(seed), []
    for design, updates in DESIGNS.items():
        x_T = np.asarray(updates)
        for sd in NOISES:
            y_RT = 0.12 + 0.83 * np.exp(-x_T / 32) + sd * rng.normal(size=(REPEATS, len(x_T)))
            kink_RT = np.where(x_T < 38, 0.95 - 0.83 * x_T / 38, 0.12) + sd * rng.normal(size=y_RT.shape)
            two = [shape != curves.ONE for shape in curves.choose_many(updates, y_RT)]
            readings = [
                curves.read_curve(updates, y.tolist(), base_level=0.12, draws=CONFIRM)
                for y, flagged in zip(y_RT, two, strict=True)
                if flagged
            ]
            rows.append(
                {
                    "design": design,
                    "sd": sd,
                    "repeats": REPEATS,
                    "two_phase": float(np.mean(two)),
                    "phase_change": sum(bool(r.phase_change_at_base) for r in readings) / REPEATS,
                    "power": float(np.mean([s != curves.ONE for s in curves.choose_many(updates, kink_RT)])),
                }
            )
    return rows


def everything() -> dict[str, Any]:
    """All of it, as the page reads it."""
    return {"law": law(), "mixtures": mixtures(), "phases": phases()}
