"""Which fine-tune will drift more? A screen before any step, and a line after a short run. Ranking only.

Knows: the predictors that survived the feasibility study (notes-forecast.md), and the product written down there.
Does not know: how to turn them into nats: every attempt missed by factors of two to five.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from holdfast.core import trees
from holdfast.core.results import Result
from holdfast.core.seeds import undisturbed
from holdfast.core.statistics import Interval, bootstrap_mean
from holdfast.curvature import fisher_quadratic, kl_along
from holdfast.data import Example
from holdfast.geometry.onset import fit_onset, log_slope
from holdfast.gradients.functional import detached, math_attention
from holdfast.gradients.means import mean_loss_of, weighted_batches
from holdfast.models import Subject

RANKING_ONLY = "ranking only"
PRIOR = "kl_quadratic_x_loss"


@dataclass(frozen=True)
class Predictor(Result):
    """One number that orders fine-tunes by how much they will drift.

    Attributes:
        name: stable key.
        value: larger means more drift. low, high: bootstrap over prompts where prompts enter, else null.
        unit: of the value.
        what: one sentence.
        use: always "ranking only".
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    what: str
    use: str = RANKING_ONLY


@dataclass(frozen=True)
class Forecast(Result):
    """The screen before any step. Compare it between data sets at the same model, method and learning rate only.

    Attributes:
        predictors: best first; "task_loss" is the baseline that none of the others is known to beat.
        batches: mini-batches behind the mean first update. batch_size: examples in each.
        optimizer, learning_rate, steps: whose first update, and the planned length (0: not given).
    """

    predictors: tuple[Predictor, ...]
    batches: int
    batch_size: int
    optimizer: str
    learning_rate: float
    steps: int
    use: str = RANKING_ONLY

    def __getitem__(self, name: str) -> Predictor:
        for predictor in self.predictors:
            if predictor.name == name:
                return predictor
        raise KeyError(f"no predictor '{name}'; there are {', '.join(p.name for p in self.predictors)}")


def screen(
    task_loss: float,
    c2: Interval | None,
    first_update_form: Interval,
    g_norm: float,
    learning_rate: float,
    steps: int,
    optimizer: str,
    batches: int,
    batch_size: int,
) -> Forecast:
    """Assemble the screen.

    Args:
        task_loss: nats per completion token at the start.
        c2: of the raw gradient, nats per squared unit of flow time; None where it was not measured.
        first_update_form: ``u^T F u / 2`` of the mean first update u (with its learning rate), nats.
        g_norm: of the task gradient.
        learning_rate, steps, optimizer, batches, batch_size: as in :class:`Forecast`.
    """
    nan = float("nan")
    scale = steps**2 if steps else 1
    length = f" times steps^2 ({steps})" if steps else ""
    what = f"1/2 u^T F u of the mean first {optimizer} update over {batches} batches{length}"
    u = first_update_form
    by = scale * task_loss
    both = "the form of the first update times the task loss: what the conclusion is calibrated on"
    quadratic = "quadratic onset along the raw gradient"
    onset = () if c2 is None else (Predictor("c2_sgd", c2.value, c2.low, c2.high, "nats/t^2", quadratic),)
    predictors = (
        Predictor("task_loss", task_loss, nan, nan, "nats/token", "loss of the task data at the start (baseline)"),
        *onset,
        Predictor("kl_quadratic_first_update", u.value * scale, u.low * scale, u.high * scale, "nats", what),
        Predictor(PRIOR, u.value * by, u.low * by, u.high * by, "nats²/token", both),
        Predictor("gradient_norm", g_norm, nan, nan, "nats/unit", "norm of the task gradient (baseline)"),
    )
    return Forecast(predictors, batches, batch_size, optimizer, learning_rate, steps)


@dataclass(frozen=True)
class EarlyForecast(Result):
    """What a short part of the real run says about its end.

    Attributes:
        kl_at: exact KL at aligned + m x the short run's displacement, by m; nats a sequence.
        kl_quadratic: 1/2 delta^T F delta of that displacement.
        task_loss: after the short run, nats per completion token. task_loss_start: before it.
        displacement_norm: of the short run.
        multiple: m that the score reads. score: KL there times the task loss after the short run.
        score_from: "line", or "short run" where the line leaves the numbers. It does not go back where the line
            is merely long: two scales in one ranking spoil it (studies/geometry).
        valid_multiple: largest m on the line up to which 1/2 m^2 delta^T F delta is within a factor of two of the
            exact KL; 0 if not even the short run is. valid_norm: the displacement there: beyond it no quadratic
            form says anything about this model.
        line_slope: of log KL against log m over the whole line: 2 where the quadratic form rules.
        line_fit: c2, c3, c4 of KL against m, relative weights; NaN with fewer than three points.
        steps_done, total_steps: of the run.
        use: "ranking only"; :mod:`holdfast.geometry.calibration` reads it against the built-in reference runs.
    """

    kl_at: dict[str, Interval]
    kl_quadratic: Interval
    task_loss: float
    task_loss_start: float
    displacement_norm: float
    multiple: float
    score: float
    score_from: Literal["line", "short run"]
    valid_multiple: float
    valid_norm: float
    line_slope: float
    line_fit: tuple[float, ...]
    steps_done: int
    total_steps: int
    use: str = RANKING_ONLY


def forecast_after_short_run(
    aligned: Subject,
    after: Mapping[str, torch.Tensor],
    reference_examples: Sequence[Example],
    task_examples: Sequence[Example],
    steps_done: int,
    total_steps: int,
    multiples: Sequence[float] = (1.0, 2.0, 5.0, 10.0),
    seed: int = 0,
    batch_size: int = 16,
) -> EarlyForecast:
    """Rank a run after its first 5-10 % of steps (notes-forecast.md, recommendation 1).

    Args:
        aligned: the model at the aligned parameters.
        after: its parameters after those steps, a tree over the same scope. The caller trains.
        reference_examples: completions sampled from the aligned model. Not those the outcome is read from.
        task_examples: for the current task loss.
        steps_done, total_steps: done and planned.
        multiples: points of the line; T / (2 s) is added.
        seed: of the bootstrap.
        batch_size: examples per pass.

    Returns:
        The line and the score: KL at m = T / (2 s) times the current task loss.

    Raises:
        ValueError: no step taken, or more than planned.
    """
    if not 0 < steps_done <= total_steps:
        raise ValueError(f"a short run of {steps_done} steps of {total_steps}: need 0 < done <= total")
    start = detached(aligned.parameters())
    displacement = trees.subtract({name: value.detach() for name, value in after.items()}, start)
    reach = total_steps / (2 * steps_done)
    points = sorted({1.0, *map(float, multiples), reach})
    kl = kl_along(aligned, reference_examples, displacement, points, batch_size)
    at = {f"{m:g}": bootstrap_mean(row.tolist(), seed, 2000) for m, row in zip(points, kl, strict=True)}
    form_N = fisher_quadratic(aligned, reference_examples, displacement, batch_size)
    loss = loss_at(aligned, trees.axpy(start, 1.0, displacement), task_examples, batch_size)
    line = at[f"{reach:g}"].value
    saturated = not np.isfinite(line)
    form, norm = bootstrap_mean((form_N / 2).tolist(), seed, 2000), trees.norm(displacement)
    valid = 0.0
    for m in points:
        if not 0.5 <= form.value * m**2 / max(at[f"{m:g}"].value, 1e-300) <= 2.0:
            break
        valid = m
    return EarlyForecast(
        at,
        form,
        loss,
        loss_at(aligned, start, task_examples, batch_size),
        norm,
        1.0 if saturated else reach,
        (at["1"].value if saturated else line) * loss,
        "short run" if saturated else "line",
        valid,
        valid * norm,
        *_shape_of(points, [at[f"{m:g}"].value for m in points]),
        steps_done,
        total_steps,
    )


def _shape_of(points: Sequence[float], kl: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    nan = float("nan")
    if not all(np.isfinite(kl)) or min(kl) <= 0:
        return nan, (nan, nan, nan)
    return log_slope(points, kl), fit_onset(points, kl) if len(points) >= 3 else (nan, nan, nan)


@torch.no_grad()
def loss_at(
    subject: Subject, values: Mapping[str, torch.Tensor], examples: Sequence[Example], batch_size: int = 16
) -> float:
    """Mean loss per completion token with other parameter values, nats; the model is not touched."""
    parts = weighted_batches(subject, examples, "tokens", batch_size)
    with undisturbed(subject.model), math_attention():
        return sum(float(mean_loss_of(subject.model, values, batch, weights_B)) for batch, weights_B in parts)
