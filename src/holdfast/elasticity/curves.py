"""Shapes of a curve over updates: one exponential, two straight phases, two exponentials; which one the data need.

Source: elasticity.md 3.6. A plain exponential always looks "fast, then slow"; a change of phase is claimed only
where a two-phase shape beats it by AICc and, for "at the base level", where the level at the break is the base's.

Knows: points and least squares. Does not know: what the curve measures.

Shapes: T points, R curves over the same points, G grid cells, C coefficients.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from holdfast.core.results import Result
from holdfast.core.statistics import Interval

ONE, SEGMENTS, TWO = "one exponential", "two segments", "two exponentials"
PARAMETERS = {ONE: 4, SEGMENTS: 5, TWO: 6}  # the noise variance is one of them
MARGIN = 2.0  # of AICc, below which the simpler shape stays
_RATES, _BREAKS = 60, 80
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fit(Result):
    """One shape's best fit.

    Attributes:
        shape: ``ONE``, ``SEGMENTS`` or ``TWO``.
        coefficients: of the shape's terms: constant, then exponentials; or constant, slope, change of slope.
        times: time constants in updates, or the place of the break.
        rss: residual sum of squares.
        aicc: corrected information criterion; NaN with too few points for the shape.
    """

    shape: str
    coefficients: tuple[float, ...]
    times: tuple[float, ...]
    rss: float
    aicc: float

    def at(self, updates_T: Sequence[float]) -> Floats:
        """The fitted curve."""
        x_T = np.asarray(updates_T, dtype=np.float64)
        return np.asarray(_terms(self.shape, x_T, np.array([self.times]))[0] @ np.asarray(self.coefficients))

    @property
    def break_at(self) -> float:
        """Where the slow phase begins: the break, or where both exponentials have the same slope; NaN of one."""
        if self.shape == SEGMENTS:
            return self.times[0]
        if self.shape == TWO:
            (_, a, b), (fast, slow) = self.coefficients, self.times
            ratio = (abs(a) / fast) / (abs(b) / slow) if b else math.inf
            return math.log(ratio) / (1 / fast - 1 / slow) if 0 < ratio < math.inf else math.nan
        return math.nan


@dataclass(frozen=True)
class CurveReading(Result):
    """What a curve's shape says.

    Attributes:
        fits: of the shapes that the number of points allows.
        chosen: the shape that beats one exponential by more than ``MARGIN``, else one exponential.
        break_at: updates at the break, interval by bootstrap of the residuals; NaN of one exponential.
        level_at_break: the curve there, likewise.
        base_level, margin: what the level is compared with, if told.
        phase_change_at_base: a two-phase shape was chosen *and* the whole interval of ``level_at_break`` lies
            within ``margin`` of ``base_level``. None: no base level was told.
    """

    fits: tuple[Fit, ...]
    chosen: str
    break_at: Interval
    level_at_break: Interval
    base_level: float | None
    margin: float
    phase_change_at_base: bool | None

    @property
    def two_phase(self) -> bool:
        """Whether a two-phase shape was chosen."""
        return self.chosen != ONE

    def fit(self, shape: str) -> Fit:
        """The fit of a shape."""
        return next(fit for fit in self.fits if fit.shape == shape)


def read_curve(
    updates_T: Sequence[float],
    values_T: Sequence[float],
    *,
    base_level: float | None = None,
    margin: float = 0.05,
    draws: int = 200,
    seed: int = 0,
) -> CurveReading:
    """Fit all shapes, choose by AICc, bootstrap the break.

    Args:
        updates_T: at least six different, growing from 0.
        values_T: scores or nats there.
        base_level: of the base model, measured in the same way.
        margin: equivalence margin, set before looking, in the units of ``values_T``.
        draws: of the residual bootstrap of the break.

    Raises:
        ValueError: fewer than six points, points of different lengths, updates that do not grow.
    """
    x_T, y_T = np.asarray(updates_T, dtype=np.float64), np.asarray(values_T, dtype=np.float64)
    if x_T.shape != y_T.shape or len(x_T) < 6 or (np.diff(x_T) <= 0).any():
        raise ValueError(f"a curve needs six points or more at growing updates; got {len(x_T)} and {len(y_T)}")
    fits = tuple(_fit(shape, x_T, y_T) for shape in (ONE, SEGMENTS, TWO) if len(x_T) > PARAMETERS[shape] + 1)
    chosen = choose({fit.shape: fit.aicc for fit in fits})
    nothing = Interval(math.nan, math.nan, math.nan, len(x_T), "no break")
    if chosen == ONE:
        return CurveReading(
            fits, chosen, nothing, nothing, base_level, margin, None if base_level is None else False
        )
    best = next(fit for fit in fits if fit.shape == chosen)
    breaks, levels = _break_draws(best, x_T, y_T, draws, seed)
    level = _interval(float(best.at([best.break_at])[0]), levels)
    at_base = None
    if base_level is not None:
        at_base = base_level - margin <= level.low and level.high <= base_level + margin
    return CurveReading(fits, chosen, _interval(best.break_at, breaks), level, base_level, margin, at_base)


def choose(aicc: dict[str, float]) -> str:
    """The better of the two-phase shapes if it beats one exponential by more than the margin (3.6)."""
    others = {shape: value for shape, value in aicc.items() if shape != ONE and math.isfinite(value)}
    best = min(others, key=lambda shape: others[shape], default=ONE)
    return best if best != ONE and others[best] < aicc[ONE] - MARGIN else ONE


def aicc(rss: Floats | float, points: int, parameters: int) -> Floats:
    """Corrected Akaike criterion of a least-squares fit; NaN where ``points <= parameters + 1``."""
    left = points - parameters - 1
    if left <= 0:
        return np.full_like(np.asarray(rss, dtype=np.float64), np.nan)
    per_point = np.maximum(np.asarray(rss, dtype=np.float64), 1e-300) / points
    return points * np.log(per_point) + 2 * parameters + 2 * parameters * (parameters + 1) / left


def choose_many(
    updates_T: Sequence[float], values_RT: Floats, shapes: Sequence[str] = (ONE, SEGMENTS, TWO)
) -> list[str]:
    """The shape each of R curves over the same points asks for; for simulations (no refinement between cells)."""
    x_T = np.asarray(updates_T, dtype=np.float64)
    found = {s: aicc(_grid_rss(s, x_T, values_RT).min(0), len(x_T), PARAMETERS[s]) for s in shapes}
    return [choose({shape: float(values[r]) for shape, values in found.items()}) for r in range(len(values_RT))]


def _break_draws(best: Fit, x_T: Floats, y_T: Floats, draws: int, seed: int) -> tuple[Floats, Floats]:
    """Refit the chosen shape to curves with its own residuals drawn again."""
    smooth_T = best.at(x_T.tolist())
    widened = math.sqrt(
        len(x_T) / max(1, len(x_T) - PARAMETERS[best.shape] + 1)
    )  # residuals are smaller than errors
    rng = np.random.default_rng(seed)
    residual_T = widened * (y_T - smooth_T)
    fits = [_fit(best.shape, x_T, smooth_T + rng.choice(residual_T, len(x_T)), refine=0) for _ in range(draws)]
    breaks = np.array([fit.break_at for fit in fits])
    levels = np.array([fit.at([fit.break_at])[0] for fit in fits])
    kept = np.isfinite(breaks)
    return breaks[kept], levels[kept]


def _interval(value: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) > 1 else (math.nan, math.nan)
    return Interval(value, float(low), float(high), len(draws), "residual bootstrap")


def _fit(shape: str, x_T: Floats, y_T: Floats, refine: int = 3) -> Fit:
    """Least squares: the linear part exactly, the times on a grid that is then narrowed around the best cell."""
    times_GC = _grid(shape, tuple(x_T.tolist()))
    times = times_GC[0]
    for level in range(refine + 1):
        q_GTC, _ = np.linalg.qr(_terms(shape, x_T, times_GC))
        best = int(_rss(q_GTC, y_T[None])[:, 0].argmin())
        times = times_GC[best]
        if level < refine:
            times_GC = _narrowed(shape, times, 0.12 / 5**level, x_T)
    terms_TC = _terms(shape, x_T, times[None])[0]
    coefficients = np.linalg.lstsq(terms_TC, y_T, rcond=None)[0]
    rss = float(((y_T - terms_TC @ coefficients) ** 2).sum())
    value = float(aicc(rss, len(x_T), PARAMETERS[shape]))
    return Fit(shape, tuple(coefficients.tolist()), tuple(times.tolist()), rss, value)


def _narrowed(shape: str, times: Floats, width: float, x_T: Floats) -> Floats:
    """A finer grid around the best times; a break stays between its outer points."""
    if shape == SEGMENTS:
        around = times[0] + width * (x_T[-1] - x_T[0]) * np.linspace(-1, 1, 21) / 2
        return np.clip(around, x_T[1], x_T[-2])[:, None]
    factors = np.exp(width * np.linspace(-1, 1, 11))
    if shape == ONE:
        return times[0] * factors[:, None]
    pairs = np.array([(times[0] * a, times[1] * b) for a in factors for b in factors])
    return pairs[pairs[:, 1] > 1.2 * pairs[:, 0]]


@lru_cache(maxsize=64)
def _grid(shape: str, x_T: tuple[float, ...]) -> Floats:
    """Candidate times: time constants from a fraction of the first step to ten times the length, or breaks."""
    x = np.asarray(x_T)
    if shape == SEGMENTS:  # two points at least on either side
        return np.unique(np.concatenate([np.linspace(x[1], x[-2], _BREAKS), x[1:-1]]))[:, None]
    taus = np.geomspace(max((x[1] - x[0]) / 2, 1e-9), 10 * (x[-1] - x[0]), _RATES)
    if shape == ONE:
        return taus[:, None]
    few = taus[::3]
    return np.array([(a, b) for k, a in enumerate(few) for b in few[k + 1 :]])


def _terms(shape: str, x_T: Floats, times_GC: Floats) -> Floats:
    """Columns of the linear part for every grid cell: (G, T, C)."""
    ones_GT = np.ones((len(times_GC), len(x_T)))
    if shape == SEGMENTS:
        rest = [ones_GT * x_T, np.maximum(x_T - times_GC[:, :1], 0)]
    else:
        rest = [np.exp(-x_T / times_GC[:, k : k + 1]) for k in range(times_GC.shape[1])]
    return np.stack([ones_GT, *rest], axis=-1)


def _grid_rss(shape: str, x_T: Floats, values_RT: Floats) -> Floats:
    q_GTC, _ = np.linalg.qr(_terms(shape, x_T, _grid(shape, tuple(x_T.tolist()))))
    return _rss(q_GTC, values_RT)


def _rss(q_GTC: Floats, values_RT: Floats) -> Floats:
    """What the columns do not explain: (G, R)."""
    kept_GRC = np.einsum("gtc,rt->grc", q_GTC, values_RT)
    return np.maximum((values_RT**2).sum(1) - (kept_GRC**2).sum(-1), 0)
