"""What one cell of the family says: rates, crossings, indices, each from the curves as they were measured.

Knows: names of curves and of their controls. Does not know: other cells, verdicts (claims.py).

Shapes: T probes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from holdfast.core.statistics import Interval
from holdfast.elasticity import Resistance, extrapolated_stiffness, springs

Cell = dict[str, Any]
RETURNED, HALF = 0.05, 0.5  # of KL at the start


def curve_of(cell: Cell, name: str) -> dict[str, Any] | None:
    """The curve of one checkpoint; None where this cell has none."""
    curves = [*cell["rebound"], *cell.get("recipes", []), *cell.get("roles", [])]
    return next((curve for curve in curves if curve["name"] == name), None)


def slices_of(cell: Cell, role: str = "aligned") -> tuple[str, str]:
    """Names of the first and the last slice."""
    amounts = cell["setting"]["amounts"]
    return f"{role} {amounts[0]}", f"{role} {amounts[-1]}"


def score_T(curve: Mapping[str, Any]) -> list[float]:
    """Mean score at each probe."""
    return np.mean(curve["score"], axis=1).tolist()


def kl_T(curve: Mapping[str, Any]) -> list[float]:
    """Mean KL to the parent at each probe, nats an answer."""
    return np.mean(curve["kl_to_base_nats"], axis=1).tolist()


def kappa(cell: Cell, name: str) -> float:
    """Relaxation rate of KL to the parent, an update; NaN without the curve."""
    curve = curve_of(cell, name)
    if curve is None:
        return math.nan
    found = kl_T(curve)
    return springs.relaxation_rate(curve["updates"], found, RETURNED * found[0])


def half(cell: Cell, name: str) -> float:
    """Updates that take half of the score; infinite where more than all were needed, NaN without a score."""
    curve = curve_of(cell, name)
    if curve is None or score_T(curve)[0] == 0:
        return math.nan
    found = score_T(curve)
    return springs.first_crossing(curve["updates"], found, found[0] / 2)


def survived(cell: Cell, name: str) -> float:
    """Updates a refusal survives on average, those that were made at most: the area under the score's share.

    No refusal is left out, whether it was lost or not, so a curve that never comes to its half counts too.
    """
    curve = curve_of(cell, name)
    if curve is None or score_T(curve)[0] < 0.25:  # fewer refusals than this are not an alignment
        return math.nan
    found, grid = score_T(curve), _grid(cell, curve)
    at = np.interp(grid, curve["updates"], found) / found[0]
    return float(np.trapezoid(np.minimum(at, 1.0), grid))


def _grid(cell: Cell, curve: Mapping[str, Any]) -> list[float]:
    """Updates at which all curves like this one were read: what is compared is read alike."""
    common = [n for n in curve["updates"] if n in cell["setting"]["few"]]
    return common if common[-1] == curve["updates"][-1] else list(curve["updates"])


def log_ratio(above: float, below: float) -> float:
    """Logarithm of a ratio; NaN where either is not a positive number."""
    return math.log(above / below) if 0 < above < math.inf and 0 < below < math.inf else math.nan


def resistances(cell: Cell, kind: str, temperature: float) -> list[Resistance]:
    """Pairs of experiment R: of slices ("pairs"), of k = l ("same"), of different alignments ("swapped")."""
    found = []
    for pair in map(Resistance.from_dict, cell["resistance"]):
        swapped, same = pair.later.startswith("reversed"), pair.earlier == pair.later
        if pair.temperature == temperature and kind == ("swapped" if swapped else "same" if same else "pairs"):
            found.append(pair)
    return found


def rho(cell: Cell, temperature: float, kind: str = "pairs") -> float:
    """Mean resistance index of the cell's pairs."""
    found = [pair.index for pair in resistances(cell, kind, temperature)]
    return float(np.mean(found)) if found else math.nan


def raw_gap(cell: Cell, temperature: float, kind: str = "pairs") -> float:
    """Mean of forward less inverse, raw bits a token: the number that was published."""
    found = [pair.raw_gap for pair in resistances(cell, kind, temperature)]
    return float(np.mean(found)) if found else math.nan


def beta(cell: Cell, prefix: str = "", role: str = "aligned") -> float:
    """Rebound index between the first and the last slice, of the main curves or of a control's ("c4 ")."""
    rates = [kappa(cell, prefix + name) for name in slices_of(cell, role)]
    amounts = [cell["setting"]["amounts"][k] for k in (0, -1)]
    return springs.rebound_index(amounts, rates)


def crosses(cell: Cell) -> bool | None:
    """Whether KL of the more aligned slice comes to lie below that of the other; None unless it began above."""
    less, more = (curve_of(cell, name) for name in slices_of(cell))
    assert less is not None and more is not None
    if kl_T(more)[0] <= kl_T(less)[0]:
        return None
    return math.isfinite(springs.crossing_curves(less["updates"], kl_T(less), kl_T(more)))


def return_time(cell: Cell) -> tuple[float, float]:
    """Updates until half of KL is gone, and what a spring of the speed of the first two probes would take."""
    curve = curve_of(cell, slices_of(cell)[1])
    assert curve is not None
    found, n = kl_T(curve), curve["updates"]
    first = springs.relaxation_rate(n[:2], found[:2], 0.0)
    null = springs.spring_updates(found[0], HALF * found[0], first) if first > 0 else math.nan
    return springs.first_crossing(n, found, HALF * found[0]), null


def hysteresis(cell: Cell) -> tuple[float, float]:
    """Updates to 95 % of the displacement over those back to half of it, and a spring's.

    The alignment ran at another rate than its undoing; a spring's speed goes with the rate, so both are counted in
    updates times rate.
    """
    setting = cell["setting"]
    forward, there = [0.0, *cell["forward_kl_nats"]], [0.0, *setting["amounts"]]
    back = return_time(cell)[0] * setting["undo_rate"] / setting["align_rate"]
    null = springs.spring_hysteresis(1.0, HALF)
    return (springs.hysteresis(there, forward, back) if math.isfinite(back) else math.nan), null


def stiffness(cell: Cell) -> Interval:
    """Effective stiffness at zero updates of the last slice, interval over documents."""
    curve = curve_of(cell, slices_of(cell)[1])
    assert curve is not None
    texts = [(curve["bits"][t], curve["document_tokens"][t]) for t in ("pretrain", "alignment")]
    return extrapolated_stiffness(curve["updates"][: len(texts[0][0])], *texts)
