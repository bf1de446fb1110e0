"""What a forecast's score meant in the built-in reference fine-tunes: rank, drift with interval, chances, steps.

Knows: the shipped runs of the organism (studies/geometry), log-linear and logistic fits, conformal residuals.
Does not know: models, whether another model behaves alike. It was not fitted on any other, and says so.

Residuals are those of runs whose task was left out of the fit, so an interval covers a task that is new.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from holdfast.core.files import read_json
from holdfast.core.results import Result

Array = NDArray[np.float64]
Kind = Literal["prior", "probe"]
RUNS = Path(__file__).parent / "data" / "reference_runs.json"
LEVEL = 0.90
POINTS = (2.0, 10.0, 50.0)
# What every reference run's score was read from. A score sums over the tokens of an answer, so a forecast from
# longer answers is a larger number that means the same; prompts and rows only make it steadier.
PROMPTS, ROWS, NEW_TOKENS = 32, 48, 16
RIDGE = 0.1  # of the logistic fits: few runs separate perfectly, and no chance is 0 or 1


@dataclass(frozen=True)
class ReferenceRun(Result):
    """One fine-tune of the organism.

    Attributes:
        task, method, learning_rate, steps: what it was.
        prior, probe: its scores before a step and after the first 5 %.
        kl_nats: drift at the end. points_lost: of refusals, percentage points. Both on prompts that no score saw.
    """

    task: str
    method: str
    learning_rate: float
    steps: int
    prior: float
    probe: float
    kl_nats: float
    points_lost: float


@dataclass(frozen=True)
class Chance(Result):
    """The chance that a budget is broken, and the step at which the forecast breaks it (None: not in the run)."""

    budget: str
    probability: float
    step: int | None


@dataclass(frozen=True)
class Calibrated(Result):
    """A score, read against the reference runs.

    Attributes:
        kind: which score. score: its value. steps: of the planned run.
        rank: share of the reference runs with a smaller score.
        kl_nats: forecast drift at the end, with its 90 % conformal interval kl_low, kl_high.
        points_lost: median of what the five runs with the nearest scores lost.
        chances: by budget.
        safe_kl_nats: the drift up to which at most one run in ten lost ten points.
        inside: whether the score lies among the reference runs' scores; outside only the rank is claimed.
        references, tasks: how many runs, of how many tasks.
    """

    kind: Kind
    score: float
    steps: int
    rank: float
    kl_nats: float
    kl_low: float
    kl_high: float
    points_lost: float
    chances: tuple[Chance, ...]
    safe_kl_nats: float
    inside: bool
    references: int
    tasks: int
    source: str = "fine-tunes of the built-in organism; not fitted on any other model"

    def chance(self, points: float) -> float:
        """That more than ``points`` percentage points of refusals are lost."""
        return next(one.probability for one in self.chances if one.budget == _named(points))


@functools.cache
def reference_runs() -> tuple[ReferenceRun, ...]:
    """Those that ship with the package."""
    return tuple(ReferenceRun.from_dict(row) for row in read_json(RUNS)["runs"])


@functools.cache
def growth() -> tuple[tuple[float, float], ...]:
    """(share of the steps, share of the final drift): how drift grew in the runs whose way was recorded."""
    return tuple((float(step), float(drift)) for step, drift in read_json(RUNS)["growth"])


def calibrated(
    kind: Kind,
    score: float,
    steps: int,
    max_kl_nats: float | None = None,
    runs: Sequence[ReferenceRun] | None = None,
    grown: Sequence[tuple[float, float]] | None = None,
) -> Calibrated:
    """Read a score against the reference runs.

    Args:
        kind: "prior" (:data:`holdfast.geometry.forecast.PRIOR`) or "probe" (an ``EarlyForecast``'s score).
        score: positive.
        steps: of the planned run.
        max_kl_nats: the user's drift budget, whose chance is added.
        runs, grown: other ones than ship; tests and the study's leave-one-task-out pass them.

    Raises:
        ValueError: fewer than ten runs, or no score.
    """
    runs = list(reference_runs() if runs is None else runs)
    grown = growth() if grown is None else grown
    if len(runs) < 10 or not score > 0:
        raise ValueError(f"score {score}, {len(runs)} reference runs: need a positive score and ten runs")
    x_R = np.log([getattr(run, kind) for run in runs])
    y_R, lost_R = np.log([run.kl_nats for run in runs]), np.array([run.points_lost for run in runs])
    x, residual_R = math.log(score), left_out_residuals(x_R, y_R, [run.task for run in runs])
    slope, intercept = _line(x_R, y_R)
    y = intercept + slope * x
    half = conformal_half_width(residual_R)
    chances = []
    if max_kl_nats is not None:
        above = int((y + residual_R > math.log(max_kl_nats)).sum())
        step = _step(grown, y, math.log(max_kl_nats), steps)
        chances.append(Chance(f"drift {max_kl_nats:g} nats", (above + 0.5) / (len(runs) + 1), step))
    for points in POINTS:
        broken_R = lost_R >= points
        step = _step(grown, y, _where(y_R, broken_R, 0.5), steps)
        chances.append(Chance(_named(points), _logistic(x_R, broken_R)(x), step))
    nearest = np.argsort(np.abs(x_R - x))[:5]
    return Calibrated(
        kind,
        score,
        steps,
        float((x_R < x).mean()),
        math.exp(y),
        math.exp(y - half),
        math.exp(y + half),
        float(np.median(lost_R[nearest])),
        tuple(chances),
        math.exp(_where(y_R, lost_R >= 10.0, 0.1)),
        bool(x_R.min() <= x <= x_R.max()),
        len(runs),
        len({run.task for run in runs}),
    )


def _named(points: float) -> str:
    return f"refusals -{points:g} points"


def _line(x_R: Array, y_R: Array) -> tuple[float, float]:
    """Least-squares slope and intercept."""
    spread = float(((x_R - x_R.mean()) ** 2).sum())
    slope = float(((x_R - x_R.mean()) * (y_R - y_R.mean())).sum()) / spread if spread > 0 else 0.0
    return slope, float(y_R.mean()) - slope * float(x_R.mean())


def left_out_residuals(x_R: Array, y_R: Array, tasks: Sequence[str]) -> Array:
    """Each run's log drift minus what a fit without its task says."""
    residual_R = np.empty(len(x_R))
    for task in dict.fromkeys(tasks):
        out = np.array([other == task for other in tasks])
        slope, intercept = _line(x_R[~out], y_R[~out])
        residual_R[out] = y_R[out] - intercept - slope * x_R[out]
    return residual_R


def conformal_half_width(residual_R: Array, level: float = LEVEL) -> float:
    """The ceil((n + 1) level)-th smallest absolute residual; the largest where there are too few."""
    ordered = np.sort(np.abs(residual_R))
    return float(ordered[min(len(ordered), math.ceil((len(ordered) + 1) * level)) - 1])


def _logistic_coefficients(x_R: Array, yes_R: NDArray[np.bool_]) -> tuple[float, float]:
    """Intercept and slope of a ridge-penalised logistic regression on the standardised x, in x's own units.

    The intercept starts from one success and one failure more than were seen, so no chance is certain.
    """
    centre, scale = float(x_R.mean()), float(x_R.std()) or 1.0
    z = np.concatenate([(x_R - centre) / scale, [0.0, 0.0]])
    y = np.concatenate([yes_R.astype(float), [0.0, 1.0]])
    weights = np.concatenate([np.ones(len(x_R)), [0.5, 0.5]])
    design = np.stack([np.ones_like(z), z], 1)
    beta = np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weights * (y - p)) - RIDGE * np.array([0.0, beta[1]])
        hessian = (design * (weights * p * (1 - p))[:, None]).T @ design + np.diag([1e-9, RIDGE])
        step = np.linalg.solve(hessian, gradient)
        beta = beta + step
        if float(np.abs(step).max()) < 1e-10:
            break
    return float(beta[0] - beta[1] * centre / scale), float(beta[1] / scale)


def _logistic(x_R: Array, yes_R: NDArray[np.bool_]):  # type: ignore[no-untyped-def]
    intercept, slope = _logistic_coefficients(x_R, yes_R)
    return lambda x: 1 / (1 + math.exp(-max(-30.0, min(30.0, intercept + slope * x))))


def _where(x_R: Array, yes_R: NDArray[np.bool_], probability: float) -> float:
    """x at which the chance reaches ``probability``; infinite where it never rises."""
    intercept, slope = _logistic_coefficients(x_R, yes_R)
    if slope <= 0:
        return float("inf")
    return (math.log(probability / (1 - probability)) - intercept) / slope


def _step(grown: Sequence[tuple[float, float]], y: float, limit: float, steps: int) -> int | None:
    """The step at which log drift passes ``limit`` if it ends at y and grows on the way as recorded runs did."""
    if not y > limit or not math.isfinite(limit):
        return None
    log_shares, log_drifts = (np.log([row[k] for row in grown]) for k in (0, 1))
    return max(
        1, round(steps * math.exp(float(np.interp(limit - y, np.maximum.accumulate(log_drifts), log_shares))))
    )
