"""Means and slopes over cells with intervals: what is drawn again are runs, the four volumes of a run together.

A run is a size's pre-training with one seed; its members share their first parameters and their reading.

Knows: cells as units. Does not know: what is averaged, verdicts.

Shapes: C cells.
"""

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from studies.elasticity.cells import Cell

from holdfast.core.statistics import Interval, bootstrap_ratio

LEVEL, DRAWS = 0.99, 2000  # five claims are judged together, each at 99 per cent
METHOD = "bootstrap over runs, 99 %"
Reading = Callable[[Cell], float | bool | None]


def runs_of(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by run of pre-training."""

    def run(cell: Cell) -> tuple[int, int]:
        return cell["width"], cell["seed"]

    return [list(found) for _, found in groupby(sorted(cells, key=run), run)]


def over(cells: Sequence[Cell], of: Reading) -> Interval:
    """Mean over the cells where it is defined; ``n`` counts those."""
    sums, counts = [], []
    for run in runs_of(cells):
        values = [float(v) for cell in run if (v := of(cell)) is not None and math.isfinite(v)]
        if values:
            sums.append(sum(values))
            counts.append(float(len(values)))
    found = bootstrap_ratio(sums, counts, 0, DRAWS, LEVEL)
    return Interval(found.value, found.low, found.high, int(sum(counts)), METHOD)


def slope(cells: Sequence[Cell], factor: str, of: Callable[[Cell], float]) -> Interval:
    """Slope of ln ``of`` on ln ``factor`` ("parameters" or "volume"), the other factor held."""
    column = ("parameters", "volume").index(factor)
    found = []
    for run in runs_of(cells):
        rows = [(c["parameters"], c["volume"], v) for c in run if 0 < (v := of(c)) < math.inf]
        if rows:
            found.append(np.log(rows))
    n = sum(map(len, found))
    if len(found) < 2:
        return Interval(math.nan, math.nan, math.nan, n, METHOD)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(found), len(found)) for _ in range(DRAWS)]
    kept = [v for draw in drawn if not math.isnan(v := _fitted(np.concatenate([found[k] for k in draw]), column))]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(kept, [tail, 1 - tail]) if kept else (math.nan, math.nan)
    return Interval(_fitted(np.concatenate(found), column), float(low), float(high), n, METHOD)


def _fitted(rows_C3: np.ndarray, column: int) -> float:
    """Partial slope by least squares; NaN where both factors cannot be told apart."""
    centred_C3 = rows_C3 - rows_C3.mean(0)
    if np.linalg.matrix_rank(centred_C3[:, :2], 1e-9) < 2:
        return math.nan
    return float(np.linalg.lstsq(centred_C3[:, :2], centred_C3[:, 2], rcond=None)[0][column])
